"""uvicorn's HTTP protocol with what it lacks: a short way to the stream, and bounds on a head that does not end.

A crowd that comes back opens thousands of WebSockets within seconds. Making an
HTTP protocol, an ASGI scope and a Starlette object for each, to take the socket
over at once, was a third of what a connection costs. So a front door looks at the
first bytes: a handshake of the stream that leaves nothing to be asked goes
straight to it, and everything else, in every detail, to uvicorn.

uvicorn waits for ever for the first byte and for the last header line, and keeps
whatever comes between. Bodies are bounded where they are read, in the API.

It leans on attributes of uvicorn that are no documented interface, hence the
exact pin of uvicorn and the tests on real sockets.
"""

import asyncio
from asyncio.transports import BaseTransport, Transport
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_remote_addr, is_ssl

from app.websocket.admission import Asking
from app.websocket.endpoint import stream_directly
from app.websocket.handshake import PlainOpening, read_plain_opening
from app.websocket.stream import Stream
from app.websocket.transport import RawWebSocket

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

_MOST_HEAD_BYTES = 65_536


class BoundedHttp(HttpToolsProtocol):
    """One connection. Pass the class as uvicorn's ``http``."""

    head_within_s = 10.0
    """How long the head of a request may take to arrive; between requests uvicorn's own keep-alive time counts."""

    _head_due: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._head_due is None:
            self._expect_head()

    def go_on(self, transport: asyncio.Transport, head_due: asyncio.TimerHandle) -> None:
        """Take over a connection that has waited for its first bytes elsewhere. ``head_due`` ends it."""
        self._head_due = head_due
        transport.set_protocol(self)
        self.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._have_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_due is None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_due is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._have_head()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_due = self.loop.call_later(self.head_within_s, self.transport.close)

    def _have_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


class FrontDoor(asyncio.Protocol):
    """A connection until its first bytes. Pass the class as uvicorn's ``http``."""

    __slots__ = ("_app_state", "_config", "_head_due", "_loop", "_server_state", "_transport")

    http: type[BoundedHttp] = BoundedHttp

    def __init__(
        self,
        config: "Config",
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: Transport
        self._head_due: asyncio.TimerHandle

    def connection_made(self, transport: BaseTransport) -> None:
        self._transport = cast("Transport", transport)
        self._server_state.connections.add(cast("Any", self))
        self._head_due = self._loop.call_later(self.http.head_within_s, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(cast("Any", self))
        self._head_due.cancel()

    def shutdown(self) -> None:
        """The server stops, and nothing was asked."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._server_state.connections.discard(cast("Any", self))
        opening = read_plain_opening(data)
        stream = self._app_state.get("stream")
        ws_class: Any = self._config.ws_protocol_class
        if opening is not None and isinstance(stream, Stream) and _is_raw(ws_class):
            self._head_due.cancel()
            self._enter(opening, stream, ws_class)
            return
        http = self.http(self._config, self._server_state, self._app_state, self._loop)
        http.go_on(self._transport, self._head_due)
        http.data_received(data)

    def _enter(self, opening: PlainOpening, stream: Stream, ws_class: type[RawWebSocket]) -> None:
        raw = ws_class(self._config, self._server_state, self._app_state, self._loop)
        raw.connection_made(self._transport)
        self._transport.set_protocol(raw)
        asking = _asking(opening, *self._seen_through_proxies(opening.headers))
        raw.decide(stream_directly(stream, asking, opening.accept, raw), opening.rest)

    def _seen_through_proxies(self, headers: Mapping[str, str]) -> tuple[str | None, str]:
        """The client's address and scheme: what uvicorn's middleware makes of them, for the same proxies."""
        peer = get_remote_addr(self._transport)
        address = None if peer is None else peer[0]
        scheme = "wss" if is_ssl(self._transport) else "ws"
        app = self._config.loaded_app
        if not isinstance(app, ProxyHeadersMiddleware) or address not in app.trusted_hosts:
            return address, scheme
        said = headers.get("x-forwarded-proto", "")
        if said in {"http", "https", "ws", "wss"}:
            scheme = said.replace("http", "ws")
        hosts = headers.get("x-forwarded-for")
        if hosts is not None:
            address = app.trusted_hosts.get_trusted_client_address(hosts)[0] or address
        return address, scheme


def _is_raw(ws_class: object) -> bool:
    return isinstance(ws_class, type) and issubclass(ws_class, RawWebSocket)


def _asking(opening: PlainOpening, address: str | None, scheme: str) -> Asking:
    headers = opening.headers
    return Asking(
        address=address,
        scheme=scheme,
        host=headers.get("host"),
        origins=[headers["origin"]] if "origin" in headers else (),
        authorization=headers.get("authorization", ""),
        cookies=[headers["cookie"]] if "cookie" in headers else (),
        subprotocols=opening.subprotocols,
    )
