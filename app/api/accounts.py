"""Accounts: what positions belong to, how they are valued, and money that comes and goes."""

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader, Trader
from app.api.context import Opened, Web
from app.api.fields import Asset, Id, Moment, Name, Note, PositiveAmount, QueryParameters, RequestBody, is_id
from app.api.fills import find_account, judge_moment, judge_rate
from app.api.ledger_writes import Change, Repetition, change_ledger
from app.api.paging import Cursor, Limit, page_by_offset, page_by_place, place_of
from app.api.problems import Problem, field_problem
from app.api.routing import new_router
from app.domain.cycles import MAX_VALUE
from app.domain.decimals import convert_units, exact, format_decimal, to_units
from app.domain.prices import Basis
from app.domain.statements import timestamp
from app.repositories.accounts import Account, AccountRepository
from app.repositories.database import transaction
from app.repositories.paging import Place
from app.repositories.positions import PositionRepository
from app.repositories.revised_days import mark_days_revised
from app.repositories.transfers import Transfer, TransferKind, TransferRepository

router = new_router("/api/v1/accounts", "accounts")

_MAX_ACCOUNTS: Final = 50


class NewAccount(RequestBody):
    """An account of its own, reported in the same currency as the others of its user."""

    name: Name
    kind: Literal["manual", "paper"] = "manual"
    position_mode: Literal["one_way", "hedge"] = "one_way"
    valuation: Basis = "auto"


class AccountEdit(RequestBody):
    """What to change. The position mode only while nothing is open."""

    name: Name | None = None
    position_mode: Literal["one_way", "hedge"] | None = None
    valuation: Basis | None = None


class NewTransfer(RequestBody):
    """Money that came or went: into the account, out of it, or to another of the same user.

    An ``adjustment`` corrects what was earned, and counts as profit; the others do not.
    ``rate_to_reporting`` is what a unit of the asset was worth at the time, needed
    where it is another than the reporting currency and the time is not now.
    """

    kind: Literal["deposit", "withdrawal", "internal", "adjustment"]
    asset: Asset
    amount: PositiveAmount
    direction: Literal["in", "out"] | None = None
    to_account_id: Id | None = None
    at: Moment | None = None
    rate_to_reporting: PositiveAmount | None = None
    note: Note | None = None


class ListPage(QueryParameters):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


@router.get("", response_model=bodies.AccountList)
async def list_accounts(web: Opened, caller: Reader, wanted: Annotated[ListPage, Query()]) -> Response:
    """The caller's accounts, the default one first."""
    async with transaction(web.database) as connection:
        accounts = await AccountRepository(connection).of_user(caller.user_id)
    return page_by_offset(accounts, wanted.limit, wanted.cursor, account_statement)


@router.post("", status_code=201, response_model=bodies.AccountBody)
async def create_account(web: Opened, caller: Trader, body: NewAccount, repetition: Repetition) -> Response:
    """Add an account."""

    async def work(connection: AsyncConnection) -> Change:
        repository = AccountRepository(connection)
        accounts = await repository.of_user(caller.user_id)
        if len(accounts) >= _MAX_ACCOUNTS:
            raise Problem("too_many_accounts", f"There may be {_MAX_ACCOUNTS} accounts.")
        currency = accounts[0].currency
        account_id = await repository.create(
            caller.user_id,
            body.name,
            body.kind,
            currency,
            position_mode=body.position_mode,
            valuation=body.valuation,
        )
        created = Account(account_id, body.name, body.kind, currency, body.position_mode, body.valuation)
        statement = account_statement(created)
        location = {"Location": f"/api/v1/accounts/{account_id}"}
        return Change("account", [], {"account": statement}, statement, 201, location)

    return await change_ledger(web, caller, work, repetition)


@router.get("/{account_id}", response_model=bodies.AccountBody)
async def get_account(web: Opened, caller: Reader, account_id: str) -> Response:
    """One account."""
    async with transaction(web.database) as connection:
        account = await _find(connection, caller, account_id)
    return json_answer(account_statement(account))


@router.patch("/{account_id}", response_model=bodies.AccountBody)
async def edit_account(web: Opened, caller: Trader, account_id: str, body: AccountEdit) -> Response:
    """Change an account's name, position mode, or what values it."""
    values = {name: value for name, value in body.model_dump().items() if value is not None}
    if not values:
        raise Problem("invalid_request", "There is nothing to change.")

    async def work(connection: AsyncConnection) -> Change:
        account = await _find(connection, caller, account_id)
        changes_mode = values.get("position_mode", account.position_mode) != account.position_mode
        if changes_mode and await PositionRepository(connection).is_anything_open(account.account_id):
            raise Problem("account_in_use", "The position mode can be changed while nothing is open.")
        await AccountRepository(connection).change(account.account_id, values)
        statement = account_statement(msgspec.structs.replace(account, **values))
        return Change("account", [], {"account": statement}, statement)

    return await change_ledger(web, caller, work)


