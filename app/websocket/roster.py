"""Everybody who is connected, as columns by seat: what the schedule and the fan-out go through for all at once."""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from app.websocket.outlet import Outlet
from app.websocket.tables import CONNECTION, Lists, Seats, empty, longer

if TYPE_CHECKING:
    from app.websocket.connection import Connection

_FIRST_SEATS: Final = 64
NEVER: Final = float("inf")
NOBODY: Final = 0
"""The seat of all who have left: closed, and never served."""


class Roster:
    """Gives out seats. Who has one is served from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self._seats = Seats(NOBODY + 1)
        self.connections: list[Connection | None] = [None]
        self.outlets: list[Outlet | None] = [None]
        self.serving = 0
        """How many are served."""
        self.due: NDArray[np.float64] = np.full(_FIRST_SEATS, NEVER)
        """When each is looked at again, monotonic in seconds."""
        self.looked: NDArray[np.int64] = np.full(_FIRST_SEATS, -1, np.int64)
        """The schedule's last call at which there was nothing for it."""
        self.rest: NDArray[np.float64] = np.zeros(_FIRST_SEATS)
        """How long each wants to rest after a frame, in seconds."""
        self.lists = Lists()
        """What each watches, by the seats of prices."""
        self.columns: dict[str, NDArray[Any]] = {}
        self._spread(_FIRST_SEATS)
        self.columns["is_closed"][NOBODY] = True

    def _spread(self, seats: int) -> None:
        self.table = empty(CONNECTION, seats)
        self.columns = {name: self.table[name] for name in CONNECTION.names or ()}

    def enter(self, connection: "Connection") -> int:
        """A seat for a newcomer."""
        seat = self._seats.take()
        if seat == len(self.connections):
            self.connections.append(None)
            self.outlets.append(None)
        if seat >= len(self.table):
            self._grow(seat + 1)
        self.table[seat] = np.zeros((), CONNECTION)
        self.due[seat], self.looked[seat] = NEVER, -1
        self.connections[seat], self.outlets[seat] = connection, connection.outlet
        return seat

    def leave(self, connection: "Connection") -> None:
        """Take a seat back; whatever is still said of who had it means nothing. The second time it does nothing."""
        seat, connection.seat = connection.seat, NOBODY
        if seat == NOBODY:
            return
        self.end(seat)
        self._unlist(seat)
        self.columns["is_closed"][seat] = True
        self.connections[seat] = self.outlets[seat] = None
        self._seats.give_back(seat)

    def begin(self, seat: int) -> None:
        """Serve it from now on."""
        if self.due[seat] == NEVER and seat != NOBODY:
            self.serving += 1
            self.due[seat], self.looked[seat] = 0.0, -1

    def end(self, seat: int) -> None:
        """Serve it no more."""
        if self.due[seat] != NEVER:
            self.serving -= 1
            self.due[seat] = NEVER

    def hurry(self, seat: int) -> None:
        """Look at it as soon as may be, if it is served at all."""
        if self.due[seat] != NEVER:
            self.due[seat], self.looked[seat] = 0.0, -1

    def rest_until(self, seat: int, moment: float) -> None:
        """Look at it then, if it is served at all."""
        if self.due[seat] != NEVER:
            self.due[seat] = moment

    def list_watched(self, seat: int, prices: list[int]) -> None:
        """Note what a connection watches."""
        self._unlist(seat)
        record = self.table[seat]
        record["watched_at"], record["watched_count"] = self.lists.put(prices), len(prices)

    def _unlist(self, seat: int) -> None:
        record = self.table[seat]
        self.lists.drop(int(record["watched_at"]), int(record["watched_count"]))
        record["watched_at"] = record["watched_count"] = 0

    def unbind(self) -> None:
        """What is noted of anybody's user and prices may not be so any more."""
        self.columns["is_bound"][:] = False

    def _grow(self, seats: int) -> None:
        before = self.table
        self._spread(len(longer(before, seats)))
        self.table[: len(before)] = before
        self.due = _with(self.due, len(self.table), NEVER)
        self.looked = _with(self.looked, len(self.table), -1)
        self.rest = _with(self.rest, len(self.table), 0)


def _with(column: NDArray[Any], length: int, fill: float) -> NDArray[Any]:
    grown = np.full(length, fill, column.dtype)
    grown[: len(column)] = column
    return grown
