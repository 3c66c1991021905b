"""A real server on a real socket, a real Redis, and clients that talk to it."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from redis.asyncio import Redis
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.bus import keys
from app.bus.cluster import ClusterRedis
from app.bus.interest import InterestPublisher
from app.bus.slots import slot_of_key
from app.domain.protocol import SUBPROTOCOL
from app.http_protocol import FrontDoor
from app.websocket.admission import Identity, SessionsUnavailable
from app.websocket.endpoint import router
from app.websocket.events import EventNotice, EventsUnavailable
from app.websocket.limits import StreamLimits
from app.websocket.stream import Stream, open_stream
from app.websocket.transport import RawWebSocket, bounded
from tests.websocket.market import Market, now_ms

FOREVER_MS = 253_402_300_799_000


class KnownSessions:
    """Sessions in a dictionary: a cookie or token is its own session id."""

    def __init__(self) -> None:
        self.users = {"alice-1": "alice", "alice-2": "alice", "bob-1": "bob"}
        self.blind = {"eve-1": "eve"}
        """Tokens that may do something, but not read."""
        self.is_reachable = True
        self.expires_ms = FOREVER_MS
        self.asked = 0
        self.answers_after_s = 0.0

    async def by_cookie(self, cookies: Mapping[str, str]) -> Identity | None:
        await asyncio.sleep(self.answers_after_s)
        return self._find(cookies.get("tidemark", ""))

    async def by_token(self, token: str) -> Identity | None:
        if token in self.blind:
            return Identity(self.blind[token], token, self.expires_ms, is_token=True, may_read=False)
        return self._find(token)

    async def is_alive(self, identity: Identity) -> bool:
        self.asked += 1
        return self._find(identity.session_id) is not None

    def _find(self, session_id: str) -> Identity | None:
        if not self.is_reachable:
            raise SessionsUnavailable
        user_id = self.users.get(session_id)
        return None if user_id is None else Identity(user_id, session_id, self.expires_ms)


class KeptEvents:
    """Events in a dictionary."""

    def __init__(self) -> None:
        self.of: dict[str, list[EventNotice]] = {}
        self.is_reachable = True

    async def since(self, user_id: str, seq: int, limit: int) -> Sequence[EventNotice] | None:
        if not self.is_reachable:
            raise EventsUnavailable
        events = [event for event in self.of.get(user_id, []) if event.seq > seq]
        return events if len(events) <= limit else None


class Client:
    """A browser, as far as the stream sees one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def next(self, kind: str | None = None, within_s: float = 5.0) -> dict[str, Any]:
        """The next frame, or the next of a type; what is passed over stays in ``frames``."""
        async with asyncio.timeout(within_s):
            while True:
                frame: dict[str, Any] = json.loads(await self.socket.recv())
                self.frames.append(frame)
                if kind is None or frame["type"] == kind:
                    return frame

    async def ask(self, kind: str, **message: Any) -> dict[str, Any]:
        """Say something and give the answer of a type."""
        await self.say(**message)
        return await self.next(kind)

    async def closed(self, within_s: float = 5.0) -> int:
        """Read to the end; the close code."""
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionClosed):
                while True:
                    self.frames.append(json.loads(await self.socket.recv()))
        assert self.socket.close_code is not None
        return self.socket.close_code


