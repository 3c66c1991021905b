"""A WebSocket under uvicorn that costs little: raw frames out, no task while it is open, bounds on a hostile client.

The handshake goes through the application as ASGI, like any request. Once it is
accepted, the application takes the socket over: its task ends, and with it goes
all that a handshake needs. From then on messages are handed to a reader as they
come, and encoded frames are written straight to the transport. On any other
server the endpoint does without.

A handshake that :class:`app.http_protocol.FrontDoor` has read itself is decided
by a task of its own, without ASGI. What arrives is read by the sans-I/O protocol
of ``websockets``, which is made once something comes that is more than a whole
text or a pong; uvicorn only finds the class by its ``ws`` option, makes one for
each upgrade and ends it by ``shutdown``.
"""

import asyncio
import logging
import os
from asyncio.transports import BaseTransport, Transport
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as Codec

from app.domain.protocol import Close
from app.websocket.handshake import BadHandshake, Opening, denial, read_opening, switching
from app.websocket.outlet import FULL, NOT_DIRECT
from app.websocket.plain_frames import plain_frames

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent, WebSocketScope
    from uvicorn.server import ServerState

RAW_FRAMES: Final = "tidemark.raw_frames"
"""The key in ``scope["extensions"]`` under which a :class:`RawWebSocket` offers itself."""

log = logging.getLogger("uvicorn.error")

_WINDOW_S: Final = 1.0
_MOST_CONTROL_FRAMES: Final = 10
_MOST_FRAGMENTS: Final = 100
_MOST_EARLY_BYTES: Final = 16_384
"""What a client may send before it was answered."""
_LAST_WORDS_S: Final = 2.0
"""How long a closing client has to take the close frame before the connection is cut."""
_GOING_DOWN: Final = 1012
_PING: Final = b"\x89\x04"
_LARGE_BYTES: Final = 8192


class Reader(Protocol):
    """Who takes a socket over."""

    def take(self, text: str | None) -> Coroutine[Any, Any, None] | None:
        """Carry out a message (None: it was binary). What is given back is to be awaited before the next."""

    def gone(self) -> None:
        """The conversation is over. Said once."""


class Disconnected(OSError):
    """The client left before it was answered; ASGI wants an OSError."""


