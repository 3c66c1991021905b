"""What the fan-out knows, as tables: one record per seat, laid out as ``fanout.c`` reads it.

A table is a numpy array of records, so that a flush is taken over by a few array
operations, one record is a few words of Python, and compiled code goes through
thousands of them without touching an object. Its columns are views.
"""

from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HEAD_BYTES: Final = 96
MARK_BYTES: Final = 96
PRICE_BYTES: Final = 384
"""Room for text in a record. What is longer is said by :data:`TOO_LONG`, and written by Python."""

TOO_LONG: Final = -1

Table = NDArray[np.void]

_MARK_RECORD: Final = Struct(f"qBBi{MARK_BYTES}s")
_PRICE_RECORD: Final = Struct(f"qqi{PRICE_BYTES}s")

_AMOUNT: Final = [("high", "i8"), ("low", "u8"), ("changed", "i8")]
FIGURE: Final = np.dtype(_AMOUNT, align=True)
"""``high·2^64 + low`` in units of 1e-18, and the commit at which it last changed (0: it never came)."""

ROW: Final = np.dtype(
    [
        *_AMOUNT,
        # What it cost, about and absolute; and exactly.
        ("cost", "f8"),
        ("cost_high", "i8"),
        ("cost_low", "u8"),
        ("owner", "i8"),
        ("version", "i8"),
        ("mark", "i4"),
        ("head_length", "i4"),
        ("head", "u1", (HEAD_BYTES,)),
    ],
    align=True,
)
"""An open position. ``owner`` is the serial number of the view it belongs to."""

USER: Final = np.dtype(
    [
        *_AMOUNT,
        ("realized_high", "i8"),
        ("realized_low", "u8"),
        ("base_high", "i8"),
        ("base_low", "u8"),
        ("deposits_high", "i8"),
        ("deposits_low", "u8"),
        ("serial", "i8"),
        ("restated", "i8"),
        ("reset", "i8"),
        ("rows_at", "i4"),
        ("rows_count", "i4"),
        ("has_base", "u1"),
        ("fees_are_complete", "u1"),
        ("is_plain", "u1"),
    ],
    align=True,
)
"""A user: his figure, and beside it what does not move with prices.

``serial`` is never used twice in a process, and 0 where nobody sits. ``restated`` is the commit that last changed
anything else than figures. ``is_plain``: nothing of his is converted.
"""

MARK: Final = np.dtype(
    [
        ("flagged", "i8"),
        ("is_known", "u1"),
        ("is_stale", "u1"),
        ("length", "i4"),
        ("text", "u1", (MARK_BYTES,)),
    ],
    align=True,
)
"""A price that values rows: ``flagged`` is when it last became stale, fresh, known or unknown."""

PRICE: Final = np.dtype(
    [("changed", "i8"), ("event_ms", "i8"), ("length", "i4"), ("text", "u1", (PRICE_BYTES,))], align=True
)
"""A price that is watched, as JSON."""

CONNECTION: Final = np.dtype(
    [
        *((name, "i8") for name in ("sent", "pnl_sent", "positions_sent", "step", "flushes", "reset", "serial")),
        *((name, "i4") for name in ("status", "lane", "user", "watched_at", "watched_count")),
        *((name, "u1") for name in ("visible", "wants_pnl", "wants_positions")),
        *((name, "u1") for name in ("awaits_prices", "awaits_pnl", "awaits_positions")),
        *((name, "u1") for name in ("has_events", "is_overdue", "is_closed", "is_bound")),
    ],
    align=True,
)
"""One client's place in the stream.

``is_bound``: lane, user, serial and the list of what it watches are as they are. Commits and places are those of
:class:`app.websocket.connection.Connection`.
"""


def bytes_of(table: Table) -> memoryview:
    """The table as bytes, to write whole records into."""
    return table.view(np.uint8).data


def room_for(text: bytes, most: int) -> int:
    """The length to note for a text in a record."""
    return len(text) if len(text) <= most else TOO_LONG


class Marks:
    """What is said of the prices that value rows, a record each. None is ever given back."""

    __slots__ = ("_bytes", "_count", "table")

    def __init__(self) -> None:
        self.table = empty(MARK, 64)
        self._bytes = bytes_of(self.table)
        self._count = 0

    def add(self) -> int:
        """One more, of which nothing is known."""
        if self._count == len(self.table):
            self.table = longer(self.table, self._count + 1)
            self._bytes = bytes_of(self.table)
        self._count += 1
        return self._count - 1

    def say(self, seat: int, flagged: int, *, is_known: bool, is_stale: bool, text: str) -> None:
        encoded = text.encode()
        length = room_for(encoded, MARK_BYTES)
        _MARK_RECORD.pack_into(self._bytes, seat * MARK.itemsize, flagged, is_known, is_stale, length, encoded)


class Prices:
    """The prices that somebody watches, a record each."""

    __slots__ = ("_bytes", "_seats", "table")

    def __init__(self) -> None:
        self.table = empty(PRICE, 64)
        self._bytes = bytes_of(self.table)
        self._seats = Seats()

    def take(self) -> int:
        """A record for a price of which nothing is known."""
        seat = self._seats.take()
        if seat >= len(self.table):
            self.table = longer(self.table, seat + 1)
            self._bytes = bytes_of(self.table)
        self.table[seat] = np.zeros((), PRICE)
        return seat

    def give_back(self, seat: int) -> None:
        self._seats.give_back(seat)

    def say(self, seat: int, changed: int, event_ms: int, text: str) -> None:
        encoded = text.encode()
        length = room_for(encoded, PRICE_BYTES)
        _PRICE_RECORD.pack_into(self._bytes, seat * PRICE.itemsize, changed, event_ms, length, encoded)


def empty(kind: np.dtype[np.void], seats: int) -> Table:
    """A table of records that are all nothing."""
    return np.zeros(seats, kind)


def longer(table: NDArray[Any], seats: int) -> NDArray[Any]:
    """The table with room for so many, and some to spare."""
    grown = np.zeros(max(seats, len(table) * 2), table.dtype)
    grown[: len(table)] = table
    return grown


class Seats:
    """Numbers given out and taken back: the records of a table that are in use."""

    __slots__ = ("_free", "_next")

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._free: list[int] = []

    def take(self) -> int:
        """A number that nobody has."""
        if self._free:
            return self._free.pop()
        self._next += 1
        return self._next - 1

    def give_back(self, seat: int) -> None:
        """A number that nobody has any more."""
        self._free.append(seat)


class Lists:
    """Lists of small numbers in one array, each in a block of the next power of two."""

    __slots__ = ("_end", "_free", "items")

    def __init__(self) -> None:
        self.items: NDArray[np.int32] = np.zeros(1024, np.int32)
        self._end = 0
        self._free: dict[int, list[int]] = {}

    def put(self, numbers: list[int]) -> int:
        """Keep a list; gives where it begins."""
        if not numbers:
            return 0
        size = _block(len(numbers))
        free = self._free.get(size)
        if free:
            at = free.pop()
        else:
            at, self._end = self._end, self._end + size
            if self._end > len(self.items):
                self.items = longer(self.items, self._end)
        self.items[at : at + len(numbers)] = numbers
        return at

    def drop(self, at: int, count: int) -> None:
        """Forget a list of ``count`` numbers."""
        if count:
            self._free.setdefault(_block(count), []).append(at)


def _block(count: int) -> int:
    return 1 << (count - 1).bit_length()
