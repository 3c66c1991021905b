"""What a client may not say, and what it gets for it."""

from typing import Any

import pytest
from redis.asyncio import Redis

from app.domain.protocol import Close
from app.websocket.limits import StreamLimits
from tests.websocket.conftest import Client, Server, serving

GENEROUS = StreamLimits(max_messages_per_s=1000)


async def answer_to(client: Client, text: str | bytes) -> dict[str, Any]:
    await client.socket.send(text)
    return await client.next("error")


@pytest.mark.parametrize(
    ("text", "code", "request_id"),
    [
        pytest.param("{", "malformed", None, id="cut off"),
        pytest.param("", "malformed", None, id="empty"),
        pytest.param("nonsense", "malformed", None, id="no JSON"),
        pytest.param("[" * 4000, "invalid_message", None, id="a deep nest"),
        pytest.param("[]", "invalid_message", None, id="an array"),
        pytest.param('"subscribe"', "invalid_message", None, id="a string"),
        pytest.param('{"id":1}', "invalid_message", 1, id="no type"),
        pytest.param('{"type":"subscribe","channel":"pnl"}', "invalid_message", None, id="no id"),
        pytest.param('{"type":"ping","id":-1}', "invalid_message", None, id="negative id"),
        pytest.param('{"type":"ping","id":1.5}', "invalid_message", None, id="fractional id"),
        pytest.param('{"type":"ping","id":"1"}', "invalid_message", None, id="id as text"),
        pytest.param('{"type":"ping","id":' + "9" * 4000 + "}", "invalid_message", None, id="an enormous id"),
        pytest.param('{"type":"ping","id":NaN}', "malformed", None, id="NaN"),
        pytest.param('{"type":"drop_tables","id":1}', "unknown_type", 1, id="unknown type"),
        pytest.param('{"type":"unsuscribe","id":1}', "unknown_type", 1, id="misspelt type"),
        pytest.param('{"type":"update","id":1}', "unknown_type", 1, id="a server's message"),
        pytest.param('{"type":"ping","id":2,"admin":true}', "invalid_message", 2, id="unknown field"),
        pytest.param('{"type":"subscribe","id":3,"channel":"orders"}', "unknown_channel", 3, id="unknown channel"),
        pytest.param('{"type":"subscribe","id":3,"channel":7}', "invalid_message", 3, id="channel as a number"),
        pytest.param('{"type":"subscribe","id":3,"channel":"prices"}', "invalid_message", 3, id="no symbols"),
        pytest.param(
            '{"type":"subscribe","id":3,"channel":"prices","symbols":[]}', "invalid_message", 3, id="empty symbols"
        ),
        pytest.param(
            '{"type":"subscribe","id":3,"channel":"pnl","symbols":["BTCUSDT"]}', "invalid_message", 3, id="pnl symbols"
        ),
        pytest.param(
            '{"type":"subscribe","id":3,"channel":"pnl","user_id":"bob"}', "invalid_message", 3, id="another's pnl"
        ),
        pytest.param('{"type":"configure","id":4,"max_hz":0}', "invalid_message", 4, id="rate zero"),
        pytest.param('{"type":"configure","id":4,"max_hz":-3}', "invalid_message", 4, id="rate negative"),
        pytest.param('{"type":"configure","id":4,"max_hz":1e999}', "invalid_message", 4, id="rate infinite"),
        pytest.param('{"type":"configure","id":4,"visible":1}', "invalid_message", 4, id="visible as a number"),
        pytest.param('{"type":"resume","id":5}', "invalid_message", 5, id="resume from nowhere"),
        pytest.param('{"type":"resume","id":5,"events":{"epoch":1}}', "invalid_message", 5, id="resume without seq"),
        pytest.param(b'{"type":"ping","id":1}', "malformed", None, id="binary"),
    ],
)
async def test_each_gets_an_error_and_the_connection_stays(
    server: Server, text: str | bytes, code: str, request_id: int | None
) -> None:
    client = await server.connect()
    error = await answer_to(client, text)
    assert (error["code"], error["id"]) == (code, request_id)
    assert error["title"]
    assert error["detail"]
    assert (await client.ask("pong", type="ping", id=77))["id"] == 77
    assert server.stream.state.watched == {}


async def test_repeated_beyond_the_limit_it_ends_the_connection(redis: Redis) -> None:
    async with serving(redis, limits=GENEROUS) as server:
        client = await server.connect()
        for _ in range(11):
            await client.socket.send("{")
        assert await client.closed() == Close.POLICY


async def test_messages_over_the_rate_are_refused_once_and_not_carried_out(server: Server) -> None:
    client = await server.connect()
    for number in range(30):
        await client.say(type="ping", id=number)
    error = await client.next("error")
    assert error["code"] == "rate_limited"
    assert sum(frame["type"] == "pong" for frame in client.frames) == 20


async def test_messages_far_over_the_rate_end_the_connection(server: Server) -> None:
    client = await server.connect()
    for number in range(100):
        await client.say(type="ping", id=number)
    assert await client.closed() == Close.RATE_LIMITED


async def test_an_oversized_message_is_too_big(server: Server) -> None:
    client = await server.connect()
    await client.socket.send('{"type":"ping","id":1,"x":"' + "x" * 5000 + '"}')
    assert await client.closed() == Close.TOO_BIG


async def test_a_message_that_is_not_utf8_is_invalid(server: Server) -> None:
    client = await server.connect()
    await client.socket.send(b'{"type":"ping\xff"}', text=True)
    assert await client.closed() == Close.INVALID_TEXT
