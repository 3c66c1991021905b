"""History as the P&L worker keeps it, on a real PostgreSQL and a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.book import Book
from app.domain.candles import Candle
from app.repositories.books import BookRepository
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.history import HistoryRepository, Resolution
from app.repositories.leases import LeaseRepository
from app.repositories.restating import RestatingRepository
from app.repositories.roll_up import RollUpRepository
from app.repositories.samples import SampleRepository
from app.workers.history_keeper import HistoryKeeper
from app.workers.minute_turn import MINUTE_MS, MinuteTurn
from tests.domain.books import instrument, price
from tests.workers.desk import Market, Trader, WebInstance, listening, until, working


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def trader(engine: AsyncEngine, redis: Redis) -> Trader:
    return await Trader.register(engine, redis, "ada")


class Clock:
    """A market whose minutes the test begins: none of them a quarter of an hour but where it is asked for."""

    def __init__(self, redis: Redis) -> None:
        self.market = Market(redis)
        quarter = 15 * MINUTE_MS
        self.start_ms = (time.time_ns() // 1_000_000 // quarter + 1) * quarter

    def at(self, minutes: int) -> datetime:
        return datetime.fromtimestamp(self.start_ms / 1000, UTC) + timedelta(minutes=minutes)

    async def minute(self, number: int, *, after_ms: int = 40, **prices: str) -> None:
        """A flush just after the beginning of a minute."""
        await self.market.tick(at_ms=self.start_ms + number * MINUTE_MS + after_ms, **prices)


@pytest.fixture
async def clock(redis: Redis) -> Clock:
    clock = Clock(redis)
    await clock.minute(0, BTCUSDT="100", ETHUSDT="10")
    return clock


async def scalar(engine: AsyncEngine, query: str) -> Any:
    async with transaction(engine) as connection:
        return await connection.scalar(text(query))


async def reached(engine: AsyncEngine, minute: datetime) -> None:
    """Wait until a minute is written: its marks come last."""
    async with asyncio.timeout(8):
        while await scalar(engine, "SELECT max(at) FROM mark_minutes") != minute:
            await asyncio.sleep(0.02)


async def stored(engine: AsyncEngine, scope_id: str, resolution: Resolution = "minute") -> list[Candle]:
    far = datetime(2100, 1, 1, tzinfo=UTC)
    async with transaction(engine) as connection:
        return await HistoryRepository(connection).candles(
            scope_id, resolution, after=datetime(2000, 1, 1, tzinfo=UTC), until=far, limit=1000
        )


async def pnls(engine: AsyncEngine, trader: Trader) -> dict[datetime, Decimal | None]:
    candles = await stored(engine, trader.account_id)
    return {one.at: None if one.close.pnl is None else Decimal(one.close.pnl).scaleb(-18) for one in candles}


async def step(engine: AsyncEngine, clock: Clock, number: int, **prices: str) -> None:
    await clock.minute(number, **prices)
    await reached(engine, clock.at(number))


@asynccontextmanager
async def at_work(
    engine: AsyncEngine, redis: Redis, trader: Trader, *, holder: str = "worker"
) -> AsyncIterator[WebInstance]:
    """A worker that has spoken: the minute it began in is not sampled, the next is."""
    async with listening(redis, f"web of {holder}") as web:
        await web.connect(trader)
        async with working(engine, redis, holder=holder):
            await until(lambda: web.total(trader) is not None)
            yield web


def test_a_minute_is_told_once_and_not_before_the_second_question() -> None:
    turn = MinuteTurn()

    told = [turn.at(ms) for ms in (59_000, 60_010, 60_500, 59_990, 119_999, 180_001)]

    assert told == [None, 60_000, None, None, None, 180_000]


async def test_each_minute_has_a_sample_at_its_first_prices(
    engine: AsyncEngine, redis: Redis, trader: Trader, clock: Clock
) -> None:
    await trader.trade("buy", "2", "90")  # with a fee of 0.5

    async with at_work(engine, redis, trader):
        await step(engine, clock, 1)
        await step(engine, clock, 2, BTCUSDT="101")
        await clock.minute(2, after_ms=30_000, BTCUSDT="500")
        await step(engine, clock, 3, BTCUSDT="99.123456789")

    found = await pnls(engine, trader)
    assert found[clock.at(2)] == Decimal("21.5")
    assert found[clock.at(3)] == Decimal("17.746913578")
    async with transaction(engine) as connection:
        marks = await HistoryRepository(connection).marks(clock.at(3), ["BTCUSDT", "ETHUSDT"])
    assert marks == {"BTCUSDT": Decimal("99.123456789")}


async def test_what_did_not_change_is_written_only_each_quarter_of_an_hour(
    engine: AsyncEngine, redis: Redis, trader: Trader, clock: Clock
) -> None:
    await trader.trade("buy", "2", "90")

    async with at_work(engine, redis, trader):
        await step(engine, clock, 1, BTCUSDT="100")
        for minute in (2, 3, 14, 15, 16):
            await step(engine, clock, minute, BTCUSDT="100")

    assert list(await pnls(engine, trader)) == [clock.at(1), clock.at(15)]


async def test_a_second_worker_goes_on_and_writes_no_minute_twice(
    engine: AsyncEngine, redis: Redis, trader: Trader, clock: Clock
) -> None:
    await trader.trade("buy", "2", "90")
    async with at_work(engine, redis, trader, holder="first"):
        await step(engine, clock, 1)
        await step(engine, clock, 2, BTCUSDT="101")
    async with at_work(engine, redis, trader, holder="second"):
        await step(engine, clock, 3)

    found = await pnls(engine, trader)
    assert list(found) == [clock.at(1), clock.at(2), clock.at(3)]
    assert found[clock.at(3)] == found[clock.at(2)] == Decimal("21.5")


async def test_a_price_that_is_old_makes_the_sample_stale_and_one_that_is_missing_unknown(
    engine: AsyncEngine, redis: Redis, trader: Trader, clock: Clock
) -> None:
    await trader.trade("buy", "2", "90")

    async with at_work(engine, redis, trader) as web:
        await step(engine, clock, 1)
        await step(engine, clock, 2, BTCUSDT="100")
        await step(engine, clock, 3)
        await trader.trade("buy", "1", "5", instrument("SOLUSDT"))
        await until(lambda: len(web.mirror.users[trader.user_id].rows) == 2)
        await step(engine, clock, 4, BTCUSDT="100")

    flags = [(one.at, one.close.is_stale, one.close.is_complete) for one in await stored(engine, trader.account_id)]
    assert flags[-3:] == [
        (clock.at(2), False, True),
        (clock.at(3), True, True),
        (clock.at(4), False, False),
    ]
    assert (await pnls(engine, trader))[clock.at(4)] is None


async def test_a_minute_that_begins_while_the_feed_is_silent_is_stale(
    engine: AsyncEngine, redis: Redis, trader: Trader
) -> None:
    await trader.trade("buy", "2", "90")
    market = Market(redis)
    almost = (time.time_ns() // 1_000_000 // MINUTE_MS + 2) * MINUTE_MS - 3500
    await market.tick(at_ms=almost, BTCUSDT="100")

    async with working(engine, redis):
        await reached(engine, datetime.fromtimestamp((almost + 3500) / 1000, UTC))

    assert [one.close.is_stale for one in await stored(engine, trader.account_id)] == [True]


async def test_positions_keep_how_far_they_went(
    engine: AsyncEngine, redis: Redis, trader: Trader, clock: Clock
) -> None:
    opened = await trader.trade("buy", "2", "100")
    await trader.trade("buy", "1", "10", instrument("ETHUSDT"))

    async with at_work(engine, redis, trader) as web:
        await step(engine, clock, 1)
        await step(engine, clock, 2, BTCUSDT="95")
        await step(engine, clock, 3, BTCUSDT="103")
        await trader.trade("sell", "2", "101")
        await until(lambda: len(web.mirror.users[trader.user_id].rows) == 1)
        await step(engine, clock, 4, BTCUSDT="200")

        async with asyncio.timeout(8):
            while await scalar(engine, "SELECT count(*) FROM excursions") != 1:
                await asyncio.sleep(0.02)

    async with transaction(engine) as connection:
        row = (await connection.execute(text("SELECT position_id::text, worst, best FROM excursions"))).one()
    assert tuple(row) == (opened[0].position_id, Decimal(-10), Decimal(6))


class Away(SampleRepository):
    """A database that cannot be reached for as many writes as are told."""

    failures = 0

    async def write(self, *arguments: Any, **more: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("away")
        await super().write(*arguments, **more)


@pytest.mark.parametrize(("failures", "minutes"), [(1, [1, 2]), (10**9, [])])
async def test_a_database_that_is_away_costs_the_minutes_that_pass_meanwhile(
    engine: AsyncEngine, trader: Trader, failures: int, minutes: list[int]
) -> None:
    await trader.trade("buy", "2", "90")
    epoch = await LeaseRepository(engine).acquire("pnl:0/1", "test", 60_000)
    assert epoch is not None
    samples = Away(engine, "pnl:0/1", epoch)
    samples.failures = failures
    book = Book(5000)
    for user in await BookRepository(engine).load([trader.user_id]):
        book.upsert_user(user)
    roll_up = RollUpRepository(engine, minutes_for=timedelta(days=1), hours_for=timedelta(days=9))
    keeper = HistoryKeeper(book, samples, roll_up, RestatingRepository(engine, samples), stale_after_ms=5000)

    task = asyncio.create_task(keeper.run())
    start = datetime(2026, 3, 1, tzinfo=UTC)
    try:
        for minute in (0, 1, 2):
            at_ms = int(start.timestamp() * 1000) + minute * MINUTE_MS + 10
            book.set_prices([price("BTCUSDT", f"{100 + minute}", fresh_ms=at_ms)])
            keeper.tick(at_ms, silent=False)
            if minute and minutes:
                await reached(engine, start + timedelta(minutes=minute))
            await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert list(await pnls(engine, trader)) == [start + timedelta(minutes=minute) for minute in minutes]
