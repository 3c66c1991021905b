"""The web process as it runs: gunicorn, the worker, and how it leaves."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect

from app.asgi_worker import listeners_for_crowds, raise_descriptor_limit
from app.bus.sessions import SessionStore
from app.domain.protocol import SUBPROTOCOL, Close
from app.websocket.descriptors import connections_permitted
from tests.websocket.conftest import Client

PROJECT = Path(__file__).resolve().parents[2]
DRAIN_S = 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def gunicorn(port: int, redis_url: str, database_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")} | {
        "TIDEMARK_PORT": str(port),
        "TIDEMARK_WEB_WORKERS": "1",
        "TIDEMARK_DRAIN_S": str(DRAIN_S),
        "TIDEMARK_LOG_LEVEL": "warning",
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
    }
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "gunicorn"),
        "app.main:app",
        "-c",
        "gunicorn.conf.py",
        cwd=PROJECT,
        env=environment,
    )
    try:
        async with asyncio.timeout(20):
            while process.returncode is None and not await is_listening(port):
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def is_listening(port: int) -> bool:
    """Whether a request is answered: the listener alone is there before the worker."""
    try:
        return (await get(port, "/livez")).startswith(b"HTTP/1.1")
    except (OSError, TimeoutError):
        return False


async def get(port: int, path: str) -> bytes:
    """The whole answer to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(2):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def stream_of(port: int, token: str, **options: int) -> connect:
    return connect(
        f"ws://127.0.0.1:{port}/api/v1/stream",
        origin=f"http://127.0.0.1:{port}",  # type: ignore[arg-type]
        additional_headers={"Cookie": f"tidemark={token}"},
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        proxy=None,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
async def token(redis: Redis) -> str:
    store = SessionStore(redis, timeout_s=2.0, idle_s=60, absolute_s=60)
    token, _ = await store.create("alice", "alice")
    return token


async def test_a_stopped_process_drains_its_streams_first(redis_url: str, token: str, database_url: str) -> None:
    port = free_port()
    async with gunicorn(port, redis_url, database_url) as process:
        sockets: list[ClientConnection] = [await stream_of(port, token) for _ in range(3)]
        clients = [Client(one) for one in sockets]
        for client in clients:
            assert (await client.next())["type"] == "hello"
        stuck = await stream_of(port, token, max_queue=1)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            assert await client.closed(10) == Close.DRAINING
            assert "going_away" in {frame["type"] for frame in client.frames}
        async with asyncio.timeout(15):
            assert await process.wait() == 0
        stuck.transport.abort()


async def test_a_worker_does_not_outlive_its_supervisor(redis_url: str, token: str, database_url: str) -> None:
    port = free_port()
    async with gunicorn(port, redis_url, database_url) as process:
        client = Client(await stream_of(port, token))
        process.kill()
        assert await client.closed(10) == Close.DRAINING
        async with asyncio.timeout(10):
            while await accepts(port):
                await asyncio.sleep(0.05)


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def test_the_stream_describes_itself_and_does_not_compress(redis_url: str, token: str, database_url: str) -> None:
    port = free_port()
    async with gunicorn(port, redis_url, database_url):
        socket = await stream_of(port, token)
        assert "Sec-WebSocket-Extensions" not in socket.response.headers  # type: ignore[union-attr]
        await socket.close()
        assert b'"asyncapi":"3.0.0"' in await get(port, "/asyncapi.json")


@pytest.fixture
def descriptor_limit() -> Iterator[Callable[[int], None]]:
    """Sets this process's limit of file descriptors, and puts it back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_connections_are_bounded_by_the_file_descriptors(descriptor_limit: Callable[[int], None]) -> None:
    descriptor_limit(1000)

    assert connections_permitted(20_000) == 600
    assert connections_permitted(10) == 10


def test_of_many_file_descriptors_most_are_for_clients(descriptor_limit: Callable[[int], None]) -> None:
    descriptor_limit(10_000)

    assert connections_permitted(20_000) == 8_000


def test_the_soft_limit_of_file_descriptors_is_raised_to_the_hard_one(
    descriptor_limit: Callable[[int], None],
) -> None:
    descriptor_limit(500)

    raise_descriptor_limit()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


def test_a_crowd_is_let_in_many_at_a_turn_of_the_event_loop() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        assert uvloop.run(_turns_to_accept(64, [listener])) >= 64, "uvloop accepts more now: one listener would do"
        crowd = listeners_for_crowds([listener])
        assert uvloop.run(_turns_to_accept(64, crowd)) <= 64 // 4
        for each in crowd:
            each.close()


async def _turns_to_accept(count: int, listeners: list[socket.socket]) -> int:
    """How many turns of the running loop it takes to accept so many clients that wait."""
    loop = asyncio.get_running_loop()
    accepted: list[asyncio.BaseTransport] = []

    class Guest(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(count)]
    servers = [await loop.create_server(Guest, sock=listener.dup()) for listener in listeners]
    turns = 0
    while len(accepted) < count:
        turns += 1
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    for transport in accepted:
        transport.close()
    for client in clients:
        client.close()
    await asyncio.gather(*(server.wait_closed() for server in servers))
    return turns
