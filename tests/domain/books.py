"""Instruments, positions and prices for the tests of the book, by chance or by hand."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
from hypothesis import strategies as st

from app.domain.instruments import Instrument, Market
from app.domain.ledger import LedgerState
from app.domain.pnl_snapshot import Prices, Valuation, value_book
from app.domain.positions import AccountBook, AssetBook, Converted, Position, Realized, UserBook
from app.domain.prices import Basis, Price
from app.domain.rates import RateBook
from app.domain.valuation import Totals

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = 1_800_000_000_000
STALE_AFTER_MS = 5000


def instrument(
    symbol: str, market: Market = "spot", settle: str = "USDT", multiplier: Decimal = Decimal(1)
) -> Instrument:
    quote = next((end for end in ("USDT", "BTC", "EUR") if symbol.endswith(end)), settle)
    return Instrument(
        symbol=symbol,
        market=market,
        base=symbol.removesuffix(quote),
        quote=quote,
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
    account: str = "",
    converted: Converted | None = None,
    **state: Decimal,
) -> Position:
    """A position of a user who reports in USDT: what settles in another asset is converted."""
    of = of or instrument("BTCUSDT")
    return Position(
        position_id=position_id,
        user_id=user_id,
        account_id=account or account_of(user_id),
        instrument=of,
        state=LedgerState(signed_qty=Decimal(qty), cost=Decimal(cost), **{"cash": -Decimal(cost), **state}),
        opened_at=START,
        updated_at=START,
        version=version,
        converted=None if of.settle == "USDT" else converted or Converted(),
    )


def account_of(user_id: str, number: int = 0) -> str:
    """The id of a user's first account, or of a later one."""
    return f"account of {user_id}" if not number else f"account {number} of {user_id}"


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
    accounts: Sequence[AccountBook] = (),
    realized: Realized | None = None,
    day_base: int | None = None,
) -> UserBook:
    """A user who reports in USDT; ``realized`` is what his closed positions left in his first account."""
    left = () if realized is None else (AssetBook(asset="USDT", realized=realized, reported=realized),)
    return UserBook(
        user_id=user_id,
        ledger_seq=ledger_seq,
        currency="USDT",
        accounts=tuple(accounts) or (AccountBook(account_id=account_of(user_id), assets=left),),
        positions=positions,
        day_base=day_base,
    )


def price(symbol: str, value: str | Decimal, *, fresh_ms: int = NOW_MS) -> Price:
    value = Decimal(value)
    return Price(symbol, value, "mid", value, value, value, None, fresh_ms, fresh_ms, fresh_ms)


def quoted(
    symbol: str, value: Decimal, bid: Decimal | None, ask: Decimal | None, last: Decimal | None, mark: Decimal | None
) -> Price:
    """A price with each of its sides."""
    return Price(symbol, value, "mid", bid, ask, last, mark, NOW_MS, NOW_MS, NOW_MS)


def plainly(book: UserBook, prices: Mapping[str, Price], rates: RateBook | None = None) -> Valuation:
    """What the plain form makes of a user."""
    return value_book(book, Prices(prices, rates or RateBook(INSTRUMENTS), NOW_MS, STALE_AFTER_MS))


def plain_totals(positions: Iterable[Position], prices: Mapping[str, Price]) -> Totals:
    """What the plain form makes of the open positions of a user with one account."""
    held = tuple(positions)
    user_id = held[0].user_id if held else "u1"
    return plainly(user_book(*held, user_id=user_id), prices).totals


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
    # Into USDT, EUR goes by dividing, GBP over EUR, and nothing leads from TRY.
    instrument("USDTEUR", settle="EUR"),
    instrument("BTCGBP", "linear", settle="GBP"),
    instrument("GBPEUR", settle="EUR"),
    instrument("BTCTRY", "linear", settle="TRY"),
]

quantities = st.one_of(
    decimals(3, 3, signed=True),
    decimals(9, 9, signed=True),
    decimals(18, 18, signed=True),
    decimals(0, 18, signed=True),
).filter(bool)
costs = st.one_of(decimals(8, 6, signed=True), decimals(36, 20, signed=True))
prices = st.one_of(decimals(2, 6), decimals(9, 5), decimals(9, 18), decimals(18, 18))


conversions = st.builds(
    lambda gross, fees, is_complete: Converted(gross=gross, fees=fees, is_complete=is_complete),
    decimals(36, 20, signed=True),
    decimals(20, 4, signed=True),
    st.booleans(),
)
BASES: tuple[Basis, ...] = ("auto", "mid", "last", "mark", "exit")


@st.composite
def positions(draw: st.DrawFn, position_id: str, user_id: str, version: int = 1, account: str = "") -> Position:
    """Any open position of a user."""
    return position(
        position_id,
        draw(st.sampled_from(INSTRUMENTS)),
        qty=draw(quantities),
        cost=draw(costs),
        user_id=user_id,
        version=version,
        account=account,
        converted=draw(conversions),
        cash=draw(costs),
        fees=draw(st.one_of(st.just(Decimal(0)), decimals(20, 4, signed=True))),
    )


@st.composite
def any_price(draw: st.DrawFn, symbol: str) -> Price:
    """A price whose sides may each be missing."""
    side = st.none() | prices
    return quoted(symbol, draw(prices), draw(side), draw(side), draw(side), draw(side))


amounts = st.integers(-(10**30), 10**30)
realizations = st.builds(lambda gross, fees: Realized(gross=gross, fees=fees), amounts, amounts)
asset_books = st.builds(
    AssetBook,
    asset=st.sampled_from(["USDT", "BTC", "EUR", "GBP", "TRY", "XAU"]),
    realized=realizations,
    reported=realizations,
    deposited=amounts,
    deposited_reported=amounts,
    is_complete=st.booleans(),
)


@st.composite
def account_books(draw: st.DrawFn, user_id: str) -> tuple[AccountBook, ...]:
    """One to three accounts of a user, each valued as it likes, with what closed positions and transfers left."""
    return tuple(
        AccountBook(
            account_id=account_of(user_id, number),
            valuation=draw(st.sampled_from(BASES)),
            assets=tuple(_same_in_usdt(one) for one in draw(st.lists(asset_books, max_size=3, unique_by=_asset))),
        )
        for number in range(draw(st.integers(1, 3)))
    )


def _asset(book: AssetBook) -> str:
    return book.asset


def _same_in_usdt(book: AssetBook) -> AssetBook:
    """What is in the reporting currency is reported as it is."""
    if book.asset != "USDT":
        return book
    return msgspec.structs.replace(book, reported=book.realized, deposited_reported=book.deposited)
