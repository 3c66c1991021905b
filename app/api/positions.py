"""Positions: open, list, get, edit, close."""

from dataclasses import replace
from typing import Annotated, Literal

import msgspec
from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader, Trader
from app.api.context import Opened
from app.api.corrections import correction_data, ending_of
from app.api.etags import IfMatch, etag, require_if_match, require_version
from app.api.fields import (
    Asset,
    Id,
    Moment,
    Note,
    PositiveAmount,
    QueryParameters,
    RequestBody,
    SignedAmount,
    Strategy,
    SymbolName,
    is_id,
)
from app.api.fills import (
    accounts_of,
    book,
    fill_change,
    fill_of,
    find_account,
    is_of_now,
    judge_fee,
    judge_moment,
    judge_rate,
    judge_side,
)
from app.api.ledger_writes import Change, Repetition, change_ledger
from app.api.paging import Cursor, Limit, page_by_place, place_of
from app.api.problems import Problem, field_problem
from app.api.routing import new_router
from app.domain.positions import Position
from app.repositories.corrections import retag_position
from app.repositories.database import transaction
from app.repositories.paging import Place
from app.repositories.positions import PositionEdit, PositionRepository

router = new_router("/api/v1/positions", "positions")


class Opening(RequestBody):
    """One fill that opens a position, or adds to or takes from the one that stands."""

    symbol: SymbolName
    side: Literal["long", "short"]
    quantity: PositiveAmount
    price: PositiveAmount | None = None
    fee: SignedAmount | None = None
    fee_asset: Asset | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None
    executed_at: Moment | None = None
    rate_to_reporting: PositiveAmount | None = None


class Closing(RequestBody):
    """One fill that closes a position, in part with ``quantity``, else whole."""

    quantity: PositiveAmount | None = None
    price: PositiveAmount | None = None
    fee: SignedAmount | None = None
    fee_asset: Asset | None = None


class Edit(RequestBody):
    """What to change; null takes a value away, what is absent stays."""

    strategy: Strategy | None = None
    note: Note | None = None
    take_profit: PositiveAmount | None = None
    stop_loss: PositiveAmount | None = None


class PositionFilter(QueryParameters):
    """Which positions, and which page of them."""

    status: Literal["open", "closed", "all"] = "open"
    symbol: SymbolName | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


@router.post("", status_code=201, response_model=bodies.PositionBody)
async def open_position(web: Opened, caller: Trader, body: Opening, repetition: Repetition) -> Response:
    """Record a fill at the given or the current price."""
    instrument = web.market.instrument(body.symbol)
    side: Literal["buy", "sell"] = "buy" if body.side == "long" else "sell"
    executed_at = judge_moment(web, body.executed_at)
    is_fresh = is_of_now(web, executed_at)
    fee = judge_fee(web.market, instrument, body.quantity, body.fee, body.fee_asset, None, is_of_now=is_fresh)

    async def work(connection: AsyncConnection) -> Change:
        # Not before: a repeated request gets its stored answer also while there is no price.
        price = body.price or web.market.live_price(body.symbol)
        account = await find_account(connection, caller, body.account_id)
        fill = fill_of(
            side,
            body.quantity,
            price,
            fee,
            executed_at=executed_at,
            strategy=body.strategy or "",
            position_side=judge_side(account, None, body.side),
            rate_to_reporting=judge_rate(web, instrument.settle, account.currency, body.rate_to_reporting, executed_at),
        )
        standing = await PositionRepository(connection).standing(
            caller.user_id, account.account_id, instrument.symbol, fill.strategy, fill.position_side
        )
        recorded = await book(web, connection, caller, account, instrument, fill, standing)
        position = recorded.position
        change = fill_change(web, recorded, account, web.market.statement(position, account), 201)
        location = {"Location": f"/api/v1/positions/{position.position_id}", "ETag": etag(position.version)}
        return replace(change, headers=location)

    return await change_ledger(web, caller, work, repetition)


@router.get("", response_model=bodies.PositionList)
async def list_positions(web: Opened, caller: Reader, wanted: Annotated[PositionFilter, Query()]) -> Response:
    """The caller's positions, the newest opened first."""
    after = place_of(wanted.cursor)
    async with transaction(web.database) as connection:
        rows = await PositionRepository(connection).page(
            caller.user_id,
            limit=wanted.limit + 1,
            after=after,
            status=None if wanted.status == "all" else wanted.status,
            symbol=wanted.symbol,
            account_id=wanted.account_id,
            strategy=wanted.strategy,
        )
        accounts = await accounts_of(connection, caller)
    return page_by_place(
        rows, wanted.limit, _place, lambda position: web.market.statement(position, accounts[position.account_id])
    )


