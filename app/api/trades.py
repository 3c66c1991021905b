"""Trades: record fills that happened elsewhere, and list them."""

from typing import Annotated, Literal

from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.authentication import Caller, Reader, Trader
from app.api.context import Opened, Web
from app.api.fields import (
    Asset,
    ExternalId,
    Id,
    Moment,
    PositiveAmount,
    QueryParameters,
    RequestBody,
    SignedAmount,
    Strategy,
    SymbolName,
)
from app.api.fills import book, fill_change, fill_of, find_account, judge_fee, judge_moment, judge_rate, judge_side
from app.api.ledger_writes import Change, Repetition, Unchanged, change_ledger
from app.api.paging import Cursor, Limit, page_by_place, place_of
from app.api.routing import new_router
from app.domain.ledger import PositionSide
from app.domain.positions import Position
from app.domain.trades import Trade, trade_statement
from app.repositories.accounts import Account
from app.repositories.database import transaction
from app.repositories.paging import Place
from app.repositories.positions import PositionRepository
from app.repositories.trades import TradeRepository

router = new_router("/api/v1/trades", "trades")


class NewTrade(RequestBody):
    """One execution. With ``trade_id`` it is recorded once, however often it is sent."""

    symbol: SymbolName
    side: Literal["buy", "sell"]
    quantity: PositiveAmount
    price: PositiveAmount
    fee: SignedAmount | None = None
    fee_asset: Asset | None = None
    fee_rate: PositiveAmount | None = None
    executed_at: Moment | None = None
    trade_id: ExternalId | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None
    position_side: PositionSide | None = None
    rate_to_reporting: PositiveAmount | None = None


class TradeFilter(QueryParameters):
    """Which trades, and which page of them."""

    symbol: SymbolName | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None
    position_id: Id | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


@router.post(
    "",
    status_code=201,
    response_model=bodies.TradeRecorded,
    responses={200: {"model": bodies.TradeRecorded, "description": "This trade_id is recorded already"}},
)
async def record_trade(web: Opened, caller: Trader, body: NewTrade, repetition: Repetition) -> Response:
    """Record a fill and answer with it and the position it left."""
    instrument = web.market.instrument(body.symbol)
    fee = judge_fee(web.market, instrument, body.quantity, body.fee, body.fee_asset, body.fee_rate)
    executed_at = judge_moment(web, body.executed_at)

    async def work(connection: AsyncConnection) -> Change:
        account = await find_account(connection, caller, body.account_id)
        fill = fill_of(
            body.side,
            body.quantity,
            body.price,
            fee,
            executed_at=executed_at,
            strategy=body.strategy or "",
            position_side=judge_side(account, body.position_side),
            rate_to_reporting=judge_rate(web, instrument.settle, account.currency, body.rate_to_reporting, executed_at),
            trade_id=body.trade_id,
        )
        if fill.trade_id is not None:
            await _refuse_known(web, connection, caller, account, instrument.symbol, fill.trade_id)
        standing = await PositionRepository(connection).standing(
            caller.user_id, account.account_id, instrument.symbol, fill.strategy, fill.position_side
        )
        recorded = await book(web, connection, caller, account, instrument, fill, standing)
        answer = {
            "trade": trade_statement(recorded.trade),
            "position": web.market.statement(recorded.position, account),
        }
        return fill_change(web, recorded, account, answer, 201)

    return await change_ledger(web, caller, work, repetition)


@router.get("", response_model=bodies.TradeList)
async def list_trades(web: Opened, caller: Reader, wanted: Annotated[TradeFilter, Query()]) -> Response:
    """The caller's trades, the newest executed first."""
    after = place_of(wanted.cursor)
    async with transaction(web.database) as connection:
        rows = await TradeRepository(connection).page(
            caller.user_id,
            limit=wanted.limit + 1,
            after=after,
            symbol=wanted.symbol,
            account_id=wanted.account_id,
            strategy=wanted.strategy,
            position_id=wanted.position_id,
        )
    return page_by_place(rows, wanted.limit, _place, trade_statement)


async def _refuse_known(
    web: Web, connection: AsyncConnection, caller: Caller, account: Account, symbol: str, trade_id: str
) -> None:
    """Raise Unchanged with the stored trade if it was recorded before. The user's lock is held, so nobody races."""
    known = await TradeRepository(connection).find(account.account_id, symbol, trade_id)
    if known is None:
        return
    position_id = known.opened_position_id or known.position_id
    position: Position | None = await PositionRepository(connection).get(caller.user_id, position_id)
    assert position is not None  # A foreign key holds it.
    raise Unchanged({"trade": trade_statement(known), "position": web.market.statement(position, account)}, 200, {})


def _place(trade: Trade) -> Place:
    return Place(trade.executed_at, trade.fill_id)
