"""Rows that settle in another asset than their user's currency: what they are worth in it.

A row is valued by the arrays like any other, in the asset it settles in. Its
market value and its cost are then converted, each rounded once, whenever its
price or its rate is another (leaf conversion, as :func:`app.domain.valuation.report`
has it), and the difference is brought into the user's total.
"""

from collections.abc import Sequence

import numpy as np

from app.domain.position_rows import PositionRows
from app.domain.price_vector import PriceVector
from app.domain.rates_in_use import RatesInUse
from app.domain.slack_matrix import grown
from app.domain.wide import High, Indices, Low, Mask, add, join, split, subtract, sum_by
from app.domain.wide_conversion import convert

_ABSENT = -1


class ForeignRows:
    """Dense and unordered, like :class:`app.domain.selection.Selection`."""

    def __init__(self, rows: PositionRows, prices: PriceVector, rates: RatesInUse) -> None:
        self._positions = rows
        self._prices = prices
        self._rates = rates
        self._count = 0
        # By place.
        self._rows: Indices = np.zeros(64, np.int32)
        self._pairs: Indices = np.zeros(64, np.int32)
        self._high: High = np.zeros(64, np.int64)
        self._low: Low = np.zeros(64, np.uint64)
        self._known: Mask = np.zeros(64, np.bool_)
        self._due: Mask = np.zeros(64, np.bool_)
        # By row, and by user slot.
        self._place_of: Indices = np.full(64, _ABSENT, np.int32)
        self._total_high: High = np.zeros(64, np.int64)
        self._total_low: Low = np.zeros(64, np.uint64)

    def __len__(self) -> int:
        return self._count

    def add(self, row: int, pair: int) -> None:
        """Take a row in. It is worth nothing until :meth:`revalue`."""
        place = self._count
        self._make_room(place + 1, row + 1)
        self._rows[place], self._pairs[place] = row, pair
        self._high[place] = self._low[place] = 0
        self._known[place], self._due[place] = False, True
        self._place_of[row] = place
        self._count += 1

    def remove(self, row: int) -> None:
        """Leave a row out of its user's total. Its user must still be known."""
        place, last = int(self._place_of[row]), self._count - 1
        user = int(self._positions.user[row])
        worth = join(int(self._high[place]), int(self._low[place]))
        if worth:
            total = join(int(self._total_high[user]), int(self._total_low[user]))
            self._total_high[user], self._total_low[user] = split(total - worth)
        for array in (self._rows, self._pairs, self._high, self._low, self._known, self._due):
            array[place] = array[last]
        self._place_of[self._rows[place]] = place
        self._place_of[row] = _ABSENT
        self._count = last

    def of_pair(self, pair: int) -> Indices:
        """The rows that are reported at a rate."""
        rows: Indices = self._rows[: self._count][self._pairs[: self._count] == pair]
        return rows

    def revalue(self, values_changed: Mask, rates_changed: Sequence[int]) -> None:
        """Value again what has another price or another rate, by columns and pairs."""
        count = self._count
        if not count:
            return
        rows, pairs = self._rows[:count], self._pairs[:count]
        turned = np.zeros(len(self._rates), np.bool_)
        turned[list(rates_changed)] = True
        due = self._due[:count] | values_changed[self._positions.column[rows]] | turned[pairs]
        places = np.flatnonzero(due).astype(np.int32)
        if not len(places):
            return
        self._due[places] = False
        high, low, known = self._worth(self._rows[places], self._pairs[places])
        more_high, more_low = subtract(high, low, self._high[places], self._low[places])
        self._high[places], self._low[places], self._known[places] = high, low, known
        self._count_in(self._positions.user[self._rows[places]], more_high, more_low)

    def totals(self, users: int) -> tuple[High, Low]:
        """What the rows of each user add up to, by user slot."""
        self._total_high, self._total_low = grown(self._total_high, users), grown(self._total_low, users)
        return self._total_high[:users], self._total_low[:users]

    def unpriced_users(self) -> set[int]:
        """User slots with a row that lacks a price or a rate."""
        unknown = self._rows[: self._count][~self._known[: self._count]]
        return set(self._positions.user[unknown].tolist())

    def _worth(self, rows: Indices, pairs: Indices) -> tuple[High, Low, Mask]:
        """Reported worth of rows in units of 1e-18, and where it is known; zero elsewhere."""
        high, low = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint64)
        known = self._prices.priced[self._positions.column[rows]]
        for pair in np.unique(pairs).tolist():
            rate, of_pair = self._rates.value(pair), pairs == pair
            if rate is None:
                known &= ~of_pair
                continue
            chosen = np.flatnonzero(of_pair & known)
            of = rows[chosen]
            market = convert(*self._positions.market_value(of, self._prices.low, self._prices.floats), rate)
            cost = convert(*self._positions.cost_basis(of), rate)
            high[chosen], low[chosen] = subtract(*market, *cost)
        return high, low, known

    def _count_in(self, users: Indices, high: High, low: Low) -> None:
        # Only those users: a flush moves few of them, and rows stand user by user.
        slots, numbers = np.unique(users, return_inverse=True)
        self.totals(int(slots[-1]) + 1)
        more_high, more_low = sum_by(numbers, high, low, len(slots))
        self._total_high[slots], self._total_low[slots] = add(
            self._total_high[slots], self._total_low[slots], more_high, more_low
        )

    def _make_room(self, places: int, rows: int) -> None:
        self._rows = grown(self._rows, places)
        self._pairs = grown(self._pairs, places)
        self._high = grown(self._high, places)
        self._low = grown(self._low, places)
        self._known = grown(self._known, places)
        self._due = grown(self._due, places)
        self._place_of = grown(self._place_of, rows, fill=_ABSENT)
