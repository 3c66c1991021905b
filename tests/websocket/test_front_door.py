"""The short way to the stream: whatever is asked, the answer is the one that the long way gives."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from redis.asyncio import Redis

from app.domain.protocol import SUBPROTOCOL
from app.http_protocol import BoundedHttp, FrontDoor
from app.websocket.handshake import read_plain_opening
from app.websocket.limits import StreamLimits
from tests.websocket.conftest import Server, accepting, serving
from tests.websocket.test_http_head import answer as plain_application

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

_CHANGING = (
    re.compile(rb'"(?:request_id|connection_id)":"[0-9a-f]+"'),
    re.compile(rb'"server_time_ms":[0-9]+'),
    re.compile(rb"date: [^\r]+"),
    re.compile(rb"(?<=\r\n\r\n)\x81\x7e.."),
)
_USUAL = {
    "Host": "there",
    "Origin": "http://there",
    "Cookie": "other=1; tidemark=alice-1",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": SUBPROTOCOL,
}


def head(*more: str, start: str = "GET /api/v1/stream HTTP/1.1", **changes: str | None) -> bytes:
    """The head of a handshake; ``Sec_WebSocket_Key=None`` leaves a header out, ``more`` are lines behind."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in {**_USUAL, **changed}.items() if value is not None]
    return "\r\n".join((start, *lines, *more, "", "")).encode("latin-1")


