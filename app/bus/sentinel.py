"""A master that moves: Sentinels are asked for it each time a connection is made.

The rest is redis-py's: when the Sentinels name another master, connections to the
one before are dropped, and so is one that answers READONLY.
"""

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from app.bus.pool import connection_options, packing
from app.bus.topology import SentinelService

_PATIENCE = 4
"""So many Sentinels may be dead before asking them takes longer than a command may."""


class _Sentinels(Sentinel):
    """Asked by one task at a time.

    redis-py moves the one that answered to the front of the list; with two tasks
    at it, one Sentinel ends up in the list twice and another is lost for ever.
    """

    def __init__(self, service: SentinelService, options: dict[str, Any]) -> None:
        super().__init__(service.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._turn = asyncio.Lock()

    async def discover_master(self, service_name: str) -> Any:
        async with self._turn:
            return await super().discover_master(service_name)


class _MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the present master. It waits for a free one, which redis-py's own does not."""


class SentinelRedis(Redis):
    """A client of the master, that closes its connections to the Sentinels too."""

    def __init__(self, service: SentinelService, timeout_s: float, max_connections: int) -> None:
        options = _options(service.sentinel.url, timeout_s / _PATIENCE)
        self._sentinels = _Sentinels(service, {**options, "ssl": _is_tls(service.sentinel.url)})
        pool = _MasterPool(  # type: ignore[no-untyped-call]
            service.service,
            self._sentinels,
            max_connections=max_connections,
            timeout=timeout_s,
            connection_class=packing(
                SentinelManagedSSLConnection if _is_tls(service.master.url) else SentinelManagedConnection
            ),
            **_options(service.master.url, timeout_s),
        )
        super().__init__(connection_pool=pool)

    @property
    def sentinels(self) -> list[Redis]:
        """Whom to ask, first whoever answered last."""
        return list(self._sentinels.sentinels)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close everything."""
        await super().aclose(close_connection_pool)
        await self.connection_pool.disconnect()
        await self._sentinels.aclose()


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """What a URL says of every server, without the address, which is found out."""
    said: dict[str, Any] = {**parse_url(url)}
    for name in ("host", "port", "connection_class"):
        said.pop(name, None)
    return {**said, **connection_options(timeout_s)}


def _is_tls(url: str) -> bool:
    return parse_url(url).get("connection_class") is SSLConnection
