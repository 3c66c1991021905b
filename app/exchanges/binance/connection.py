"""One WebSocket to Binance, from the handshake to its end."""

import asyncio
from collections.abc import Callable, Set
from typing import Literal, NoReturn, Protocol

import msgspec
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from app.exchanges.binance import endpoints
from app.exchanges.binance.liveness import ConnectionState, Liveness
from app.exchanges.binance.messages import Envelope, ErrorBody, Malformed, decode_envelope
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.rest import retry_after_s
from app.exchanges.binance.socket import MAX_MESSAGE_BYTES, StreamSocket
from app.exchanges.binance.subscriptions import Refusals, Subscriptions
from app.exchanges.binance.timing import Timing

log = structlog.get_logger(__name__)

_BANNED = 418
_BAN_S = 120.0


class ConnectionLost(Exception):
    """The connection ended, or must. ``retry_after_s`` is what the exchange demands before the next."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class StreamReceiver(Protocol):
    """Whoever takes what the streams of one connection bring."""

    def receive(self, stream: str, data: msgspec.Raw) -> None:
        """Take the data of a stream. Raises Malformed."""

    def malformed(self) -> None:
        """A message could not be read."""


class StreamConnection:
    """One connection to the combined streams, kept in step with the streams it should have.

    ``desired`` is asked for again at each :meth:`wake`. ``live`` is set by the
    first data, ``ready`` when moreover every desired stream is confirmed (and
    again after a change, with a call of ``on_ready``); ``going_away`` when the
    exchange says that it will close.
    """

    def __init__(
        self,
        base_url: str,
        desired: Callable[[], Set[str]],
        receiver: StreamReceiver,
        timing: Timing,
        refusals: Refusals,
        on_ready: Callable[[], None],
    ) -> None:
        self.live = asyncio.Event()
        self.ready = asyncio.Event()
        self.going_away = asyncio.Event()
        self._base_url = base_url
        self._desired = desired
        self._receiver = receiver
        self._timing = timing
        self._on_ready = on_ready
        self._now = asyncio.get_running_loop().time
        self._liveness = Liveness(timing)
        self._control = RollingLimit(timing.control_messages, timing.control_window_s)
        self._subscriptions = Subscriptions(timing.batch, refusals)
        self._changed = asyncio.Event()

    @property
    def state(self) -> ConnectionState:
        return self._liveness.state(self._now())

    def wake(self) -> None:
        """The desired streams may have changed."""
        self.ready.clear()
        self._changed.set()

    async def run(self) -> ConnectionLost:
        """Live until the connection ends, and say why it did. Cancel to close it in good order."""
        try:
            socket = await self._open()
            try:
                await self._converse(socket)
            except ConnectionLost:
                # What is lost is not worth the wait for a closing handshake.
                socket.transport.abort()
                raise
            finally:
                await socket.close()
        except ConnectionLost as lost:
            return lost
        finally:
            self._liveness.closed()

    async def _open(self) -> StreamSocket:
        proxy: Literal[True] | None = None if endpoints.is_loopback(self._base_url) else True
        try:
            socket = await connect(
                self._base_url + endpoints.COMBINED_STREAMS,
                create_connection=StreamSocket,
                compression=None,
                proxy=proxy,
                open_timeout=self._timing.open_s,
                ping_interval=None,  # the exchange pings; an own ping would count against the limit
                close_timeout=self._timing.close_s,
                max_size=MAX_MESSAGE_BYTES,
            )
        except InvalidStatus as error:
            raise ConnectionLost(
                f"refused with status {error.response.status_code}", _demand_s(error.response)
            ) from None
        except (InvalidHandshake, OSError, EOFError) as error:
            raise ConnectionLost(f"cannot connect: {error or type(error).__name__}") from error
        assert isinstance(socket, StreamSocket)
        socket.on_frame, socket.on_ping = self._saw_frame, self._saw_ping
        self._liveness.opened(self._now())
        return socket

    async def _converse(self, socket: StreamSocket) -> NoReturn:
        """Read, subscribe and watch. Raises ConnectionLost."""
        ended: ConnectionLost | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(socket), name="binance.read")
                tasks.create_task(self._subscribe(socket), name="binance.subscribe")
                tasks.create_task(self._watch(), name="binance.watch")
        except* ConnectionLost as lost:
            ended = _first(lost)
        assert ended is not None, "none of the tasks returns"
        raise ended

    async def _read(self, socket: StreamSocket) -> NoReturn:
        try:
            while True:
                for message in await socket.receive():
                    self._receive(message)
        except ConnectionClosed as error:
            raise ConnectionLost(f"closed: {error}") from None

    async def _subscribe(self, socket: StreamSocket) -> NoReturn:
        """Keep the subscriptions in step with what is desired, one paced request after another."""
        while True:
            self._changed.clear()
            request = self._subscriptions.next_request(self._desired())
            if request is None:
                await self._changed.wait()
                continue
            await self._pace()
            try:
                async with asyncio.timeout(self._timing.ack_s):
                    await socket.send(msgspec.json.encode(request).decode())
                    while self._subscriptions.is_waiting:
                        await self._changed.wait()
                        self._changed.clear()
            except TimeoutError:
                raise ConnectionLost("a request was not answered") from None
            except ConnectionClosed as error:
                raise ConnectionLost(f"closed: {error}") from None

    async def _pace(self) -> None:
        delay_s = self._control.delay_s(self._now())
        while delay_s > 0:
            await asyncio.sleep(delay_s)
            delay_s = self._control.delay_s(self._now())
        self._control.spend(self._now())

    async def _watch(self) -> NoReturn:
        while True:
            now = self._now()
            if reason := self._liveness.failure(now):
                raise ConnectionLost(reason)
            await asyncio.sleep(self._liveness.check_at(now) - now)

    def _saw_frame(self) -> None:
        self._liveness.frame(self._now())

    def _saw_ping(self) -> None:
        self._control.spend(self._now())  # the pong counts

    def _receive(self, frame: bytes) -> None:
        try:
            envelope = decode_envelope(frame)
            if envelope.stream is None or envelope.is_server_shutdown:
                self._take_notice(envelope)
            else:
                self._receiver.receive(envelope.stream, envelope.data)
                self._liveness.data(self._now())
                if not self.ready.is_set():
                    self._note_progress()
        except Malformed:
            self._receiver.malformed()

    def _take_notice(self, envelope: Envelope) -> None:
        """Take what is not data: a farewell, or the answer to a request."""
        if envelope.is_server_shutdown:
            self.going_away.set()
        elif (error := envelope.refusal) is not None:
            self._refused(envelope.id, error)
        elif envelope.id is not None:
            self._subscriptions.confirm(envelope.id)
            self._liveness.acked()
        self._changed.set()
        self._note_progress()

    def _refused(self, request_id: int | str | None, error: ErrorBody) -> None:
        refused = self._subscriptions.refuse(request_id)
        streams = [] if refused is None else refused.params
        log.warning("binance.request_refused", code=error.code, reason=error.msg, streams=streams[:5], of=len(streams))

    def _note_progress(self) -> None:
        if self._liveness.state(self._now()) in (ConnectionState.LIVE, ConnectionState.STALE):
            self.live.set()
            if not self.ready.is_set() and self._subscriptions.is_settled(self._desired()):
                self.ready.set()
                self._on_ready()


def _demand_s(refusal: Response) -> float:
    """How long a refused handshake tells to keep away. A ban lasts two minutes at least."""
    stated = retry_after_s(refusal.headers.get("Retry-After"))
    if stated is None:
        return _BAN_S if refusal.status_code == _BANNED else 0.0
    return stated


def _first(group: BaseExceptionGroup[ConnectionLost]) -> ConnectionLost:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConnectionLost)
    return error
