"""Positions that vectors cannot carry exactly, valued one by one in Python's integers."""

from decimal import Decimal

import msgspec

from app.domain.decimals import exact, to_units
from app.domain.instruments import Instrument
from app.domain.positions import Position
from app.domain.prices import Price


class _OddRow(msgspec.Struct):
    instrument: Instrument
    column: int
    signed_qty: Decimal
    cost: int
    total_of: int | None
    worth: int | None = None


class OddRows:
    """Few rows, each with its unrealised profit in units of 1e-18, or None without a price."""

    def __init__(self) -> None:
        self._rows: dict[int, _OddRow] = {}
        self._by_column: dict[int, set[int]] = {}
        self._totals: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def totals(self) -> dict[int, int]:
        """What the priced rows of a user add up to, for every user who has an odd row in his total."""
        return self._totals

    def add(self, row: int, column: int, position: Position, total_of: int | None, price: Price | None) -> None:
        """Take a row in; ``total_of`` is the user slot whose total it is in, None if in no total."""
        state = position.state
        odd = _OddRow(position.instrument, column, state.signed_qty, to_units(state.cost), total_of)
        self._rows[row] = odd
        self._by_column.setdefault(column, set()).add(row)
        if total_of is not None:
            self._totals.setdefault(total_of, 0)
            self._counts[total_of] = self._counts.get(total_of, 0) + 1
        self._price(odd, price)

    def remove(self, row: int) -> None:
        odd = self._rows.pop(row)
        self._by_column[odd.column].discard(row)
        if odd.total_of is None:
            return
        self._counts[odd.total_of] -= 1
        if self._counts[odd.total_of]:
            self._totals[odd.total_of] -= odd.worth or 0
        else:
            del self._counts[odd.total_of], self._totals[odd.total_of]

    def reprice(self, column: int, price: Price | None) -> None:
        """Value the rows of a column again; None: they have no price now."""
        for row in self._by_column.get(column, ()):
            self._price(self._rows[row], price)

    def worth(self, row: int) -> int | None:
        return self._rows[row].worth

    def unpriced_users(self) -> set[int]:
        """User slots with a row that lacks a price in their total."""
        return {odd.total_of for odd in self._rows.values() if odd.worth is None and odd.total_of is not None}

    def _price(self, odd: _OddRow, price: Price | None) -> None:
        worth = None
        if price is not None:
            with exact():
                worth = to_units(odd.instrument.value(odd.signed_qty, price.price)) - odd.cost
        if odd.total_of is not None:
            self._totals[odd.total_of] += (worth or 0) - (odd.worth or 0)
        odd.worth = worth