class RawWebSocket(asyncio.Protocol):
    """One connection. Pass the class (or one from :func:`bounded`) as uvicorn's ``ws``."""

    __slots__ = (
        "_app_state",
        "_codec",
        "_config",
        "_control_frames",
        "_cut",
        "_descriptor",
        "_early",
        "_fragments",
        "_handshake",
        "_held",
        "_inbox",
        "_is_lost",
        "_is_open",
        "_is_over",
        "_is_paused",
        "_message",
        "_ping",
        "_ping_timer",
        "_reader",
        "_stalled",
        "_state",
        "_window_since",
        "_working",
        "loop",
        "transport",
    )

    backlog_bytes = 65_536
    """Unsent bytes above which a connection counts as full, until most of them are gone."""
    stall_s = 5.0
    """How long it may stay full before it is closed."""

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: Transport
        self._descriptor = NOT_DIRECT
        self._handshake: _Handshake | asyncio.Task[None] | None = None
        self._held: list[bytes] | None = None
        self._codec: Codec | None = None
        self._reader: Reader | None = None
        self._early = b""
        self._inbox: deque[str | None] | None = None
        self._message: list[bytes] | None = None
        self._working: asyncio.Task[None] | None = None
        self._is_open = self._is_paused = self._is_over = self._is_lost = False
        self._stalled: asyncio.TimerHandle | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._ping: bytes | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._window_since = 0.0
        self._control_frames = self._fragments = 0

    # What the application does with it.

    def take_over(self, reader: Reader) -> None:
        """Read on behalf of ``reader`` from now on. For a handshake that was accepted; its task is to end."""
        self._reader = reader
        if self._is_over:
            self.loop.call_soon(self._say_gone)
        else:
            self._work_on()

    def is_full(self) -> bool:
        """Whether the client is so far behind that new frames are better not written."""
        return self._is_paused

    def send(self, *payloads: bytes) -> None:
        """Send text frames in one write. Dropped where the connection is closing."""
        if self._is_over or self.transport.is_closing():
            return
        if len(payloads) == 1:
            self._write(_header(len(payloads[0])) + payloads[0])
            return
        self._write(b"".join([part for payload in payloads for part in (_header(len(payload)), payload)]))

    def descriptor(self) -> int:
        """The socket, where all that was sent before has been handed to it."""
        transport = self.transport
        if transport.get_write_buffer_size():
            return FULL if self._is_paused else NOT_DIRECT
        return NOT_DIRECT if self._is_over or transport.is_closing() else self._descriptor

    def send_rest(self, data: bytes) -> None:
        """Send what the socket did not take of a frame."""
        self.transport.write(data)

    def close(self, code: Close, reason: str) -> None:
        """Say goodbye without waiting: the reader is told, and a client that does not listen is cut off."""
        self._close(int(code), reason)

    # What uvicorn and the event loop call.

    def connection_made(self, transport: BaseTransport) -> None:
        self.transport = cast("Transport", transport)
        self.transport.set_write_buffer_limits(high=self.backlog_bytes)
        self._state.connections.add(cast("Any", self))

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(cast("Any", self))
        self._is_lost = True
        self._end()
        self._cancel_timers()
        if self._working is not None:
            self._working.cancel()
        self._inbox = None

    def shutdown(self) -> None:
        """The server stops."""
        if not self._is_open:
            self._refuse(500, "The server is shutting down.")
        elif not self._is_over:
            self._close(_GOING_DOWN, "")
        self.transport.close()
        self._cut_later()

    def eof_received(self) -> None:
        """The client has said its last: the transport closes by itself."""

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stall_s, self._give_up)

    def resume_writing(self) -> None:
        self._is_paused = False
        self._stalled = _without(self._stalled)
        self._work_on()

    def data_received(self, data: bytes) -> None:
        if self._is_open:
            self._read(data)
        elif self._handshake is None:
            self._open(data)
        elif len(self._early) + len(data) > _MOST_EARLY_BYTES:
            self.transport.abort()
        else:
            self._early += data

    # The handshake.

    def decide(self, decision: Coroutine[Any, Any, None], early: bytes) -> None:
        """Have a handshake decided that was read elsewhere. ``early`` is what came behind it.

        The decision calls :meth:`accept` and :meth:`take_over`, or :meth:`answer_denied`; not for one who is lost.
        """
        task = self._handshake = self.loop.create_task(self._carry_out(decision))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)
        if early:
            self.data_received(early)

    async def _carry_out(self, decision: Coroutine[Any, Any, None]) -> None:
        try:
            await decision
        except Exception:
            log.exception("Exception while a handshake was decided")
        if not self._is_open and not self.is_lost:
            self.answer_denied(denial(500, [], b"Internal Server Error"))
        self.finish_handshake()

    def _open(self, data: bytes) -> None:
        head, _, self._early = data.partition(b"\r\n\r\n")
        try:
            opening = read_opening(head)
        except BadHandshake as error:
            self._refuse(error.status, str(error))
            return
        self._handshake = _Handshake(self, opening, self._config, self._app_state)
        task = self.loop.create_task(self._handshake.run(self._config.loaded_app))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def accept(self, answer: bytes) -> None:
        """Open the conversation. For the handshake alone."""
        self._write(answer)
        if not is_ssl(self.transport):
            self._descriptor = self.transport.get_extra_info("socket").fileno()
        self._is_open = True
        self._schedule_ping()
        early, self._early = self._early, b""
        if early:
            self._read(early)

    def answer_denied(self, answer: bytes) -> None:
        """Answer by something else than a conversation. For the handshake alone."""
        if not self._is_lost:
            self.transport.write(answer)
            self.transport.close()
            self._cut_later()
        self._is_over = True

    def finish_handshake(self) -> None:
        """The handshake's task has ended. For the handshake alone."""
        self._handshake = None
        if self._reader is None and not self._is_over:
            self.transport.close()

    @property
    def is_lost(self) -> bool:
        """Whether there is nobody to be answered any more."""
        return self._is_lost or self._is_over

    def _refuse(self, status: int, detail: str) -> None:
        self.answer_denied(denial(status, (), detail.encode()))

    # What goes out.

    def in_one_write(self) -> "_OneWrite":
        """A block in which what is sent is gathered: a write costs ten times what its bytes do."""
        return _OneWrite(self)

    def hold(self) -> bool:
        """Begin to gather. For that block alone: whether nobody did already."""
        is_first = self._held is None
        if is_first:
            self._held = []
        return is_first

    def release(self) -> None:
        """Write what was gathered. For that block alone."""
        held, self._held = self._held, None
        if held and not self.transport.is_closing():
            self.transport.write(b"".join(held))

    def _write(self, data: bytes) -> None:
        if self._held is None:
            self.transport.write(data)
            return
        self._held.append(data)
        if len(data) > _LARGE_BYTES:
            # So that the transport can say that the client is behind.
            self.release()
            self.hold()

    # What comes in.

    def _read(self, data: bytes) -> None:
        frames = plain_frames(data, self._config.ws_max_size) if self._codec is None else None
        if frames is None:
            self._read_by(self._any_codec(), data)
            return
        with self.in_one_write():
            for opcode, payload in frames:
                if self.transport.is_closing():
                    return  # Cut off: what else it sent is of no interest.
                if opcode is Opcode.TEXT:
                    self._take_message(payload, is_text=True)
                else:
                    self._take_control(is_awaited=payload == self._ping)

    def _any_codec(self) -> Codec:
        """Who knows all of the standard. Most clients never say anything that needs it."""
        if self._codec is None:
            self._codec = Codec(SERVER, state=OPEN, max_size=self._config.ws_max_size, logger=log)
        return self._codec

    def _read_by(self, codec: Codec, data: bytes) -> None:
        codec.receive_data(data)
        for frame in codec.events_received():
            if self.transport.is_closing():
                return  # Cut off: what else it sent is of no interest.
            self._take_frame(cast("Frame", frame))
        said = b"".join(codec.data_to_send())
        if codec.parser_exc is None and codec.close_rcvd is None:
            self._answer(said)
            return
        if said and not self._is_over:
            self.transport.write(said)
        self._end()
        self.transport.close()
        self._cut_later()

    def _answer(self, said: bytes) -> None:
        """Send what the codec answered: pongs."""
        if not said or self.transport.is_closing():
            return
        if self._is_paused:
            self.transport.abort()
            return
        self.transport.write(said)

    def _take_frame(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            if frame.fin:
                self._take_message(bytes(frame.data), is_text=opcode is Opcode.TEXT)
            else:
                self._message = [b"t" if opcode is Opcode.TEXT else b"b", bytes(frame.data)]
        elif opcode is Opcode.CONT:
            self._take_fragment(frame)
        elif opcode is not Opcode.CLOSE:
            self._take_control(is_awaited=opcode is Opcode.PONG and bytes(frame.data) == self._ping)

    def _take_fragment(self, frame: Frame) -> None:
        self._start_window()
        self._fragments += 1
        if self._fragments > _MOST_FRAGMENTS or self._message is None:
            self._message = None
            self.transport.abort()
            return
        self._message.append(bytes(frame.data))
        if frame.fin:
            (kind, *parts), self._message = self._message, None
            self._take_message(b"".join(parts), is_text=kind == b"t")

    def _take_control(self, *, is_awaited: bool) -> None:
        self._start_window()
        self._control_frames += 1
        if self._control_frames > _MOST_CONTROL_FRAMES:
            self.transport.abort()
        elif is_awaited:
            self._ping = None
            self._schedule_ping()

    def _start_window(self) -> None:
        now = self.loop.time()
        if now - self._window_since >= _WINDOW_S:
            self._window_since = now
            self._control_frames = self._fragments = 0

    def _take_message(self, data: bytes, *, is_text: bool) -> None:
        if self._is_over:
            return
        try:
            text = data.decode() if is_text else None
        except UnicodeDecodeError:
            self._close(int(Close.INVALID_TEXT), "not UTF-8")
            return
        if self._working is None and not self._is_paused and self._reader is not None:
            self._hand_on(text)
            return
        if self._inbox is None:
            self._inbox = deque()
            if not self.transport.is_closing():
                self.transport.pause_reading()
        self._inbox.append(text)

    def _hand_on(self, text: str | None) -> None:
        assert self._reader is not None
        work = self._reader.take(text)
        if work is not None:
            self._working = self.loop.create_task(self._finish(work))
            self._state.tasks.add(self._working)
            self._working.add_done_callback(self._state.tasks.discard)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._working = None
        self._work_on()

    def _work_on(self) -> None:
        """Carry out messages that waited, one at a time, and none while the client does not read."""
        while self._inbox and self._working is None and not self._is_paused and not self._is_over:
            self._hand_on(self._inbox.popleft())
        if not self._inbox:
            self._read_on()

    def _read_on(self) -> None:
        if self._inbox is not None:
            self._inbox = None
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # The end.

    def _close(self, code: int, reason: str) -> None:
        if self._is_over or self.transport.is_closing() or not self._is_open:
            return
        codec = self._any_codec()
        codec.send_close(code, reason)
        self._write(b"".join(codec.data_to_send()))
        self._end()
        self._read_on()
        self._cut_later()

    def _end(self) -> None:
        """Take nothing more, and tell the reader: later, for it may be in the middle of something."""
        if not self._is_over:
            self._is_over = True
            self._ping_timer = _without(self._ping_timer)
            self.loop.call_soon(self._say_gone)

    def _say_gone(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.gone()

    def _give_up(self) -> None:
        """The client has not read for too long: close, and cut if even that is not taken."""
        self._stalled = None
        if self._is_over or not self._is_open:
            self.transport.abort()
            return
        self._close(int(Close.SLOW_CONSUMER), "not reading")

    def _cut_later(self) -> None:
        """Closing waits for what is unsent and for the client's answer: with one that never reads, for ever."""
        if self._cut is None and not self._is_lost:
            self._cut = self.loop.call_later(_LAST_WORDS_S, self.transport.abort)

    def _cancel_timers(self) -> None:
        self._stalled = _without(self._stalled)
        self._cut = _without(self._cut)
        self._ping_timer = _without(self._ping_timer)

    # Keeping alive.

    def _schedule_ping(self) -> None:
        self._ping_timer = _without(self._ping_timer)
        interval = self._config.ws_ping_interval
        if interval:
            self._ping_timer = self.loop.call_later(interval, self._send_ping)

    def _send_ping(self) -> None:
        if self._is_over or self.transport.is_closing():
            return
        self._ping = os.urandom(4)
        self._write(_PING + self._ping)
        timeout = self._config.ws_ping_timeout
        if timeout is None:
            self._schedule_ping()
        else:
            self._ping_timer = self.loop.call_later(timeout, partial(self._close, 1011, "keepalive ping timeout"))


class _OneWrite:
    __slots__ = ("_is_outermost", "_socket")

    def __init__(self, socket: RawWebSocket) -> None:
        self._socket = socket
        self._is_outermost = False

    def __enter__(self) -> None:
        self._is_outermost = self._socket.hold()

    def __exit__(self, *_: object) -> None:
        if self._is_outermost:
            self._socket.release()


class _Handshake:
    """The part of a connection that is ASGI. Forgotten once the application has decided."""

    def __init__(self, socket: RawWebSocket, opening: Opening, config: "Config", app_state: dict[str, Any]) -> None:
        transport = socket.transport
        self._socket = socket
        self._accept = opening.accept
        self._is_connected = False
        self._is_answered = False
        self._denial: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None
        self.scope: WebSocketScope = {
            "type": "websocket",
            "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "root_path": config.root_path,
            "path": config.root_path + opening.path,
            "raw_path": config.root_path.encode("ascii") + opening.raw_path,
            "query_string": opening.query,
            "headers": opening.headers,
            "subprotocols": opening.subprotocols,
            "state": app_state.copy(),
            "extensions": cast("Any", {"websocket.http.response": {}, RAW_FRAMES: socket}),
        }

    async def run(self, app: Any) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        except Disconnected:
            pass
        except Exception:
            log.exception("Exception in ASGI application")
        if not self._is_answered:
            self._deny(500, [], b"Internal Server Error")
        self._socket.finish_handshake()

    async def _receive(self) -> "ASGIReceiveEvent":
        if self._is_connected:
            # Who takes the socket over reads there; everybody else is told that there is nothing to come.
            return {"type": "websocket.disconnect", "code": 1006}
        self._is_connected = True
        return {"type": "websocket.connect"}

    async def _send(self, message: "ASGISendEvent") -> None:
        if self._socket.is_lost:
            self._is_answered = True
            raise Disconnected("the client left during the handshake")
        if message["type"] == "websocket.accept":
            self._is_answered = True
            self._socket.accept(switching(self._accept, message.get("subprotocol"), message.get("headers", ())))
        elif message["type"] == "websocket.close":
            self._deny(403, [], b"")
        elif message["type"] == "websocket.http.response.start":
            self._denial = (message["status"], list(message.get("headers", ())), b"")
        elif message["type"] == "websocket.http.response.body" and self._denial is not None:
            status, headers, body = self._denial
            self._denial = (status, headers, body + message["body"])
            if not message.get("more_body", False):
                self._deny(*self._denial)
        else:
            raise RuntimeError(f"{message['type']} on a socket that is to be taken over")

    def _deny(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        if not self._is_answered:
            self._is_answered = True
            self._socket.answer_denied(denial(status, headers, body))


def bounded(backlog_bytes: int, stall_s: float) -> type[RawWebSocket]:
    """The protocol with other bounds."""
    bounds = {"__slots__": (), "backlog_bytes": backlog_bytes, "stall_s": stall_s}
    return type("BoundedRawWebSocket", (RawWebSocket,), bounds)


def _without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What is left of a timer once it is cancelled."""
    if timer is not None:
        timer.cancel()
    return None


def _header(length: int) -> bytes:
    """The header of an unfragmented, unmasked text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
