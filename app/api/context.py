"""What a web process has open, as the endpoints find it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, cast

from fastapi import Depends, Request
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.market import Market
from app.api.passwords import PasswordHasher
from app.api.turns import Turns
from app.bus.limits import RateLimiter
from app.bus.sessions import SessionStore
from app.repositories.import_files import ImportFolder


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The settings that endpoints decide by."""

    reporting_currency: str
    registration_open: bool
    is_production: bool
    logins_per_minute_per_ip: int
    logins_per_minute_per_user: int
    writes_per_second_per_user: int
    max_open_positions: int
    stale_after_ms: int
    redis_timeout_s: float


@dataclass(frozen=True, kw_only=True)
class ImportIntake:
    """Where files go that are to be imported. ``wake`` says that one more is there."""

    files: ImportFolder
    uploads: asyncio.Semaphore
    wake: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class ExportDesk:
    """Where exports are read from: connections of their own, for they keep one for as long as their client reads."""

    database: AsyncEngine
    places: asyncio.Semaphore


@dataclass(frozen=True, kw_only=True)
class Web:
    """Opened by the lifespan, closed by it."""

    database: AsyncEngine
    redis: "Redis"
    sessions: SessionStore
    limits: RateLimiter
    passwords: PasswordHasher
    market: Market
    turns: Turns
    imports: ImportIntake
    exports: ExportDesk
    policy: Policy
    is_draining: Callable[[], bool]
    now: Callable[[], datetime]


def _web(request: Request) -> Web:
    return cast("Web", request.state.web)


Opened = Annotated[Web, Depends(_web)]
"""A parameter of an endpoint: what the process has open."""
