"""The caller: user, accounts, settings."""

from fastapi import Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.accounts import account_statement
from app.api.answers import json_answer
from app.api.authentication import Reader, Trader
from app.api.context import Opened
from app.api.fields import Asset, RequestBody
from app.api.ledger_writes import Change, change_ledger
from app.api.problems import Problem, field_problem
from app.api.routing import new_router
from app.domain.statements import timestamp
from app.repositories.accounts import AccountRepository
from app.repositories.database import transaction
from app.repositories.users import UserGone, UserRepository

router = new_router("/api/v1", "me")


class MeEdit(RequestBody):
    """What to change of the caller. The currency only before the first trade and the first transfer."""

    currency: Asset


@router.get("/me", response_model=bodies.Me)
async def get_me(web: Opened, caller: Reader) -> Response:
    """Who is asking, and with which accounts and settings."""
    async with transaction(web.database) as connection:
        user = await UserRepository(connection).get(caller.user_id)
        accounts = await AccountRepository(connection).of_user(caller.user_id)
    if user is None:
        raise UserGone(caller.user_id)
    return json_answer(
        {
            "user_id": user.user_id,
            "username": user.username,
            "created_at": timestamp(user.created_at),
            "scopes": sorted(caller.scopes),
            "accounts": [account_statement(account) for account in accounts],
            "settings": {
                "currency": accounts[0].currency,
                "stale_after_ms": web.policy.stale_after_ms,
                "max_open_positions": web.policy.max_open_positions,
            },
        }
    )


@router.patch("/me", response_model=bodies.AccountList)
async def edit_me(web: Opened, caller: Trader, body: MeEdit) -> Response:
    """Choose the currency that everything is reported in; the answer is the accounts with it."""
    if body.currency not in web.market.listings.assets:
        raise field_problem("invalid_request", "currency", f"{body.currency!a} is no asset that the exchange lists.")

    async def work(connection: AsyncConnection) -> Change:
        repository = AccountRepository(connection)
        if await repository.has_history(caller.user_id):
            raise Problem("account_in_use", "The currency can be chosen before the first trade and the first transfer.")
        await repository.change_currency(caller.user_id, body.currency)
        accounts = [account_statement(account) for account in await repository.of_user(caller.user_id)]
        return Change("account", [], {"accounts": accounts}, {"items": accounts, "next_cursor": None})

    return await change_ledger(web, caller, work)
