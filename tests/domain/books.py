"""Instruments, positions and prices for the tests of the book, by chance or by hand."""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from hypothesis import strategies as st

from app.domain.instruments import Instrument, Market
from app.domain.ledger import LedgerState
from app.domain.positions import ClosedFigures, Position, UserBook
from app.domain.prices import Price
from app.domain.valuation import Totals, total, value_position

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = 1_800_000_000_000
STALE_AFTER_MS = 5000


def instrument(
    symbol: str, market: Market = "spot", settle: str = "USDT", multiplier: Decimal = Decimal(1)
) -> Instrument:
    return Instrument(
        symbol=symbol,
        market=market,
        base=symbol.removesuffix("USDT"),
        quote="USDT",
        settle=settle,
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.0001"),
        multiplier=multiplier,
    )


def position(
    position_id: str = "p1",
    of: Instrument | None = None,
    *,
    qty: str | Decimal = "1",
    cost: str | Decimal = "100",
    user_id: str = "u1",
    version: int = 1,
    **state: Decimal,
) -> Position:
    return Position(
        position_id=position_id,
        user_id=user_id,
        account_id=f"account of {user_id}",
        instrument=of or instrument("BTCUSDT"),
        state=LedgerState(signed_qty=Decimal(qty), cost=Decimal(cost), **{"cash": -Decimal(cost), **state}),
        opened_at=START,
        updated_at=START,
        version=version,
    )


def closed(position: Position, *, cash: str = "5", fees: str = "0") -> Position:
    """The position as it is after it was closed with a gross profit of ``cash``."""
    return msgspec.structs.replace(
        position,
        status="closed",
        closed_at=START,
        version=position.version + 1,
        state=LedgerState(cash=Decimal(cash), fees=Decimal(fees)),
    )


def user_book(
    *positions: Position,
    user_id: str = "u1",
    ledger_seq: int = 1,
    closed: ClosedFigures | None = None,
    day_base: int | None = None,
) -> UserBook:
    return UserBook(
        user_id=user_id,
        account_id=f"account of {user_id}",
        ledger_seq=ledger_seq,
        currency="USDT",
        positions=positions,
        closed=closed or ClosedFigures(),
        day_base=day_base,
    )


def price(symbol: str, value: str | Decimal, *, fresh_ms: int = NOW_MS) -> Price:
    value = Decimal(value)
    return Price(symbol, value, "mid", value, value, value, None, fresh_ms, fresh_ms, fresh_ms)


def plain_totals(positions: Iterable[Position], prices: dict[str, Price]) -> Totals:
    """What the plain form makes of a user's open positions."""
    valued = [(p, value_position(p, prices.get(p.symbol), NOW_MS, STALE_AFTER_MS)) for p in positions]
    return total(valued, "USDT", None)


def decimals(places: int, whole_digits: int, *, signed: bool = False) -> st.SearchStrategy[Decimal]:
    """Decimals with up to so many digits on each side of the point."""
    most = 10 ** (places + whole_digits) - 1
    return st.integers(-most if signed else 1, most).map(lambda n: Decimal(n).scaleb(-places))


INSTRUMENTS = [
    instrument("BTCUSDT"),
    instrument("ETHUSDT"),
    instrument("PEPEUSDT"),
    instrument("ETHBTC", settle="BTC"),
    instrument("BTCPERP", "linear", multiplier=Decimal("0.001")),
    instrument("ODDPERP", "linear", multiplier=Decimal("0.00000000003")),
    instrument("BTCUSD", "inverse", settle="BTC", multiplier=Decimal(100)),
    instrument("INVUSDT", "inverse", multiplier=Decimal(10)),
]

quantities = st.one_of(
    decimals(3, 3, signed=True),
    decimals(9, 9, signed=True),
    decimals(18, 18, signed=True),
    decimals(0, 18, signed=True),
).filter(bool)
costs = st.one_of(decimals(8, 6, signed=True), decimals(36, 20, signed=True))
prices = st.one_of(decimals(2, 6), decimals(9, 5), decimals(9, 18), decimals(18, 18))


@st.composite
def positions(draw: st.DrawFn, position_id: str, user_id: str, version: int = 1) -> Position:
    """Any open position of a user."""
    return position(
        position_id,
        draw(st.sampled_from(INSTRUMENTS)),
        qty=draw(quantities),
        cost=draw(costs),
        user_id=user_id,
        version=version,
        cash=draw(costs),
        fees=draw(st.one_of(st.just(Decimal(0)), decimals(20, 4, signed=True))),
    )