@router.post("/{account_id}/transfers", status_code=201, response_model=bodies.TransferBody)
async def record_transfer(
    web: Opened, caller: Trader, account_id: str, body: NewTransfer, repetition: Repetition
) -> Response:
    """Record a deposit, a withdrawal, an adjustment, or a transfer to another own account."""
    amount = _signed(body)
    if body.asset not in web.market.listings.assets:
        raise field_problem("invalid_request", "asset", f"{body.asset!a} is no asset that the exchange lists.")
    at = judge_moment(web, body.at)

    async def work(connection: AsyncConnection) -> Change:
        account = await _find(connection, caller, account_id)
        other = await _other(connection, caller, account, body)
        rate = _rate(web, account, body)
        _refuse_too_large(amount, rate)
        repository = TransferRepository(connection)

        async def add(to: Account, signed: Decimal, counterpart: Account | None) -> Transfer:
            if at is not None:
                await mark_days_revised(connection, to.account_id, at)
            return await repository.add(
                user_id=caller.user_id,
                account_id=to.account_id,
                kind=body.kind,
                asset=body.asset,
                amount=signed,
                rate_to_reporting=rate,
                note=body.note or "",
                at=at or web.now(),
                now=web.now(),
                other_account_id=None if counterpart is None else counterpart.account_id,
            )

        recorded = [await add(account, amount, other)]
        if other is not None:
            recorded.append(await add(other, amount.copy_negate(), account))
        statements = [transfer_statement(transfer) for transfer in recorded]
        return Change("account", [], {"transfers": statements}, statements[0], 201)

    return await change_ledger(web, caller, work, repetition)


@router.get("/{account_id}/transfers", response_model=bodies.TransferList)
async def list_transfers(
    web: Opened, caller: Reader, account_id: str, wanted: Annotated[ListPage, Query()]
) -> Response:
    """An account's transfers, the newest first."""
    after = place_of(wanted.cursor)
    async with transaction(web.database) as connection:
        account = await _find(connection, caller, account_id)
        rows = await TransferRepository(connection).page(account.account_id, limit=wanted.limit + 1, after=after)
    return page_by_place(rows, wanted.limit, lambda one: Place(one.at, one.transfer_id), transfer_statement)


def account_statement(account: Account) -> dict[str, Any]:
    """``Account`` of the contract."""
    return msgspec.structs.asdict(account)


def transfer_statement(transfer: Transfer) -> dict[str, Any]:
    """``Transfer`` of the contract. What came is positive, what went negative."""
    rate = transfer.rate_to_reporting
    return {
        "transfer_id": transfer.transfer_id,
        "account_id": transfer.account_id,
        "kind": transfer.kind,
        "asset": transfer.asset,
        "amount": format_decimal(transfer.amount),
        "rate_to_reporting": None if rate is None else format_decimal(rate),
        "other_account_id": transfer.other_account_id,
        "note": transfer.note or None,
        "at": timestamp(transfer.at),
        "created_at": timestamp(transfer.created_at),
    }


async def _find(connection: AsyncConnection, caller: Caller, account_id: str) -> Account:
    if not is_id(account_id):
        raise Problem("not_found", "There is no such account.")
    return await find_account(connection, caller, account_id)


async def _other(connection: AsyncConnection, caller: Caller, account: Account, body: NewTransfer) -> Account | None:
    if body.to_account_id is None:
        return None
    if body.to_account_id == account.account_id:
        raise field_problem("invalid_request", "to_account_id", "is the account itself")
    return await find_account(connection, caller, body.to_account_id)


def _signed(body: NewTransfer) -> Decimal:
    """The amount as the account sees it. Raises Problem where the fields do not go together."""
    kind: TransferKind = body.kind
    if (kind == "internal") != (body.to_account_id is not None):
        raise field_problem("invalid_request", "to_account_id", "goes with an internal transfer, and with no other")
    if (kind == "adjustment") != (body.direction is not None):
        raise field_problem("invalid_request", "direction", "goes with an adjustment, and with no other")
    is_out = kind in {"withdrawal", "internal"} or body.direction == "out"
    return body.amount.copy_negate() if is_out else body.amount


def _rate(web: Web, account: Account, body: NewTransfer) -> Decimal | None:
    if body.asset == account.currency:
        return Decimal(1)
    return judge_rate(web, body.asset, account.currency, body.rate_to_reporting, body.at)


def _refuse_too_large(amount: Decimal, rate: Decimal | None) -> None:
    with exact():
        largest = max(to_units(abs(amount)), convert_units(to_units(abs(amount)), rate or Decimal(0)))
    if largest > to_units(MAX_VALUE):
        raise field_problem("out_of_range", "amount", f"must not be worth more than {MAX_VALUE:f}")
