"""Symbols and prices over REST."""

from decimal import Decimal

import httpx2

from app.domain.instruments import Instrument
from app.domain.prices import Price

from .conftest import INSTRUMENTS, Api


async def test_symbols_are_listed_by_name_in_pages(alice: httpx2.AsyncClient) -> None:
    first = (await alice.get("/api/v1/symbols", params={"limit": 4})).json()
    rest = (await alice.get("/api/v1/symbols", params={"limit": 4, "cursor": first["next_cursor"]})).json()

    names = [each["symbol"] for each in first["items"] + rest["items"]]
    assert names == sorted(instrument.symbol for instrument in INSTRUMENTS)
    assert rest["next_cursor"] is None
    assert first["items"][1] == {
        "symbol": "BTCUSDT",
        "market": "spot",
        "base": "BTC",
        "quote": "USDT",
        "settle": "USDT",
        "tick_size": "0.01",
        "step_size": "0.00001",
        "multiplier": "1",
        "status": "trading",
    }


async def test_a_search_puts_the_asset_itself_first(alice: httpx2.AsyncClient) -> None:
    found = (await alice.get("/api/v1/symbols", params={"q": "btc", "market": "spot"})).json()["items"]

    assert [each["symbol"] for each in found] == ["BTCUSDT", "ETHBTC"]
    found = (await alice.get("/api/v1/symbols", params={"q": "eth"})).json()["items"]
    assert [each["symbol"] for each in found] == ["ETHUSDT", "ETHBTC"]
    assert (await alice.get("/api/v1/symbols", params={"market": "linear"})).json()["items"] == []


async def test_prices_say_how_old_they_are_and_when_there_is_none(api: Api, alice: httpx2.AsyncClient) -> None:
    await api.market.move(age_ms=7000, ETHUSDT="10.5")

    answer = (await alice.get("/api/v1/prices", params={"symbols": "BTCUSDT,ETHUSDT,SOLUSDT,BTCUSDT"})).json()

    shown = [(each["symbol"], each["price"], each["is_stale"]) for each in answer["items"]]
    assert shown == [("BTCUSDT", "100", False), ("ETHUSDT", "10.5", True), ("SOLUSDT", None, False)]
    assert answer["items"][1]["age_ms"] == 7000


async def test_all_prices_come_in_pages(alice: httpx2.AsyncClient) -> None:
    first = (await alice.get("/api/v1/prices", params={"limit": 3})).json()
    rest = (await alice.get("/api/v1/prices", params={"limit": 3, "cursor": first["next_cursor"]})).json()

    assert [each["symbol"] for each in first["items"]] == ["BNBUSDT", "BTCUSDT", "ETHUSDT"]
    assert [each["symbol"] for each in rest["items"]] == ["LUNAUSDT"]
    assert rest["next_cursor"] is None


async def test_a_perpetual_is_listed_by_its_market_and_shows_its_mark_and_funding(
    api: Api, alice: httpx2.AsyncClient
) -> None:
    perpetual = Instrument(
        symbol="BTCUSD_PERP",
        market="inverse",
        base="BTC",
        quote="USD",
        settle="BTC",
        tick_size=Decimal("0.1"),
        step_size=Decimal(1),
        multiplier=Decimal(100),
    )
    await api.market.list_instruments(perpetual)
    mark, rate = Decimal("50000.5"), Decimal("-0.00025")
    await api.market.repeat(
        [Price("BTCUSD_PERP", mark, "mark", Decimal(50000), None, None, mark, 1, 1, 1, rate, 1_790_000_000_000)]
    )

    [listed] = (await alice.get("/api/v1/symbols", params={"market": "inverse"})).json()["items"]
    assert (listed["symbol"], listed["multiplier"], listed["settle"]) == ("BTCUSD_PERP", "100", "BTC")
    items = (await alice.get("/api/v1/prices", params={"symbols": "BTCUSD_PERP,BTCUSDT,SOLUSDT"})).json()["items"]
    shown = [(each["price_source"], each["mark"], each["funding_rate"], each["next_funding_ms"]) for each in items]
    assert shown == [
        ("mark", "50000.5", "-0.00025", 1_790_000_000_000),
        ("mid", None, None, None),
        (None, None, None, None),
    ]
