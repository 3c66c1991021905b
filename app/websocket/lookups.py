"""Many who ask at once, answered by few questions.

A crowd that comes back after a restart asks thousands of times within a second.
What is asked while a question is on its way is gathered into the next, so a
question costs the same round trip for one and for hundreds, and there is never
more than one under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

Key = TypeVar("Key")
Found = TypeVar("Found")

_MOST_TOGETHER: Final = 256
_MOST_WAITING: Final = 10_000


class Overrun(Exception):
    """Too many wait, or one has waited too long."""


class _Batch(Generic[Key, Found]):
    """Keys that are asked for together, and who waits for the answers. ``failure`` stands in for all of them."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.answers: Sequence[Found | Exception] = ()
        self.failure: Exception = Overrun("nobody asked")

    def answer(self, index: int) -> Found:
        if not self.answers:
            raise self.failure
        answer = self.answers[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wake(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


class Lookups(Generic[Key, Found]):
    """Answers by ``ask``, which gives for each key what was found, or the error that this one key's asker is to get.

    An error that ``ask`` raises is for all of that question. Whoever is the first
    of a batch asks for all of it, so nothing runs while nobody asks.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Awaitable[Sequence[Found | Exception]]],
        *,
        within_s: float,
        most_together: int = _MOST_TOGETHER,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        self._ask = ask
        self._within_s = within_s
        self._most_together = most_together
        self._most_waiting = most_waiting
        self._gathering: _Batch[Key, Found] | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def find(self, key: Key) -> Found:
        """What is found for a key. Raises Overrun, and whatever ``ask`` says of it."""
        if self._waiting >= self._most_waiting:
            raise Overrun("too many are waiting")
        self._waiting += 1
        try:
            return await self._find(key)
        finally:
            self._waiting -= 1

    async def _find(self, key: Key) -> Found:
        batch, leads = self._join()
        index = len(batch.keys)
        batch.keys.append(key)
        if leads:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._answer(batch)
            except TimeoutError:
                raise self._too_late() from None
        else:
            await self._follow(batch)
        return batch.answer(index)

    async def _follow(self, batch: _Batch[Key, Found]) -> None:
        """Wait for who asks for the batch. Its own timer: in a crowd, a context for each costs more than the rest."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        batch.waiting.append(waiter)
        timer = loop.call_later(self._within_s, self._give_up, waiter)
        try:
            await waiter
        finally:
            timer.cancel()

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(self._too_late())

    def _too_late(self) -> Overrun:
        return Overrun(f"no answer within {self._within_s:g} s")

    def _join(self) -> tuple[_Batch[Key, Found], bool]:
        """The batch that is being gathered, and whether it is a new one."""
        batch = self._gathering
        if batch is not None and len(batch.keys) < self._most_together:
            return batch, False
        batch = self._gathering = _Batch()
        return batch, True

    async def _answer(self, batch: _Batch[Key, Found]) -> None:
        try:
            async with self._turn:
                if self._gathering is batch:
                    self._gathering = None
                batch.answers = await self._ask(batch.keys)
        except Exception as error:  # noqa: BLE001 - Whoever asked gets it.
            batch.failure = error
        finally:
            # Also where the leader was cancelled: the others must not wait for him.
            if self._gathering is batch:
                self._gathering = None
            batch.wake()
