"""What positions are worth: one position, and the totals of many, by leaf rounding.

This is the plain form, one position at a time in integers of 1e-18: REST, the
cache and the tests use it. :mod:`app.domain.book` is the vectorised form for
everybody at once; both give the same integers.

A position is valued in the asset it settles in, and *reported* in its user's
currency: what moves with the price at the rate of now, what was realised at the
rates of its times. A reported leaf is a published leaf times a rate, rounded
once, so that anybody can reckon it again from what was published.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from app.domain.decimals import convert_units, exact, to_units
from app.domain.positions import AccountBook, AssetBook, Position, Realized, is_known, realized_of, reported_of
from app.domain.prices import Basis, Price, ValueSource
from app.domain.rates import Rate

NO_RATES: Mapping[str, Rate | None] = {}


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The price that values a position, what it is, and how old."""

    price: Decimal
    source: ValueSource
    age_ms: int
    is_stale: bool


class PositionValue(msgspec.Struct, frozen=True, kw_only=True):
    """The published leaves of one position in its settle asset, in units of 1e-18; None is unknown."""

    cost_basis: int
    market_value: int | None
    realized: Realized
    mark: Mark | None

    @property
    def is_stale(self) -> bool:
        return self.mark is not None and self.mark.is_stale

    @property
    def unrealized_pnl(self) -> int | None:
        return None if self.market_value is None else self.market_value - self.cost_basis

    @property
    def total_pnl(self) -> int | None:
        unrealized = self.unrealized_pnl
        return None if unrealized is None else self.realized.net + unrealized

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


def mark_of(
    position: Position, price: Price | None, as_of_ms: int, stale_after_ms: int, basis: Basis = "auto"
) -> Mark | None:
    """The price that values a position on a basis, or None where there is no such price."""
    chosen = None if price is None else price.on_basis(basis, is_long=position.state.signed_qty > 0)
    if price is None or chosen is None:
        return None
    is_stale = not position.state.is_flat and price.is_stale(as_of_ms, stale_after_ms)
    return Mark(price=chosen[0], source=chosen[1], age_ms=price.age_ms(as_of_ms), is_stale=is_stale)


def value_position(
    position: Position, price: Price | None, as_of_ms: int, stale_after_ms: int, basis: Basis = "auto"
) -> PositionValue:
    """Value one position at a price. A flat position needs no price."""
    state = position.state
    mark = mark_of(position, price, as_of_ms, stale_after_ms, basis)
    market_value: int | None
    with exact():
        if state.is_flat:
            market_value = 0
        elif mark is None:
            market_value = None
        else:
            market_value = to_units(position.instrument.value(state.signed_qty, mark.price))
    return PositionValue(
        cost_basis=to_units(state.cost), market_value=market_value, realized=realized_of(position), mark=mark
    )


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """The leaves of one position in the reporting currency; None is unknown, for want of a price or a rate."""

    rate: Rate | None
    """None where the settle asset is the reporting currency, and where no rate is known."""
    realized: Realized
    market_value: int | None
    cost_basis: int | None

    @property
    def unrealized_pnl(self) -> int | None:
        if self.market_value is None or self.cost_basis is None:
            return None
        return self.market_value - self.cost_basis


def report(position: Position, value: PositionValue, rate: Rate | None) -> Reported:
    """A position's leaves in the reporting currency. ``rate`` is not looked at where nothing has to be converted."""
    if position.converted is None:
        return Reported(
            rate=None, realized=value.realized, market_value=value.market_value, cost_basis=value.cost_basis
        )
    realized = reported_of(position)
    if position.state.is_flat:
        return Reported(rate=rate, realized=realized, market_value=0, cost_basis=0)
    if rate is None:
        return Reported(rate=None, realized=realized, market_value=None, cost_basis=None)
    market_value = None if value.market_value is None else convert_units(value.market_value, rate.value)
    return Reported(
        rate=rate,
        realized=realized,
        market_value=market_value,
        cost_basis=convert_units(value.cost_basis, rate.value),
    )


class Valued(msgspec.Struct, frozen=True):
    """A position, what it is worth in its settle asset, and what of it is reported.

    ``age_ms`` is that of the oldest price in it, be it the mark or in the rate.
    """

    position: Position
    value: PositionValue
    reported: Reported
    age_ms: int | None
    is_stale: bool

    @property
    def is_known(self) -> bool:
        """Whether every fee and every rate of what was realised is known."""
        return is_known(self.position)

    @property
    def exposure(self) -> int:
        """Signed notional, as reported: a long is positive, also of an inverse contract. 0 while it is unknown."""
        return exposure_of(self.reported.market_value or 0, is_inverse=self.position.instrument.market == "inverse")


