"""The prices of held symbols as vectors, a column per symbol."""

import math
from collections.abc import Iterable, Mapping, Set

import msgspec
import numpy as np

from app.domain.prices import Price
from app.domain.slack_matrix import grown
from app.domain.wide import Floats, High, Indices, Low, Mask, low_part

NANO = 10**9
"""Steps of 1e-9 in one: prices and quantities of at most nine decimals are integers of them."""

_HEADROOM = 4.0


class Turns(msgspec.Struct, frozen=True):
    """Columns at which new prices did more than change a number."""

    carried: list[int] = []
    """They have their first price, and the vectors carry it."""
    too_fine: list[int] = []
    """Their price has more than nine decimals, for the first time: the vectors cannot carry it."""
    risen: list[int] = []
    """Their price rose above :attr:`PriceVector.ceiling`, which is higher now."""
    moved: list[int] = []
    """Every column whose price is another than before, in the vectors or not."""


class PriceVector:
    """Columns count up from 0 and stay. ``stale_after_ms`` is the age at which a price is stale."""

    def __init__(self, stale_after_ms: int) -> None:
        self._stale_after_ms = stale_after_ms
        self._columns: dict[str, int] = {}
        self._prices: dict[str, Price] = {}
        self.symbols: list[str] = []
        self._low: Low = np.zeros(64, np.uint64)
        self._floats: Floats = np.zeros(64, np.float64)
        self._fresh_ms: High = np.zeros(64, np.int64)
        self._stale: Mask = np.zeros(64, np.bool_)
        self._marks_changed: Mask = np.zeros(64, np.bool_)
        self._values_changed: Mask = np.zeros(64, np.bool_)
        self.ceiling: Floats = np.zeros(64, np.float64)
        """Above this price the positions of the symbol must be looked at again; 0 without a price."""
        self.priced: Mask = np.zeros(64, np.bool_)
        self.carried: Mask = np.zeros(64, np.bool_)
        """Where the vectors hold the price. Elsewhere they hold zero."""
        self.too_fine: Mask = np.zeros(64, np.bool_)
        """Where a price ever had more than nine decimals: not carried any more."""
        self.rows: Indices = np.zeros(64, np.int32)
        """How many positions stand in the symbol."""

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def low(self) -> Low:
        """Prices in steps of 1e-9, modulo 2^64."""
        return self._low[: len(self)]

    @property
    def floats(self) -> Floats:
        return self._floats[: len(self)]

    @property
    def known(self) -> Mapping[str, Price]:
        """The newest price of every symbol, held or not."""
        return self._prices

    def price(self, column: int) -> Price | None:
        return self._prices.get(self.symbols[column])

    def column(self, symbol: str) -> int:
        """The column of a symbol; a new one takes the price that is known."""
        column = self._columns.get(symbol)
        if column is None:
            column = self._columns[symbol] = len(self.symbols)
            self.symbols.append(symbol)
            self._make_room(column + 1)
            price = self._prices.get(symbol)
            if price is not None:
                # Nobody holds the symbol yet, so nothing has to turn.
                self._enter(column, price, Turns([], [], [], []))
        return column

    def set(self, prices: Iterable[Price]) -> Turns:
        """Take newer prices. The caller acts on the turns, then calls :meth:`drop` for those too fine."""
        turns = Turns([], [], [], [])
        for price in prices:
            before = self._prices.get(price.symbol)
            self._prices[price.symbol] = price
            column = self._columns.get(price.symbol)
            if column is None or price is before:
                continue
            self._fresh_ms[column] = price.fresh_ms
            self._marks_changed[column] = True
            if before is None or before.price != price.price:
                self._enter(column, price, turns)
        return turns

    def missing(self, symbols: Set[str]) -> list[int]:
        """The columns that have a price and are not among these symbols."""
        return [column for symbol, column in self._columns.items() if self.priced[column] and symbol not in symbols]

    def retain(self, symbols: Set[str]) -> None:
        """Have no price of any other symbol any more. The caller takes the costs out first."""
        for column in self.missing(symbols):
            self.priced[column] = False
            self._fresh_ms[column] = 0
            self._values_changed[column] = self._marks_changed[column] = True
            self.drop([column])
        self._prices = {symbol: price for symbol, price in self._prices.items() if symbol in symbols}

    def drop(self, columns: Iterable[int]) -> None:
        """Empty the vectors at columns they cannot carry."""
        for column in columns:
            self.carried[column] = False
            self._low[column] = 0
            self._floats[column] = 0.0

    def age(self, as_of_ms: int, *, silent: bool) -> Mask:
        """Find out which prices are stale at a moment: all of them while the feed is silent."""
        count = len(self)
        old = as_of_ms - self._fresh_ms[:count] > self._stale_after_ms
        stale = self.priced[:count] & (old | silent)
        self._marks_changed[:count] |= stale != self._stale[:count]
        self._stale[:count] = stale
        return stale

    def take_changes(self) -> tuple[Mask, Mask]:
        """The columns whose value changed, and those whose mark did, since they were last taken."""
        count = len(self)
        changes = self._values_changed[:count].copy(), self._marks_changed[:count].copy()
        self._values_changed[:count] = False
        self._marks_changed[:count] = False
        return changes

    def _enter(self, column: int, price: Price, turns: Turns) -> None:
        self.priced[column] = True
        self._fresh_ms[column] = price.fresh_ms
        self._values_changed[column] = self._marks_changed[column] = True
        turns.moved.append(column)
        if self.too_fine[column]:
            return
        numerator, denominator = price.price.as_integer_ratio()
        if NANO % denominator:
            self.too_fine[column] = True
            turns.too_fine.append(column)
            return
        self._low[column] = low_part(numerator * (NANO // denominator))
        approximate = self._floats[column] = float(price.price)
        if not self.carried[column]:
            self.carried[column] = True
            turns.carried.append(column)
        if approximate > self.ceiling[column]:
            self.ceiling[column] = _power_above(approximate * _HEADROOM)
            turns.risen.append(column)

    def _make_room(self, needed: int) -> None:
        self._low = grown(self._low, needed)
        self._floats = grown(self._floats, needed)
        self._fresh_ms = grown(self._fresh_ms, needed)
        self._stale = grown(self._stale, needed)
        self._marks_changed = grown(self._marks_changed, needed)
        self._values_changed = grown(self._values_changed, needed)
        self.ceiling = grown(self.ceiling, needed)
        self.priced = grown(self.priced, needed)
        self.carried = grown(self.carried, needed)
        self.too_fine = grown(self.too_fine, needed)
        self.rows = grown(self.rows, needed)


def _power_above(value: float) -> float:
    """The smallest power of two above a positive number."""
    return math.ldexp(1.0, math.frexp(value)[1])
