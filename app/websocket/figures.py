"""Figures that move, one exact amount per slot, in arrays as long as what is here.

The P&L worker numbers rows and users for its whole book and never uses a number
again, so the numbers grow with everything that ever was. What is here *sits* on
dense seats, and seats are given out again: a slot finds its seat by a table in
pages, and a page nobody of which is here takes no room.
"""

from collections.abc import Collection
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.bus.messages import Columns
from app.domain.wide import Floats, High, Low, join, split

Number = TypeVar("Number", bound=np.generic)

_PAGE_BITS = 10
_PAGE = 1 << _PAGE_BITS
_FIRST_SEATS = 256
_NOBODY = 0
"""The block of pages on which nobody sits, and the seat of whoever is not here: writes to it mean nothing."""


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
            self._block_of = _longer(self._block_of, page + 2)
        block = int(self._block_of[page])
        if block == _NOBODY:
            block = self._block_of[page] = self._free.pop() if self._free else self._new_block()
        return int(block)

    def _new_block(self) -> int:
        self._sitting.append(0)
        size = len(self._sitting) * _PAGE
        if size > len(self._blocks):
            self._blocks = _longer(self._blocks, size)
        return len(self._sitting) - 1


class Figures:
    """By seat: ``high·2^64 + low`` in units of 1e-18, and at which commit it last changed (0: it never came)."""

    def __init__(self) -> None:
        self._pages = _Pages()
        self._free: list[int] = []
        self._seats = 1
        self.high: High = np.zeros(_FIRST_SEATS, np.int64)
        self.low: Low = np.zeros(_FIRST_SEATS, np.uint64)
        self.changed: NDArray[np.int64] = np.zeros(_FIRST_SEATS, np.int64)

    def __len__(self) -> int:
        """How many slots are seated."""
        return self._seats - 1 - len(self._free)

    def seat(self, slot: int) -> int:
        """The seat of a slot, which is here from now on. Raises ValueError for a negative slot."""
        if slot < 0:
            raise ValueError("a negative slot")
        seat = self._pages.get(slot)
        if seat != _NOBODY:
            return seat
        if self._free:
            seat = self._free.pop()
        else:
            seat = self._seats
            self._seats += 1
            if seat == len(self.changed):
                self._grow_to(seat + 1)
        self._pages.put(slot, seat)
        self.changed[seat] = 0
        return seat

    def leave(self, slot: int) -> None:
        """A slot is not here any more; its seat may be another's next."""
        seat = self._pages.get(slot)
        if seat != _NOBODY:
            self._pages.clear(slot)
            self._free.append(seat)

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

    def _grow_to(self, seats: int) -> None:
        self.high = _longer(self.high, seats)
        self.low = _longer(self.low, seats)
        self.changed = _longer(self.changed, seats)


class RowFigures(Figures):
    """Rows: their unrealised P&L, and about what they cost (absolute), for the fraction that it is of that."""

    def __init__(self) -> None:
        super().__init__()
        self.cost: Floats = np.zeros(_FIRST_SEATS)

    def _grow_to(self, seats: int) -> None:
        super()._grow_to(seats)
        self.cost = _longer(self.cost, seats)


class UserFigures(Figures):
    """Users: their unrealised P&L, and beside it what does not move with prices: realised P&L, the day's base."""

    def __init__(self) -> None:
        super().__init__()
        self.realized_high: High = np.zeros(_FIRST_SEATS, np.int64)
        self.realized_low: Low = np.zeros(_FIRST_SEATS, np.uint64)
        self.base_high: High = np.zeros(_FIRST_SEATS, np.int64)
        self.base_low: Low = np.zeros(_FIRST_SEATS, np.uint64)

    def settle(self, seat: int, realized: int, day_base: int | None) -> None:
        """Note what does not move. An unknown base is a base of nothing here; who asks knows that it is unknown."""
        self.realized_high[seat], self.realized_low[seat] = split(realized)
        self.base_high[seat], self.base_low[seat] = split(day_base or 0)

    def _grow_to(self, seats: int) -> None:
        super()._grow_to(seats)
        self.realized_high = _longer(self.realized_high, seats)
        self.realized_low = _longer(self.realized_low, seats)
        self.base_high = _longer(self.base_high, seats)
        self.base_low = _longer(self.base_low, seats)


def seats_of(figures: Figures, slots: Collection[int]) -> NDArray[np.intp]:
    """The seats of slots that are here, ready to index arrays."""
    return np.fromiter(map(figures.seat, slots), np.intp, len(slots))


def _longer(array: NDArray[Number], size: int) -> NDArray[Number]:
    """The array with room for ``size``, and some to spare."""
    longer = np.zeros(max(size, len(array) * 2), array.dtype)
    longer[: len(array)] = array
    return longer
