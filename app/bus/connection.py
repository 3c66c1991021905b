"""Connecting to Redis, and the one place where its errors are translated.

redis-py retries by itself, and its timeouts are not deadlines: a command on a
stopped server can block many times its ``socket_timeout``. So its retries are
off and every command runs under a deadline of ours.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

T = TypeVar("T")


class BusUnavailable(Exception):
    """Redis cannot be reached, did not answer in time, or refuses to write."""


def connect(url: str, timeout_s: float, *, max_connections: int = 50) -> "Redis":
    """A client for a ``redis://``, ``rediss://`` or ``unix://`` URL. Bytes in, bytes out.

    Connects on first use. ``health_check_interval`` stays 0: with it a new
    connection to a stalled server hangs for ever.
    """
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
        health_check_interval=0,
        protocol=3,
    )
    return client


async def deadline(command: Awaitable[T], timeout_s: float) -> T:
    """Run a Redis command under a deadline.

    Raises:
        BusUnavailable: Redis is away, too slow, full or read-only.
        redis.exceptions.ResponseError: the command itself is wrong (a bug).
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await command
    except TimeoutError:
        raise BusUnavailable(f"Redis did not answer within {timeout_s:g} s") from None
    except (OutOfMemoryError, ReadOnlyError) as error:
        raise BusUnavailable(f"Redis refuses to write: {error}") from error
    except ResponseError as error:
        if str(error).startswith(("MISCONF", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS")):
            raise BusUnavailable(f"Redis refuses: {error}") from error
        raise
    except (RedisConnectionError, RedisError, OSError) as error:
        raise BusUnavailable(f"Redis cannot be reached: {type(error).__name__}") from error
