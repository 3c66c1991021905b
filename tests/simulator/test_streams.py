"""What a client meets on a stream connection: paths, replies to the letter, payloads."""

import asyncio
import re

import aiohttp
import msgspec
import pytest

from app.simulator.exchange import Exchange
from app.simulator.server import SimulatorHandle
from app.simulator.streams import Hub
from app.simulator.topics import Format
from app.simulator.wire import ONE


def set_bitcoin(simulator: SimulatorHandle, bid: str = "50000.01", ask: str = "50000.02") -> None:
    simulator.control.perform("price", symbol="BTCUSDT", bid=bid, ask=ask, bid_quantity="1.5", ask_quantity="2.5")


@pytest.mark.parametrize(
    "path",
    [
        "/ws/btcusdt@bookTicker",
        "/any/prefix/ws/btcusdt@bookTicker",
        "/stream-sim/ws/btcusdt@bookTicker/0",
        "/ws/btcusdt%40bookTicker",
    ],
)
async def test_a_raw_path_gives_bare_payloads(simulator: SimulatorHandle, dial, path: str) -> None:
    client = await dial(simulator, path)
    set_bitcoin(simulator)
    text = await client.text()
    assert re.fullmatch(
        r'\{"u":\d+,"s":"BTCUSDT","b":"50000\.01000000","B":"1\.50000000","a":"50000\.02000000","A":"2\.50000000"\}',
        text,
    )


@pytest.mark.parametrize("path", ["/stream?streams=btcusdt@bookTicker", "/any/stream?streams=btcusdt%40bookTicker/x"])
async def test_a_stream_path_wraps_payloads_with_their_stream(simulator: SimulatorHandle, dial, path: str) -> None:
    client = await dial(simulator, path)
    set_bitcoin(simulator)
    message = await client.json()
    assert list(message) == ["stream", "data"]
    assert message["stream"] == "btcusdt@bookTicker"
    assert message["data"]["b"] == "50000.01000000"


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/ws/0", "/stream", "/stream?streams="])
async def test_an_empty_path_connects_and_is_silent_until_it_subscribes(
    simulator: SimulatorHandle, dial, path: str
) -> None:
    client = await dial(simulator, path)
    assert await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":3}') == '{"result":[],"id":3}'
    set_bitcoin(simulator)
    assert await client.nothing_for(0.05)
    await client.ask('{"method":"SUBSCRIBE","params":["btcusdt@bookTicker"],"id":1}')
    set_bitcoin(simulator)
    assert "50000.01000000" in await client.text()


async def test_several_streams_in_a_path_all_send(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker/ethusdt@bookTicker")
    simulator.exchange.burst("ETHUSDT", 1, trades=False)
    simulator.exchange.burst("BTCUSDT", 1, trades=False)
    assert [(await client.json())["s"], (await client.json())["s"]] == ["ETHUSDT", "BTCUSDT"]


async def test_the_dialogue_of_the_documentation_is_answered_to_the_letter(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws")
    dialogue = [
        (
            '{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","btcusdt@depth"],"id":1}',
            '{"result":null,"id":1}',
        ),
        ('{"method":"UNSUBSCRIBE","params":["btcusdt@depth"],"id":312}', '{"result":null,"id":312}'),
        ('{"method":"LIST_SUBSCRIPTIONS","id":3}', '{"result":["btcusdt@aggTrade"],"id":3}'),
        ('{"method":"SET_PROPERTY","params":["combined",true],"id":5}', '{"result":null,"id":5}'),
    ]
    for request, reply in dialogue:
        assert await client.ask(request) == reply
    second = await dial(simulator, "/stream")
    assert await second.ask('{"method":"GET_PROPERTY","params":["combined"],"id":2}') == '{"result":true,"id":2}'
    third = await dial(simulator, "/ws")
    assert await third.ask('{"method":"GET_PROPERTY","params":["combined"],"id":2}') == '{"result":false,"id":2}'


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        (
            '{"method":"SET_PROPERTY","params":["colour",true],"id":1}',
            '{"error":{"code":0,"msg":"Unknown property"},"id":1}',
        ),
        (
            '{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}',
            '{"error":{"code":1,"msg":"Invalid value type: expected Boolean"},"id":1}',
        ),
        (
            '{"method":"SET_PROPERTY","params":["combined",true,1],"id":1}',
            '{"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":1}',
        ),
        (
            '{"method":"GET_PROPERTY","params":[1],"id":1}',
            '{"error":{"code":2,"msg":"Invalid request: property name must be a string"},"id":1}',
        ),
        ("{nonsense", '{"error":{"code":3,"msg":"Invalid JSON: expected value at line 1 column 1"}}'),
    ],
)
async def test_a_wrong_request_gets_an_error_and_the_connection_stays(
    simulator: SimulatorHandle, dial, request_text: str, reply: str
) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    assert await client.ask(request_text) == reply
    set_bitcoin(simulator)
    assert "50000.01000000" in await client.text()


