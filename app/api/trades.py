"""Trades: record fills that happened elsewhere, and list them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader, Trader
from app.api.context import Opened, Web
from app.api.corrections import books_of, correction_data, ending_of
from app.api.etags import IfMatch, etag, require_if_match, require_version
from app.api.fields import (
    Asset,
    ExternalId,
    Id,
    Moment,
    PositiveAmount,
    QueryParameters,
    Reason,
    RequestBody,
    SignedAmount,
    Strategy,
    SymbolName,
    is_id,
)
from app.api.fills import (
    book,
    fill_change,
    fill_of,
    find_account,
    is_of_now,
    judge_fee,
    judge_moment,
    judge_rate,
    judge_side,
    refuse_too_large,
)
from app.api.ledger_writes import Change, Repetition, Unchanged, change_ledger
from app.api.paging import Cursor, Limit, page_by_place, place_of
from app.api.problems import Problem, field_problem
from app.api.routing import new_router
from app.domain.decimals import ZERO
from app.domain.instruments import Instrument
from app.domain.ledger import PositionSide
from app.domain.positions import Position
from app.domain.statements import timestamp
from app.domain.trades import Trade, trade_statement
from app.repositories.accounts import Account
from app.repositories.corrections import delete_fill, edit_fill
from app.repositories.database import transaction
from app.repositories.paging import Place
from app.repositories.positions import PositionRepository
from app.repositories.trades import Revision, TradeRepository

_EDITABLE_SOURCES: Final = ("api", "import")
_IF_NULL: Final[Mapping[str, Any]] = {
    "fee": ZERO,
    "strategy": "",
    "fee_asset": None,
    "fee_rate": None,
    "rate_to_reporting": None,
}

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


class TradeEdit(RequestBody):
    """What to change, and why; what is absent stays. A null fee is no fee, a null strategy no strategy."""

    reason: Reason
    side: Literal["buy", "sell"] | None = None
    quantity: PositiveAmount | None = None
    price: PositiveAmount | None = None
    fee: SignedAmount | None = None
    fee_asset: Asset | None = None
    fee_rate: PositiveAmount | None = None
    executed_at: Moment | None = None
    strategy: Strategy | None = None
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
    executed_at = judge_moment(web, body.executed_at)
    is_fresh = is_of_now(web, executed_at)
    fee = judge_fee(web.market, instrument, body.quantity, body.fee, body.fee_asset, body.fee_rate, is_of_now=is_fresh)

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


@router.get("/{fill_id}", response_model=bodies.TradeBody)
async def get_trade(web: Opened, caller: Reader, fill_id: str) -> Response:
    """One trade, with its revision as ETag."""
    async with transaction(web.database) as connection:
        trade = await _find(connection, caller, fill_id)
    return json_answer(trade_statement(trade), headers={"ETag": etag(trade.revision)})


@router.get("/{fill_id}/revisions", response_model=bodies.TradeRevisionList)
async def list_revisions(web: Opened, caller: Reader, fill_id: str) -> Response:
    """The earlier forms of a trade, the first one first; of a deleted trade all there were."""
    async with transaction(web.database) as connection:
        found = await TradeRepository(connection).revisions(caller.user_id, fill_id) if is_id(fill_id) else []
        if not found:
            await _find(connection, caller, fill_id)
    return json_answer({"items": [_revision_statement(one) for one in found], "next_cursor": None})


@router.patch("/{fill_id}", response_model=bodies.TradeRecorded)
async def edit_trade(
    web: Opened, caller: Trader, fill_id: str, body: TradeEdit, repetition: Repetition, if_match: IfMatch = None
) -> Response:
    """Change a trade that was entered by hand or imported; all that follows from it is computed anew."""
    wanted = require_if_match(if_match)
    if body.model_fields_set <= {"reason"}:
        raise Problem("invalid_request", "There is nothing to change.")

    async def work(connection: AsyncConnection) -> Change:
        trade, account, instrument = await _find_editable(connection, caller, fill_id, wanted)
        ending = await ending_of(web, connection, caller, "edited", body.reason)
        wish = _edited(web, trade, body, instrument)
        after, correction = await edit_fill(connection, books_of(web, caller, account), trade, wish, instrument, ending)
        refuse_too_large(web, correction.after, account)
        position = await _position_left(connection, caller, after)
        answer = {"trade": trade_statement(after), "position": web.market.statement(position, account)}
        data = correction_data(web, correction, account)
        return Change("correction", [], data, answer, headers={"ETag": etag(after.revision)})

    return await change_ledger(web, caller, work, repetition)


@router.delete("/{fill_id}", response_model=bodies.TradeDeleted)
async def delete_trade(
    web: Opened,
    caller: Trader,
    fill_id: str,
    reason: Annotated[Reason, Query()],
    repetition: Repetition,
    if_match: IfMatch = None,
) -> Response:
    """Take away a trade that was entered by hand or imported. Its ``trade_id`` stays taken, its revisions stay."""
    wanted = require_if_match(if_match)

    async def work(connection: AsyncConnection) -> Change:
        trade, account, instrument = await _find_editable(connection, caller, fill_id, wanted)
        ending = await ending_of(web, connection, caller, "deleted", reason)
        correction = await delete_fill(connection, books_of(web, caller, account), trade, instrument, ending)
        refuse_too_large(web, correction.after, account)
        data = correction_data(web, correction, account)
        answer = {"trade": trade_statement(trade), "positions": data["after"]["positions"]}
        return Change("correction", [], data, answer)

    return await change_ledger(web, caller, work, repetition)


async def _find(connection: AsyncConnection, caller: Caller, fill_id: str) -> Trade:
    """The caller's trade. Another's, a deleted one, none, and what is no id at all are one and the same."""
    trade = await TradeRepository(connection).get(caller.user_id, fill_id) if is_id(fill_id) else None
    if trade is None:
        raise Problem("not_found", "There is no such trade.")
    return trade


async def _find_editable(
    connection: AsyncConnection, caller: Caller, fill_id: str, if_match: str
) -> tuple[Trade, Account, Instrument]:
    """A trade that may be changed by hand, its account and instrument. Raises Problem."""
    trade = await _find(connection, caller, fill_id)
    require_version(if_match, trade.revision, "trade")
    account = await find_account(connection, caller, trade.account_id)
    if account.kind != "manual" or trade.source not in _EDITABLE_SOURCES:
        raise Problem("not_editable", "What an exchange or the paper account executed stays as it was.")
    position = await _position_left(connection, caller, trade)
    return trade, account, position.instrument


def _edited(web: Web, trade: Trade, body: TradeEdit, instrument: Instrument) -> Trade:
    """A trade with the changes asked for. Raises Problem."""
    changes = {name: getattr(body, name) for name in body.model_fields_set - {"reason"}}
    for name in [name for name, value in changes.items() if value is None]:
        if name not in _IF_NULL:
            raise field_problem("invalid_request", name, "cannot be null")
        changes[name] = _IF_NULL[name]
    executed_at = judge_moment(web, changes.get("executed_at")) or trade.executed_at
    fill = msgspec.structs.replace(trade.fill, **{**changes, "executed_at": executed_at})
    judged = judge_fee(web.market, instrument, fill.quantity, fill.fee, fill.fee_asset, fill.fee_rate, is_of_now=False)
    fill = msgspec.structs.replace(fill, fee=judged.fee, fee_asset=judged.asset, fee_rate=judged.rate)
    return msgspec.structs.replace(trade, fill=fill, executed_at=executed_at, revision=trade.revision + 1)


def _revision_statement(revision: Revision) -> dict[str, Any]:
    ending = revision.ending
    return {
        "trade": revision.data,
        "change": ending.change,
        "reason": ending.reason or None,
        "at": timestamp(ending.at),
        "event_seq": ending.event_seq,
    }


async def _position_left(connection: AsyncConnection, caller: Caller, trade: Trade) -> Position:
    """The position that holds what a trade left."""
    position_id = trade.opened_position_id or trade.position_id
    position = await PositionRepository(connection).get(caller.user_id, position_id)
    assert position is not None  # A foreign key holds it.
    return position


async def _refuse_known(
    web: Web, connection: AsyncConnection, caller: Caller, account: Account, symbol: str, trade_id: str
) -> None:
    """Raise Unchanged with the stored trade if it was recorded before. The user's lock is held, so nobody races."""
    known = await TradeRepository(connection).find(account.account_id, symbol, trade_id)
    if known is None:
        return
    position = await _position_left(connection, caller, known)
    raise Unchanged({"trade": trade_statement(known), "position": web.market.statement(position, account)}, 200, {})


def _place(trade: Trade) -> Place:
    return Place(trade.executed_at, trade.fill_id)
