"""What a web process opens, in order, and closes in reverse."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI

from app.api.context import ExportDesk, ImportIntake, Policy, Web
from app.api.market import Market
from app.api.passwords import PasswordHasher
from app.api.turns import Turns
from app.bus.connection import connect
from app.bus.interest import InterestPublisher
from app.bus.limits import RateLimiter
from app.bus.listings import Listings
from app.bus.prices import PriceBoard
from app.bus.sessions import SessionStore
from app.domain.prices import Feed
from app.imports.runner import ImportRunner
from app.repositories.database import create_engine
from app.repositories.import_files import ImportFolder
from app.settings import Settings
from app.supervision.child import run_child
from app.supervision.keeper import python_command
from app.websocket.descriptors import connections_permitted
from app.websocket.limits import StreamLimits
from app.websocket.sources import StoredEvents, StoredSessions
from app.websocket.stream import Stream, open_stream

log = structlog.get_logger(__name__)

_PROJECT = Path(__file__).resolve().parents[1]
_UPLOADS_AT_ONCE = 4
_EXPORTS_AT_ONCE = 2
_EXPORT_TIMEOUT_S = 60.0
"""A million rows are put in order before the first comes."""
_IMPORT_STOP_S = 3.0

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]


class MissingSetting(Exception):
    """The process cannot start without a setting."""


@dataclass(frozen=True)
class StreamPrices:
    """The stream's prices, as REST reads them."""

    stream: Stream

    @property
    def board(self) -> PriceBoard:
        return self.stream.board

    @property
    def is_silent(self) -> bool:
        return self.stream.state.health.prices_are_silent

    @property
    def feed(self) -> Feed:
        return self.stream.feed


def web_lifespan(settings: Settings, on_crash: Callable[[], None] | None = None) -> Lifespan:
    """The lifespan of a web process with these settings.

    ``on_crash`` ends the process in good order when something in the background
    died; the default asks the server to stop by SIGTERM, as its supervisor would.
    """
    stop = on_crash or _stop_server

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as opened:
            web, stream = await _open(settings, opened, stop)
            # Also here, for who must reach them without a request: the worker, when it drains.
            app.state.web, app.state.stream = web, stream
            yield {"web": web, "stream": stream}

    return lifespan


async def _open(settings: Settings, opened: AsyncExitStack, stop: Callable[[], None]) -> tuple[Web, Stream]:
    """Open everything. Nothing here waits for PostgreSQL or Redis, so the process starts without them."""
    database_url, redis_url = _require(settings.database_url, "DATABASE_URL"), _require(settings.redis_url, "REDIS_URL")
    database = create_engine(database_url, pool_size=settings.database_pool_size, timeout_s=settings.database_timeout_s)
    opened.push_async_callback(database.dispose)
    exports = create_engine(database_url, pool_size=_EXPORTS_AT_ONCE, timeout_s=_EXPORT_TIMEOUT_S)
    opened.push_async_callback(exports.dispose)
    redis = connect(redis_url, settings.redis_timeout_s)
    opened.push_async_callback(redis.aclose)
    passwords = PasswordHasher(at_once=settings.password_hashes_at_once, waiting=settings.password_hashes_waiting)
    opened.callback(passwords.close)

    sessions = SessionStore(
        redis,
        timeout_s=settings.redis_timeout_s,
        idle_s=settings.session_idle_s,
        absolute_s=settings.session_absolute_s,
    )
    listings = Listings(redis, timeout_s=settings.redis_timeout_s)
    await opened.enter_async_context(supervised("listings", listings.run, stop))

    instance_id = uuid4().hex
    stream = await opened.enter_async_context(
        open_stream(
            redis=redis,
            instance_id=instance_id,
            limits=_stream_limits(settings),
            prices_stale_after_ms=settings.stale_after_ms,
            redis_timeout_s=settings.redis_timeout_s,
            sessions=StoredSessions(sessions, database),
            events=StoredEvents(database),
            interest=InterestPublisher(redis, instance_id, settings.redis_timeout_s),
            is_listed=lambda symbol: symbol in listings.listed,
            origins=settings.public_origins,
            on_crash=stop,
        )
    )
    folder = ImportFolder(settings.import_folder)
    runner = ImportRunner(database, folder, partial(_work_on_import, settings), _now)
    await opened.enter_async_context(supervised("imports", runner.run, stop))
    web = Web(
        database=database,
        redis=redis,
        sessions=sessions,
        limits=RateLimiter(redis, timeout_s=settings.redis_timeout_s),
        passwords=passwords,
        market=Market(StreamPrices(stream), listings, stale_after_ms=settings.stale_after_ms),
        turns=Turns(longest_wait_s=settings.database_timeout_s),
        imports=ImportIntake(files=folder, uploads=asyncio.Semaphore(_UPLOADS_AT_ONCE), wake=runner.wake),
        exports=ExportDesk(database=exports, places=asyncio.Semaphore(_EXPORTS_AT_ONCE)),
        policy=_policy(settings),
        is_draining=lambda: stream.is_draining,
        now=_now,
    )
    return web, stream


