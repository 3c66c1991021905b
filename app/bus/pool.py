"""Connections to one server, as the bus wants them.

redis-py retries by itself, and its timeouts are not deadlines: a command on a
stopped server can block many times its ``socket_timeout``. So its retries are
off, and every command runs under a deadline of ours.
"""

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def open_pool(url: str, timeout_s: float, max_connections: int) -> "BlockingConnectionPool":
    """Connections to the server of a ``redis://``, ``rediss://`` or ``unix://`` URL, made when needed."""
    # A pool that waits: the plain one refuses the moment it is empty, and a burst of requests is no outage.
    return BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=timeout_s, **connection_options(timeout_s)
    )


def connection_options(timeout_s: float) -> dict[str, Any]:
    """What every connection is made with."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        # Anything else than 0, and a new connection to a stalled server hangs for ever.
        "health_check_interval": 0,
        "protocol": 3,
    }
