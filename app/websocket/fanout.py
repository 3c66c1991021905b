"""One turn of the fan-out: what some connections have not seen goes out to them.

The ordinary ones, which are nearly all, go through compiled code where there is
any: one call writes their frames and one hands them to their sockets. The others,
and everybody where nothing is compiled, go through :class:`Delivery`.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.websocket.compiled import ASK, BREACH, FRAME, OUTCOME, LaneRecord, StreamRecord
from app.websocket.connection import Connection, IsolationBreach
from app.websocket.delivery import Delivery
from app.websocket.lane import Lane
from app.websocket.outlet import FULL, Outlet
from app.websocket.roster import Roster
from app.websocket.state import StreamState

_BUFFER_BYTES: Final = 8 * 2**20
"""Room for the frames of one turn."""

_ROOM_EACH: Final = 2**19
"""A turn ends early where no frame as large as this would find room. What may be larger is written by Python."""

_WAITING_S: Final = 0.25
"""How long nobody looks at who waits for his user's P&L alone: its arrival hurries him."""

Seats = NDArray[np.intp]

_NONE: Final[Seats] = np.zeros(0, np.intp)


class Turn(NamedTuple):
    """What became of the connections that were looked at, each in one of these, by seat."""

    served: Seats
    idle: Seats
    full: Seats
    left: int
    """How many of those asked for were not looked at, from the end."""


class Fanout:
    """Serves connections by their seats. ``now`` is the monotonic clock."""

    def __init__(
        self, state: StreamState, roster: Roster, delivery: Delivery, library: ctypes.CDLL | None = None
    ) -> None:
        self._state = state
        self._roster = roster
        self._delivery = delivery
        self._writer = None if library is None else _Writer(library, state, roster, delivery)
        self._lanes = state.lanes

    def serve(self, seats: Seats, now: float) -> Turn:
        """Send what is due. Raises IsolationBreach where anything of one user was about to go to another."""
        if self._lanes is not self._state.lanes:
            self._lanes = self._state.lanes
            self._roster.unbind()
        here = self._roster.outlets
        outlets = [here[seat] for seat in seats.tolist()]
        descriptors = np.array([outlet.descriptor() for outlet in outlets], np.int32)
        is_full = descriptors == FULL
        full = _NONE
        if is_full.any():
            full, seats, descriptors = seats[is_full], seats[~is_full], descriptors[~is_full]
            outlets = [outlets[index] for index in np.flatnonzero(~is_full).tolist()]
        if self._writer is None:
            is_sent = self._deliver(seats, now)
            return Turn(seats[is_sent], seats[~is_sent], full, 0)
        kinds = self._writer.write(seats, outlets, descriptors)
        left, seats = len(seats) - len(kinds), seats[: len(kinds)]
        is_sent = kinds == FRAME
        is_asked = kinds == ASK
        if is_asked.any():
            is_sent[is_asked] = self._deliver(seats[is_asked], now)
        return Turn(seats[is_sent], seats[~is_sent], full, left)

    def _connections(self, seats: Seats) -> list[Connection]:
        """Who has these seats. Somebody has each."""
        here = self._roster.connections
        return [here[seat] for seat in seats.tolist()]

    def _deliver(self, seats: Seats, now: float) -> NDArray[np.bool_]:
        """Serve connections one by one; which of them were sent something."""
        asked = self._connections(seats)
        is_sent = np.zeros(len(asked), np.bool_)
        for index, (connection, payloads) in enumerate(zip(asked, self._delivery.payloads_of(asked, now), strict=True)):
            if payloads:
                is_sent[index] = True
                connection.outlet.send(*payloads)
            elif connection.is_waiting:
                self._roster.rest_until(connection.seat, now + _WAITING_S)
            if self._writer is not None and not connection.is_closed:
                self._bind(connection)
        return is_sent

    def _bind(self, connection: Connection) -> None:
        """Say in the roster whose figures and which prices a connection gets."""
        if not connection.is_bound:
            prices = [watched.seat for watched in connection.watched.values()]
            self._roster.list_watched(connection.seat, prices)
            connection.is_bound = True
        lane = self._state.lane_of(connection.user_id)
        connection.lane = lane.shard.number
        view = lane.mirror.users.get(connection.user_id)
        if view is not None:
            connection.user, connection.serial = view.seat, view.serial


