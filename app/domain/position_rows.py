"""Positions in arrays: one row each, used again by another after it ended."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.domain.slack_matrix import grown
from app.domain.wide import Floats, High, Indices, Low, find_high

COARSE = 10**14
"""Units of 1e-18 in one coarse cost step (1e-4).

The float side needs a cost only to a fraction of money; as an integer of coarse
steps a sum of costs can be added to and taken from for ever without drifting.
"""

_COARSE_PER_MONEY = 10_000.0


class Kind(IntEnum):
    """How a row is valued."""

    VACANT = 0
    TOGETHER = 1
    """In the matrix, and so in its user's total."""
    APART = 2
    """In the arrays only: it settles in another asset than its user's currency, so his total has it converted."""
    ODD = 3
    """In Python's integers: the arrays hold nothing of its worth."""


class Measure(msgspec.Struct, frozen=True):
    """What the arrays keep of a position. Zero where it is odd."""

    kind: Kind
    column: int
    version: int
    qty_low: int = 0
    qty: float = 0.0
    cost_low: int = 0
    cost_coarse: int = 0


class PositionRows:
    """Arrays by row. ``slot`` is the row's number on the wire, which is never used again."""

    def __init__(self) -> None:
        self._count = 0
        self._vacant: list[int] = []
        self._next_slot = 0
        self.packed: list[bytes] = []
        self.position_ids: list[str] = []
        self._kind: NDArray[np.int8] = np.zeros(64, np.int8)
        self.user: Indices = np.zeros(64, np.int32)
        self.column: Indices = np.zeros(64, np.int32)
        self.slot: Indices = np.zeros(64, np.int32)
        self.version: Indices = np.zeros(64, np.int32)
        self.qty_low: Low = np.zeros(64, np.uint64)
        self.qty: Floats = np.zeros(64, np.float64)
        self.cost_low: Low = np.zeros(64, np.uint64)
        self.cost_coarse: High = np.zeros(64, np.int64)

    def __len__(self) -> int:
        return self._count - len(self._vacant)

    @property
    def kinds(self) -> NDArray[np.int8]:
        """The kind of every row there ever was."""
        return self._kind[: self._count]

    def kind(self, row: int) -> Kind:
        return Kind(int(self._kind[row]))

    def take(self, user: int, measures: Sequence[Measure]) -> list[int]:
        """Rows for positions of one user, each with a new slot."""
        count = len(measures)
        rows = [self._vacant.pop() for _ in range(min(count, len(self._vacant)))]
        fresh = count - len(rows)
        rows.extend(range(self._count, self._count + fresh))
        self._count += fresh
        self._make_room(self._count)
        self.packed.extend([b""] * fresh)
        self.position_ids.extend([""] * fresh)
        self.user[rows] = user
        self.slot[rows] = np.arange(self._next_slot, self._next_slot + count)
        self._next_slot += count
        self.fill(rows, measures)
        return rows

    def fill(self, rows: Sequence[int], measures: Sequence[Measure]) -> None:
        """Write what the arrays keep of positions into their rows."""
        self._kind[rows] = [measure.kind for measure in measures]
        self.column[rows] = [measure.column for measure in measures]
        self.version[rows] = [measure.version for measure in measures]
        self.qty_low[rows] = np.array([measure.qty_low for measure in measures], np.uint64)
        self.qty[rows] = [measure.qty for measure in measures]
        self.cost_low[rows] = np.array([measure.cost_low for measure in measures], np.uint64)
        self.cost_coarse[rows] = [measure.cost_coarse for measure in measures]

    def make_odd(self, row: int) -> None:
        """Take a row's worth out of the arrays."""
        self._kind[row] = Kind.ODD
        self.qty_low[row] = self.cost_low[row] = 0
        self.qty[row] = 0.0
        self.cost_coarse[row] = 0

    def release(self, rows: Iterable[int]) -> None:
        """Leave rows to other positions."""
        for row in rows:
            self._kind[row] = Kind.VACANT
            self.packed[row] = b""
            self.position_ids[row] = ""
            self._vacant.append(row)

    def worth(self, rows: Indices, price_low: Low, price: Floats) -> tuple[High, Low]:
        """Unrealised profit of rows at prices by column, in units of 1e-18; nothing meaningful for odd ones."""
        # Taking is some three times as fast as indexing, by numbers as wide as numpy wants them.
        at = rows.astype(np.intp)
        columns = self.column.take(at).astype(np.intp)
        low = self.qty_low.take(at) * price_low.take(columns) - self.cost_low.take(at)
        about = self.qty.take(at) * price.take(columns) - self.cost_coarse.take(at) / _COARSE_PER_MONEY
        return find_high(low, about * 1e18), low

    def market_value(self, rows: Indices, price_low: Low, price: Floats) -> tuple[High, Low]:
        """What rows are worth at prices by column, in units of 1e-18; nothing meaningful for odd ones."""
        columns = self.column[rows]
        low = self.qty_low[rows] * price_low[columns]
        return find_high(low, self.qty[rows] * price[columns] * 1e18), low

    def cost_basis(self, rows: Indices) -> tuple[High, Low]:
        """What rows have cost, in units of 1e-18; nothing meaningful for odd ones."""
        low = self.cost_low[rows]
        about: Floats = self.cost_coarse[rows].astype(np.float64)
        return find_high(low, about * float(COARSE)), low

    def _make_room(self, needed: int) -> None:
        self._kind = grown(self._kind, needed)
        self.user = grown(self.user, needed)
        self.column = grown(self.column, needed)
        self.slot = grown(self.slot, needed)
        self.version = grown(self.version, needed)
        self.qty_low = grown(self.qty_low, needed)
        self.qty = grown(self.qty, needed)
        self.cost_low = grown(self.cost_low, needed)
        self.cost_coarse = grown(self.cost_coarse, needed)
