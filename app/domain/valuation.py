"""What positions are worth: one position, and the totals of many, by leaf rounding.

This is the plain form, one position at a time in integers of 1e-18: REST, the
cache and the tests use it. :mod:`app.domain.book` is the vectorised form for
everybody at once; both give the same integers.
"""

from collections.abc import Sequence

import msgspec

from app.domain.decimals import exact, to_units
from app.domain.positions import Position
from app.domain.prices import Price


class PositionValue(msgspec.Struct, frozen=True, kw_only=True):
    """The published leaves of one position, in units of 1e-18; None is unknown."""

    cost_basis: int
    market_value: int | None
    realized_pnl_gross: int
    fees: int
    funding: int
    mark: Price | None
    mark_age_ms: int | None
    is_stale: bool

    @property
    def unrealized_pnl(self) -> int | None:
        return None if self.market_value is None else self.market_value - self.cost_basis

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees + self.funding

    @property
    def total_pnl(self) -> int | None:
        unrealized = self.unrealized_pnl
        return None if unrealized is None else self.realized_pnl + unrealized

    @property
    def unrealized_pnl_pct(self) -> str | None:
        """Unrealised over the absolute cost basis: a fraction, to six places."""
        unrealized = self.unrealized_pnl
        if unrealized is None:
            return None
        return fraction(unrealized, self.cost_basis)


def fraction(part: int, whole: int) -> str | None:
    """``part / |whole|`` to six places, half away from zero; None where whole is zero."""
    if not whole:
        return None
    millionths = (abs(part) * 2_000_000 + abs(whole)) // (2 * abs(whole))
    sign = "-" if part < 0 and millionths else ""
    return f"{sign}{millionths // 1_000_000}.{millionths % 1_000_000:06d}"


def value_position(position: Position, price: Price | None, as_of_ms: int, stale_after_ms: int) -> PositionValue:
    """Value one position at a price. A flat position needs no price."""
    state = position.state
    market_value: int | None
    with exact():
        if state.is_flat:
            market_value = 0
        elif price is None:
            market_value = None
        else:
            market_value = to_units(position.instrument.value(state.signed_qty, price.price))
    cost_basis = to_units(state.cost)
    return PositionValue(
        cost_basis=cost_basis,
        market_value=market_value,
        realized_pnl_gross=to_units(state.cash) + cost_basis,
        fees=to_units(state.fees),
        funding=to_units(state.funding),
        mark=price,
        mark_age_ms=None if price is None else price.age_ms(as_of_ms),
        is_stale=not state.is_flat and price is not None and price.is_stale(as_of_ms, stale_after_ms),
    )


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of published leaves in one currency, in units of 1e-18.

    A position without a price, or settled in another currency than ``currency``,
    is in no figure that needs it, and its symbol is in ``unpriced``.
    """

    currency: str
    unrealized_pnl: int
    realized_pnl_gross: int
    fees: int
    funding: int
    day_base: int | None
    gross_exposure: int
    net_exposure: int
    unpriced: tuple[str, ...]
    fees_are_complete: bool
    is_stale: bool
    oldest_price_age_ms: int | None

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees + self.funding

    @property
    def total_pnl(self) -> int:
        return self.realized_pnl + self.unrealized_pnl

    @property
    def day_pnl(self) -> int | None:
        """Change of total P&L since 00:00 UTC, or None where the base was not recorded."""
        return None if self.day_base is None else self.total_pnl - self.day_base

    @property
    def is_complete(self) -> bool:
        return not self.unpriced and self.fees_are_complete


def total(valued: Sequence[tuple[Position, PositionValue]], currency: str, day_base: int | None) -> Totals:
    """Add up positions, open and closed, in one currency."""
    unrealized = gross = fees = funding = long_exposure = short_exposure = 0
    unpriced: set[str] = set()
    ages: list[int] = []
    fees_are_complete, is_stale = True, False
    for position, value in valued:
        if position.instrument.settle != currency:
            unpriced.add(position.symbol)
            continue
        gross += value.realized_pnl_gross
        fees += value.fees
        funding += value.funding
        fees_are_complete = fees_are_complete and not position.state.fees_unpriced
        if value.market_value is None:
            unpriced.add(position.symbol)
            continue
        unrealized += value.market_value - value.cost_basis
        long_exposure += max(value.market_value, 0)
        short_exposure += min(value.market_value, 0)
        is_stale = is_stale or value.is_stale
        if value.mark_age_ms is not None and not position.state.is_flat:
            ages.append(value.mark_age_ms)
    return Totals(
        currency=currency,
        unrealized_pnl=unrealized,
        realized_pnl_gross=gross,
        fees=fees,
        funding=funding,
        day_base=day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(sorted(unpriced)),
        fees_are_complete=fees_are_complete,
        is_stale=is_stale,
        oldest_price_age_ms=max(ages, default=None),
    )
