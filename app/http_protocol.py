"""uvicorn's HTTP protocol with what it lacks: bounds on a request whose head does not end.

uvicorn waits for ever for the first byte and for the last header line, and keeps
whatever comes between. Bodies are bounded where they are read, in the API.

It leans on attributes of uvicorn that are no documented interface, hence the
exact pin of uvicorn and the tests on real sockets.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEAD_BYTES = 65_536


class BoundedHttp(HttpToolsProtocol):
    """One connection. Pass the class as uvicorn's ``http``."""

    head_within_s = 10.0
    """How long the head of a request may take to arrive; between requests uvicorn's own keep-alive time counts."""

    _head_due: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

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
