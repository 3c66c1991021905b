"""The futures markets of the simulator: routes, marks, funding, and the calls that tell of them."""

import datetime as dt
from typing import Any

import aiohttp
import pytest

from app.simulator.contract_listing import quarter_end
from app.simulator.limits import Rules
from app.simulator.server import SimulatorHandle

HOUR_MS = 3_600_000


@pytest.fixture
def ask(http: aiohttp.ClientSession, simulator: SimulatorHandle) -> Any:
    async def asked(path: str, **query: object) -> Any:
        async with http.get(simulator.rest_url + path, params={k: str(v) for k, v in query.items()}) as answer:
            return await answer.json()

    return asked


def subscribe(*streams: str) -> str:
    names = ",".join(f'"{stream}"' for stream in streams)
    return f'{{"method":"SUBSCRIBE","params":[{names}],"id":1}}'


ON_MARKET = ["btcusdt@markPrice@1s", "!markPrice@arr@1s", "btcusdt@aggTrade"]
ON_PUBLIC = ["btcusdt@bookTicker", "btcusdt@depth5@500ms"]


@pytest.mark.parametrize(("route", "streams"), [("market", ON_MARKET), ("public", ON_PUBLIC)])
async def test_streams_come_on_their_own_route(start, dial, route: str, streams: list[str]) -> None:
    simulator = await start(ticks_per_s=2000)
    client = await dial(simulator, f"/{route}/stream")
    assert await client.ask(subscribe(*streams)) == '{"result":null,"id":1}'
    missing = set(streams)
    while missing:
        missing.discard((await client.json())["stream"])


@pytest.mark.parametrize(
    ("route", "streams"), [("public", ON_MARKET), ("market", ON_PUBLIC), ("private", ON_MARKET + ON_PUBLIC)]
)
async def test_streams_on_a_wrong_route_are_acknowledged_and_then_silent(
    start, dial, route: str, streams: list[str]
) -> None:
    simulator = await start(ticks_per_s=2000)
    client = await dial(simulator, f"/{route}/stream")
    assert await client.ask(subscribe(*streams)) == '{"result":null,"id":1}'
    assert f'"{streams[0]}"' in await client.ask('{"method":"LIST_SUBSCRIPTIONS","id":2}')
    assert await client.nothing_for(1.3)


async def test_without_a_route_usdm_serves_what_is_public_and_coinm_serves_all(start, dial) -> None:
    simulator = await start(ticks_per_s=2000)
    linear = await dial(simulator, "/fstream/stream")
    await linear.ask(subscribe("btcusdt@markPrice@1s"))
    assert await linear.nothing_for(1.2)
    await linear.ask(subscribe("btcusdt@bookTicker"))
    assert (await linear.json())["stream"] == "btcusdt@bookTicker"
    inverse = await dial(simulator, "/dstream/stream")
    await inverse.ask(subscribe("btcusd_perp@markPrice@1s"))
    assert (await inverse.json())["data"]["s"] == "BTCUSD_PERP"


