"""The rates that some user needs, each with a number, kept with the prices that they are made of.

A *pair* is an asset and the currency that it is reported in. Once needed it
stays: what was realised in an asset is a balance in it for ever.
"""

from collections.abc import Iterable
from decimal import Decimal

import numpy as np

from app.domain.price_vector import PriceVector
from app.domain.rates import RateBook
from app.domain.slack_matrix import grown
from app.domain.wide import Indices, Mask

_NONE = -1


class RatesInUse:
    """Pairs count up from 0. A rate moves when :meth:`refresh` says so, and not before."""

    def __init__(self, prices: PriceVector) -> None:
        self.book = RateBook()
        self.pairs: list[tuple[str, str]] = []
        """Asset and currency."""
        self._prices = prices
        self._numbers: dict[tuple[str, str], int] = {}
        self._values: list[Decimal | None] = []
        # At most two steps; a way of one has its column twice, no way has none.
        self._first: Indices = np.zeros(16, np.int32)
        self._second: Indices = np.zeros(16, np.int32)
        self._by_column: dict[int, set[int]] = {}
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, asset: str, currency: str) -> int:
        """The number of a pair, new or known."""
        number = self._numbers.get((asset, currency))
        if number is None:
            number = self._numbers[asset, currency] = len(self.pairs)
            self.pairs.append((asset, currency))
            self._first = grown(self._first, number + 1)
            self._second = grown(self._second, number + 1)
            self._follow(number)
            self._values.append(self._look_up(number))
        return number

    def value(self, pair: int) -> Decimal | None:
        """The rate, or None where a price or the way is missing."""
        return self._values[pair]

    def fresh_ms(self, pair: int) -> int:
        """When the oldest price in the rate was certainly right; 0 where there is none."""
        first, second = int(self._first[pair]), int(self._second[pair])
        return 0 if first == _NONE else min(self._prices.fresh_ms(first), self._prices.fresh_ms(second))

    def set_book(self, book: RateBook) -> None:
        """Go the ways that another list of instruments has."""
        self.book = book
        for pair in range(len(self)):
            for column in self._columns(pair):
                self._by_column[column].discard(pair)
                self._prices.uses[column] -= 1
            self._follow(pair)
        self._dirty.update(range(len(self)))

    def moved(self, columns: Iterable[int]) -> None:
        """The prices of columns moved."""
        if self._by_column:
            for column in columns:
                self._dirty.update(self._by_column.get(column, ()))

    def refresh(self) -> list[int]:
        """Make the rates anew whose prices moved. The pairs whose rate is another now."""
        dirty, self._dirty = self._dirty, set()
        changed: list[int] = []
        for pair in sorted(dirty):
            value = self._look_up(pair)
            if value != self._values[pair]:
                self._values[pair] = value
                changed.append(pair)
        return changed

    def of_any(self, columns: Mask) -> Mask:
        """By pair: whether any of its columns is in a mask."""
        if not self.pairs:
            return np.zeros(0, np.bool_)
        # The last of them is for who goes no way.
        among: Mask = np.append(columns, False)
        return among[self._first[: len(self)]] | among[self._second[: len(self)]]

    def _look_up(self, pair: int) -> Decimal | None:
        rate = self.book.rate(*self.pairs[pair], self._prices.known)
        return None if rate is None else rate.value

    def _follow(self, pair: int) -> None:
        columns = [self._prices.column(symbol) for symbol in self.book.symbols(*self.pairs[pair])]
        self._first[pair], self._second[pair] = (columns[0], columns[-1]) if columns else (_NONE, _NONE)
        for column in self._columns(pair):
            self._prices.uses[column] += 1
            self._by_column.setdefault(column, set()).add(pair)

    def _columns(self, pair: int) -> set[int]:
        return {int(self._first[pair]), int(self._second[pair])} - {_NONE}