def _now() -> datetime:
    return datetime.now(UTC)


async def _work_on_import(settings: Settings, import_id: str, holder: str) -> int:
    """Work on an import in a process of its own, with the settings of this one."""
    environment = {
        **os.environ,
        "TIDEMARK_DATABASE_URL": settings.database_url or "",
        "TIDEMARK_REDIS_URL": settings.redis_url or "",
        "TIDEMARK_REDIS_TIMEOUT_S": str(settings.redis_timeout_s),
        "TIDEMARK_MAX_OPEN_POSITIONS_PER_USER": str(settings.max_open_positions_per_user),
        "TIDEMARK_IMPORT_DIR": str(settings.import_folder),
        "TIDEMARK_LOG_FORMAT": settings.log_format,
        "TIDEMARK_LOG_LEVEL": settings.log_level,
    }
    command = python_command("-m", "app.entry.import_job", import_id, holder)
    return await run_child(command, environment=environment, directory=_PROJECT, stop_timeout_s=_IMPORT_STOP_S)


@asynccontextmanager
async def supervised(name: str, run: Callable[[], Awaitable[None]], stop: Callable[[], None]) -> AsyncIterator[None]:
    """Run a task for as long as the block runs; if it ends by itself, ask the process to stop.

    It must not end the block: the server would go on with everything closed.
    """

    async def guarded() -> None:
        try:
            await run()
        except Exception:
            log.exception("task.crashed", task=name)
        else:
            log.error("task.ended", task=name)
        stop()

    task = asyncio.create_task(guarded(), name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _stop_server() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _require(value: str | None, name: str) -> str:
    if value is None:
        raise MissingSetting(f"set {name}: a web process uses servers that are already running")
    return value


def _policy(settings: Settings) -> Policy:
    return Policy(
        reporting_currency=settings.reporting_currency,
        registration_open=settings.registration_open,
        is_production=settings.environment == "production",
        logins_per_minute_per_ip=settings.logins_per_minute_per_ip,
        logins_per_minute_per_user=settings.logins_per_minute_per_user,
        writes_per_second_per_user=settings.writes_per_second_per_user,
        max_open_positions=settings.max_open_positions_per_user,
        stale_after_ms=settings.stale_after_ms,
        redis_timeout_s=settings.redis_timeout_s,
    )


def _stream_limits(settings: Settings) -> StreamLimits:
    return StreamLimits(
        max_hz=settings.stream_max_hz,
        default_hz=settings.stream_default_hz,
        heartbeat_ms=settings.stream_heartbeat_ms,
        max_symbols=settings.stream_max_symbols,
        max_message_bytes=settings.stream_max_message_bytes,
        max_messages_per_s=settings.stream_max_messages_per_s,
        max_connections=connections_permitted(settings.stream_max_connections),
        max_connections_per_user=settings.stream_max_connections_per_user,
        max_connections_per_ip=settings.stream_max_connections_per_ip,
        backlog_bytes=settings.stream_backlog_bytes,
        stall_s=settings.stream_stall_s,
    )