@router.get("/{position_id}", response_model=bodies.PositionBody)
async def get_position(web: Opened, caller: Reader, position_id: str) -> Response:
    """One position, with its version as ETag."""
    async with transaction(web.database) as connection:
        position = await _find(connection, caller, position_id)
        account = await find_account(connection, caller, position.account_id)
    return json_answer(web.market.statement(position, account), headers={"ETag": etag(position.version)})


@router.patch("/{position_id}", response_model=bodies.PositionBody)
async def edit_position(
    web: Opened,
    caller: Trader,
    position_id: str,
    body: Edit,
    if_match: IfMatch = None,
) -> Response:
    """Change tags and targets, provided nobody changed the position meanwhile.

    Another strategy takes the position's trades with it, and the positions that
    it was turned from or into by a trade through zero.
    """
    wanted = require_if_match(if_match)
    if not body.model_fields_set:
        raise Problem("invalid_request", "There is nothing to change.")

    async def work(connection: AsyncConnection) -> Change:
        position = await _find(connection, caller, position_id)
        require_version(wanted, position.version, "position")
        account = await find_account(connection, caller, position.account_id)
        edit = _apply(body, position)
        edited = await PositionRepository(connection).edit(position, edit, now=web.now())
        corrections = []
        if edit.strategy != position.strategy:
            ending = await ending_of(web, connection, caller, "retagged", "")
            edited, correction = await retag_position(connection, edited, edit.strategy, ending)
            corrections.append(correction_data(web, correction, account))
        statement = web.market.statement(edited, account)
        headers = {"ETag": etag(edited.version)}
        positions = [] if corrections else [edited]
        return Change("position", positions, {"position": statement}, statement, 200, headers, corrections)

    return await change_ledger(web, caller, work)


@router.post("/{position_id}/close", response_model=bodies.PositionBody)
async def close_position(
    web: Opened, caller: Trader, position_id: str, repetition: Repetition, body: Closing | None = None
) -> Response:
    """Record the fill that closes a position or a part of it, at the given or the current price."""
    wanted = body or Closing()

    async def work(connection: AsyncConnection) -> Change:
        position = await _find(connection, caller, position_id)
        _require_open(position)
        held = position.state.signed_qty.copy_abs()  # abs() would round to 28 digits.
        quantity = wanted.quantity or held
        if quantity > held:
            raise field_problem("exceeds_position", "quantity", f"Only {held:f} is open.")
        price = wanted.price or web.market.live_price(position.symbol)
        fee = judge_fee(web.market, position.instrument, quantity, wanted.fee, wanted.fee_asset, None)
        side: Literal["buy", "sell"] = "sell" if position.side == "long" else "buy"
        account = await find_account(connection, caller, position.account_id)
        fill = fill_of(
            side,
            quantity,
            price,
            fee,
            executed_at=None,
            strategy=position.strategy,
            position_side=position.position_side,
            rate_to_reporting=judge_rate(web, position.instrument.settle, account.currency, None, None),
        )
        recorded = await book(web, connection, caller, account, position.instrument, fill, position)
        closed = recorded.positions[0]
        change = fill_change(web, recorded, account, web.market.statement(closed, account), 200)
        return replace(change, headers={"ETag": etag(closed.version)})

    return await change_ledger(web, caller, work, repetition)


async def _find(connection: AsyncConnection, caller: Caller, position_id: str) -> Position:
    """The caller's position. Another's, none, and what is no id at all are one and the same. Raises Problem."""
    position = None
    if is_id(position_id):
        position = await PositionRepository(connection).get(caller.user_id, position_id)
    if position is None:
        raise Problem("not_found", "There is no such position.")
    return position


def _apply(body: Edit, position: Position) -> PositionEdit:
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    if changes.keys() & {"take_profit", "stop_loss"}:
        _require_open(position)
    for name in changes.keys() & {"strategy", "note"}:
        changes[name] = changes[name] or ""
    before = PositionEdit(position.strategy, position.note, position.take_profit, position.stop_loss)
    return msgspec.structs.replace(before, **changes)


def _require_open(position: Position) -> None:
    if position.status != "open":
        raise Problem("position_closed", "Nothing of this position is open.", headers={"ETag": etag(position.version)})


def _place(position: Position) -> Place:
    return Place(position.opened_at, position.position_id)
