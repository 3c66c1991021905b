"""Bounds on requests that do not arrive: clients that send nothing, or headers without end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.http_protocol import BoundedHttp
from tests.websocket.conftest import accepting

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"


class HurriedHttp(BoundedHttp):
    head_within_s = 0.3


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("here")(scope, receive, send)


@asynccontextmanager
async def listening(protocol: type[HttpToolsProtocol]) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answer, http=protocol, log_config=None, log_level="critical", timeout_keep_alive=30)
    async with accepting(config, listener, {}):
        yield listener.getsockname()[1]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening(HurriedHttp) as port:
        yield port


async def is_ended(port: int, *sent: bytes) -> bool:
    """Whether the server ends a connection on which this was sent, within a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(1):
            for data in sent:
                writer.write(data)
                await writer.drain()
            await reader.read()
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        writer.transport.abort()
    return True


@pytest.mark.parametrize("sent", [b"", b"G", GET, GET + b"X: y"], ids=["nothing", "a letter", "a line", "half a line"])
async def test_a_head_that_does_not_come_is_not_waited_for(port: int, sent: bytes) -> None:
    assert await is_ended(port, sent)


async def test_a_second_head_on_the_same_connection_is_not_waited_for_either(port: int) -> None:
    assert await is_ended(port, GET + b"\r\n", GET)


async def test_uvicorn_alone_waits() -> None:
    async with listening(HttpToolsProtocol) as port:
        assert not await is_ended(port, GET)


async def test_endless_headers_are_cut_off() -> None:
    async with listening(BoundedHttp) as port:
        assert await is_ended(port, GET, *[b"X: " + b"y" * 30_000] * 100)


async def test_between_requests_a_connection_stays_as_long_as_keep_alive_says(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(GET + b"\r\n")
        assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(2 * HurriedHttp.head_within_s)
    writer.close()
    await writer.wait_closed()
