"""Whether the process lives, and whether it can serve."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from app.api import bodies
from app.api.answers import json_answer
from app.api.context import Opened, Web
from app.api.routing import PROBLEM_RESPONSES, operation_id
from app.bus.connection import BusUnavailable, deadline
from app.repositories.database import DatabaseUnavailable
from app.repositories.migrate import is_current

router = APIRouter(tags=["health"], responses=PROBLEM_RESPONSES, generate_unique_id_function=operation_id)

_CHECK_TIMEOUT_S = 2.0

Verbose = Annotated[str | None, Query(description="With each check's outcome.", max_length=8)]


@router.get("/livez")
async def get_livez() -> Response:
    """The event loop answers."""
    return json_answer({"status": "alive"})


@router.get("/readyz", response_model=bodies.Health, responses={503: {"model": bodies.Health}})
async def get_readyz(web: Opened, verbose: Verbose = None) -> Response:
    """Whether requests should be sent here; if not, what is missing. The feed's state is told, and decides nothing."""
    return await _report(web, is_verbose=verbose is not None)


@router.get("/api/health", response_model=bodies.Health, responses={503: {"model": bodies.Health}})
async def get_health(web: Opened, verbose: Verbose = None) -> Response:
    """The same as ``/readyz``."""
    return await _report(web, is_verbose=verbose is not None)


async def _report(web: Web, *, is_verbose: bool) -> Response:
    postgres, redis = await asyncio.gather(_outcome(_check_postgres, web), _outcome(_check_redis, web))
    checks = {
        "postgres": postgres,
        "redis": redis,
        "instruments": "ok" if web.market.listings.listed else "not known yet",
        "draining": "draining" if web.is_draining() else "ok",
    }
    # Without a list of instruments nothing can be opened, but all that stands can still be seen and closed.
    failing = [name for name, outcome in checks.items() if outcome != "ok" and name != "instruments"]
    body: dict[str, Any] = {
        "status": "unavailable" if failing else "ready",
        "failing": failing,
        "feed": msgspec.to_builtins(web.market.feed),
    }
    if is_verbose:
        body["checks"] = checks
    return json_answer(body, 503 if failing else 200, {"Cache-Control": "no-store"})


async def _outcome(check: Callable[[Web], Awaitable[str]], web: Web) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            return await check(web)
    except TimeoutError:
        return "no answer in time"
    except (BusUnavailable, DatabaseUnavailable) as error:
        return str(error)


async def _check_postgres(web: Web) -> str:
    return "ok" if await is_current(web.database) else "migrations are missing"


async def _check_redis(web: Web) -> str:
    await deadline(web.redis.ping(), web.policy.redis_timeout_s)
    return "ok"
