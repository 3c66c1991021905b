"""The caller: user, accounts, settings."""

from typing import Any

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.accounts import account_statement
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader, Trader
from app.api.context import Opened, Web
from app.api.fields import Asset, RequestBody, TimeZone
from app.api.ledger_writes import Change, change_ledger
from app.api.problems import Problem, field_problem
from app.api.routing import new_router
from app.domain.statements import timestamp
from app.repositories.accounts import AccountRepository
from app.repositories.database import transaction
from app.repositories.users import UnknownTimeZone, UserGone, UserRepository

router = new_router("/api/v1", "me")


class MeEdit(RequestBody):
    """What to change of the caller. The currency only before the first trade and the first transfer."""

    currency: Asset | None = None
    time_zone: TimeZone | None = None


@router.get("/me", response_model=bodies.Me)
async def get_me(web: Opened, caller: Reader) -> Response:
    """Who is asking, and with which accounts and settings."""
    async with transaction(web.database) as connection:
        return json_answer(await _statement(web, connection, caller))


@router.patch("/me", response_model=bodies.Me)
async def edit_me(web: Opened, caller: Trader, body: MeEdit) -> Response:
    """Choose the currency that everything is reported in, and the time zone whose midnights begin days."""
    if body.currency is None and body.time_zone is None:
        raise Problem("invalid_request", "There is nothing to change.")
    if body.currency is not None and body.currency not in web.market.listings.assets:
        raise field_problem("invalid_request", "currency", f"{body.currency!a} is no asset that the exchange lists.")

    async def work(connection: AsyncConnection) -> Change:
        if body.currency is not None:
            await _change_currency(connection, caller, body.currency)
        if body.time_zone is not None:
            await _change_time_zone(connection, caller, body.time_zone)
        statement = await _statement(web, connection, caller)
        changed = {"accounts": statement["accounts"], "settings": statement["settings"]}
        return Change("account", [], changed, statement)

    return await change_ledger(web, caller, work)


async def _change_currency(connection: AsyncConnection, caller: Caller, currency: str) -> None:
    repository = AccountRepository(connection)
    if await repository.has_history(caller.user_id):
        raise Problem("account_in_use", "The currency can be chosen before the first trade and the first transfer.")
    await repository.change_currency(caller.user_id, currency)


async def _change_time_zone(connection: AsyncConnection, caller: Caller, time_zone: str) -> None:
    try:
        await UserRepository(connection).change_time_zone(caller.user_id, time_zone)
    except UnknownTimeZone as error:
        raise field_problem("invalid_request", "time_zone", f"{time_zone} is not known to the database.") from error


async def _statement(web: Web, connection: AsyncConnection, caller: Caller) -> dict[str, Any]:
    user = await UserRepository(connection).get(caller.user_id)
    if user is None:
        raise UserGone(caller.user_id)
    accounts = await AccountRepository(connection).of_user(caller.user_id)
    return {
        "user_id": user.user_id,
        "username": user.username,
        "created_at": timestamp(user.created_at),
        "scopes": sorted(caller.scopes),
        "accounts": [account_statement(account) for account in accounts],
        "settings": {
            "currency": accounts[0].currency,
            "time_zone": user.time_zone,
            "stale_after_ms": web.policy.stale_after_ms,
            "max_open_positions": web.policy.max_open_positions,
        },
    }
