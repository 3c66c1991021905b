"""Passwords: argon2id in threads of their own, a few at once, the rest turned away."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from passlib.context import CryptContext

T = TypeVar("T")

MIN_LENGTH: Final = 8
MAX_LENGTH: Final = 128


class TooBusy(Exception):
    """As many passwords wait to be hashed as may."""


class PasswordHasher:
    """Hashes and verifies off the event loop. Each takes about 20 MiB and 30 ms, so few run and few wait."""

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self._context = CryptContext(
            schemes=["argon2", "bcrypt"],
            deprecated=["bcrypt"],
            argon2__type="ID",
            argon2__memory_cost=19456,
            argon2__time_cost=2,
            argon2__parallelism=1,
        )
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="password")
        self._room = at_once + waiting
        # Verified against when there is no such user: a missing name takes as long as a wrong password.
        self._nobody = self._context.hash(secrets.token_urlsafe(32))

    def close(self) -> None:
        """Let the running hashes end, drop the waiting ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Raises TooBusy."""
        return await self._run(lambda: str(self._context.hash(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether it is the password of a stored hash; never of None. Raises TooBusy."""
        is_right = await self._run(lambda: bool(self._context.verify(password, stored or self._nobody)))
        return is_right and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with weaker settings than today's."""
        return bool(self._context.needs_update(stored))

    async def _run(self, work: Callable[[], T]) -> T:
        if self._room <= 0:
            raise TooBusy
        loop = asyncio.get_running_loop()
        self._room -= 1
        job = self._threads.submit(work)
        # The room is the thread's until it ends, also when the one who waits goes away.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._make_room))
        return await asyncio.wrap_future(job)

    def _make_room(self) -> None:
        self._room += 1
