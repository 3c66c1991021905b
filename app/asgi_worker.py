"""The gunicorn worker: uvicorn with the stream's WebSocket protocol, and a drain before the goodbye.

uvicorn closes every socket at once when it is told to stop, and the lifespan
ends only afterwards. So the drain is hooked into the server's own shutdown,
where the sockets are still open and the listener is already closed.
"""

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

import uvicorn
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from app.entry.logging import configure_logging
from app.http_protocol import FrontDoor
from app.settings import Settings
from app.websocket.descriptors import connections_permitted
from app.websocket.stream import Stream
from app.websocket.transport import bounded

GRACE_S: Final = 3
"""How long requests and sockets that are left after the drain may take to end."""

_SEND_BUFFER_BYTES: Final = 32_768
"""The kernel's share of a client's backlog (it takes twice that). Left to itself it grows to megabytes."""

_ACCEPTED_AT_ONCE: Final = 16
"""How many connections a turn of the event loop may accept: more would keep those who are here waiting."""

_UNACKNOWLEDGED_MS: Final = 10_000
"""After this long without an answer to sent data the kernel gives a connection up."""

_BUSY: Final = 1_000
"""Connections of one process below which its limit of file descriptors is worth a warning."""


class StreamServer(uvicorn.Server):
    """uvicorn's server, which sends streaming clients away before it closes what is left."""

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s
        self._parent = os.getppid()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then take what start-up made out of the collector's sight."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        # A full collection over the objects of ten thousand connections stops the process for a second, and what
        # a few hundred frames are built from would start a small one each time, to find that nothing is left of it.
        gc.set_threshold(50_000, 20, 1_000)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop. An orphan would serve on, unsupervised, on a port that its successor needs."""
        return await super().on_tick(counter) or os.getppid() != self._parent

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nobody new, drain, then stop as uvicorn does."""
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        """Send streaming clients away. A second signal cuts it short."""
        stream = self.lifespan.state.get("stream")
        if not isinstance(stream, Stream):
            return
        draining = asyncio.create_task(stream.drain(self._drain_s), name="stream.drain")
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        await asyncio.wait([draining])


class StreamWorker(UvicornWorker):  # type: ignore[misc] # The package has no types.
    """One web process under gunicorn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._settings = Settings()
        self.CONFIG_KWARGS = uvicorn_options(self._settings)
        super().__init__(*args, **kwargs)
        if self._settings.log_level != "debug":
            # At INFO it writes lines for every connection, which a reconnecting crowd would turn into a storm.
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    def init_process(self) -> None:
        """Set up the process after the fork, then serve."""
        configure_logging(level=self._settings.log_level, log_format=self._settings.log_format, process="web")
        for listener in self.sockets:
            bound_connections(listener)
        super().init_process()

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        server = StreamServer(self.config, self._settings.drain_s)
        self._install_sigquit_handler()
        await server.serve(sockets=listeners_for_crowds(self.sockets))
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """uvicorn's configuration."""
    return {
        "loop": "uvloop",
        "http": FrontDoor,
        "ws": bounded(settings.stream_backlog_bytes, settings.stream_stall_s),
        "ws_max_size": settings.stream_max_message_bytes,
        "ws_ping_interval": 20,
        "ws_ping_timeout": 20,
        # Compression costs two to five times the CPU and twice the memory of a connection.
        "ws_per_message_deflate": False,
        "timeout_graceful_shutdown": GRACE_S,
        "server_header": False,
    }


def listeners_for_crowds(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """The listeners many times over, so that many connections are accepted in one turn of the event loop.

    uvloop accepts one per listener and turn. A turn in which frames go out takes
    ten milliseconds, so through one listener ten thousand clients that come back
    at once would be let in over minutes.
    """
    return [
        each for listener in listeners for each in (listener, *(listener.dup() for _ in range(_ACCEPTED_AT_ONCE - 1)))
    ]


def bound_connections(listener: socket.socket) -> None:
    """Bound what the kernel keeps for each connection; accepted sockets inherit it from their listener."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if listener.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)


def raise_descriptor_limit() -> str | None:
    """Allow this process and its children as many file descriptors as permitted.

    Gives a warning where that is too few for a busy server.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = connections_permitted(_BUSY)
    if room >= _BUSY:
        return None
    return f"only {room} connections per process: {hard} file descriptors are allowed; raise the limit (ulimit -Hn)"