class _Writer:
    """The compiled part, and the records by which it finds the tables."""

    def __init__(self, library: ctypes.CDLL, state: StreamState, roster: Roster, delivery: Delivery) -> None:
        self._library = library
        self._state = state
        self._roster = roster
        self._delivery = delivery
        self._buffer = np.empty(_BUFFER_BYTES, np.uint8)
        self._bytes = self._buffer.data
        self._stream = StreamRecord()

    def write(self, seats: Seats, outlets: Sequence[Outlet], descriptors: NDArray[np.int32]) -> NDArray[np.int32]:
        """Write and send the frames of those for whom that is all. Gives what became of each, of fewer where there
        was no more room.
        """
        self._state.say_prices()
        self._describe()
        numbers = seats.astype(np.int32)
        outcomes = np.empty(len(numbers), OUTCOME)
        looked_at: int = self._library.fanout_write(
            ctypes.byref(self._stream),
            numbers.ctypes.data,
            len(numbers),
            self._buffer.ctypes.data,
            _BUFFER_BYTES,
            _ROOM_EACH,
            outcomes.ctypes.data,
        )
        outcomes = outcomes[:looked_at]
        kinds: NDArray[np.int32] = outcomes["kind"]
        if (kinds == BREACH).any():
            raise IsolationBreach("a row in a user's list is not his")
        self._delivery.count(self._stream.written, self._stream.merged)
        self._send(outlets, descriptors, outcomes)
        return kinds

    def _send(self, outlets: Sequence[Outlet], descriptors: NDArray[np.int32], outcomes: NDArray[np.void]) -> None:
        self._library.fanout_send(
            self._buffer.ctypes.data, outcomes.ctypes.data, descriptors.ctypes.data, len(outcomes)
        )
        length = outcomes["end"] - outcomes["start"]
        for index in np.flatnonzero((outcomes["kind"] == FRAME) & (outcomes["gone"] < length)).tolist():
            start, text, end, _, gone = outcomes[index].tolist()
            if gone:
                outlets[index].send_rest(bytes(self._bytes[start + gone : end]))
            else:
                outlets[index].send(bytes(self._bytes[text:end]))

    def _describe(self) -> None:
        """Say where the tables are now, and where the stream is."""
        state, roster, stream = self._state, self._roster, self._stream
        lanes = (LaneRecord * len(state.lanes))(*map(_described, state.lanes))
        stream.lanes, stream.lanes_length = ctypes.addressof(lanes), len(lanes)
        stream.prices, stream.prices_length = _place(state.price_table.table)
        stream.connections, stream.connections_length = _place(roster.table)
        stream.lists, stream.lists_length = _place(roster.lists.items)
        stream.ordinal, stream.flushes, stream.health = state.ordinal, state.flushes, state.health.version
        stream.written = stream.merged = 0
        self._lanes = lanes


def _described(lane: Lane) -> LaneRecord:
    mirror = lane.mirror
    rows, users, marks = mirror.row_unrealized.table, mirror.user_unrealized.table, mirror.mark_table.table
    lists = mirror.user_unrealized.lists.items
    return LaneRecord(
        *_place(rows),
        *_place(users),
        *_place(marks),
        *_place(lists),
        lane.position.epoch,
        lane.position.seq,
        lane.as_of_ms,
        lane.event_ms,
        lane.step,
        lane.silenced,
        lane.is_silent,
    )


def _place(table: NDArray[Any]) -> tuple[int, int]:
    """Where a table begins, and how many records it has."""
    return table.ctypes.data, len(table)
