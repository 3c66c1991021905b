"""Several markets in one price worker: none speaks for another, and no symbol means two things."""

import asyncio
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import NoReturn

import pytest
from redis.asyncio import Redis

from app.bus.prices import read_instruments, read_prices
from app.domain.conflation import Conflator, Quote
from app.domain.instruments import Instrument, Market
from app.domain.lateness import Lane
from app.domain.marks import Mark, MarkConflator
from app.domain.prices import Feed, Price
from app.workers.listing import SymbolOwners
from app.workers.price_bus import RedisPriceBus
from app.workers.price_worker import PriceWorker
from tests.exchanges.waiting import eventually, running

STALE_MS = 5_000


def instrument(symbol: str, market: Market) -> Instrument:
    return Instrument(
        symbol=symbol,
        market=market,
        base="BTC",
        quote="USDT",
        settle="USDT",
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.001"),
    )


class FakeFeed:
    """A market that says what it is told to."""

    source = "binance"

    def __init__(self, market: Market, now_ms: Callable[[], int]) -> None:
        self.market = market
        self.is_connected = True
        self.watched: Set[str] = set()
        self._now_ms = now_ms
        self._sequence = 0
        self.ticks: Conflator | None = None
        self._listed: Callable[[list[Instrument]], None] | None = None

    def watch(self, symbols: Set[str]) -> None:
        self.watched = symbols

    async def run(self, ticks: Conflator, listed: Callable[[list[Instrument]], None]) -> NoReturn:
        self.ticks, self._listed = ticks, listed
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def list_symbols(self, *symbols: str) -> None:
        assert self._listed is not None
        self._listed([instrument(symbol, self.market) for symbol in symbols])

    def quote(self, symbol: str, price: str) -> None:
        assert self.ticks is not None
        self._sequence += 1
        self.ticks.quote(Quote(symbol, price, price, self._sequence), self._now_ms(), Lane())

    def mark(self, symbol: str, price: str) -> None:
        assert isinstance(self.ticks, MarkConflator)
        self.ticks.marks([Mark(symbol, price, self._now_ms(), "0.0001", 9)], self._now_ms())


class System:
    """A price worker with all three markets, on a real Redis."""

    def __init__(self, redis: Redis, epoch: int = 1) -> None:
        self.redis = redis
        self.ms = 1_790_000_000_000
        self.interest: set[str] = set()
        self.spot, self.linear, self.inverse = (
            FakeFeed(market, lambda: self.ms) for market in ("spot", "linear", "inverse")
        )
        self.worker = PriceWorker(
            [self.spot, self.linear, self.inverse],
            RedisPriceBus(redis, 2.0),
            self,
            epoch=epoch,
            flush_s=0.01,
            stale_after_ms=STALE_MS,
            simulated=False,
            now_ms=lambda: self.ms,
        )

    async def interesting_symbols(self) -> set[str]:
        return self.interest

    async def prices(self) -> dict[str, Price]:
        return (await read_prices(self.redis, 2.0))[1]

    async def listed(self) -> dict[str, Instrument]:
        return await read_instruments(self.redis, 2.0)

    async def until_priced(self, symbol: str, price: str) -> Price:
        async with asyncio.timeout(5):
            while (found := (await self.prices()).get(symbol)) is None or found.price != Decimal(price):
                await asyncio.sleep(0.01)
        return found

    async def until_listed(self, *symbols: str) -> dict[str, Instrument]:
        async with asyncio.timeout(5):
            while set(found := await self.listed()) != set(symbols):
                await asyncio.sleep(0.01)
        return found

    async def until_feed(self, state: str, **markets: str) -> None:
        async with asyncio.timeout(5):
            while (feed := await self._feed()) is None or (feed.state, feed.markets) != (state, markets):
                await asyncio.sleep(0.01)

    async def _feed(self) -> Feed | None:
        head, _ = await read_prices(self.redis, 2.0)
        return None if head is None else head.feed


@asynccontextmanager
async def at_work(system: System) -> AsyncIterator[System]:
    async with running(system.worker.run()):
        await eventually(lambda: all(feed.ticks for feed in (system.spot, system.linear, system.inverse)))
        yield system


