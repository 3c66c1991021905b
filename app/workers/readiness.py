"""Handing a role over while its lease is still held: to hold it is no use to a worker that Redis cannot hear.

A lease tells who may work, and a worker cut off from Redis alone would renew it
for ever. So one that stands by says in PostgreSQL that it could work, and the
active one gives way to it when it cannot itself. With Redis away for everybody
nobody says so, and everything stays as it is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

import structlog

from app.repositories.database import DatabaseUnavailable
from app.workers.leadership import LeaseLost

log = structlog.get_logger(__name__)


class Claim(Protocol):
    """A claim to a role (:class:`app.workers.leadership.Leadership`)."""

    async def acquire(self) -> int:
        """Stand by until the lease is held; the result is its epoch. May be cancelled and called again."""


class ReadyLeases(Protocol):
    """Where readiness is told: as one more lease. Every method raises DatabaseUnavailable."""

    async def acquire(self, role: str, holder: str, ttl_ms: int) -> int | None: ...
    async def is_held_by_another(self, role: str, holder: str) -> bool: ...


class Readiness:
    """Whether this process can do the work of a kind, and whether another could.

    ``is_able`` asks the first and answers within seconds; ``kind`` is that of all
    roles that the same standbys may take.
    """

    def __init__(
        self, leases: ReadyLeases, kind: str, holder: str, ttl_ms: int, is_able: Callable[[], Awaitable[bool]]
    ) -> None:
        self._leases = leases
        self._role = f"{kind}:ready"
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._interval_s = ttl_ms / 3000
        # A standby that lost Redis at the same moment has by then stopped saying that it is ready.
        self._patience_s = 2 * ttl_ms / 1000
        self._is_able = is_able

    async def stand_by(self, claim: Claim) -> int:
        """Claim a role, as long as its work could be done, and say so meanwhile; the result is the epoch."""
        while True:
            await self._until_able()
            acquiring = asyncio.create_task(claim.acquire(), name="lease.acquire")
            try:
                while not acquiring.done() and await self._is_able():
                    await asyncio.wait([acquiring], timeout=self._interval_s)
                    if not acquiring.done():
                        await self._say_ready()
                if acquiring.done():
                    return acquiring.result()
            finally:
                acquiring.cancel()
                await asyncio.wait([acquiring])

    async def give_way(self) -> NoReturn:
        """Watch over the own work. Raises LeaseLost when it cannot be done here for a while, and elsewhere it could."""
        able_at = time.monotonic()
        while True:
            await asyncio.sleep(self._interval_s)
            if await self._is_able():
                able_at = time.monotonic()
            elif time.monotonic() - able_at > self._patience_s and await self._is_another_ready():
                raise LeaseLost("Redis cannot be reached from here; another worker is ready to take over")

    async def _until_able(self) -> None:
        has_said = False
        while not await self._is_able():
            if not has_said:
                log.info("lease.standing_by", role=self._role, reason="Redis cannot be reached")
                has_said = True
            await asyncio.sleep(self._interval_s)

    async def _say_ready(self) -> None:
        try:
            await self._leases.acquire(self._role, self._holder, self._ttl_ms)
        except DatabaseUnavailable:
            return  # Nobody could take a role there either.

    async def _is_another_ready(self) -> bool:
        try:
            # Redis may be back for both: asked once more, so that nothing is handed over for nothing.
            return await self._leases.is_held_by_another(self._role, self._holder) and not await self._is_able()
        except DatabaseUnavailable:
            return False
