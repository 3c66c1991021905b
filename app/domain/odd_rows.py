"""Positions that vectors cannot carry exactly, valued one by one in Python's integers."""

from decimal import Decimal

import msgspec

from app.domain.decimals import convert_units, exact, to_units
from app.domain.instruments import Instrument
from app.domain.positions import Position


class _OddRow(msgspec.Struct):
    instrument: Instrument
    signed_qty: Decimal
    cost: int
    user: int
    column: int
    price: Decimal | None
    pair: int | None
    """The number of the rate that it is reported at, None where nothing is to be converted."""
    rate: Decimal | None
    worth: int | None = None
    """Unrealised profit in the settle asset."""
    reported: int | None = None
    """The same in the user's currency."""


class OddRows:
    """Few rows, each with its unrealised profit in units of 1e-18, or None without a price (or a rate)."""

    def __init__(self) -> None:
        self._rows: dict[int, _OddRow] = {}
        self._by_column: dict[int, set[int]] = {}
        self._by_pair: dict[int, set[int]] = {}
        self._totals: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def totals(self) -> dict[int, int]:
        """What the rows of a user add up to in his currency, for every user who has an odd row."""
        return self._totals

    def add(
        self,
        row: int,
        position: Position,
        *,
        user: int,
        column: int,
        price: Decimal | None,
        pair: int | None = None,
        rate: Decimal | None = None,
    ) -> None:
        """Take a row in: valued at the price of a column, and where there is a pair, reported at its rate."""
        state = position.state
        odd = _OddRow(
            position.instrument, state.signed_qty, to_units(state.cost), user, column, price=price, pair=pair, rate=rate
        )
        self._rows[row] = odd
        self._by_column.setdefault(column, set()).add(row)
        if pair is not None:
            self._by_pair.setdefault(pair, set()).add(row)
        self._totals.setdefault(user, 0)
        self._counts[user] = self._counts.get(user, 0) + 1
        self._value(odd)

    def remove(self, row: int) -> None:
        odd = self._rows.pop(row)
        self._by_column[odd.column].discard(row)
        if odd.pair is not None:
            self._by_pair[odd.pair].discard(row)
        self._counts[odd.user] -= 1
        if self._counts[odd.user]:
            self._totals[odd.user] -= odd.reported or 0
        else:
            del self._counts[odd.user], self._totals[odd.user]

    def reprice(self, column: int, price: Decimal | None) -> None:
        """Value the rows of a column again; None: they have no price now."""
        for row in self._by_column.get(column, ()):
            self._rows[row].price = price
            self._value(self._rows[row])

    def convert(self, pair: int, rate: Decimal | None) -> None:
        """Report the rows of a pair at another rate; None: it is not known now."""
        for row in self._by_pair.get(pair, ()):
            self._rows[row].rate = rate
            self._value(self._rows[row])

    def worth(self, row: int) -> int | None:
        return self._rows[row].worth

    def unpriced_users(self) -> set[int]:
        """User slots with a row that lacks a price or a rate."""
        return {odd.user for odd in self._rows.values() if odd.reported is None}

    def _value(self, odd: _OddRow) -> None:
        before = odd.reported
        odd.worth = odd.reported = None
        if odd.price is not None:
            with exact():
                market_value = to_units(odd.instrument.value(odd.signed_qty, odd.price))
            odd.worth = market_value - odd.cost
            odd.reported = _reported(odd, market_value)
        self._totals[odd.user] += (odd.reported or 0) - (before or 0)


def _reported(odd: _OddRow, market_value: int) -> int | None:
    if odd.pair is None:
        return odd.worth
    if odd.rate is None:
        return None
    return convert_units(market_value, odd.rate) - convert_units(odd.cost, odd.rate)
