"""Futures markets against the local exchange: marks value, books stand beside, routes are the right ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from app.domain.instruments import Instrument, Market
from app.domain.marks import MarkConflator
from app.domain.prices import Price
from app.exchanges.binance.contracts import WEIGHT_PER_MINUTE, BinanceContracts
from app.exchanges.binance.endpoints import MarketUrls
from app.exchanges.binance.timing import Timing
from app.exchanges.binance.weights import WeightBudget
from app.simulator.server import SimulatorHandle, serve_simulator
from tests.exchanges.waiting import eventually, running

QUICK = Timing(
    open_s=2,
    ack_s=2,
    first_data_s=2.5,
    stale_s=2.5,
    data_age_s=2.5,
    silence_s=30,
    close_s=0.2,
    backoff_base_s=0.05,
    backoff_cap_s=0.2,
    listing_gap_s=0.1,
    snapshot_gap_s=0.1,
    ask_every_s=0.1,
    doubt_every_s=0.3,
    clock_every_s=0.5,
    linger_s=0.0,
    connects=1000,
)
STALE_MS = 2_500


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def urls_of(simulator: SimulatorHandle, market: Market) -> MarketUrls:
    if market == "linear":
        return MarketUrls(simulator.rest_url, f"{simulator.ws_url}/public", f"{simulator.ws_url}/market")
    return MarketUrls(simulator.rest_url, f"{simulator.ws_url}/dstream", f"{simulator.ws_url}/dstream")


class Followed:
    """One futures market that follows a simulator, and what comes out."""

    def __init__(self, simulator: SimulatorHandle, market: Market, urls: MarketUrls | None = None) -> None:
        self.simulator = simulator
        self.ticks = MarkConflator(stale_after_ms=STALE_MS)
        self.prices: dict[str, Price] = {}
        self.listed: dict[str, Instrument] = {}
        self.market = BinanceContracts(
            market,
            urls or urls_of(simulator, market),
            WeightBudget(WEIGHT_PER_MINUTE),
            now_ms=now_ms,
            timing=QUICK,
        )

    def take_listing(self, instruments: list[Instrument]) -> None:
        self.listed = {each.symbol: each for each in instruments}

    def price(self, symbol: str) -> Price | None:
        for price in self.ticks.drain().prices:
            self.prices[price.symbol] = price
        return self.prices.get(symbol)

    def control(self, action: str, **detail: Any) -> dict[str, Any]:
        return self.simulator.control.perform(action, **detail)

    async def shows(self, symbol: str, condition: Callable[[Price], object]) -> Price:
        """Wait until a price is so."""

        def is_so() -> bool:
            price = self.price(symbol)
            return price is not None and bool(condition(price))

        await eventually(is_so)
        return self.prices[symbol]

    def streams(self) -> list[list[str]]:
        """What each connection asked for."""
        return [line["streams"] for line in self.simulator.control.state()["connections"]]


@pytest.fixture
async def simulator() -> AsyncIterator[SimulatorHandle]:
    async with serve_simulator(ticks_per_s=2000) as handle:
        yield handle


@asynccontextmanager
async def following(followed: Followed) -> AsyncIterator[Followed]:
    async with running(followed.market.run(followed.ticks, followed.take_listing)):
        await eventually(lambda: followed.listed)
        yield followed


@pytest.fixture
async def linear(simulator: SimulatorHandle) -> AsyncIterator[Followed]:
    async with following(Followed(simulator, "linear")) as followed:
        yield followed


@pytest.fixture
async def inverse(simulator: SimulatorHandle) -> AsyncIterator[Followed]:
    async with following(Followed(simulator, "inverse")) as followed:
        yield followed


async def test_instruments_have_names_of_their_own_and_the_exchanges_sizes(linear: Followed, inverse: Followed) -> None:
    bitcoin = linear.listed["BTCUSDT_PERP"]
    assert (bitcoin.venue_symbol, bitcoin.settle, bitcoin.multiplier) == ("BTCUSDT", "USDT", Decimal(1))
    assert bitcoin.is_perpetual
    assert "BTCUSDT" not in linear.listed
    coin = inverse.listed["ETHUSD_PERP"]
    assert (coin.venue_symbol, coin.settle, coin.quote, coin.multiplier) == ("", "ETH", "USD", Decimal(10))
    assert inverse.listed["BTCUSD_PERP"].multiplier == Decimal(100)
    delivered = [each for each in linear.listed.values() if not each.symbol.endswith("_PERP")]
    assert {each.symbol[:8] for each in delivered} == {"BTCUSDT_", "ETHUSDT_"}
    assert not any(each.is_perpetual for each in delivered)


@pytest.mark.parametrize(
    ("market", "venue_symbol", "symbol"),
    [("linear", "BTCUSDT", "BTCUSDT_PERP"), ("inverse", "BTCUSD_PERP", "BTCUSD_PERP")],
)
async def test_marks_value_and_funding_comes_with_them_though_nobody_watches(
    simulator: SimulatorHandle, market: Market, venue_symbol: str, symbol: str
) -> None:
    async with following(Followed(simulator, market)) as followed:
        followed.control("contract", venue=market, symbol=venue_symbol, mark="51234.5", rate="-0.00025")
        price = await followed.shows(symbol, lambda price: price.price == Decimal("51234.5"))

        assert (price.source, price.mark, price.funding_rate) == ("mark", Decimal("51234.5"), Decimal("-0.00025"))
        assert price.next_funding_ms is not None
        assert price.next_funding_ms > now_ms()
        assert not price.is_stale(now_ms(), STALE_MS)
        await eventually(lambda: followed.ticks.newest_ms is not None)


async def test_the_book_of_what_is_watched_stands_beside_the_mark(linear: Followed) -> None:
    linear.market.watch({"ETHUSDT_PERP", "ETHUSDT"})
    linear.control("contract", venue="linear", symbol="ETHUSDT", mark="3000", bid="2990", ask="2991")
    price = await linear.shows("ETHUSDT_PERP", lambda price: price.bid == 2990 and price.mark == 3000 and price.last)

    assert (price.price, price.source, price.ask) == (Decimal(3000), "mark", Decimal(2991))
    assert price.on_basis("exit", is_long=True) == (Decimal(2990), "bid")
    assert price.on_basis("exit", is_long=False) == (Decimal(2991), "ask")


async def test_each_stream_is_asked_for_on_the_route_that_serves_it(linear: Followed) -> None:
    linear.market.watch({"ETHUSDT_PERP"})
    await eventually(lambda: ["!markPrice@arr@1s", "ethusdt@aggTrade"] in linear.streams())
    await eventually(lambda: any("ethusdt@bookTicker" in streams for streams in linear.streams()))

    for streams in linear.streams():
        on_public = [name for name in streams if "@bookTicker" in name or "@depth" in name]
        assert on_public in ([], streams)
    linear.market.watch(set())
    await eventually(lambda: len(linear.simulator.control.state()["connections"]) == 1)


async def test_on_the_wrong_route_no_mark_would_come_and_the_market_is_not_live(simulator: SimulatorHandle) -> None:
    right = urls_of(simulator, "linear")
    wrong = MarketUrls(right.rest, right.market, right.public)
    async with following(Followed(simulator, "linear", wrong)) as followed:
        followed.market.watch({"BTCUSDT_PERP"})
        # Asked for over REST it is there, and fresh; but no stream brings it.
        await followed.shows("BTCUSDT_PERP", lambda price: price.mark)
        await asyncio.sleep(1.5)
        followed.price("BTCUSDT_PERP")
        assert followed.ticks.newest_ms is None


async def test_marks_are_asked_for_while_streams_are_silent(linear: Followed) -> None:
    linear.market.watch({"BTCUSDT_PERP"})
    await linear.shows("BTCUSDT_PERP", lambda price: price.bid)
    linear.control("stall", new=True)
    linear.control("contract", venue="linear", symbol="BTCUSDT", mark="40000")
    await asyncio.sleep(STALE_MS / 1000)

    price = await linear.shows("BTCUSDT_PERP", lambda price: price.mark == 40000)
    assert not price.is_stale(now_ms(), STALE_MS)


async def test_a_market_that_is_gone_leaves_the_other_fresh(linear: Followed, inverse: Followed) -> None:
    await linear.shows("BTCUSDT_PERP", lambda price: price.mark)
    await inverse.shows("BTCUSD_PERP", lambda price: price.mark)
    inverse.control("rest", status=503, venue="inverse")
    inverse.control("refuse", status=503, venue="inverse")
    inverse.control("abort", venue="inverse")

    await inverse.shows("BTCUSD_PERP", lambda price: price.is_stale(now_ms(), STALE_MS))
    assert not inverse.market.is_connected
    await linear.shows("BTCUSDT_PERP", lambda price: not price.is_stale(now_ms(), STALE_MS))
    inverse.control("reset")
    await inverse.shows("BTCUSD_PERP", lambda price: not price.is_stale(now_ms(), STALE_MS))


async def test_a_contract_that_does_not_trade_is_not_fresh(linear: Followed) -> None:
    linear.market.watch({"SOLUSDT_PERP"})
    await linear.shows("SOLUSDT_PERP", lambda price: not price.is_stale(now_ms(), STALE_MS))
    linear.control("contract", venue="linear", symbol="SOLUSDT", halted=True)
    linear.control("shutdown")

    await linear.shows("SOLUSDT_PERP", lambda price: price.is_stale(now_ms(), STALE_MS))


async def test_both_markets_together_keep_to_the_weight_of_one(simulator: SimulatorHandle) -> None:
    budget = WeightBudget(WEIGHT_PER_MINUTE)
    markets = [
        BinanceContracts(market, urls_of(simulator, market), budget, now_ms=now_ms, timing=QUICK)
        for market in ("linear", "inverse")
    ]
    budget.spend(WEIGHT_PER_MINUTE, time.time())
    ticks = [MarkConflator(stale_after_ms=STALE_MS) for _ in markets]
    listed: list[Instrument] = []
    async with running(markets[0].run(ticks[0], listed.extend)), running(markets[1].run(ticks[1], listed.extend)):
        await eventually(lambda: ticks[0].newest_ms or len(simulator.control.state()["connections"]) == 2)
        assert not [path for path in simulator.control.state()["rest_calls_by_path"] if "api/v1" in path]
        assert not listed
