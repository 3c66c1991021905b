"""From the local exchange to a perpetual's P&L: real sockets, Redis and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.pnl import PnlPublisher
from app.bus.prices import read_instruments, read_prices
from app.domain.decimals import from_units
from app.domain.funding import FundingRate
from app.domain.instruments import Instrument, Market
from app.domain.positions import Position
from app.domain.prices import Feed, Price
from app.domain.valuation import value_position
from app.exchanges.binance.endpoints import MarketUrls
from app.exchanges.binance.timing import Timing
from app.repositories.database import create_engine, transaction
from app.repositories.funding import FundingRepository
from app.repositories.tables import positions
from app.settings import Settings
from app.simulator.server import SimulatorHandle, serve_simulator
from app.workers.price_worker import run_price_worker
from tests.exchanges.waiting import running
from tests.repositories.conftest import fill, new_user

STALE_MS = 3_000


class Desk:
    """A price worker, and what everybody can read of it."""

    def __init__(self, simulator: SimulatorHandle, database_url: str, redis_url: str, redis: Redis) -> None:
        self.simulator = simulator
        self.redis = redis
        self.urls: Mapping[Market, MarketUrls] = Settings(_env_file=None, simulator_url=simulator.rest_url).binance_urls
        self._database_url = database_url
        self._redis_url = redis_url

    def control(self, action: str, **detail: Any) -> dict[str, Any]:
        return self.simulator.control.perform(action, **detail)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        worker = run_price_worker(
            database_url=self._database_url,
            database_pool_size=3,
            database_timeout_s=5.0,
            redis_url=self._redis_url,
            redis_timeout_s=2.0,
            holder="one",
            lease_ttl_ms=2000,
            flush_ms=20,
            stale_after_ms=STALE_MS,
            simulated=True,
            binance_urls=self.urls,
            binance_timing=Timing(
                stale_s=2.5,
                data_age_s=2.5,
                first_data_s=2.5,
                backoff_base_s=0.05,
                backoff_cap_s=0.2,
                close_s=0.2,
                connects=1000,
                ask_every_s=0.2,
            ),
            binance_max_streams_per_connection=300,
            funding_every_s=0.05,
        )
        async with running(worker):
            yield

    async def price(self, symbol: str, condition: Callable[[Price], object]) -> Price:
        """Wait until the price of a symbol, as everybody reads it, is so."""
        async with asyncio.timeout(15):
            while True:
                price = (await read_prices(self.redis, 2.0))[1].get(symbol)
                if price is not None and condition(price):
                    return price
                await asyncio.sleep(0.02)

    async def feed(self, condition: Callable[[Feed], object]) -> Feed:
        async with asyncio.timeout(15):
            while True:
                head, _ = await read_prices(self.redis, 2.0)
                if head is not None and condition(head.feed):
                    return head.feed
                await asyncio.sleep(0.02)

    async def listed(self, *symbols: str) -> dict[str, Instrument]:
        async with asyncio.timeout(15):
            while not set(symbols) <= set(found := await read_instruments(self.redis, 2.0)):
                await asyncio.sleep(0.02)
        return found

    async def is_old(self, symbol: str) -> bool:
        head, prices = await read_prices(self.redis, 2.0)
        assert head is not None
        return prices[symbol].is_stale(head.as_of_ms, STALE_MS)


@pytest.fixture
async def desk(database_url: str, redis_url: str, redis: Redis) -> AsyncIterator[Desk]:
    async with serve_simulator(ticks_per_s=1000) as simulator:
        yield Desk(simulator, database_url, redis_url, redis)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=3, timeout_s=5)
    yield made
    await made.dispose()


async def hold(engine: AsyncEngine, instrument: Instrument, quantity: str, price: str, since: timedelta) -> Position:
    """A position, opened some time ago."""
    holder = await new_user(engine, f"holder-of-{instrument.symbol.lower()}")
    recorded = await fill(engine, holder, "buy", quantity, price, listed=instrument)
    async with transaction(engine) as connection:
        await connection.execute(
            update(positions).where(positions.c.symbol == instrument.symbol).values(opened_at=datetime.now(UTC) - since)
        )
    return recorded.positions[0]


async def settled(engine: AsyncEngine, symbol: str, at_ms: int) -> FundingRate:
    """Wait until a stamp is stored."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    repository = FundingRepository(engine)
    async with asyncio.timeout(15):
        while not (found := await repository.between(symbol, at - timedelta(milliseconds=1), at)):
            await asyncio.sleep(0.02)
    [stamp] = found
    return stamp


