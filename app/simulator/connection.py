"""One WebSocket connection of a client: what it asked for, what goes out to it, and when it ends."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from app.simulator import messages
from app.simulator.contract_streams import StreamSource
from app.simulator.faults import LineFaults, Silence
from app.simulator.frames import PING, PONG, TEXT, frame
from app.simulator.limits import RollingCount, Rules
from app.simulator.topics import Format
from app.simulator.venues import Venue

_PINGS_REMEMBERED = 8


class Goodbye(msgspec.Struct, frozen=True):
    """How to end a connection."""

    code: int
    reason: str


class Connection:
    """A client's connection. Everything that leaves it is a whole frame, written straight to the transport."""

    def __init__(
        self,
        *,
        number: int,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport,
        wanted: Format,
        is_api: bool,
        venue: Venue,
        source: StreamSource,
        rules: Rules,
        clock: Callable[[], int],
        wants_flush: Callable[["Connection"], None],
    ) -> None:
        self.number = number
        self.format = wanted
        self.is_api = is_api
        self.venue: Venue = venue
        self.source = source
        self.streams: dict[str, None] = {}
        self.line = LineFaults()
        self.silence: Silence = "none"
        self.sent = 0
        self.requests = 0
        self.incoming = 0
        self.breached = False
        self._websocket = websocket
        self._transport = transport
        self._rules = rules
        self._clock = clock
        self._wants_flush = wants_flush
        self._outbox: list[bytes] = []
        self._incoming = RollingCount(rules.messages_per_s, 1.0)
        self._pings: deque[tuple[bytes, float]] = deque(maxlen=_PINGS_REMEMBERED)
        self._goodbye: asyncio.Future[Goodbye] = asyncio.get_running_loop().create_future()

    @property
    def busiest_second(self) -> int:
        """The most messages that came in within any second."""
        return self._incoming.peak

    def deliver(self, whole: bytes) -> None:
        """Take one data frame; it leaves with the next flush."""
        if self.silence != "none":
            return
        frames = self.line.passed(whole) if self.line.active else (whole,)
        if not self._outbox:
            self._wants_flush(self)
        self._outbox += frames
        self.sent += len(frames)

    def flush(self) -> None:
        """Write what was delivered. A client that does not read is cut off."""
        waiting, self._outbox = self._outbox, []
        self._write(b"".join(waiting))
        if self._transport.get_write_buffer_size() > self._rules.backlog_bytes:
            self.abort()

    def reply(self, payload: bytes) -> None:
        """Answer a request at once, behind the data that came before."""
        self._outbox.append(frame(TEXT, payload))
        self.flush()

    def hang_up(self, code: int, reason: str = "") -> None:
        """Close with a code, as soon as possible."""
        if not self._goodbye.done():
            self._goodbye.set_result(Goodbye(code, reason))

    def abort(self) -> None:
        """Break the TCP connection with a reset."""
        handle = self._transport.get_extra_info("socket")
        if handle is not None and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def fall_silent(self, silence: Silence) -> None:
        """Stop sending data, stop everything, or start again."""
        self.silence = silence
        if self._transport.is_closing():
            return
        if silence == "all":
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def announce_shutdown(self) -> None:
        """Tell that the server goes away, in the shape of this connection."""
        payload = messages.shutdown(self._clock(), self.format.unit_us)
        if self.is_api:
            payload = b'{"event":%b}' % payload
        elif self.format.combined:
            payload = messages.combined("!serverShutdown", payload)
        self.reply(payload)

    async def run(self, answer: Callable[["Connection", bytes], None]) -> None:
        """Serve the connection until it ends. ``answer`` deals with one request."""
        async with asyncio.TaskGroup() as tasks:
            tending = tasks.create_task(self._tend())
            await self._receive(answer)
            tending.cancel()

    async def _receive(self, answer: Callable[["Connection", bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message = await self._websocket.receive()
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG}:
                return
            self.incoming += 1
            if not self._incoming.add(loop.time()):
                self.breached = True
                self.hang_up(WSCloseCode.POLICY_VIOLATION, "Too many requests")
            elif message.type == WSMsgType.PING:
                self._write(frame(PONG, message.data))
            elif message.type == WSMsgType.PONG:
                self._answered(bytes(message.data))
            else:
                self.requests += 1
                answer(self, message.data if isinstance(message.data, bytes) else message.data.encode())

    def _answered(self, payload: bytes) -> None:
        if any(sent == payload for sent, _ in self._pings):
            self._pings.clear()

    async def _tend(self) -> None:
        """Ping, watch for pongs, announce the end, and end."""
        loop, rules = asyncio.get_running_loop(), self._rules
        opened = loop.time()
        ping_at, notice_at, end_at = (
            opened + rules.ping_every_s,
            opened + rules.life_s - rules.shutdown_notice_s,
            opened + rules.life_s,
        )
        while not self._goodbye.done():
            now = loop.time()
            if now >= ping_at:
                self._ping(now)
                ping_at += rules.ping_every_s
            if now >= notice_at:
                self.announce_shutdown()
                notice_at = float("inf")
            if now >= end_at:
                self.hang_up(WSCloseCode.GOING_AWAY, "Connection reached its maximum age")
            pong_by = self._pings[0][1] + rules.pong_within_s if self._pings else float("inf")
            if now >= pong_by:
                self.hang_up(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
            wake = min(ping_at, notice_at, end_at, pong_by)
            await asyncio.wait((self._goodbye,), timeout=max(0.0, wake - loop.time()))
        await self._say_goodbye(self._goodbye.result())

    def _ping(self, now: float) -> None:
        payload = str(self._clock() // 1000).encode()
        self._pings.append((payload, now))
        self._write(frame(PING, payload))

    async def _say_goodbye(self, goodbye: Goodbye) -> None:
        if self.silence == "all":
            self.abort()
            return
        self.flush()
        await self._websocket.close(code=goodbye.code, message=goodbye.reason.encode())

    def _write(self, data: bytes) -> None:
        if data and self.silence != "all" and not self._transport.is_closing():
            self._transport.write(data)
