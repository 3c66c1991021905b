"""Reading the frames of many WebSocket connections as cheaply as possible: only headers and a few times.

:class:`NativeReader` is the one in sockets.c. :class:`PythonReader` measures the
same where there is no compiler, at several times the cost.
"""

import ctypes
import re
import select
import socket
import time
from typing import Final, NamedTuple, Protocol

from benchmarks.native import COUNTERS, HISTOGRAMS, MOST_MS, SAMPLE_EVERY, SAMPLES, Sample, Stats, library

_ROWS_EVERY: Final = 8
_READ_BYTES: Final = 256 * 1024
_TEXT, _CLOSE, _PING = 1, 8, 9

_PLACE: Final = re.compile(rb'"epoch":(\d+),"seq":(\d+),"as_of_ms":(\d+),"event_ms":(\d+),"merged":(\d+),')
_EVENT: Final = re.compile(rb'"event_ms":(\d+)')
_PNL_SNAPSHOT: Final = b'{"type":"snapshot","channel":"pnl"'
_POSITIONS_SNAPSHOT: Final = b'{"type":"snapshot","channel":"positions"'


class Sampled(NamedTuple):
    """One update of many: its place in the stream; when it came to the socket and when it was read, in Unix µs."""

    epoch: int
    seq: int
    arrived_us: int
    read_us: int


class Reading(NamedTuple):
    """What was read since the last reset. Histograms: counts by millisecond; ``per_connection``: updates of each."""

    counters: dict[str, int]
    histograms: dict[str, list[int]]
    codes: dict[int, int]
    per_connection: list[int]
    samples: list[Sampled]


class Reader(Protocol):
    """A set of connections and what came over them."""

    def add(self, connection: socket.socket, rest: bytes) -> None:
        """Take over an upgraded socket, and what was read of it after the handshake."""

    def pump(self, for_s: float) -> None:
        """Read whatever comes, for some time."""

    @property
    def ready(self) -> int:
        """How many connections have had their snapshots of P&L and positions."""

    @property
    def closed(self) -> int:
        """How many are gone."""

    def reset(self) -> None:
        """Forget the figures, but not which connections are ready or gone."""

    def read(self) -> Reading:
        """The figures since the last reset."""


def open_reader(capacity: int, *, native: bool = True) -> Reader:
    """The cheapest reader there is."""
    sockets = library() if native else None
    return PythonReader() if sockets is None else NativeReader(sockets, capacity)


def _reading(stats: Stats, per_connection: list[int]) -> Reading:
    return Reading(
        counters={name: getattr(stats, name) for name in COUNTERS},
        histograms={name: list(getattr(stats, name)) for name in HISTOGRAMS},
        codes={code: count for code, count in enumerate(stats.codes) if count},
        per_connection=per_connection,
        samples=[
            Sampled(each.epoch, each.seq, each.arrived_us, each.read_us)
            for each in stats.samples[: min(stats.sampled, SAMPLES)]
        ],
    )


class NativeReader:
    """The reader of sockets.c."""

    def __init__(self, sockets: ctypes.CDLL, capacity: int) -> None:
        self._sockets = sockets
        self._reader = sockets.reader_new(capacity)
        self._stats: Stats = sockets.reader_stats(self._reader).contents
        self._count = 0

    def add(self, connection: socket.socket, rest: bytes) -> None:
        self._count += 1
        if self._sockets.reader_add(self._reader, connection.detach(), rest, len(rest)) < 0:
            raise OSError("no room for another connection")

    def pump(self, for_s: float) -> None:
        self._sockets.reader_pump(self._reader, int(for_s * 1e9))

    @property
    def ready(self) -> int:
        return int(self._stats.ready)

    @property
    def closed(self) -> int:
        return int(self._stats.closed)

    def reset(self) -> None:
        self._sockets.reader_reset(self._reader)

    def read(self) -> Reading:
        return _reading(self._stats, self._sockets.reader_updates(self._reader)[: self._count])


class _Connection:
    __slots__ = ("flushed_ms", "has", "rest", "shown_ms", "socket", "updates")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rest = b""
        self.shown_ms = self.flushed_ms = 0
        self.updates = 0
        self.has: set[bytes] = set()