async def test_a_perpetual_is_worth_its_mark_from_the_exchange_to_the_figure(desk: Desk, engine: AsyncEngine) -> None:
    async with desk.at_work():
        listed = await desk.listed("BTCUSDT", "BTCUSDT_PERP", "BTCUSD_PERP")
        linear = await hold(engine, listed["BTCUSDT_PERP"], "2", "50000", timedelta(0))
        inverse = await hold(engine, listed["BTCUSD_PERP"], "10", "50000", timedelta(0))
        await PnlPublisher(desk.redis, 2.0, 60).hold({"BTCUSDT", "BTCUSDT_PERP", "BTCUSD_PERP"})
        desk.control("price", symbol="BTCUSDT", bid="70000", ask="70001")
        desk.control("contract", venue="linear", symbol="BTCUSDT", mark="51000.5", bid="50990", ask="50991")
        desk.control("contract", venue="inverse", symbol="BTCUSD_PERP", mark="40000", bid="39990", ask="39991")
        long = await desk.price("BTCUSDT_PERP", lambda price: price.mark == Decimal("51000.5") and price.bid == 50990)
        coin = await desk.price("BTCUSD_PERP", lambda price: price.mark == 40000 and price.bid == 39990)
        spot = await desk.price("BTCUSDT", lambda price: price.bid == 70000)

    value = value_position(linear, long, long.fresh_ms, STALE_MS)
    assert value.unrealized_pnl is not None
    assert from_units(value.unrealized_pnl) == Decimal("2001")
    assert value.mark is not None
    assert (value.mark.source, value.is_stale) == ("mark", False)
    # Ten contracts of a hundred dollars: 1000/50000 − 1000/40000 bitcoin.
    loss = value_position(inverse, coin, coin.fresh_ms, STALE_MS)
    assert loss.unrealized_pnl is not None
    assert from_units(loss.unrealized_pnl) == Decimal("-0.005")
    at_exit = value_position(linear, long, long.fresh_ms, STALE_MS, "exit")
    assert at_exit.unrealized_pnl is not None
    assert from_units(at_exit.unrealized_pnl) == Decimal("1980")
    assert (spot.source, spot.mark, spot.funding_rate) == ("mid", None, None)


async def test_settled_funding_is_stored_once_with_the_mark_of_its_moment_also_across_a_restart(
    desk: Desk, engine: AsyncEngine
) -> None:
    async with desk.at_work():
        listed = await desk.listed("BTCUSDT_PERP", "ETHUSD_PERP")
        await hold(engine, listed["BTCUSDT_PERP"], "1", "50000", timedelta(hours=1))
        await hold(engine, listed["ETHUSD_PERP"], "1", "3000", timedelta(hours=1))
        first_ms = desk.control("funding", rate="0.0002", mark="51000")["time_ms"]
        # A stamp between the exchange's own times is found by the next look of an hour: a restart looks at once.
    async with desk.at_work():
        linear = await settled(engine, "BTCUSDT_PERP", first_ms)
        inverse = await settled(engine, "ETHUSD_PERP", first_ms)
    missed_ms = desk.control("funding", rate="-0.0001", mark="52000")["time_ms"]
    async with desk.at_work():
        missed = await settled(engine, "BTCUSDT_PERP", missed_ms)

    assert (linear.rate, linear.mark) == (Decimal("0.0002"), Decimal(51000))
    # COIN-M says no mark with the stamp: it is the one that the minute began with.
    assert (inverse.rate, inverse.mark) == (Decimal("0.0002"), Decimal(51000))
    assert (missed.rate, missed.mark) == (Decimal("-0.0001"), Decimal(52000))
    start = datetime.fromtimestamp(first_ms / 1000, UTC) - timedelta(milliseconds=1)
    stored = await FundingRepository(engine).between("BTCUSDT_PERP", start, datetime.now(UTC))
    assert [stamp.rate for stamp in stored] == [Decimal("0.0002"), Decimal("-0.0001")]


async def test_one_market_that_is_gone_makes_only_its_own_symbols_old(desk: Desk) -> None:
    async with desk.at_work():
        await PnlPublisher(desk.redis, 2.0, 60).hold({"BTCUSDT", "BTCUSDT_PERP"})
        for symbol in ("BTCUSDT", "BTCUSDT_PERP", "BTCUSD_PERP"):
            await desk.price(symbol, lambda price: price.price)
        await desk.feed(lambda feed: set(feed.markets.values()) == {"simulated"})
        desk.control("rest", status=503, venue="inverse")
        desk.control("refuse", status=503, venue="inverse")
        desk.control("abort", venue="inverse")
        feed = await desk.feed(lambda feed: feed.markets["inverse"] == "down")

        assert (feed.state, feed.markets["spot"], feed.markets["linear"]) == ("simulated",) * 3
        assert await desk.is_old("BTCUSD_PERP")
        assert not await desk.is_old("BTCUSDT")
        assert not await desk.is_old("BTCUSDT_PERP")


async def test_markets_that_are_off_are_not_asked_for(desk: Desk) -> None:
    desk.urls = {"spot": desk.urls["spot"]}
    async with desk.at_work():
        listed = await desk.listed("BTCUSDT")
        await desk.price("BTCUSDT", lambda price: price.price)

        assert {each.market for each in listed.values()} == {"spot"}
        asked = desk.simulator.control.state()
        assert not [path for path in asked["rest_calls_by_path"] if path.startswith(("/fapi", "/dapi"))]
        assert {line["venue"] for line in asked["connections"]} == {"spot"}
