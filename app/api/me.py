"""The caller: user, accounts, settings."""

import msgspec
from fastapi import Response

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Reader
from app.api.context import Opened
from app.api.routing import new_router
from app.domain.statements import timestamp
from app.repositories.accounts import AccountRepository
from app.repositories.database import transaction
from app.repositories.users import UserGone, UserRepository

router = new_router("/api/v1", "me")


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
            "accounts": [msgspec.structs.asdict(account) for account in accounts],
            "settings": {
                "currency": web.policy.reporting_currency,
                "stale_after_ms": web.policy.stale_after_ms,
                "max_open_positions": web.policy.max_open_positions,
            },
        }
    )
