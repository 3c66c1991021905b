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

from app.websocket import compiled
from app.websocket.compiled import ASK, BREACH, FRAME, OUTCOME, LaneRecord, StreamRecord
from app.websocket.connection import Connection, IsolationBreach
from app.websocket.delivery import Delivery
from app.websocket.lane import Lane
from app.websocket.roster import Roster
from app.websocket.state import StreamState

_BUFFER_BYTES: Final = 8 * 2**20
"""Room for the frames of one turn."""

_ROOM_EACH: Final = 2**19
"""A turn ends early where no frame as large as this would find room. What may be larger is written by Python."""

Seats = NDArray[np.intp]


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

    @property
    def ordinal(self) -> int:
        """The newest commit."""
        return self._state.ordinal

    @property
    def is_compiled(self) -> bool:
        return self._writer is not None

    def serve(self, seats: Seats, now: float) -> Turn:
        """Send what is due. Raises IsolationBreach where anything of one user was about to go to another."""
        if self._lanes is not self._state.lanes:
            self._lanes = self._state.lanes
            self._roster.unbind()
        willing, full = self._willing(seats)
        left = 0
        served: list[int] = []
        asked = willing
        if self._writer is not None and willing:
            written = self._writer.write(willing)
            left, served, asked = len(willing) - written.looked_at, written.served, written.asked
            willing = willing[: written.looked_at]
        served += self._deliver(asked, now)
        done = np.array(served, np.intp)
        idle = np.setdiff1d(np.array([one.seat for one in willing], np.intp), done)
        return Turn(done, idle, np.array(full, np.intp), left)

    def _willing(self, seats: Seats) -> tuple[list[Connection], list[int]]:
        """Whose client takes something, and the seats of those whose client is behind."""
        roster = self._roster.connections
        here = [one for one in map(roster.__getitem__, seats.tolist()) if one is not None]
        full = [one.seat for one in here if one.outlet.is_full()]
        if not full:
            return here, full
        behind = set(full)
        return [one for one in here if one.seat not in behind], full

    def _deliver(self, asked: Sequence[Connection], now: float) -> list[int]:
        """Serve connections one by one; gives the seats of those that were sent something."""
        if not asked:
            return []
        sent = []
        for connection, payloads in zip(asked, self._delivery.payloads_of(asked, now), strict=True):
            if payloads:
                sent.append(connection.seat)
                connection.outlet.send(*payloads)
            if self._writer is not None and not connection.is_closed:
                self._bind(connection)
        return sent

    def _bind(self, connection: Connection) -> None:
        """Say in the roster whose figures and which prices a connection gets."""
        if not connection.is_bound:
            prices = [watched.seat for watched in connection.watched.values()]
            self._roster.list_watched(connection.seat, prices)
            connection.is_bound = True
        lane = self._state.lane_of(connection.user_id)
        view = lane.mirror.users.get(connection.user_id)
        if view is not None:
            connection.lane, connection.user, connection.serial = lane.shard.number, view.seat, view.serial


class _Written(NamedTuple):
    looked_at: int
    served: list[int]
    asked: list[Connection]


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

    def write(self, connections: Sequence[Connection]) -> _Written:
        """Write and send the frames of those for whom that is all."""
        self._state.say_prices()
        count = len(connections)
        seats = np.fromiter([one.seat for one in connections], np.int32, count)
        outcomes = np.empty(count, OUTCOME)
        self._describe()
        looked_at: int = self._library.fanout_write(
            ctypes.byref(self._stream),
            seats.ctypes.data,
            count,
            self._buffer.ctypes.data,
            _BUFFER_BYTES,
            _ROOM_EACH,
            outcomes.ctypes.data,
        )
        outcomes = outcomes[:looked_at]
        kinds = outcomes["kind"]
        if (kinds == BREACH).any():
            raise IsolationBreach("a row in a user's list is not his")
        self._delivery.count(self._stream.written, self._stream.merged)
        self._send(connections, outcomes)
        return _Written(
            looked_at,
            seats[:looked_at][kinds == FRAME].tolist(),
            [connections[index] for index in np.flatnonzero(kinds == ASK).tolist()],
        )

    def _send(self, connections: Sequence[Connection], outcomes: NDArray[np.void]) -> None:
        count = len(outcomes)
        outlets = [one.outlet for one in connections[:count]]
        descriptors = np.fromiter([outlet.descriptor() for outlet in outlets], np.int32, count)
        self._library.fanout_send(self._buffer.ctypes.data, outcomes.ctypes.data, descriptors.ctypes.data, count)
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


def compiled_or_not() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled part, or why there is none."""
    try:
        return compiled.load(), None
    except compiled.Unusable as error:
        return None, str(error)