HANDSHAKES = {
    "usual": head(),
    "query": head(start="GET /api/v1/stream?v=1 HTTP/1.1"),
    "spaces around values": head(Origin="  http://there \t"),
    "names in any case": head().replace(b"Sec-WebSocket-Key", b"SEC-websocket-KEY"),
    "upgrade in any case": head(Upgrade="WebSocket", Connection="UPGRADE"),
    "several subprotocols": head(Sec_WebSocket_Protocol=f"one, {SUBPROTOCOL} ,two"),
    "extensions offered": head(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"),
    "token": head(Origin=None, Cookie=None, Authorization="Bearer bob-1"),
    "token in any case": head(Origin=None, Authorization="bEARER   bob-1 "),
    "token that may not read": head(Origin=None, Authorization="Bearer eve-1"),
    "no token at all": head(Origin=None, Authorization="Bearer "),
    "two tokens": head("Authorization: Bearer nobody", Origin=None, Authorization="Bearer bob-1"),
    "another origin": head(Origin="http://elsewhere"),
    "two origins": head("Origin: http://there"),
    "no origin": head(Origin=None),
    "no host": head(Host=None),
    "allowed origin": head(Origin="https://good.example"),
    "own origin by https": head(Origin="https://there"),
    "https at the proxy": head("X-Forwarded-Proto: https", Origin="https://there"),
    "wss at the proxy": head("X-Forwarded-Proto: wss ", Origin="https://there"),
    "nonsense at the proxy": head("X-Forwarded-Proto: gopher", Origin="https://there"),
    "http at the proxy": head("X-Forwarded-Proto: http", Origin="https://there"),
    "address at the proxy": head("X-Forwarded-For: 203.0.113.7"),
    "addresses of several proxies": head("X-Forwarded-For: 203.0.113.9, 203.0.113.7, 127.0.0.1"),
    "addresses in two headers": head("X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 203.0.113.7"),
    "address with a port": head("X-Forwarded-For: 203.0.113.7:4000"),
    "empty address": head("X-Forwarded-For: "),
    "no cookie": head(Cookie=None),
    "empty cookie": head(Cookie="tidemark="),
    "cookie of nobody": head(Cookie="tidemark=nobody"),
    "cookie in quotes": head(Cookie='tidemark="alice-1"'),
    "the last of two cookies": head(Cookie="tidemark=nobody; tidemark=alice-1"),
    "two cookie headers": head("Cookie: tidemark=nobody"),
    "cookie with other letters": head(Cookie="tidemark=\xe9; x=\xff"),
    "wrong subprotocol": head(Sec_WebSocket_Protocol="chat"),
    "no subprotocol": head(Sec_WebSocket_Protocol=None),
    "old version": head(Sec_WebSocket_Version="8"),
    "no version": head(Sec_WebSocket_Version=None),
    "short key": head(Sec_WebSocket_Key="short"),
    "no key": head(Sec_WebSocket_Key=None),
    "two keys": head(f"Sec-WebSocket-Key: {KEY}"),
    "no upgrade": head(Upgrade=None),
    "another upgrade": head(Upgrade="h2c"),
    "no connection": head(Connection="close"),
    "HTTP/1.0": head(start="GET /api/v1/stream HTTP/1.0"),
    "POST": head("Content-Length: 0", start="POST /api/v1/stream HTTP/1.1"),
    "with a body": head("Content-Length: 3"),
    "another path": head(start="GET /api/v1/streams HTTP/1.1"),
    "the path in percent": head(start="GET /api/v1/str%65am HTTP/1.1"),
    "whole address": head(start="GET http://there/api/v1/stream HTTP/1.1"),
    "malformed name": head("Bad Name: 1"),
    "name without a value": head("nothing"),
    "control character": head("X: a\x01b"),
    "zero": head("X: a\x00b"),
    "bare line feed": head().replace(b"\r\n", b"\n"),
    "folded line": head("X: a", " b"),
    "much": head("X: " + "x" * 9000),
    "many": head(*(f"X-{number}: 1" for number in range(200))),
}


async def answer_of(port: int, request: bytes, *, first: int = 0) -> bytes:
    """What comes back first, without what differs from one time to the next. ``first`` bytes are sent alone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if first:
        writer.write(request[:first])
        await asyncio.sleep(0.005)
    writer.write(request[first:])
    received = b""
    async with asyncio.timeout(5):
        while not _is_whole(received) and (more := await reader.read(65_536)):
            received += more
    writer.transport.abort()
    # Behind it is the state of the feed, and the length of the frame before it hangs on that.
    received = received.partition(b'"feed"')[0]
    for pattern in _CHANGING:
        received = pattern.sub(b"", received)
    return received


def _is_whole(received: bytes) -> bool:
    return b'"feed"' in received and received.startswith(b"HTTP/1.1 101")


@pytest.fixture
async def both(redis: Redis) -> AsyncIterator[tuple[Server, Server]]:
    """A server behind the front door, and one without it."""
    async with serving(redis) as short, serving(redis, http=BoundedHttp) as long:
        yield short, long


@pytest.mark.parametrize("first", [0, 1, 40])
async def test_every_handshake_is_answered_as_on_the_long_way(both: tuple[Server, Server], first: int) -> None:
    short, long = both
    for name, request in HANDSHAKES.items():
        answers = [await answer_of(server.port, request, first=first) for server in (short, long)]
        assert answers[0] == answers[1], name
        assert answers[0].startswith(b"HTTP/1.1 "), name


async def test_the_short_way_is_the_one_of_browsers(both: tuple[Server, Server]) -> None:
    taken = {name for name, request in HANDSHAKES.items() if read_plain_opening(request) is not None}
    assert {"usual", "extensions offered", "token", "another origin", "address at the proxy"} <= taken
    assert taken.isdisjoint({"two keys", "two origins", "with a body", "HTTP/1.0", "control character", "folded line"})


@pytest.mark.parametrize("way", [FrontDoor, BoundedHttp])
async def test_connections_are_counted_by_the_address_that_the_proxy_tells(
    redis: Redis, way: type[asyncio.Protocol]
) -> None:
    async with serving(redis, http=way, limits=StreamLimits(max_connections_per_ip=1)) as server:
        headers = {"Cookie": "tidemark=alice-1", "X-Forwarded-For": "203.0.113.7"}
        await server.open(additional_headers=headers)
        assert (await answer_of(server.port, HANDSHAKES["address at the proxy"])).startswith(b"HTTP/1.1 429 ")
        assert (await answer_of(server.port, HANDSHAKES["no origin"])).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("way", [FrontDoor, BoundedHttp])
async def test_a_handshake_that_fails_by_a_bug_is_answered_500(redis: Redis, way: type[asyncio.Protocol]) -> None:
    async with serving(redis, http=way) as server:
        server.sessions.users = None  # type: ignore[assignment]
        answer = await answer_of(server.port, HANDSHAKES["usual"])
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert answer.endswith(b"Internal Server Error")


async def test_what_comes_with_the_handshake_is_read_after_it(server: Server) -> None:
    text = b'{"type":"ping","id":8}'
    frame = b"\x81" + bytes((0x80 | len(text),)) + bytes(4) + text
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head() + frame)
    received = b""
    async with asyncio.timeout(5):
        while b'"id":8' not in received:
            received += await reader.read(65_536)
    assert received.index(b"101 Switching") < received.index(b'"hello"') < received.index(b'"id":8')
    writer.transport.abort()


class HurriedHttp(BoundedHttp):
    head_within_s = 0.3


class HurriedDoor(FrontDoor):
    __slots__ = ()
    http = HurriedHttp


@pytest.fixture
async def hurried_port() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(plain_application, http=HurriedDoor, log_config=None, log_level="critical")
    async with accepting(config, listener, {}):
        yield listener.getsockname()[1]


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: "])
async def test_who_does_not_ask_in_time_is_cut_off(hurried_port: int, first: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hurried_port)
    writer.write(first)
    async with asyncio.timeout(2):
        assert await reader.read() == b""
    writer.close()


async def test_any_other_request_is_answered_and_the_connection_kept(hurried_port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hurried_port)
    for _ in range(3):
        writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: here\r\n\r\n")
        async with asyncio.timeout(2):
            assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.2)
    writer.close()
