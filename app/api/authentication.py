"""Who asks: a browser by its session cookie, a program by its bearer token."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

import structlog
from fastapi import Depends, Request

from app.api.context import Opened, Web
from app.api.problems import Problem, rate_limited
from app.bus.connection import BusUnavailable
from app.bus.sessions import session_token
from app.repositories.api_tokens import ApiTokenRepository
from app.repositories.database import transaction

log = structlog.get_logger(__name__)

SCOPES: Final = frozenset({"read", "trade"})


@dataclass(frozen=True)
class Caller:
    """On whose behalf a request is made. ``session_id`` is None for a program."""

    user_id: str
    username: str
    scopes: frozenset[str]
    session_id: str | None


async def _caller(request: Request, web: Opened) -> Caller:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        return await _by_token(web, token.strip() if scheme.lower() == "bearer" else "")
    cookie = session_token(request.cookies)
    session = None if cookie is None else await web.sessions.resolve(cookie)
    if session is None:
        raise Problem("not_authenticated", "Log in, or send a valid bearer token.")
    return Caller(session.user_id, session.username, SCOPES, session.session_id)


async def _by_token(web: Web, token: str) -> Caller:
    owner = None
    if token.isascii() and 0 < len(token) <= 100:
        async with transaction(web.database) as connection:
            owner = await ApiTokenRepository(connection).resolve(token)
    if owner is None:
        raise Problem("not_authenticated", "This token is not valid.", headers={"WWW-Authenticate": "Bearer"})
    return Caller(owner.user_id, owner.username, owner.scopes, None)


def _with_scope(scope: str) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if scope not in caller.scopes:
            raise Problem("forbidden", f"This token has not the scope {scope!r}.")
        return caller

    return check


async def _paced(caller: Annotated[Caller, Depends(_with_scope("trade"))], web: Opened) -> Caller:
    per_second = web.policy.writes_per_second_per_user
    try:
        wait_s = await web.limits.take("write", caller.user_id, capacity=2 * per_second, per_second=per_second)
    except BusUnavailable:
        # The database holds the truth and its own bounds; a lost Redis must not stop a program's trades.
        log.warning("limits.unavailable", scope="write")
        return caller
    if wait_s:
        raise rate_limited(wait_s)
    return caller


async def _in_person(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
    if caller.session_id is None:
        raise Problem("forbidden", "This needs a session, not a token.")
    return caller


Reader = Annotated[Caller, Depends(_with_scope("read"))]
"""Whoever may read."""

Trader = Annotated[Caller, Depends(_paced)]
"""Whoever may change the ledger, at the pace allowed."""

Visitor = Annotated[Caller, Depends(_in_person)]
"""Somebody who logged in: no program."""
