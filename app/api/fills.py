"""From a request to a fill: its price, its fee, its account, and the position it meets."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.authentication import Caller
from app.api.context import Web
from app.api.corrections import correction_data
from app.api.ledger_writes import Change
from app.api.market import Market
from app.api.problems import Problem, field_problem
from app.domain.cycles import MAX_VALUE, TooLarge
from app.domain.decimals import ZERO, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, PositionSide, Side
from app.domain.positions import Position
from app.domain.trades import trade_statement
from app.repositories.accounts import Account, AccountRepository
from app.repositories.fills import Holder, Recorded, record_fill
from app.repositories.revised_days import mark_days_revised

_AHEAD: Final = timedelta(minutes=1)
"""How far another clock may be ahead of ours."""

_RATE_LASTS: Final = timedelta(minutes=1)
"""How long after a fill the rate of now still counts as that of its time."""


@dataclass(frozen=True)
class Fee:
    """A fee as the ledger takes it."""

    fee: Decimal = ZERO
    asset: str | None = None
    rate: Decimal | None = None


def judge_fee(
    market: Market,
    instrument: Instrument,
    quantity: Decimal,
    fee: Decimal | None,
    asset: str | None,
    rate: Decimal | None,
    *,
    is_of_now: bool = True,
) -> Fee:
    """The fee of a fill. A third asset's is valued at the rate given, for a fill of now else at the current price.

    Raises Problem.
    """
    if not fee:
        return Fee()
    asset = asset or instrument.settle
    own_assets = {instrument.settle, instrument.base, instrument.quote}
    if asset not in own_assets and asset not in market.listings.assets:
        raise field_problem("invalid_request", "fee_asset", f"{asset!a} is no asset that the exchange lists.")
    if asset == instrument.settle:
        return Fee(fee, asset)
    if asset == instrument.base and instrument.market == "spot":
        if fee.copy_abs() >= quantity:
            raise field_problem("invalid_request", "fee", "A fee in the base asset must be less than the quantity.")
        return Fee(fee, asset)
    if rate is None and is_of_now:
        rate = _current_rate(market, asset, instrument.settle)
    return Fee(fee, asset, rate)


def _current_rate(market: Market, asset: str, settle: str) -> Decimal | None:
    try:
        return market.live_price(f"{asset}{settle}")
    except Problem:
        return None


def judge_moment(web: Web, executed_at: datetime | None) -> datetime | None:
    """Refuse what has not happened yet. Raises Problem."""
    if executed_at is not None and executed_at > web.now() + _AHEAD:
        raise field_problem("invalid_request", "executed_at", "must not be in the future")
    return executed_at


def is_of_now(web: Web, at: datetime | None) -> bool:
    """Whether rates of now are those of a time."""
    return at is None or web.now() - at <= _RATE_LASTS


def fill_of(
    side: Side,
    quantity: Decimal,
    price: Decimal,
    fee: Fee,
    *,
    executed_at: datetime | None,
    strategy: str,
    position_side: PositionSide = "net",
    rate_to_reporting: Decimal | None = None,
    trade_id: str | None = None,
) -> Fill:
    return Fill(
        side=side,
        quantity=quantity,
        price=price,
        fee=fee.fee,
        fee_asset=fee.asset,
        fee_rate=fee.rate,
        executed_at=executed_at,
        trade_id=trade_id,
        strategy=strategy,
        position_side=position_side,
        rate_to_reporting=rate_to_reporting,
    )


def judge_rate(web: Web, asset: str, currency: str, given: Decimal | None, at: datetime | None) -> Decimal | None:
    """What a unit of an asset is worth in the reporting currency at a time.

    None where nothing has to be converted, and where nobody knows: the rate of
    now is not that of last week.
    """
    if asset == currency:
        return None
    if given is not None or not is_of_now(web, at):
        return given
    return web.market.live_rate(asset, currency)


def judge_side(account: Account, asked: PositionSide | None, default: PositionSide | None = None) -> PositionSide:
    """The leg that a fill is for: always ``net`` in one-way mode, one of two in hedge mode. Raises Problem."""
    if account.position_mode == "one_way":
        if asked not in {None, "net"}:
            raise field_problem("invalid_request", "position_side", "The account is in one-way mode: only net.")
        return "net"
    side = asked or default
    if side is None or side == "net":
        raise field_problem("invalid_request", "position_side", "The account is in hedge mode: long or short.")
    return side


async def accounts_of(connection: AsyncConnection, caller: Caller) -> dict[str, Account]:
    """The caller's accounts by id."""
    return {account.account_id: account for account in await AccountRepository(connection).of_user(caller.user_id)}


async def find_account(connection: AsyncConnection, caller: Caller, account_id: str | None) -> Account:
    """The account asked for, or the default one. Raises Problem for one that is not the caller's."""
    accounts = await AccountRepository(connection).of_user(caller.user_id)
    if account_id is None:
        return accounts[0]
    for account in accounts:
        if account.account_id == account_id:
            return account
    raise Problem("not_found", "There is no such account.")


async def book(
    web: Web,
    connection: AsyncConnection,
    caller: Caller,
    account: Account,
    instrument: Instrument,
    fill: Fill,
    standing: Position | None,
) -> Recorded:
    """Record a fill within the bounds of the system. Raises Problem, TooLarge, TooManyPositions, ContradictoryFill."""
    recorded = await record_fill(
        connection,
        Holder(caller.user_id, account.account_id, account.currency),
        instrument,
        fill,
        standing,
        source="api",
        now=web.now(),
        max_open=web.policy.max_open_positions,
    )
    if fill.executed_at is not None and recorded.correction is None:
        await mark_days_revised(connection, account.account_id, fill.executed_at)
    refuse_too_large(web, recorded.positions, account)
    return recorded


def refuse_too_large(web: Web, positions: Iterable[Position], account: Account) -> None:
    """Refuse positions worth more than can be summed up. Raises TooLarge."""
    for position in positions:
        valued = web.market.value(position, account)
        for worth in (valued.value.market_value, valued.reported.market_value):
            if worth is not None and abs(worth) > to_units(MAX_VALUE):
                raise TooLarge(f"a position may not be worth more than {MAX_VALUE:f}")


def fill_change(web: Web, recorded: Recorded, account: Account, body: dict[str, Any], status: int) -> Change:
    """The event and the answer of a recorded fill."""
    data = {
        "trade": trade_statement(recorded.trade),
        "positions": [web.market.statement(position, account) for position in recorded.positions],
    }
    if recorded.correction is None:
        return Change("fill", recorded.positions, data, body, status)
    # No positions: what a late fill changed, figures of closed positions among it, is read from the database.
    correction = correction_data(web, recorded.correction, account)
    return Change("fill", [], data, body, status, corrections=[correction])
