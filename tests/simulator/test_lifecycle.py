"""Limits, pings and ends of stream connections."""

import asyncio
import json

import aiohttp
import pytest

from app.simulator.limits import ConnectBudget, RollingCount, Rules
from simulator.client import StreamClient

_PING_SOON = Rules(ping_every_s=0.05, pong_within_s=0.3, messages_per_s=1000)


def test_a_rolling_second_counts_what_lies_within_it() -> None:
    count = RollingCount(5, 1.0)
    assert all(count.add(moment) for moment in (0.0, 0.1, 0.2, 0.3, 0.4))
    assert not count.add(0.9)
    assert not count.add(1.05)
    assert count.add(3.0)
    assert count.peak == 6


def test_the_connect_budget_is_per_address() -> None:
    budget = ConnectBudget(2)
    assert [budget.admits("a", 0), budget.admits("a", 1), budget.admits("a", 2)] == [True, True, False]
    assert budget.admits("b", 2)
    assert budget.admits("a", 400)


async def test_more_than_five_messages_in_a_second_close_the_connection(simulator, dial) -> None:
    client = await dial(simulator, "/ws")
    for number in range(6):
        await client.websocket.send_str(f'{{"method":"LIST_SUBSCRIPTIONS","id":{number}}}')
    assert await client.close_code() == 1008
    assert simulator.control.state()["busiest_second"] == 6
    assert simulator.control.state()["closed_for_limits"] == 1


async def test_pings_and_pongs_count_as_messages(simulator, dial) -> None:
    client = await dial(simulator, "/ws")
    for _ in range(3):
        await client.websocket.ping()
        await client.websocket.pong()
    assert await client.close_code() == 1008


async def test_five_messages_in_a_second_are_allowed(simulator, dial) -> None:
    client = await dial(simulator, "/ws")
    for number in range(5):
        await client.ask(f'{{"method":"LIST_SUBSCRIPTIONS","id":{number}}}')
    await asyncio.sleep(1.05)
    assert await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":9}') == '{"result":[],"id":9}'
    assert simulator.control.state()["connections"][0]["busiest_second"] == 5


async def test_a_ping_of_the_client_is_answered_with_its_payload(simulator, dial) -> None:
    client = await dial(simulator, "/ws")
    await client.websocket.ping(b"hello")
    assert await client.text() == "pong:hello"


async def test_the_server_pings_with_the_time_and_keeps_who_answers(start, dial) -> None:
    simulator = await start(rules=_PING_SOON)
    client = await dial(simulator, "/ws")
    assert await client.nothing_for(0.6)
    assert len(client.pings) > 5
    assert all(1_700_000_000_000 < int(ping) < 10_000_000_000_000 for ping in client.pings)
    assert await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":1}') == '{"result":[],"id":1}'


async def test_a_client_that_does_not_answer_pings_is_closed(start, dial) -> None:
    simulator = await start(rules=_PING_SOON)
    client = await dial(simulator, "/ws", answers_pings=False)
    assert await client.close_code() == 1008


async def test_pongs_without_the_payload_keep_nobody_alive(start, dial) -> None:
    simulator = await start(rules=_PING_SOON)
    client = await dial(simulator, "/ws", answers_pings=False)

    async def empty_pongs() -> None:
        while not client.websocket.closed:
            await client.websocket.pong()
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        ponging = tasks.create_task(empty_pongs())
        assert await client.close_code() == 1008
        ponging.cancel()


def test_a_time_scale_hastens_pings_deadlines_and_the_life_of_a_connection_but_no_limit() -> None:
    hastened = Rules().faster(100)
    assert (hastened.ping_every_s, hastened.pong_within_s, hastened.life_s) == (0.2, 0.6, 864.0)
    assert hastened.messages_per_s == Rules().messages_per_s


async def test_a_life_of_a_day_is_announced_and_then_ended(start, dial) -> None:
    simulator = await start(rules=Rules(life_s=0.4, shutdown_notice_s=0.3))
    client = await dial(simulator, "/ws")
    notice = await client.json()
    assert notice["e"] == "serverShutdown"
    assert await client.close_code() == 1001


async def test_a_shutdown_is_announced_in_the_shape_of_each_connection(simulator, dial) -> None:
    raw, combined, api = [await dial(simulator, path) for path in ("/ws", "/stream", "/ws-api/v3")]
    simulator.control.perform("shutdown")
    assert list(await raw.json()) == ["e", "E"]
    wrapped = await combined.json()
    assert wrapped["stream"] == "!serverShutdown"
    assert wrapped["data"]["e"] == "serverShutdown"
    assert (await api.json())["event"]["e"] == "serverShutdown"


async def test_more_than_1024_streams_are_refused(simulator, dial) -> None:
    client: StreamClient = await dial(simulator, "/ws")
    names = [f"s{number}usdt@trade" for number in range(1024)]
    await client.ask(f'{{"method":"SUBSCRIBE","params":{json.dumps(names)},"id":1}}')
    reply = await client.ask('{"method":"SUBSCRIBE","params":["one@trade","more@trade"],"id":2}')
    assert reply == '{"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":2}'
    again = await client.ask('{"method":"SUBSCRIBE","params":["s1usdt@trade"],"id":3}')
    assert again == '{"result":null,"id":3}'


async def test_connecting_too_often_is_refused_with_429(start, dial, http: aiohttp.ClientSession) -> None:
    simulator = await start(rules=Rules(connects_per_5_minutes=3))
    for _ in range(3):
        await dial(simulator, "/ws")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(simulator.ws_url + "/ws")
    assert refused.value.status == 429
    assert simulator.control.state()["connects"] == 4
    simulator.control.perform("reset")
    await dial(simulator, "/ws")


async def test_a_client_that_does_not_read_is_cut_off(start, http: aiohttp.ClientSession) -> None:
    simulator = await start(rules=Rules(backlog_bytes=100_000))
    reader, writer = await asyncio.open_connection(simulator.host, simulator.port, limit=1024)
    writer.write(
        b"GET /ws/btcusdt@bookTicker HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(10):
        while simulator.control.state()["connections"]:
            simulator.control.perform("burst", stream="btcusdt@bookTicker", count=20_000)
            await asyncio.sleep(0)
    writer.close()
