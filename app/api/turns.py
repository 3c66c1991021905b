"""One change at a time per user, in this process.

The database serialises a user's changes anyway. But those that wait for its
lock hold a connection each, and a busy bot must not use up the pool for all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from app.api.problems import unavailable


class Turns:
    """A queue per user, for as long as somebody is in it."""

    def __init__(self, *, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Wait for the user's earlier changes. Raises Problem when that takes too long."""
        lock = self._locks.get(user_id)
        if lock is None:
            lock = self._locks[user_id] = asyncio.Lock()
        try:
            async with asyncio.timeout(self._longest_wait_s):
                await lock.acquire()
        except TimeoutError:
            raise unavailable("busy", "Too many changes of this user are waiting.") from None
        try:
            yield
        finally:
            lock.release()