@pytest.fixture
async def system(redis: Redis) -> AsyncIterator[System]:
    async with at_work(System(redis)) as system:
        yield system


async def test_each_market_has_its_own_kind_of_price(system: System) -> None:
    system.spot.quote("BTCUSDT", "100")
    system.linear.mark("BTCUSDT_PERP", "101")

    assert (await system.until_priced("BTCUSDT", "100")).source == "mid"
    perpetual = await system.until_priced("BTCUSDT_PERP", "101")
    assert (perpetual.source, perpetual.funding_rate, perpetual.next_funding_ms) == ("mark", Decimal("0.0001"), 9)
    assert system.worker.next_funding_ms("BTCUSDT_PERP") == 9


async def test_a_market_that_is_silent_makes_only_its_own_prices_old(system: System) -> None:
    system.linear.mark("BTCUSDT_PERP", "101")
    await system.until_priced("BTCUSDT_PERP", "101")
    system.ms += STALE_MS + 1
    system.spot.quote("BTCUSDT", "100")
    await system.until_priced("BTCUSDT", "100")

    stale = {symbol for symbol, price in (await system.prices()).items() if price.is_stale(system.ms, STALE_MS)}
    assert stale == {"BTCUSDT_PERP"}


async def test_the_feed_is_as_well_as_the_worst_market_that_somebody_needs(system: System) -> None:
    system.linear.is_connected = system.inverse.is_connected = False
    system.linear.list_symbols("BTCUSDT_PERP")
    system.spot.quote("BTCUSDT", "100")
    await system.until_feed("live", spot="live", linear="down", inverse="down")

    system.interest = {"BTCUSDT_PERP"}
    await system.until_feed("down", spot="live", linear="down", inverse="down")
    system.linear.mark("BTCUSDT_PERP", "101")
    await system.until_feed("live", spot="live", linear="live", inverse="down")


async def test_a_symbol_that_another_market_has_is_refused_with_its_prices(system: System) -> None:
    system.spot.list_symbols("BTCUSDT", "AUSD_PERP")
    await system.until_listed("BTCUSDT", "AUSD_PERP")
    system.linear.list_symbols("AUSD_PERP", "BTCUSDT_PERP")
    listed = await system.until_listed("BTCUSDT", "AUSD_PERP", "BTCUSDT_PERP")
    system.linear.mark("AUSD_PERP", "666")
    system.spot.quote("AUSD_PERP", "100")
    await system.until_priced("AUSD_PERP", "100")
    system.linear.mark("AUSD_PERP", "666")
    system.linear.mark("BTCUSDT_PERP", "101")
    await system.until_priced("BTCUSDT_PERP", "101")

    assert listed["AUSD_PERP"].market == "spot"
    assert (await system.prices())["AUSD_PERP"].price == Decimal(100)


async def test_after_a_restart_a_symbol_still_belongs_to_the_market_that_had_it(redis: Redis) -> None:
    async with at_work(System(redis)) as before:
        before.linear.list_symbols("AUSD_PERP")
        await before.until_listed("AUSD_PERP")
    async with at_work(System(redis, epoch=2)) as after:
        after.spot.list_symbols("AUSD_PERP", "BTCUSDT")

        assert (await after.until_listed("AUSD_PERP", "BTCUSDT"))["AUSD_PERP"].market == "linear"


def test_a_symbol_that_is_listed_twice_counts_once_and_one_that_is_given_up_stays_with_its_owner() -> None:
    owners = SymbolOwners()
    twice = [instrument("A", "spot"), instrument("A", "spot")]

    assert [each.symbol for each in owners.admit("spot", twice)] == ["A"]
    assert owners.admit("linear", [instrument("A", "linear")]) == []
    assert owners.refused("linear") == {"A"}
    assert owners.admit("spot", []) == []
    assert owners.admit("linear", [instrument("A", "linear")]) == []
    assert owners.admit("linear", []) == []
    assert owners.refused("linear") == set()
