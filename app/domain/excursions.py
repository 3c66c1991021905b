"""The lowest and highest unrealised profit of open positions, as the samples of minutes saw them.

Exact, in the settle asset, in arrays by row of the book. A row is used again by
another position after it ended; its slot, which is never used again, tells.
"""

import msgspec
import numpy as np

from app.domain.position_rows import Kind, PositionRows
from app.domain.slack_matrix import grown
from app.domain.wide import High, Indices, Low, Mask, join

_NOBODY = -1


class Excursion(msgspec.Struct, frozen=True):
    """The lowest and highest unrealised profit of a position so far, in units of 1e-18 of its settle asset."""

    position_id: str
    worst: int
    best: int


class Excursions:
    """Grows with the rows of the book."""

    def __init__(self, rows: PositionRows) -> None:
        self._rows = rows
        self._slot: Indices = np.full(64, _NOBODY, np.int32)
        self._unsaved: Mask = np.zeros(64, np.bool_)
        self._position_ids: list[str] = []
        self._worst_high: High = np.zeros(64, np.int64)
        self._worst_low: Low = np.zeros(64, np.uint64)
        self._best_high: High = np.zeros(64, np.int64)
        self._best_low: Low = np.zeros(64, np.uint64)

    def note(self, rows: Indices, high: High, low: Low) -> list[Excursion]:
        """Take in what rows are worth. The result: what was not saved of positions whose rows others have now."""
        if not len(rows):
            return []
        # For all rows at once: growing with the first round would copy the arrays again and again.
        self._make_room(len(self._rows.kinds))
        is_new = self._slot[rows] != self._rows.slot[rows]
        fresh = rows[is_new]
        left = self._take(fresh[self._unsaved[fresh]])
        self._begin(fresh, high[is_new], low[is_new])
        falls = _is_less(high, low, self._worst_high[rows], self._worst_low[rows])
        rises = _is_less(self._best_high[rows], self._best_low[rows], high, low)
        self._worst_high[rows[falls]], self._worst_low[rows[falls]] = high[falls], low[falls]
        self._best_high[rows[rises]], self._best_low[rows[rises]] = high[rises], low[rises]
        self._unsaved[rows[falls | rises]] = True
        return left

    def ended(self) -> list[Excursion]:
        """What was not saved of positions that stand no more."""
        known = min(len(self._unsaved), len(self._rows.kinds))
        is_over = (self._rows.kinds[:known] == Kind.VACANT) | (self._slot[:known] != self._rows.slot[:known])
        return self._take(np.flatnonzero(self._unsaved[:known] & is_over).astype(np.int32))

    def unsaved(self, most: int) -> list[Excursion]:
        """Up to so many that moved since they were last taken."""
        return self._take(np.flatnonzero(self._unsaved)[:most].astype(np.int32))

    def _begin(self, rows: Indices, high: High, low: Low) -> None:
        self._slot[rows] = self._rows.slot[rows]
        self._worst_high[rows] = self._best_high[rows] = high
        self._worst_low[rows] = self._best_low[rows] = low
        self._unsaved[rows] = True
        for row in rows.tolist():
            self._position_ids[row] = self._rows.position_ids[row]

    def _take(self, rows: Indices) -> list[Excursion]:
        self._unsaved[rows] = False
        return [
            Excursion(
                self._position_ids[row],
                join(int(self._worst_high[row]), int(self._worst_low[row])),
                join(int(self._best_high[row]), int(self._best_low[row])),
            )
            for row in rows.tolist()
        ]

    def _make_room(self, needed: int) -> None:
        self._slot = grown(self._slot, needed, fill=_NOBODY)
        self._unsaved = grown(self._unsaved, needed)
        self._worst_high = grown(self._worst_high, needed)
        self._worst_low = grown(self._worst_low, needed)
        self._best_high = grown(self._best_high, needed)
        self._best_low = grown(self._best_low, needed)
        self._position_ids.extend([""] * (needed - len(self._position_ids)))


def _is_less(high: High, low: Low, than_high: High, than_low: Low) -> Mask:
    less: Mask = (high < than_high) | ((high == than_high) & (low < than_low))
    return less