async def test_a_malformed_stream_name_gets_an_error_and_then_a_close(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws")
    reply = await client.ask('{"method":"SUBSCRIBE","params":["btc usdt"],"id":1}')
    assert reply == '{"error":{"code":2,"msg":"Invalid request: invalid stream"},"id":1}'
    assert await client.close_code() == 1008


async def test_an_unknown_symbol_is_acknowledged_and_stays_silent(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws")
    request = '{"method":"SUBSCRIBE","params":["nosuch@trade","BTCUSDT@bookTicker","!ticker@arr"],"id":1}'
    assert await client.ask(request) == '{"result":null,"id":1}'
    set_bitcoin(simulator)
    assert await client.nothing_for(0.05)
    listed = '{"result":["nosuch@trade","BTCUSDT@bookTicker","!ticker@arr"],"id":2}'
    assert await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":2}') == listed


async def test_after_unsubscribing_nothing_more_comes(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await client.ask('{"method":"UNSUBSCRIBE","params":["btcusdt@bookTicker"],"id":1}')
    set_bitcoin(simulator)
    assert await client.nothing_for(0.05)
    assert simulator.control.state()["streams"] == 0


async def test_switching_to_combined_wraps_what_comes_after(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws/btcusdt@bookTicker")
    await client.ask('{"method":"SET_PROPERTY","params":["combined",true],"id":1}')
    set_bitcoin(simulator)
    assert (await client.json())["stream"] == "btcusdt@bookTicker"


async def test_trades_come_singly_and_as_one_aggregate_of_the_same_ids(simulator: SimulatorHandle, dial) -> None:
    single = await dial(simulator, "/ws/btcusdt@trade")
    summed = await dial(simulator, "/ws/btcusdt@aggTrade")
    simulator.exchange.burst("BTCUSDT", 20, trades=True)
    seen_several = False
    for _ in range(20):
        whole = await summed.json()
        assert list(whole) == ["e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"]
        parts = [await single.json() for _ in range(whole["f"], whole["l"] + 1)]
        assert all(list(part) == ["e", "E", "s", "t", "p", "q", "T", "m", "M"] for part in parts)
        assert [part["t"] for part in parts] == list(range(whole["f"], whole["l"] + 1))
        assert {part["p"] for part in parts} == {whole["p"]}
        assert sum(round(float(part["q"]) * ONE) for part in parts) == round(float(whole["q"]) * ONE)
        seen_several |= len(parts) > 1
    assert seen_several


async def test_times_are_microseconds_where_asked_for(simulator: SimulatorHandle, dial) -> None:
    coarse = await dial(simulator, "/ws/btcusdt@trade")
    fine = await dial(simulator, "/stream?streams=btcusdt@trade&timeUnit=MICROSECOND")
    simulator.exchange.burst("BTCUSDT", 1, trades=True)
    in_ms, in_us = (await coarse.json()), (await fine.json())["data"]
    assert in_us["T"] // 1000 == in_ms["T"]
    assert 1_700_000_000_000 < in_ms["E"] < 10_000_000_000_000


async def test_the_array_of_mini_tickers_holds_only_what_traded(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws/!miniTicker@arr")
    await asyncio.sleep(0)
    simulator.exchange.burst("ETHUSDT", 3, trades=True)
    simulator.exchange.burst("币安人生USDT", 3, trades=True)
    simulator.exchange.burst("BTCUSDT", 3, trades=False)
    tickers = await client.json()
    assert [ticker["s"] for ticker in tickers] == ["ETHUSDT", "币安人生USDT"]
    assert list(tickers[0]) == ["e", "E", "s", "c", "o", "h", "l", "v", "q"]
    assert await client.nothing_for(1.2)


async def test_each_timed_stream_sends_its_documented_fields(start, dial) -> None:
    simulator = await start(ticks_per_s=5000)
    client = await dial(
        simulator,
        "/stream?streams=btcusdt@miniTicker/btcusdt@ticker/btcusdt@kline_1m/btcusdt@avgPrice/btcusdt@depth5@100ms",
    )
    fields = {}
    while len(fields) < 5:
        message = await client.json()
        fields[message["stream"]] = message["data"]
    assert ",".join(fields["btcusdt@ticker"]) == "e,E,s,p,P,w,x,c,Q,b,B,a,A,o,h,l,v,q,O,C,F,L,n"
    assert ",".join(fields["btcusdt@kline_1m"]["k"]) == "t,T,s,i,f,L,o,c,h,l,v,n,x,q,V,Q,B"
    assert ",".join(fields["btcusdt@avgPrice"]) == "e,E,s,i,w,T"
    assert list(fields["btcusdt@depth5@100ms"]) == ["lastUpdateId", "bids", "asks"]
    assert len(fields["btcusdt@depth5@100ms"]["bids"]) == 5
    assert fields["btcusdt@miniTicker"]["e"] == "24hrMiniTicker"


async def test_every_decimal_has_eight_places_and_every_time_is_a_number(start, dial) -> None:
    simulator = await start(ticks_per_s=5000)
    client = await dial(simulator, "/ws/btcusdt@bookTicker/pepeusdt@aggTrade/btctry@bookTicker/!miniTicker@arr")
    for _ in range(100):
        for decimal in re.findall(r'"-?[0-9.]+"', await client.text()):
            assert re.fullmatch(r'"\d+\.\d{8}"', decimal)


async def test_a_path_without_ws_or_stream_is_not_found(simulator: SimulatorHandle, http) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(simulator.ws_url + "/api/v3/nothing")
    assert refused.value.status == 404


async def test_the_websocket_api_answers_ping_and_time(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/ws-api/v3")
    await client.websocket.send_str('{"id":"x","method":"ping"}')
    assert (await client.json())["result"] == {}
    await client.websocket.send_str('{"id":2,"method":"time"}')
    assert (await client.json())["result"]["serverTime"] > 0
    await client.websocket.send_str('{"id":3,"method":"order.place"}')
    assert (await client.json())["status"] == 400


class CountingSubscriber:
    """A subscriber that keeps what it gets."""

    format = Format(combined=False, unit_us=1000)

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def deliver(self, whole: bytes) -> None:
        self.frames.append(whole)


def test_a_message_is_encoded_once_for_all_its_listeners() -> None:
    exchange = Exchange(seed=1, clock=lambda: 1_790_000_000_000_000, ticks_per_s=0)
    hub, first, second = Hub(exchange), CountingSubscriber(), CountingSubscriber()
    hub.subscribe("btcusdt@bookTicker", first)
    hub.subscribe("btcusdt@bookTicker", second)
    exchange.burst("BTCUSDT", 2, trades=False)
    exchange.burst("ETHUSDT", 2, trades=False)
    assert len(first.frames) == 2
    assert all(mine is yours for mine, yours in zip(first.frames, second.frames, strict=True))


def test_a_kline_is_sent_once_more_when_it_has_closed() -> None:
    now_us = [1_790_000_000_000_000]
    exchange = Exchange(seed=1, clock=lambda: now_us[0], ticks_per_s=0)
    hub, subscriber = Hub(exchange), CountingSubscriber()
    hub.subscribe("btcusdt@kline_1m", subscriber)
    exchange.burst("BTCUSDT", 5, trades=True)
    for _ in range(20):
        hub.beat()
    now_us[0] += 60_000_000
    exchange.burst("BTCUSDT", 5, trades=True)
    for _ in range(40):
        hub.beat()
    klines = [msgspec.json.decode(whole[whole.index(b"{") :])["k"] for whole in subscriber.frames]
    assert [kline["x"] for kline in klines] == [False, True, False]
    assert klines[0]["t"] == klines[1]["t"] == klines[2]["t"] - 60_000
    assert klines[0] | {"x": True} == klines[1]
