"""uvicorn's WebSocket protocol with what it lacks: raw frames, and bounds on a hostile or stuck client.

An encoded frame is written straight to the socket's transport, which saves the
larger part of the cost of a send; the endpoint finds the offer in the ASGI
scope's extensions and does without it on any other server. The guard closes
what uvicorn would let grow or hang: a client that stops reading, floods pings,
or sends a message in endless fragments.

It leans on attributes of uvicorn that are no documented interface, hence the
exact pin of uvicorn and the tests on real sockets.
"""

import asyncio
from asyncio.transports import BaseTransport
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from app.domain.protocol import Close

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

RAW_FRAMES = "tidemark.raw_frames"
"""The key in ``scope["extensions"]`` under which a :class:`RawWebSocket` offers itself."""

_WINDOW_S = 1.0
_MOST_CONTROL_FRAMES = 10
_MOST_FRAGMENTS = 100
_UNREADABLE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_LAST_WORDS_S = 2.0
"""How long a closing client has to take the close frame before the connection is cut."""


class RawWebSocket(WebSocketsSansIOProtocol):
    """One connection. Pass the class (or one from :func:`bounded`) as uvicorn's ``ws``."""

    backlog_bytes = 65_536
    """Unsent bytes above which a connection counts as full."""
    stall_s = 5.0
    """How long it may stay full before it is closed."""

    _stalled: asyncio.TimerHandle | None = None
    _cut: asyncio.TimerHandle | None = None
    _window_since = 0.0
    _control_frames = 0
    _fragments = 0

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=self.backlog_bytes)

    async def run_asgi(self) -> None:
        cast("dict[str, Any]", self.scope["extensions"])[RAW_FRAMES] = self
        await super().run_asgi()

    # The offer to the endpoint.

    def is_full(self) -> bool:
        """Whether more than the backlog is waiting for the client to read."""
        return self.transport.get_write_buffer_size() > self.backlog_bytes

    def write_text(self, *payloads: bytes) -> None:
        """Send text frames in one write. Dropped where the connection is closing."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.transport.write(b"".join([part for payload in payloads for part in (_header(len(payload)), payload)]))

    async def wait_writable(self) -> None:
        """Return once the client has read most of what was sent, or is gone."""
        await self.writable.wait()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye without waiting: the receiver is told, and a client that does not listen is cut off."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_LAST_WORDS_S, self.transport.abort)

    # The guard.

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The handshake comes in one piece. uvicorn leaves the client of one that cannot be read waiting for ever.
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.transport.is_closing():
            self.transport.write(_UNREADABLE)
            self.transport.close()

    async def send(self, message: "ASGISendEvent") -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # A refusal completes the handshake too; uvicorn logs each as an error of the application.
            self.handshake_complete = True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stall_s, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_stall()
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self._cut_later()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_later()

    def _cut_later(self) -> None:
        """Closing a transport waits for what is unsent, which a client that never reads would make for ever."""
        if self._cut is None:
            self._cut = self.loop.call_later(_LAST_WORDS_S, self.transport.abort)

    def _cancel_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        """The client has not read for too long: close, and cut if even that is not taken."""
        self._stalled = None
        if not self.handshake_complete or self.close_sent or self.transport.is_closing():
            self.transport.abort()
            return
        self.close(Close.SLOW_CONSUMER, "not reading")

    def _start_window(self) -> None:
        now = self.loop.time()
        if now - self._window_since >= _WINDOW_S:
            self._window_since = now
            self._control_frames = self._fragments = 0

    def _is_control_flood(self) -> bool:
        self._start_window()
        self._control_frames += 1
        return self._control_frames > _MOST_CONTROL_FRAMES

    def handle_ping(self) -> None:
        if self._is_control_flood() or not self.writable.is_set():
            self.conn.data_to_send()
            self.transport.abort()
            return
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if self._is_control_flood():
            self.transport.abort()
            return
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        self._start_window()
        self._fragments += 1
        if self._fragments > _MOST_FRAGMENTS:
            self.frames = []
            self.transport.abort()
            return
        super().handle_cont(event)

    def handle_events(self) -> None:
        if self.transport.is_closing() and self.close_timer is None:
            return  # Cut off: what else it sent is of no interest.
        super().handle_events()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            # uvicorn logs a traceback here, which lets a client write the log.
            self.frames = []
            self.close(Close.INVALID_TEXT, "not UTF-8")
            return
        super().send_receive_event_to_app()


def bounded(backlog_bytes: int, stall_s: float) -> type[RawWebSocket]:
    """The protocol with other bounds."""
    return type("BoundedRawWebSocket", (RawWebSocket,), {"backlog_bytes": backlog_bytes, "stall_s": stall_s})


def _header(length: int) -> bytes:
    """The header of an unfragmented, unmasked text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
