"""Connecting to Redis, and the one place where its errors are translated."""

import asyncio
import re
from collections.abc import Awaitable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from app.bus.cluster import ClusterRedis
from app.bus.pool import open_pool
from app.bus.sentinel import SentinelRedis
from app.bus.topology import Cluster, SentinelService, parse_redis_url

T = TypeVar("T")

# In a pipeline redis-py puts words of its own before those of the server.
_REFUSALS = re.compile(r"(?:^|\(['\"])(?:MISCONF|LOADING|CLUSTERDOWN|MASTERDOWN|NOREPLICAS)\b")


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
    """A client of what a URL names (:mod:`app.bus.topology`). Bytes in, bytes out.

    Connects on first use; ``max_connections`` is per server. With Sentinels it
    follows the master, with a cluster it finds each key's shard: whoever uses it
    need not know. Raises RedisUrlError.
    """
    topology = parse_redis_url(url)
    if isinstance(topology, SentinelService):
        return SentinelRedis(topology, timeout_s, max_connections)
    if isinstance(topology, Cluster):
        return ClusterRedis(topology, timeout_s, max_connections)
    client: Redis = Redis.from_pool(open_pool(topology.url, timeout_s, max_connections))
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
        BusUnavailable: Redis is away, too slow, full, read-only, or changing its shape.
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
    except (ClusterDownError, AskError, TryAgainError) as error:
        # Of a cluster on its way from one shape to another.
        raise BusUnavailable(f"Redis cannot serve that at the moment: {error}") from error
    except ResponseError as error:
        if _REFUSALS.search(str(error)):
            raise BusUnavailable(f"Redis refuses: {error}") from error
        raise
    except (RedisConnectionError, RedisError, OSError) as error:
        raise BusUnavailable(f"Redis cannot be reached: {type(error).__name__}") from error
    cancellations.raise_lost()
    return result