class Server:
    """One web process: uvicorn and a stream, in this loop."""

    def __init__(self, stream: Stream, port: int, market: Market, sessions: KnownSessions, events: KeptEvents) -> None:
        self.stream = stream
        self.port = port
        self.market = market
        self.sessions = sessions
        self.events = events
        self.crashes: list[str] = []
        self._clients = AsyncExitStack()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self, session: str = "alice-1", **options: Any) -> Client:
        """A client that has read its ``hello``."""
        client = await self.open(session, **options)
        hello = await client.next()
        assert hello["type"] == "hello"
        return client

    async def open(self, session: str | None = "alice-1", **options: Any) -> Client:
        headers = {} if session is None else {"Cookie": f"tidemark={session}"}
        defaults: dict[str, Any] = {
            "origin": self.origin,
            "additional_headers": headers,
            "subprotocols": [SUBPROTOCOL],
            "compression": None,
            "proxy": None,
        }
        url = f"ws://127.0.0.1:{self.port}/api/v1/stream"
        socket = await self._clients.enter_async_context(connect(url, **defaults | options))
        return Client(socket)

    async def settle(self) -> None:
        """Have the market's first flush taken over."""
        await self.market.everything()
        await until(lambda: self.stream.state.position.flush == self.market.flush_number)

    async def close(self) -> None:
        await self._clients.aclose()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait for a condition, letting other tasks run."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def accepting(config: uvicorn.Config, listener: socket.socket, state: dict[str, Any]) -> AsyncIterator[None]:
    """uvicorn's protocols on a listener, without the rest of its server and its leisurely stop."""
    config.load()
    shared = ServerState()

    def protocol() -> asyncio.Protocol:
        protocol_class: Any = config.http_protocol_class
        made: asyncio.Protocol = protocol_class(config=config, server_state=shared, app_state=state)
        return made

    accepted = await asyncio.get_running_loop().create_server(protocol, sock=listener)
    try:
        yield
    finally:
        accepted.close()
        for connection in list(shared.connections):
            connection.shutdown()
        await until(lambda: not shared.connections and not shared.tasks)


LISTED = {"BTCUSDT", "ETHUSDT", "１２３４５６", *(f"S{n}USDT" for n in range(300))}


@asynccontextmanager
async def serving(
    redis: Redis,
    *,
    ws: type[RawWebSocket] | str = RawWebSocket,
    http: type[asyncio.Protocol] = FrontDoor,
    limits: StreamLimits | None = None,
    sweep_s: float = 25.0,
    origins: Sequence[str] = ("https://good.example",),
    send_buffer: int = 16_384,
) -> AsyncIterator[Server]:
    """Run a server for as long as the block runs."""
    sessions, events = KnownSessions(), KeptEvents()
    instance_id = f"web-{now_ms()}"
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    app = FastAPI()
    app.include_router(router)
    crashes: list[str] = []
    async with open_stream(
        redis=redis,
        instance_id=instance_id,
        limits=limits or StreamLimits(),
        prices_stale_after_ms=5000,
        redis_timeout_s=2.0,
        sessions=sessions,
        events=events,
        interest=InterestPublisher(redis, instance_id, 2.0),
        is_listed=LISTED.__contains__,
        origins=origins,
        on_crash=lambda: crashes.append("crashed"),
        sweep_s=sweep_s,
    ) as stream:
        config = uvicorn.Config(
            app,
            ws=ws,  # type: ignore[arg-type]
            http=http,
            ws_per_message_deflate=False,
            ws_max_size=4096,
            log_config=None,
            log_level="critical",
        )
        market = Market(redis, instance_id)
        server = Server(stream, listener.getsockname()[1], market, sessions, events)
        server.crashes = crashes
        await _subscribed(redis, instance_id)
        async with accepting(config, listener, {"stream": stream}):
            yield server
            await server.close()
    assert crashes == []


async def _subscribed(redis: Redis, instance_id: str) -> None:
    """Wait until the stream listens, for what is published before is lost."""
    async with asyncio.timeout(5):
        while not await _subscribers(redis, keys.pnl_channel(instance_id)):
            await asyncio.sleep(0.005)


async def _subscribers(redis: Redis, channel: str) -> int:
    if isinstance(redis, ClusterRedis):
        owner = redis.node(await redis.owner(slot_of_key(channel)))
        counts = await owner.execute_command("PUBSUB SHARDNUMSUB", channel)
    else:
        counts = await redis.execute_command("PUBSUB NUMSUB", channel)
    return int(counts[1] if isinstance(counts, list) and not isinstance(counts[0], (list, tuple)) else counts[0][1])


@pytest.fixture
async def server(redis: Redis) -> AsyncIterator[Server]:
    """A server whose market has had its first flush."""
    async with serving(redis) as running:
        await running.settle()
        yield running


@pytest.fixture
def slow_consumer_protocol() -> type[RawWebSocket]:
    """Small bounds, so that a slow client is found out soon."""
    return bounded(16_384, 0.5)