async def test_a_mark_says_its_funding_and_an_array_has_both_markets(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/market/stream?streams=!markPrice@arr@1s")
    marks = {mark["s"]: mark for mark in (await client.json())["data"]}
    mark = marks["BTCUSDT"]
    assert list(mark) == ["e", "E", "s", "p", "ap", "P", "i", "r", "T", "st"]
    assert abs(float(mark["p"]) / float(mark["i"]) - 1) < 0.001
    assert mark["T"] % (8 * HOUR_MS) == 0
    assert 0 < mark["T"] - mark["E"] <= 8 * HOUR_MS
    assert (mark["st"], marks["BTCUSD_PERP"]["st"]) == (1, 2)
    [delivered] = [symbol for symbol in marks if symbol.startswith("BTCUSD_") and symbol != "BTCUSD_PERP"]
    assert (marks[delivered]["r"], marks[delivered]["T"]) == ("", 0)


async def test_the_marks_of_a_pair_come_as_one_array(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/dstream/stream?streams=btcusd@markPrice@1s")
    marks = (await client.json())["data"]
    assert [mark["s"].partition("_")[0] for mark in marks] == ["BTCUSD", "BTCUSD"]


async def test_stream_and_rest_describe_the_same_state(simulator: SimulatorHandle, dial, ask) -> None:
    simulator.control.perform("contract", venue="linear", symbol="BTCUSDT", mark="50000.5", rate="-0.00012345")
    client = await dial(simulator, "/market/stream?streams=btcusdt@markPrice@1s")
    mark = (await client.json())["data"]
    premium = await ask("/fapi/v1/premiumIndex", symbol="BTCUSDT")
    assert (mark["p"], mark["r"], mark["T"]) == ("50000.50000000", "-0.00012345", premium["nextFundingTime"])
    assert (premium["markPrice"], premium["lastFundingRate"]) == (mark["p"], mark["r"])


async def test_futures_refuse_an_id_that_is_no_unsigned_integer(simulator: SimulatorHandle, dial) -> None:
    client = await dial(simulator, "/market/stream")
    request = '{"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":"one"}'
    assert "request ID must be an unsigned integer" in await client.ask(request)


async def test_what_is_listed_says_kind_size_and_margin(ask) -> None:
    linear = {each["symbol"]: each for each in (await ask("/fapi/v1/exchangeInfo"))["symbols"]}
    inverse = {each["symbol"]: each for each in (await ask("/dapi/v1/exchangeInfo"))["symbols"]}

    assert linear["BTCUSDT"]["contractType"] == "PERPETUAL"
    assert linear["1000PEPEUSDT"]["baseAsset"] == "1000PEPE"
    assert "contractSize" not in linear["BTCUSDT"]
    assert inverse["BTCUSD_PERP"]["contractSize"] == 100
    assert inverse["ETHUSD_PERP"]["contractSize"] == 10
    assert inverse["ETHUSD_PERP"]["marginAsset"] == "ETH"
    assert {each["contractType"] for each in inverse.values()} == {"PERPETUAL", "CURRENT_QUARTER"}


@pytest.mark.parametrize(
    ("now", "delivery"),
    [("2026-01-05", "2026-03-27"), ("2026-03-27T09:00", "2026-06-26"), ("2026-12-26", "2027-03-26")],
)
def test_a_quarter_ends_on_the_last_friday_of_its_last_month(now: str, delivery: str) -> None:
    moment = dt.datetime.fromisoformat(now).replace(tzinfo=dt.UTC)
    assert quarter_end(moment) == dt.datetime.fromisoformat(f"{delivery}T08:00:00+00:00")


async def test_funding_settles_at_its_times_and_once(start, http: aiohttp.ClientSession) -> None:
    now_us = [1_790_000_000_000_000 // (8 * HOUR_MS * 1000) * (8 * HOUR_MS * 1000) - 1_000_000]
    simulator = await start(clock=lambda: now_us[0])
    before = simulator.contracts.contract("linear", "BTCUSDT")
    boundary_ms = now_us[0] // 1000 + 1000
    simulator.contracts.advance()
    assert not before.settled
    now_us[0] += 2_000_000
    simulator.contracts.advance()
    simulator.contracts.advance()

    assert [stamp.time_ms for stamp in before.settled] == [boundary_ms]
    assert simulator.contracts.next_funding_ms(before) == boundary_ms + 8 * HOUR_MS


async def test_a_forced_stamp_is_listed_with_its_mark_where_the_market_says_marks(
    simulator: SimulatorHandle, ask
) -> None:
    forced = simulator.control.perform("funding", rate="0.0005", mark="40000")["time_ms"]
    [linear] = await ask("/fapi/v1/fundingRate", symbol="BTCUSDT", startTime=forced)
    [inverse] = await ask("/dapi/v1/fundingRate", symbol="BTCUSD_PERP", startTime=forced)
    minute = forced // 60_000 * 60_000
    klines = await ask("/dapi/v1/markPriceKlines", symbol="BTCUSD_PERP", interval="1m", startTime=minute, limit=1)

    assert linear == {
        "symbol": "BTCUSDT",
        "fundingTime": forced,
        "fundingRate": "0.00050000",
        "markPrice": "40000.00000000",
    }
    assert inverse == {"symbol": "BTCUSD_PERP", "fundingTime": forced, "fundingRate": "0.00050000"}
    assert klines[0][:2] == [minute, "40000.00000000"]


async def test_the_day_before_the_exchange_opened_has_funding_too(ask) -> None:
    stamps = await ask("/fapi/v1/fundingRate", symbol="ETHUSDT")
    assert 2 <= len(stamps) <= 4
    assert [stamp["fundingTime"] for stamp in stamps] == sorted(stamp["fundingTime"] for stamp in stamps)
    assert {stamp["fundingTime"] % (8 * HOUR_MS) for stamp in stamps} == {0}


async def test_both_futures_markets_spend_one_weight_and_spot_another(start, http: aiohttp.ClientSession) -> None:
    simulator = await start(rules=Rules(futures_weight_per_minute=25))

    async def status(path: str) -> int:
        async with http.get(simulator.rest_url + path) as answer:
            return answer.status

    assert await status("/fapi/v1/premiumIndex") == 200
    assert await status("/dapi/v1/premiumIndex") == 200
    assert await status("/fapi/v1/premiumIndex") == 429
    assert await status("/dapi/v1/ping") == 429
    assert await status("/api/v3/ping") == 200


async def test_a_fault_of_one_market_leaves_the_others_alone(
    simulator: SimulatorHandle, http: aiohttp.ClientSession, dial
) -> None:
    simulator.control.perform("rest", status=503, venue="inverse")
    simulator.control.perform("refuse", status=503, venue="inverse")
    async with http.get(simulator.rest_url + "/dapi/v1/ping") as refused:
        assert refused.status == 503
    async with http.get(simulator.rest_url + "/fapi/v1/ping") as answered:
        assert answered.status == 200
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await dial(simulator, "/dstream/stream")
    await dial(simulator, "/market/stream")
