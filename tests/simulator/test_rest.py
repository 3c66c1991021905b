"""The REST calls: answers, errors, weights, bans, and agreement with the streams."""

from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from app.simulator.limits import Rules, WeightBudget
from app.simulator.server import SimulatorHandle

_USED = "X-MBX-USED-WEIGHT-1M"
_API_V3 = "/api/v3"


async def get(http: aiohttp.ClientSession, simulator: SimulatorHandle, path: str, **query: Any) -> tuple[int, Any]:
    async with http.get(simulator.rest_url + _API_V3 + path, params=query) as response:
        assert response.headers["X-Tidemark-Simulated"] == "1"
        assert _USED in response.headers
        return response.status, await response.json()


async def test_ping_and_time_answer(simulator, http) -> None:
    assert await get(http, simulator, "/ping") == (200, {})
    _, answer = await get(http, simulator, "/time")
    assert answer["serverTime"] == pytest.approx(simulator.exchange.now_us / 1000, abs=1000)


async def test_exchange_info_lists_every_symbol_with_its_filters_and_limits(simulator, http) -> None:
    _, info = await get(http, simulator, "/exchangeInfo")
    assert len(info["symbols"]) == len(simulator.exchange.markets) >= 400
    assert {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000} in info[
        "rateLimits"
    ]
    bitcoin = next(facts for facts in info["symbols"] if facts["symbol"] == "BTCUSDT")
    assert (bitcoin["status"], bitcoin["baseAsset"], bitcoin["quoteAsset"]) == ("TRADING", "BTC", "USDT")
    filters = {entry["filterType"]: entry for entry in bitcoin["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"
    assert filters["NOTIONAL"]["minNotional"] == "5.00000000"


async def test_exchange_info_can_be_narrowed_and_shows_a_halt(simulator, http) -> None:
    _, one = await get(http, simulator, "/exchangeInfo", symbol="BTCUSDT")
    assert [facts["symbol"] for facts in one["symbols"]] == ["BTCUSDT"]
    _, two = await get(http, simulator, "/exchangeInfo", symbols='["BTCUSDT","币安人生USDT"]')
    assert {facts["symbol"] for facts in two["symbols"]} == {"BTCUSDT", "币安人生USDT"}
    simulator.control.perform("halt", symbol="BTCUSDT")
    _, halted = await get(http, simulator, "/exchangeInfo", symbolStatus="HALT")
    assert "BTCUSDT" in {facts["symbol"] for facts in halted["symbols"]}


async def test_a_symbol_in_break_has_an_empty_book(simulator, http) -> None:
    status, quote = await get(http, simulator, "/ticker/bookTicker", symbol="SRMUSDT")
    assert status == 200
    assert (quote["bidPrice"], quote["askPrice"]) == ("0.00000000", "0.00000000")


async def test_rest_and_streams_show_the_same_state(start, http, dial) -> None:
    simulator = await start(ticks_per_s=2000)
    client = await dial(simulator, "/stream?streams=btcusdt@bookTicker/btcusdt@trade/btcusdt@depth5@100ms")
    await client.text()
    simulator.control.perform("rate", ticks_per_s=0)
    simulator.exchange.burst("BTCUSDT", 1, trades=True)
    newest: dict[str, Any] = {}
    while newest.get("btcusdt@depth5@100ms", {}).get("lastUpdateId") != simulator.exchange.markets["BTCUSDT"].update_id:
        message = await client.json()
        newest[message["stream"]] = message["data"]
    trade, quote, book = (newest[f"btcusdt@{kind}"] for kind in ("trade", "bookTicker", "depth5@100ms"))
    _, price = await get(http, simulator, "/ticker/price", symbol="BTCUSDT")
    _, ticker = await get(http, simulator, "/ticker/bookTicker", symbol="BTCUSDT")
    _, depth = await get(http, simulator, "/depth", symbol="BTCUSDT", limit=5)
    _, trades = await get(http, simulator, "/trades", symbol="BTCUSDT", limit=1)
    _, day = await get(http, simulator, "/ticker/24hr", symbol="BTCUSDT")
    assert trade["p"] == price["price"] == trades[0]["price"] == day["lastPrice"]
    assert trade["q"] == day["lastQty"]
    assert trade["t"] == trades[0]["id"] == day["lastId"]
    assert quote | {"u": 0} == {
        "u": 0,
        "s": "BTCUSDT",
        "b": ticker["bidPrice"],
        "B": ticker["bidQty"],
        "a": ticker["askPrice"],
        "A": ticker["askQty"],
    }
    assert book == depth
    assert quote["u"] == depth["lastUpdateId"]


async def test_many_prices_come_as_an_array_and_one_as_an_object(simulator, http) -> None:
    _, every = await get(http, simulator, "/ticker/price")
    assert len(every) == len(simulator.exchange.markets)
    assert all(Decimal(entry["price"]) > 0 for entry in every)
    _, some = await get(http, simulator, "/ticker/price", symbols='["ETHBTC"]')
    assert [entry["symbol"] for entry in some] == ["ETHBTC"]
    _, one = await get(http, simulator, "/ticker/price", symbol="ETHBTC")
    assert one == some[0]


async def test_klines_end_with_the_open_one_and_keep_to_their_limit(simulator, http) -> None:
    simulator.exchange.burst("BTCUSDT", 5, trades=True)
    _, klines = await get(http, simulator, "/klines", symbol="BTCUSDT", interval="1h", limit=3)
    assert len(klines) == 3
    assert all(len(kline) == 12 for kline in klines)
    assert klines[-1][4] == (await get(http, simulator, "/ticker/price", symbol="BTCUSDT"))[1]["price"]
    since = klines[0][0]
    _, again = await get(http, simulator, "/klines", symbol="BTCUSDT", interval="1h", startTime=since, endTime=since)
    assert again == klines[:1]


async def test_aggregate_trades_can_be_read_from_an_id(simulator, http) -> None:
    simulator.exchange.burst("BTCUSDT", 10, trades=True)
    _, orders = await get(http, simulator, "/aggTrades", symbol="BTCUSDT")
    _, later = await get(http, simulator, "/aggTrades", symbol="BTCUSDT", fromId=orders[4]["a"], limit=3)
    assert later == orders[4:7]
    _, average = await get(http, simulator, "/avgPrice", symbol="BTCUSDT")
    prices = [Decimal(order["p"]) for order in orders]
    assert min(prices) <= Decimal(average["price"]) <= max(prices)


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/ticker/price", {"symbol": "NOPE"}, -1121),
        ("/ticker/price", {"symbol": "btcusdt"}, -1100),
        ("/ticker/price", {"symbol": "BTC USDT"}, -1100),
        ("/ticker/price", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ("/ticker/price", {"symbols": "BTCUSDT"}, -1100),
        ("/exchangeInfo", {"symbols": '["BTCUSDT","NOPE"]'}, -1121),
        ("/depth", {}, -1102),
        ("/klines", {"symbol": "BTCUSDT"}, -1102),
        ("/klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "-1"}, -1100),
        ("/trades", {"symbol": "BTCUSDT", "limit": "٣"}, -1100),
    ],
)
async def test_a_wrong_call_gets_a_code_and_a_message(simulator, http, path, query, code) -> None:
    status, answer = await get(http, simulator, path, **query)
    assert status == 400
    assert answer["code"] == code
    assert answer["msg"]


@pytest.mark.parametrize(
    ("path", "query", "weight"),
    [
        ("/ping", {}, 1),
        ("/time", {}, 1),
        ("/exchangeInfo", {}, 20),
        ("/ticker/price", {"symbol": "BTCUSDT"}, 2),
        ("/ticker/price", {}, 4),
        ("/ticker/bookTicker", {"symbols": '["BTCUSDT"]'}, 4),
        ("/ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("/ticker/24hr", {"type": "MINI"}, 80),
        ("/klines", {"symbol": "BTCUSDT", "interval": "1m"}, 2),
        ("/depth", {"symbol": "BTCUSDT"}, 5),
        ("/depth", {"symbol": "BTCUSDT", "limit": 5000}, 250),
    ],
)
async def test_each_call_costs_its_documented_weight(start, http, path, query, weight) -> None:
    simulator = await start(clock=lambda: 1_790_000_000_000_000)
    async with http.get(simulator.rest_url + _API_V3 + path, params=query) as response:
        assert response.headers[_USED] == str(weight)


async def test_the_user_data_stream_of_old_is_gone_with_a_page_of_html(simulator, http) -> None:
    async with http.post(simulator.rest_url + "/api/v3/userDataStream") as response:
        assert response.status == 410
        assert response.content_type == "text/html"


async def test_too_much_weight_is_refused_with_429_and_going_on_with_418(start, http) -> None:
    minute_s = 1_790_000_040
    now_s = [minute_s + 10]
    rules = Rules(weight_per_minute=40, refusals_before_ban=2)
    simulator = await start(rules=rules, clock=lambda: now_s[0] * 1_000_000)
    statuses = []
    for _ in range(6):
        async with http.get(simulator.rest_url + "/api/v3/exchangeInfo") as response:
            statuses.append((response.status, response.headers.get("Retry-After")))
            body = await response.json()
    assert statuses == [(200, None), (200, None), (429, "50"), (429, "50"), (418, "120"), (418, "120")]
    assert body["code"] == -1003
    now_s[0] += 121
    assert (await get(http, simulator, "/ping"))[0] == 200


def test_a_second_ban_is_twice_as_long() -> None:
    budget = WeightBudget(1, Rules(refusals_before_ban=0))
    bans = []
    for start_ms in (0, 600_000):
        budget.spend("a", 1, start_ms)
        refusal = budget.spend("a", 1, start_ms)
        assert refusal is not None
        bans.append(refusal.retry_after_s)
    assert bans == [120, 240]


def test_weight_is_counted_per_address_and_forgotten_with_the_minute() -> None:
    budget = WeightBudget(10, Rules())
    assert budget.spend("a", 10, 59_000) is None
    assert budget.spend("b", 10, 59_000) is None
    refusal = budget.spend("a", 1, 59_000)
    assert refusal is not None
    assert (refusal.status, refusal.retry_after_s) == (429, 1)
    assert budget.spend("a", 10, 60_000) is None
    assert budget.used("b", 60_000) == 0