def exposure_of(market_value: int, *, is_inverse: bool) -> int:
    """Signed notional. The value of an inverse long is below zero and rises with the price; its exposure is above."""
    return -market_value if is_inverse else market_value


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of reported leaves, in units of 1e-18 of ``currency``.

    A position without a price or a rate is in no figure that needs it, and its
    symbol is in ``unpriced``; so is an asset of a balance without a rate.
    ``fx_pnl`` is what rates did to balances in other assets since they arose;
    it is no part of ``total_pnl``, but of ``equity``.
    """

    currency: str
    unrealized_pnl: int
    realized: Realized
    fx_pnl: int = 0
    net_deposits: int = 0
    day_base: int | None
    gross_exposure: int
    net_exposure: int
    unpriced: tuple[str, ...]
    fees_are_complete: bool
    is_stale: bool
    oldest_price_age_ms: int | None

    @property
    def realized_pnl(self) -> int:
        return self.realized.net

    @property
    def total_pnl(self) -> int:
        return self.realized_pnl + self.unrealized_pnl

    @property
    def equity(self) -> int:
        return self.net_deposits + self.total_pnl + self.fx_pnl

    @property
    def day_pnl(self) -> int | None:
        """Change of total P&L since 00:00 UTC, or None where the base was not recorded."""
        return None if self.day_base is None else self.total_pnl - self.day_base

    @property
    def is_complete(self) -> bool:
        return not self.unpriced and self.fees_are_complete


def currency_effect(
    balances: Iterable[tuple[str, int, int]], rates: Mapping[str, Decimal | None]
) -> tuple[int, set[str]]:
    """What rates did to balances (asset, held, booked), and the assets whose rate is not known."""
    total, unknown = 0, set[str]()
    for asset, held, booked in balances:
        rate = rates.get(asset)
        if rate is not None:
            total += convert_units(held, rate) - booked
        elif held:
            unknown.add(asset)
    return total, unknown


class Balances:
    """An account's cash by asset, as it arose and at what it was reported: the base of the currency effect."""

    def __init__(self, assets: Iterable[AssetBook]) -> None:
        self.realized = Realized()
        self.deposited = 0
        self.is_complete = True
        self._held: dict[str, int] = {}
        self._booked: dict[str, int] = {}
        for book in assets:
            self.realized += book.reported
            self.deposited += book.deposited_reported
            self.is_complete = self.is_complete and book.is_complete
            self._add(book.asset, book.realized.net + book.deposited, book.reported.net + book.deposited_reported)

    def add(self, position: Position) -> None:
        """Take in what an open position realised."""
        reported = reported_of(position)
        self.realized += reported
        self.is_complete = self.is_complete and is_known(position)
        self._add(position.instrument.settle, realized_of(position).net, reported.net)

    def effect(self, currency: str, rates: Mapping[str, Rate | None]) -> tuple[int, set[str]]:
        """What rates did to the balances in other assets, and the assets whose rate is not known."""
        known = {asset: None if rate is None else rate.value for asset, rate in rates.items()}
        foreign = ((asset, held, self._booked[asset]) for asset, held in self._held.items() if asset != currency)
        return currency_effect(foreign, known)

    def _add(self, asset: str, held: int, booked: int) -> None:
        self._held[asset] = self._held.get(asset, 0) + held
        self._booked[asset] = self._booked.get(asset, 0) + booked


def total_account(
    account: AccountBook,
    valued: Sequence[Valued],
    currency: str,
    *,
    rates: Mapping[str, Rate | None] = NO_RATES,
    day_base: int | None = None,
) -> Totals:
    """Add up an account: its open positions, and what closed ones and transfers left.

    ``rates`` are those of every asset that it settles or holds anything in.
    """
    balances = Balances(account.assets)
    unrealized = long_exposure = short_exposure = 0
    unpriced: set[str] = set()
    ages: list[int] = []
    is_stale = False
    for one in valued:
        balances.add(one.position)
        worth = one.reported.unrealized_pnl
        if worth is None:
            unpriced.add(one.position.symbol)
            continue
        unrealized += worth
        long_exposure += max(one.exposure, 0)
        short_exposure += min(one.exposure, 0)
        is_stale = is_stale or one.is_stale
        if one.age_ms is not None:
            ages.append(one.age_ms)
    effect, unknown = balances.effect(currency, rates)
    return Totals(
        currency=currency,
        unrealized_pnl=unrealized,
        realized=balances.realized,
        fx_pnl=effect,
        net_deposits=balances.deposited,
        day_base=day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(sorted(unpriced | unknown)),
        fees_are_complete=balances.is_complete,
        is_stale=is_stale,
        oldest_price_age_ms=max(ages, default=None),
    )


def add_up(parts: Sequence[Totals], currency: str, day_base: int | None) -> Totals:
    """The totals of a user: the sums of those of his accounts."""
    ages = [part.oldest_price_age_ms for part in parts if part.oldest_price_age_ms is not None]
    return Totals(
        currency=currency,
        unrealized_pnl=sum(part.unrealized_pnl for part in parts),
        realized=sum((part.realized for part in parts), Realized()),
        fx_pnl=sum(part.fx_pnl for part in parts),
        net_deposits=sum(part.net_deposits for part in parts),
        day_base=day_base,
        gross_exposure=sum(part.gross_exposure for part in parts),
        net_exposure=sum(part.net_exposure for part in parts),
        unpriced=tuple(sorted({name for part in parts for name in part.unpriced})),
        fees_are_complete=all(part.fees_are_complete for part in parts),
        is_stale=any(part.is_stale for part in parts),
        oldest_price_age_ms=max(ages, default=None),
    )
