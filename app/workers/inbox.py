"""Messages that wait while their reader is busy: so many, and no more."""

import asyncio
from contextlib import aclosing
from typing import NoReturn

from app.bus.subscription import Message, Resync, Subscription


class Inbox:
    """Holds messages between a subscription and its reader.

    At the bound everything in it is dropped and stands as one :class:`Resync`:
    the reader then reads snapshots, as after any other loss.
    """

    def __init__(self, *, most_messages: int = 20_000, most_bytes: int = 64_000_000) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._events: list[Message | Resync] = []
        self._bytes = 0
        self._arrived = asyncio.Event()
        self.overflows = 0

    async def listen(self, subscription: Subscription) -> NoReturn:
        """Fill from a subscription, until cancelled."""
        async with aclosing(subscription.events()) as events:
            async for event in events:
                self.put(event)
        raise AssertionError("a subscription does not end")

    def put(self, event: Message | Resync) -> None:
        if isinstance(event, Resync):
            self._restart()
        elif len(self._events) >= self._most_messages or self._bytes + len(event.payload) > self._most_bytes:
            self.overflows += 1
            self._restart()
        else:
            self._events.append(event)
            self._bytes += len(event.payload)
        self._arrived.set()

    def take(self) -> list[Message | Resync]:
        """Everything in it, in order."""
        taken, self._events, self._bytes = self._events, [], 0
        self._arrived.clear()
        return taken

    async def wait(self, timeout_s: float) -> None:
        """Wait for something, at most so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return

    def _restart(self) -> None:
        """Nothing that arrived before is needed: the snapshots will hold it."""
        self._events, self._bytes = [Resync()], 0
