"""The prices of held symbols as vectors, a column per price that values anything.

A symbol has one column for the price that values by default, and one more for
each other price (the last trade, the bid) by which some account is valued.
"""

import math
from collections.abc import Iterable, Mapping, Set
from decimal import Decimal

import msgspec
import numpy as np

from app.domain.prices import Price, ValueSource
from app.domain.slack_matrix import grown
from app.domain.wide import Floats, High, Indices, Low, Mask, low_part

NANO = 10**9
"""Steps of 1e-9 in one: prices and quantities of at most nine decimals are integers of them."""

_HEADROOM = 4.0


class Quote(msgspec.Struct, frozen=True):
    """What a column's price is at the moment."""

    price: Decimal
    source: ValueSource
    fresh_ms: int


class Turns(msgspec.Struct, frozen=True):
    """Columns at which new prices did more than change a number."""

    carried: list[int] = []
    """They have their first price, and the vectors carry it."""
    dropped: list[int] = []
    """The vectors carried their price, and the exchange gives it no more."""
    too_fine: list[int] = []
    """Their price has more than nine decimals, for the first time: the vectors cannot carry it."""
    risen: list[int] = []
    """Their price rose above :attr:`PriceVector.ceiling`, which is higher now."""
    moved: list[int] = []
    """Every column whose price is another than before, or gone, in the vectors or not."""


class PriceVector:
    """Columns count up from 0 and stay. ``stale_after_ms`` is the age at which a price is stale."""

    def __init__(self, stale_after_ms: int) -> None:
        self._stale_after_ms = stale_after_ms
        self._columns: dict[str, int] = {}
        """The column of a symbol's default price."""
        self._others: dict[str, dict[ValueSource, int]] = {}
        """The columns of a symbol's other prices."""
        self._prices: dict[str, Price] = {}
        self.symbols: list[str] = []
        self._sources: list[ValueSource | None] = []
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
        self.uses: Indices = np.zeros(64, np.int32)
        """How many positions stand in the column, and rates need it."""

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

    def quote(self, column: int) -> Quote | None:
        """The price of a column, or None where there is none."""
        price, source = self._prices.get(self.symbols[column]), self._sources[column]
        if price is None:
            return None
        if source is None:
            return Quote(price.price, price.source, price.fresh_ms)
        quoted = price.quoted(source)
        return None if quoted is None else Quote(quoted, source, price.fresh_ms)

    def value(self, column: int) -> Decimal | None:
        """The number alone of :meth:`quote`."""
        quote = self.quote(column)
        return None if quote is None else quote.price

    def name(self, column: int) -> str:
        """What a column is called on the bus: its symbol, and which of its prices where it is not the default one."""
        source = self._sources[column]
        return self.symbols[column] if source is None else f"{self.symbols[column]} {source}"

    def fresh_ms(self, column: int) -> int:
        return int(self._fresh_ms[column])

    def fresh_ms_of(self, columns: Indices) -> High:
        """The moments when the prices of columns were certainly right, in milliseconds; 0 without a price."""
        return self._fresh_ms[columns]

    def column(self, symbol: str, source: ValueSource | None = None) -> int:
        """The column of a symbol's default price, or of another; a new one takes the price that is known."""
        known = self._columns.get(symbol) if source is None else self._others.get(symbol, {}).get(source)
        if known is not None:
            return known
        column = len(self.symbols)
        self.symbols.append(symbol)
        self._sources.append(source)
        self._make_room(column + 1)
        if source is None:
            self._columns[symbol] = column
        else:
            self._others.setdefault(symbol, {})[source] = column
        quote = self.quote(column)
        if quote is not None:
            # Nobody holds it yet, so nothing has to turn.
            self._fresh_ms[column] = quote.fresh_ms
            self._enter(column, quote.price, _no_turns())
        return column

    def set(self, prices: Iterable[Price]) -> Turns:
        """Take newer prices. The caller acts on the turns, then calls :meth:`drop` for those too fine."""
        turns = _no_turns()
        for price in prices:
            before = self._prices.get(price.symbol)
            self._prices[price.symbol] = price
            if price is before:
                continue
            column = self._columns.get(price.symbol)
            if column is not None:
                self._fresh_ms[column] = price.fresh_ms
                self._marks_changed[column] = True
                if before is None or before.price != price.price:
                    self._enter(column, price.price, turns)
            if price.symbol in self._others:
                self._set_others(before, price, turns)
        return turns

    def missing(self, symbols: Set[str]) -> list[int]:
        """The columns that have a price and whose symbol is not among these."""
        return [column for column in np.flatnonzero(self.priced).tolist() if self.symbols[column] not in symbols]

    def retain(self, symbols: Set[str]) -> None:
        """Have no price of any other symbol any more. The caller takes the costs out first."""
        for column in self.missing(symbols):
            self._lose(column)
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

    def _set_others(self, before: Price | None, price: Price, turns: Turns) -> None:
        for source, column in self._others[price.symbol].items():
            value = price.quoted(source)
            if value is not None:
                self._fresh_ms[column] = price.fresh_ms
                self._marks_changed[column] = True
                if before is None or before.quoted(source) != value:
                    self._enter(column, value, turns)
            elif self.priced[column]:
                if self.carried[column]:
                    _turn(column, turns.dropped, turns.carried)
                turns.moved.append(column)
                self._lose(column)

    def _lose(self, column: int) -> None:
        """A column has no price any more."""
        self.priced[column] = False
        self._fresh_ms[column] = 0
        self._values_changed[column] = self._marks_changed[column] = True
        self.drop([column])

    def _enter(self, column: int, price: Decimal, turns: Turns) -> None:
        self.priced[column] = True
        self._values_changed[column] = self._marks_changed[column] = True
        turns.moved.append(column)
        if self.too_fine[column]:
            return
        numerator, denominator = price.as_integer_ratio()
        if NANO % denominator:
            self.too_fine[column] = True
            turns.too_fine.append(column)
            return
        self._low[column] = low_part(numerator * (NANO // denominator))
        approximate = self._floats[column] = float(price)
        if not self.carried[column]:
            self.carried[column] = True
            _turn(column, turns.carried, turns.dropped)
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
        self.uses = grown(self.uses, needed)


def _turn(column: int, one: list[int], other: list[int]) -> None:
    """Note a turn of a column, which takes back an earlier one the other way."""
    if column in other:
        other.remove(column)
    else:
        one.append(column)


def _no_turns() -> Turns:
    return Turns([], [], [], [], [])


def _power_above(value: float) -> float:
    """The smallest power of two above a positive number."""
    return math.ldexp(1.0, math.frexp(value)[1])
