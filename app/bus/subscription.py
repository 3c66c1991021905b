"""Listening to Redis channels without ever missing a gap.

Redis pub/sub delivers at most once, and redis-py hides a reconnect. So this
listener owns its reconnecting: each time it is (again) subscribed it yields
:class:`Resync`, and whoever listens reads the snapshots then. Start and
recovery are the same branch. A half-open connection is found by silence: every
channel it is used for carries a heartbeat, and too long without any message
means reconnecting.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.bus.connection import Cancellations
from app.bus.lines import Message, open_line

__all__ = ["Message", "Resync", "Subscription"]

log = structlog.get_logger(__name__)

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0


class Resync(msgspec.Struct, frozen=True):
    """Subscribed, now or again: what was published before may be lost."""


class Subscription:
    """A fixed set of channels, listened to for ever.

    ``silence_s`` is how long all channels together may be silent before the
    connection counts as dead; None where silence is normal.
    """

    def __init__(self, redis: "Redis", channels: Sequence[str], *, silence_s: float | None, timeout_s: float = 2.0):
        self._redis = redis
        self._channels = tuple(channels)
        self._silence_s = silence_s
        self._timeout_s = timeout_s
        self.reconnects = 0

    async def events(self) -> AsyncGenerator[Message | Resync, None]:
        """Yield messages for ever, with a :class:`Resync` after each (re)subscription.

        Network errors are retried with back-off and jitter. Close the generator
        (``aclosing``) to release the connection.
        """
        delay = _FIRST_DELAY_S
        while True:
            try:
                async with aclosing(self._session()) as session:
                    async for event in session:
                        delay = _FIRST_DELAY_S
                        yield event
            except (RedisError, OSError, TimeoutError) as error:
                self.reconnects += 1
                log.warning("bus.subscription_lost", channels=self._channels, reason=type(error).__name__)
            await asyncio.sleep(random.uniform(delay / 2, delay))
            delay = min(delay * 2, _LONGEST_DELAY_S)

    async def _session(self) -> AsyncGenerator[Message | Resync, None]:
        """One line's life: subscribe, say so, pass messages on until it breaks."""
        cancellations = Cancellations()
        async with open_line(self._redis, self._channels, self._timeout_s) as line:
            cancellations.raise_lost()
            yield Resync()
            while True:
                async with asyncio.timeout(self._silence_s):
                    message = await line.next()
                yield message
