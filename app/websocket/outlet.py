"""The way out to one client: where the fan-out leaves frames, never waiting for them to go."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from app.domain.protocol import Close

NOT_DIRECT: Final = -1
FULL: Final = -2


class Outlet(Protocol):
    """Everything returns at once. :class:`app.websocket.transport.RawWebSocket` is one by itself."""

    def is_full(self) -> bool:
        """Whether the client is behind: leave state for later, so that it gets newer state then."""

    def send(self, *payloads: bytes) -> None:
        """Send text frames, in order, after all before them."""

    def descriptor(self) -> int:
        """Where a frame may be written at once, header and all.

        :data:`NOT_DIRECT` where only ``send`` will do, :data:`FULL` where :meth:`is_full`.
        """

    def send_rest(self, data: bytes) -> None:
        """Send what did not go of a frame that was written to the descriptor."""

    def close(self, code: Close, reason: str) -> None:
        """End the conversation. A second call does nothing."""


class QueuedOutlet:
    """A writer task per connection, for any other ASGI server.

    It is full while one batch is on its way, so state waits as keys and not as
    frames; only replies and events queue, up to ``most_waiting``.
    """

    def __init__(
        self,
        send_text: Callable[[str], Awaitable[None]],
        close_socket: Callable[[int, str], Awaitable[None]],
        *,
        stall_s: float,
        most_waiting: int = 1000,
    ) -> None:
        self._send_text = send_text
        self._close_socket = close_socket
        self._stall_s = stall_s
        self._most_waiting = most_waiting
        self._waiting: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: tuple[Close, str] | None = None

    def is_full(self) -> bool:
        return not self._idle.is_set()

    def send(self, *payloads: bytes) -> None:
        if self._closing is not None:
            return
        if len(self._waiting) + len(payloads) > self._most_waiting:
            self.close(Close.SLOW_CONSUMER, "too many frames unread")
            return
        self._waiting.extend(payloads)
        self._idle.clear()
        self._wake.set()

    def descriptor(self) -> int:
        return FULL if self.is_full() else NOT_DIRECT

    def send_rest(self, data: bytes) -> None:
        raise AssertionError("nothing was written directly")

    async def wait_writable(self) -> None:
        """Return once the client is not behind, or is gone."""
        await self._idle.wait()

    def close(self, code: Close, reason: str) -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()

    async def run(self) -> None:
        """Write until closed. Returns when the close was said, or could not be said in time."""
        try:
            while self._waiting or self._closing is None:
                await self._wake.wait()
                self._wake.clear()
                await self._write_waiting()
        finally:
            self._waiting.clear()
            self._idle.set()
        await self._say_goodbye()

    async def _write_waiting(self) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                while self._waiting:
                    await self._send_text(self._waiting.popleft().decode())
        except TimeoutError:
            self._waiting.clear()
            self.close(Close.SLOW_CONSUMER, "not reading")
        self._idle.set()

    async def _say_goodbye(self) -> None:
        assert self._closing is not None
        try:
            async with asyncio.timeout(self._stall_s):
                await self._close_socket(*self._closing)
        except TimeoutError:
            return
