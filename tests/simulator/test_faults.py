"""Faults on demand, over the control endpoint."""

import asyncio
import time
from typing import Any

import aiohttp
import msgspec
import pytest

from app.simulator.faults import LineFaults
from app.simulator.frames import TEXT, frame, payload_of
from app.simulator.limits import Rules
from app.simulator.server import SimulatorHandle


async def control(
    http: aiohttp.ClientSession, simulator: SimulatorHandle, action: str, expect: int = 200, **detail: Any
) -> Any:
    async with http.post(f"{simulator.rest_url}/control/{action}", json=detail) as response:
        answer = await response.json()
        assert response.status == expect, answer
        return answer


def quote(simulator: SimulatorHandle, count: int = 1) -> None:
    simulator.exchange.burst("BTCUSDT", count, trades=False)


async def test_close_ends_connections_with_the_given_code(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws")
    assert (await control(http, simulator, "close", code=1012, reason="restart"))["connections"] == [1]
    assert await client.close_code() == 1012


async def test_a_fault_may_hit_only_the_connections_with_a_stream_or_of_a_number(simulator, http, dial) -> None:
    bitcoin = await dial(simulator, "/ws/btcusdt@bookTicker")
    ether = await dial(simulator, "/ws/ethusdt@bookTicker")
    assert (await control(http, simulator, "close", stream="btcusdt@bookTicker"))["connections"] == [1]
    assert await bitcoin.close_code() == 1001
    assert await ether.nothing_for(0.05)
    assert (await control(http, simulator, "close", connections=[2]))["connections"] == [2]
    assert await ether.close_code() == 1001


async def test_abort_resets_the_tcp_connection(simulator, http) -> None:
    reader, writer = await asyncio.open_connection(simulator.host, simulator.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    await control(http, simulator, "abort")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()


async def test_a_stall_stops_data_but_pings_and_replies_go_on(start, http, dial) -> None:
    simulator = await start(rules=Rules(ping_every_s=0.05, messages_per_s=1000))
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await control(http, simulator, "stall")
    quote(simulator)
    assert await client.nothing_for(0.2)
    assert client.pings
    await client.websocket.ping(b"are you there")
    assert await client.text() == "pong:are you there"
    assert await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":1}') == '{"result":["btcusdt@bookTicker"],"id":1}'
    await control(http, simulator, "resume")
    quote(simulator)
    assert (await client.json())["s"] == "BTCUSDT"


async def test_a_blackhole_neither_reads_nor_writes_until_it_is_resumed(start, http, dial) -> None:
    simulator = await start(rules=Rules(ping_every_s=0.05, messages_per_s=1000))
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await control(http, simulator, "blackhole")
    pings = len(client.pings)
    quote(simulator)
    await client.websocket.ping(b"are you there")
    assert await client.nothing_for(0.3)
    assert len(client.pings) <= pings + 1
    await control(http, simulator, "resume")
    assert await client.text() == "pong:are you there"
    quote(simulator)
    assert (await client.json())["s"] == "BTCUSDT"


async def test_a_blackholed_connection_dies_when_its_pong_is_overdue(start, http, dial) -> None:
    simulator = await start(rules=Rules(ping_every_s=0.05, pong_within_s=0.1))
    client = await dial(simulator, "/ws")
    await control(http, simulator, "blackhole")
    assert await client.close_code() == 1006


async def test_new_connections_may_be_silent_from_the_start(simulator, http, dial) -> None:
    await control(http, simulator, "stall", new=True)
    client = await dial(simulator, "/ws")
    assert await client.ask('{"method":"SUBSCRIBE","params":["btcusdt@bookTicker"],"id":1}') == '{"result":null,"id":1}'
    quote(simulator)
    assert await client.nothing_for(0.05)


async def test_the_next_messages_can_be_dropped_doubled_and_swapped(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")

    async def update_ids(count: int) -> list[int]:
        return [(await client.json())["u"] for _ in range(count)]

    await control(http, simulator, "duplicate", count=1)
    quote(simulator, 2)
    first, second, third = await update_ids(3)
    assert first == second < third
    await control(http, simulator, "drop", count=2)
    quote(simulator, 3)
    assert len(await update_ids(1)) == 1
    assert await client.nothing_for(0.05)
    await control(http, simulator, "reorder", count=1)
    quote(simulator, 3)
    later, earlier, last = await update_ids(3)
    assert earlier < later < last


async def test_the_next_messages_can_be_cut_short_or_be_garbage(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await control(http, simulator, "malformed", kind="truncated")
    await control(http, simulator, "malformed", kind="binary", count=1)
    quote(simulator, 3)
    with pytest.raises(msgspec.DecodeError):
        await client.json()
    assert await client.text() == "binary"
    assert (await client.json())["s"] == "BTCUSDT"


def test_a_truncated_message_stays_valid_utf8() -> None:
    line = LineFaults()
    line.truncate = 1
    (whole,) = line.passed(frame(TEXT, '{"s":"币安人生USDT"}'.encode()))
    assert payload_of(whole).decode() == '{"s":"币安'


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_gives_back_its_payload(size: int) -> None:
    assert payload_of(frame(TEXT, b"x" * size)) == b"x" * size


async def test_ticks_that_cannot_be_are_sent_and_change_nothing(simulator, http, dial) -> None:
    quotes = await dial(simulator, "/ws/btcusdt@bookTicker")
    trades = await dial(simulator, "/ws/btcusdt@aggTrade")
    tickers = await dial(simulator, "/ws/!miniTicker@arr")
    market = simulator.exchange.markets["BTCUSDT"]
    before = (market.bid, market.ask, market.update_id, market.last)
    await control(http, simulator, "impossible", symbol="BTCUSDT")
    zero, negative, crossed, nan, older = [await quotes.json() for _ in range(5)]
    assert zero["b"] == "0.00000000"
    assert negative["a"] == "-1.00000000"
    assert float(crossed["b"]) > float(crossed["a"])
    assert nan["b"] == "NaN"
    assert older["u"] < market.update_id < zero["u"]
    assert [(await trades.json())["p"] for _ in range(3)] == ["0.00000000", "-1.00000000", "NaN"]
    assert (await trades.json())["a"] < market.aggregate_id
    assert [(await tickers.json())[0]["c"] for _ in range(3)] == ["0.00000000", "-1.00000000", "NaN"]
    assert (market.bid, market.ask, market.update_id, market.last) == before


async def test_a_burst_sends_a_thousand_messages_at_once_in_order(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await control(http, simulator, "burst", stream="btcusdt@bookTicker", count=1000)
    updates = [(await client.json())["u"] for _ in range(1000)]
    assert updates == sorted(set(updates))


async def test_a_halted_symbol_is_silent_and_others_are_not(start, http, dial) -> None:
    simulator = await start(ticks_per_s=5000)
    await control(http, simulator, "halt", symbol="BTCUSDT")
    client = await dial(simulator, "/ws/btcusdt@bookTicker/ethusdt@bookTicker")
    assert {(await client.json())["s"] for _ in range(50)} == {"ETHUSDT"}
    await control(http, simulator, "halt", symbol="BTCUSDT", halted=False)
    async with asyncio.timeout(5):
        while (await client.json())["s"] != "BTCUSDT":
            pass


async def test_a_shifted_clock_shows_in_rest_and_in_the_streams(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@trade")
    await control(http, simulator, "clock", shift_ms=3_600_000)
    simulator.exchange.burst("BTCUSDT", 1, trades=True)
    ahead_ms = (await client.json())["E"] - time.time() * 1000
    assert 3_500_000 < ahead_ms < 3_700_000
    async with http.get(simulator.rest_url + "/api/v3/time") as response:
        assert (await response.json())["serverTime"] - time.time() * 1000 > 3_500_000


async def test_a_price_can_be_set_to_the_last_digit(simulator, http, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker/btcusdt@trade")
    await control(http, simulator, "price", symbol="BTCUSDT", bid="64000.10", ask="64000.11", last="64000.105")
    assert (await client.json())["b"] == "64000.10000000"
    assert (await client.json())["p"] == "64000.10500000"
    quote(simulator, 5)
    assert {((message := await client.json())["b"], message["a"]) for _ in range(5)} == {
        ("64000.10000000", "64000.11000000")
    }


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_upgrades_can_be_refused(simulator, http, dial, status: int) -> None:
    await control(http, simulator, "refuse", status=status, count=1, retry_after_s=7)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(simulator.ws_url + "/ws")
    assert refused.value.status == status
    assert refused.value.headers is not None
    assert refused.value.headers["Retry-After"] == "7"
    await dial(simulator, "/ws")


async def test_rest_can_be_slow_and_can_fail(simulator, http) -> None:
    await control(http, simulator, "rest", delay_s=0.1, status=503, count=1)
    began = time.monotonic()
    async with http.get(simulator.rest_url + "/api/v3/ping") as response:
        assert response.status == 503
        assert (await response.json())["code"] == -1000
    assert time.monotonic() - began >= 0.1
    async with http.get(simulator.rest_url + "/api/v3/ping") as response:
        assert response.status == 200


async def test_state_tells_who_is_connected_and_what_they_asked(simulator, http, dial) -> None:
    client = await dial(simulator, "/stream")
    await client.ask('{"method":"SUBSCRIBE","params":["btcusdt@bookTicker"],"id":1}')
    async with http.get(simulator.rest_url + "/control/state") as response:
        state = await response.json()
    assert state["connects"] == 1
    assert state["connections"] == [
        {
            "number": 1,
            "venue": "spot",
            "combined": True,
            "streams": ["btcusdt@bookTicker"],
            "control_messages": 1,
            "incoming_frames": 1,
            "busiest_second": 1,
            "sent": 0,
            "silence": "none",
        }
    ]


@pytest.mark.parametrize(
    ("action", "detail", "status"),
    [
        ("explode", {}, 404),
        ("halt", {"symbol": "NOPE"}, 404),
        ("close", {"colour": "red"}, 400),
        ("rate", {"ticks_per_s": 1_000_000}, 400),
        ("price", {"symbol": "BTCUSDT", "bid": "much"}, 400),
        ("price", {"symbol": "BTCUSDT", "bid": "2", "ask": "1"}, 400),
        ("burst", {"stream": "!miniTicker@arr"}, 400),
        ("burst", {"stream": "btcusdt@trade", "count": 0}, 400),
        ("refuse", {"status": 200}, 400),
    ],
)
async def test_a_wrong_control_request_says_what_is_wrong(simulator, http, action, detail, status) -> None:
    answer = await control(http, simulator, action, expect=status, **detail)
    assert answer["ok"] is False
    assert answer["error"]