class PythonReader:
    """The same in Python. Times of arrival are those of reading."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._all: list[_Connection] = []
        self._stats = Stats()

    def add(self, connection: socket.socket, rest: bytes) -> None:
        connection.setblocking(False)
        one = _Connection(connection)
        self._connections[connection.fileno()] = one
        self._all.append(one)
        self._poll.register(connection, select.EPOLLIN)
        self._take(one, rest)

    def pump(self, for_s: float) -> None:
        until = time.monotonic() + for_s
        while True:
            for number, _ in self._poll.poll(max(0.0, until - time.monotonic()), 512):
                connection = self._connections.get(number)
                if connection is not None:
                    self._read_one(connection)
            if time.monotonic() >= until:
                return

    @property
    def ready(self) -> int:
        return int(self._stats.ready)

    @property
    def closed(self) -> int:
        return int(self._stats.closed)

    def reset(self) -> None:
        ready = self._stats.ready
        self._stats = Stats()
        self._stats.ready = ready
        for connection in self._all:
            connection.updates = 0

    def read(self) -> Reading:
        return _reading(self._stats, [connection.updates for connection in self._all])

    def _read_one(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection, 0)
            return
        self._stats.reads += 1
        self._stats.bytes += len(data)
        self._stats.lag[0] += 1
        self._take(connection, connection.rest + data)

    def _take(self, connection: _Connection, data: bytes) -> None:
        at = 0
        while (bounds := _payload_bounds(data, at)) is not None:
            start, end = bounds
            self._take_frame(connection, data[at] & 0x0F, data[start:end])
            at = end
        connection.rest = data[at:]

    def _take_frame(self, connection: _Connection, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self._take_text(connection, payload)
        elif opcode == _CLOSE:
            self._drop(connection, int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005)
        elif opcode == _PING:
            connection.socket.send(bytes((0x8A, 0x80 | len(payload))) + bytes(4) + payload)
        else:
            self._stats.others += 1

    def _take_text(self, connection: _Connection, text: bytes) -> None:
        if text.startswith(b'{"type":"update"'):
            self._take_update(connection, text)
        elif text.startswith(b'{"type":"snapshot"'):
            self._stats.snapshots += 1
            had = len(connection.has)
            connection.has |= {kind for kind in (_PNL_SNAPSHOT, _POSITIONS_SNAPSHOT) if text.startswith(kind)}
            self._stats.ready += had < 2 and len(connection.has) == 2
        else:
            self._stats.others += 1

    def _take_update(self, connection: _Connection, text: bytes) -> None:
        arrived_ms = time.time_ns() // 1_000_000
        place = _PLACE.search(text)
        if place is None:
            self._stats.broken += 1
            return
        epoch, seq, flushed_ms, event_ms, merged = map(int, place.groups())
        stats = self._stats
        stats.updates += 1
        stats.merged += merged
        connection.updates += 1
        _count(stats.flush, arrived_ms - flushed_ms)
        _count(stats.newest, arrived_ms - event_ms)
        if connection.shown_ms:
            _count(stats.shown, arrived_ms - connection.shown_ms)
        if stats.updates % SAMPLE_EVERY == 0:
            now_us = time.time_ns() // 1000
            stats.samples[stats.sampled % SAMPLES] = Sample(epoch, seq, now_us, now_us)
            stats.sampled += 1
        if stats.updates % _ROWS_EVERY == 0:
            for row in _EVENT.finditer(text, place.end()):
                # A row also comes when something beside its price changed, with the time of the price: that is no tick.
                if int(row[1]) > connection.flushed_ms:
                    _count(stats.price, arrived_ms - int(row[1]))
        connection.shown_ms, connection.flushed_ms = event_ms, flushed_ms

    def _drop(self, connection: _Connection, code: int) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        connection.socket.close()
        self._stats.closed += 1
        self._stats.codes[code if code < len(self._stats.codes) else 0] += 1


def _payload_bounds(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at ``at`` begins and ends, or None while it is not whole."""
    if len(data) - at < 2:
        return None
    length = data[at + 1] & 0x7F
    start = at + {126: 4, 127: 10}.get(length, 2)
    if len(data) < start:
        return None
    if length >= 126:
        length = int.from_bytes(data[at + 2 : start], "big")
    return (start, start + length) if len(data) >= start + length else None


def _count(histogram: "ctypes.Array[ctypes.c_uint64]", ms: int) -> None:
    histogram[min(max(ms, 0), MOST_MS)] += 1
