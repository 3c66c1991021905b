"""Figures that move, one exact amount per slot, in arrays as long as what is here.

The P&L worker numbers rows and users for its whole book and never uses a number
again, so the numbers grow with everything that ever was. What is here *sits* on
dense seats, and seats are given out again: a slot finds its seat by a table in
pages, and a page nobody of which is here takes no room.
"""

from collections.abc import Collection
from struct import Struct
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from app.bus.messages import Columns
from app.domain.wide import Floats, High, Low, join, split
from app.websocket.tables import (
    FIGURE,
    HEAD_BYTES,
    ROW,
    USER,
    Lists,
    Seats,
    Table,
    bytes_of,
    empty,
    longer,
    room_for,
)

_PAGE_BITS = 10
_PAGE = 1 << _PAGE_BITS
_FIRST_SEATS = 256
_NOBODY = 0
"""The block of pages on which nobody sits, and the seat of whoever is not here: writes to it mean nothing."""


_WHAT_STAYS: Final = Struct(f"dqQqqii{HEAD_BYTES}s")
"""The part of a row's record behind its figure."""


class _Pages:
    """Which seat a slot has."""

    __slots__ = ("_block_of", "_blocks", "_free", "_sitting")

    def __init__(self) -> None:
        self._block_of: NDArray[np.int32] = np.zeros(16, np.int32)
        self._blocks: NDArray[np.int32] = np.zeros(_PAGE, np.int32)
        self._sitting = [0]
        self._free: list[int] = []

    def find(self, slots: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The seats of slots; the first one for whoever has none."""
        # The last page is nobody's, for whatever lies beyond the table.
        pages = np.minimum(slots >> _PAGE_BITS, len(self._block_of) - 1)
        seats: NDArray[np.int32] = self._blocks[(self._block_of[pages] << _PAGE_BITS) | (slots & (_PAGE - 1))]
        return seats

    def get(self, slot: int) -> int:
        page = slot >> _PAGE_BITS
        if page >= len(self._block_of) - 1:
            return _NOBODY
        return int(self._blocks[(int(self._block_of[page]) << _PAGE_BITS) | (slot & (_PAGE - 1))])

    def put(self, slot: int, seat: int) -> None:
        """Seat a slot that has none."""
        block = self._block(slot >> _PAGE_BITS)
        self._blocks[(block << _PAGE_BITS) | (slot & (_PAGE - 1))] = seat
        self._sitting[block] += 1

    def clear(self, slot: int) -> None:
        """Take a slot's seat away."""
        page = slot >> _PAGE_BITS
        block = int(self._block_of[page])
        self._blocks[(block << _PAGE_BITS) | (slot & (_PAGE - 1))] = _NOBODY
        self._sitting[block] -= 1
        if not self._sitting[block]:
            self._block_of[page] = _NOBODY
            self._free.append(block)

    def _block(self, page: int) -> int:
        if page >= len(self._block_of) - 1:
            self._block_of = longer(self._block_of, page + 2)
        block = int(self._block_of[page])
        if block == _NOBODY:
            block = self._block_of[page] = self._free.pop() if self._free else self._new_block()
        return int(block)

    def _new_block(self) -> int:
        self._sitting.append(0)
        size = len(self._sitting) * _PAGE
        if size > len(self._blocks):
            self._blocks = longer(self._blocks, size)
        return len(self._sitting) - 1


class Figures:
    """By seat: ``high·2^64 + low`` in units of 1e-18, and at which commit it last changed (0: it never came)."""

    kind: ClassVar[np.dtype[Any]] = FIGURE

    def __init__(self) -> None:
        self._pages = _Pages()
        self._seats = Seats(_NOBODY + 1)
        self._sitting = 0
        self._spread(empty(self.kind, _FIRST_SEATS))

    def _spread(self, table: Table) -> None:
        """Use a table: its columns are views of it."""
        self.table = table
        self.bytes = bytes_of(table)
        self.high: High = table["high"]
        self.low: Low = table["low"]
        self.changed: NDArray[np.int64] = table["changed"]

    def __len__(self) -> int:
        """How many slots are seated."""
        return self._sitting

    def seat(self, slot: int) -> int:
        """The seat of a slot, which is here from now on. Raises ValueError for a negative slot."""
        if slot < 0:
            raise ValueError("a negative slot")
        seat = self._pages.get(slot)
        if seat != _NOBODY:
            return seat
        seat = self._seats.take()
        if seat >= len(self.table):
            self._spread(longer(self.table, seat + 1))
        self._sitting += 1
        self._pages.put(slot, seat)
        self.table[seat] = np.zeros((), self.kind)
        return seat

    def leave(self, slot: int) -> None:
        """A slot is not here any more; its seat may be another's next."""
        seat = self._pages.get(slot)
        if seat != _NOBODY:
            self._pages.clear(slot)
            self._seats.give_back(seat)
            self._sitting -= 1
            self.table[seat] = np.zeros((), self.kind)

    def apply(self, columns: Columns, ordinal: int) -> None:
        """Take over a message's columns; what is not here is left out. Raises ValueError when they are not as long
        as each other.
        """
        # What is negative (and has no seat) is among the largest when read without a sign.
        slots = np.frombuffer(columns.slots, np.uint32)
        high = np.frombuffer(columns.high, np.int64)
        low = np.frombuffer(columns.low, np.uint64)
        if not len(slots) == len(high) == len(low):
            raise ValueError("columns of different lengths")
        if not len(slots):
            return
        seats = self._pages.find(slots)
        self.high[seats] = high
        self.low[seats] = low
        self.changed[seats] = ordinal
        self.changed[_NOBODY] = 0

    def value(self, slot: int) -> int | None:
        """The amount of a slot, or None where none ever arrived."""
        return self.value_at(self._pages.get(slot))

    def value_at(self, seat: int) -> int | None:
        """The amount at a seat, or None where none ever arrived."""
        if not self.changed[seat]:
            return None
        return join(int(self.high[seat]), int(self.low[seat]))


class RowFigures(Figures):
    """Rows: their unrealised P&L, and about what they cost (absolute), for the fraction that it is of that."""

    kind = ROW

    def _spread(self, table: Table) -> None:
        super()._spread(table)
        self.cost: Floats = table["cost"]

    def describe(self, seat: int, *, head: str, cost: int, owner: int, version: int, mark: int) -> None:
        """Note what does not move of a row."""
        text = head.encode()
        length = room_for(text, HEAD_BYTES)
        _WHAT_STAYS.pack_into(
            self.bytes,
            seat * ROW.itemsize + FIGURE.itemsize,
            abs(cost),
            *split(cost),
            owner,
            version,
            mark,
            length,
            text,
        )


class UserFigures(Figures):
    """Users: their unrealised P&L, and beside it what does not move with prices: realised P&L, the day's base."""

    kind = USER

    def __init__(self) -> None:
        super().__init__()
        self.lists = Lists()
        """The seats of everybody's rows."""

    def _spread(self, table: Table) -> None:
        super()._spread(table)
        self.realized_high: High = table["realized_high"]
        self.realized_low: Low = table["realized_low"]
        self.base_high: High = table["base_high"]
        self.base_low: Low = table["base_low"]

    def settle(self, seat: int, realized: int, day_base: int | None, net_deposits: int) -> None:
        """Note what does not move. An unknown base is a base of nothing."""
        record = self.table[seat]
        record["realized_high"], record["realized_low"] = split(realized)
        record["base_high"], record["base_low"] = split(day_base or 0)
        record["deposits_high"], record["deposits_low"] = split(net_deposits)
        record["has_base"] = day_base is not None

    def describe(self, seat: int, *, serial: int, restated: int, reset: int, is_plain: bool, is_complete: bool) -> None:
        """Note whose seat it is, and when anything but figures last changed."""
        record = self.table[seat]
        record["serial"], record["restated"], record["reset"] = serial, restated, reset
        record["is_plain"], record["fees_are_complete"] = is_plain, is_complete

    def hold(self, seat: int, rows: list[int]) -> None:
        """Note the seats of a user's rows."""
        record = self.table[seat]
        self.lists.drop(int(record["rows_at"]), int(record["rows_count"]))
        record["rows_at"], record["rows_count"] = self.lists.put(rows), len(rows)

    def leave(self, slot: int) -> None:
        seat = self._pages.get(slot)
        if seat != _NOBODY:
            self.hold(seat, [])
        super().leave(slot)


def seats_of(figures: Figures, slots: Collection[int]) -> NDArray[np.intp]:
    """The seats of slots that are here, ready to index arrays."""
    return np.fromiter(map(figures.seat, slots), np.intp, len(slots))
