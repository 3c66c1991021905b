"""Connecting to Redis, and the one place where its errors are translated.

redis-py retries by itself, and its timeouts are not deadlines: a command on a
stopped server can block many times its ``socket_timeout``. So its retries are
off and every command runs under a deadline of ours.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

T = TypeVar("T")


class BusUnavailable(Exception):
    """Redis cannot be reached, did not answer in time, or refuses to write."""


class Cancellations:
    """Finds a cancellation of the current task that redis-py lost.

    redis-py sends through ``asyncio.wait_for``, which before Python 3.12 loses a
    cancellation that arrives just as the sending ends. Whoever cancelled would
    wait for ever.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._before = task.cancelling()

    def raise_lost(self) -> None:
        """Raise CancelledError if the task was cancelled since this object was made."""
        if self._task.cancelling() > self._before:
            raise asyncio.CancelledError


def connect(url: str, timeout_s: float, *, max_connections: int = 50) -> "Redis":
    """A client for a ``redis://``, ``rediss://`` or ``unix://`` URL. Bytes in, bytes out.

    Connects on first use. ``health_check_interval`` stays 0: with it a new
    connection to a stalled server hangs for ever.
    """
    # A pool that waits: the plain one refuses the moment it is empty, and a burst of requests is no outage.
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=3,
    )
    client: Redis = Redis.from_pool(pool)
    return client


async def is_reachable(redis: "Redis", timeout_s: float) -> bool:
    """Whether Redis answers from here, now."""
    try:
        await deadline(redis.ping(), timeout_s)
    except BusUnavailable:
        return False
    return True


async def deadline(command: Awaitable[T], timeout_s: float) -> T:
    """Run a Redis command under a deadline.

    Raises:
        BusUnavailable: Redis is away, too slow, full or read-only.
        redis.exceptions.ResponseError: the command itself is wrong (a bug).
    """
    cancellations = Cancellations()
    try:
        async with asyncio.timeout(timeout_s):
            result = await command
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
    cancellations.raise_lost()
    return result
