"""Samples reckoned anew after a correction are those that would have been taken had the ledger been so."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.book import Book
from app.domain.book_samples import BookSampler
from app.domain.candles import Candle, Figures
from app.domain.prices import Price
from app.domain.rates import RateBook
from app.repositories.accounts import AccountRepository
from app.repositories.books import BookRepository
from app.repositories.database import create_engine, transaction
from app.repositories.fills import Holder
from app.repositories.history import HistoryRepository, Resolution
from app.repositories.leases import LeaseRepository
from app.repositories.restating import RestatingRepository
from app.repositories.revised_days import mark_days_revised
from app.repositories.roll_up import RollUpRepository
from app.repositories.samples import SampleRepository
from app.workers.history_restater import HistoryRestater
from tests.repositories.conftest import fill, instrument, new_user, transfer

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROLE = "pnl:0/1"
BTC, ETH, CROSS = instrument(), instrument("ETHUSDT"), instrument("ETHBTC", "BTC")
RATES = RateBook([BTC, ETH, CROSS])


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def alice(engine: AsyncEngine) -> Holder:
    return await new_user(engine, "alice")


class Desk:
    """Samples the ledger as the P&L worker does, at minutes and prices of the test's own."""

    def __init__(self, engine: AsyncEngine, epoch: int) -> None:
        self.engine = engine
        self.samples = SampleRepository(engine, ROLE, epoch)
        self.restater = HistoryRestater(RestatingRepository(engine, self.samples), lambda: RATES, quiet_s=0)

    async def sample(self, at: datetime, **prices: str) -> None:
        book = Book(5000)
        book.set_rates(RATES)
        async for users in BookRepository(self.engine).stream():
            for user in users:
                book.upsert_user(user)
        ms = int(at.timestamp() * 1000)
        book.set_prices(
            Price(symbol, Decimal(value), "mid", None, None, None, None, ms, ms, ms) for symbol, value in prices.items()
        )
        sampler = BookSampler(book)
        frozen = sampler.freeze(ms, ms, 5000, silent=False)
        await self.samples.write(at, at - MINUTE, sampler.sample(frozen, 0).samples, has_new=True)
        await self.samples.write_marks(at, frozen.marks)

    async def kept(self, scope_id: str, resolution: Resolution = "minute") -> dict[datetime, Figures]:
        return {one.at: one.close for one in await self.candles(scope_id, resolution)}

    async def candles(self, scope_id: str, resolution: Resolution) -> list[Candle]:
        async with transaction(self.engine) as connection:
            history = HistoryRepository(connection)
            return await history.candles(
                scope_id, resolution, after=START - MINUTE, until=START + timedelta(days=99), limit=9999
            )

    async def corrected(self, holder: Holder, since: datetime) -> bool:
        async with transaction(self.engine) as connection:
            return await mark_days_revised(connection, holder.account_id, since)


@pytest.fixture
async def desk(engine: AsyncEngine) -> Desk:
    epoch = await LeaseRepository(engine).acquire(ROLE, "test", 60_000)
    assert epoch is not None
    return Desk(engine, epoch)


async def second_account(engine: AsyncEngine, holder: Holder) -> Holder:
    async with transaction(engine) as connection:
        account_id = await AccountRepository(connection).create(holder.user_id, "Second", "manual", "USDT")
    return msgspec.structs.replace(holder, account_id=account_id)


@pytest.mark.parametrize("seed", range(2))
async def test_where_nothing_was_wrong_nothing_changes(
    engine: AsyncEngine, desk: Desk, alice: Holder, seed: int
) -> None:
    chance = random.Random(seed)
    holders = [alice, await second_account(engine, alice)]
    for minute in range(1, 13):
        moment = START + minute * MINUTE - timedelta(seconds=30)
        holder = chance.choice(holders)
        if chance.random() < 0.25:
            asset = chance.choice(["USDT", "BTC"])
            rate = "1" if asset == "USDT" else "97.5"
            await transfer(engine, holder, chance.choice(["deposit", "adjustment"]), "7.25", asset=asset, rate=rate,
                           at=moment)  # fmt: skip
        else:
            listed = chance.choice([BTC, ETH, CROSS])
            price = {"BTCUSDT": "100.5", "ETHUSDT": "10.01", "ETHBTC": "0.1003"}[listed.symbol]
            quantity = f"{chance.randint(1, 3)}.00000000{chance.randint(1, 9)}"
            await fill(engine, holder, chance.choice(["buy", "sell"]), quantity, price, listed=listed,
                       executed_at=moment, fee=Decimal("0.013"), rate_to_reporting=Decimal("99.9"))  # fmt: skip
        prices = {"BTCUSDT": f"10{chance.randint(0, 9)}.123", "ETHUSDT": f"1{chance.randint(0, 9)}.000000007"}
        await desk.sample(START + minute * MINUTE, ETHBTC=f"0.10{chance.randint(10, 99)}", **prices)
    scopes = [alice.account_id, holders[1].account_id, alice.user_id]
    before = [await desk.kept(scope_id) for scope_id in scopes]

    for holder in holders:
        await desk.corrected(holder, START)
    await desk.restater.round()

    for scope_id, known in zip(scopes, before, strict=True):
        found = await desk.kept(scope_id)
        assert {at: found[at] for at in known} == known
    assert sum(map(len, before)) > 20


async def test_a_late_fill_is_in_every_sample_from_its_time_on(engine: AsyncEngine, desk: Desk, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "90", executed_at=START)
    for minute, price in ((1, "100"), (2, "101"), (3, "103")):
        await desk.sample(START + minute * MINUTE, BTCUSDT=price)

    late = START + 1.5 * MINUTE
    await fill(engine, alice, "buy", "2", "100", executed_at=late, fee=Decimal(1))
    assert await desk.corrected(alice, late)
    await desk.restater.round()

    pnls = [(figures.pnl or 0) // 10**18 for figures in (await desk.kept(alice.account_id)).values()]
    assert pnls == [10, 12, 18]


async def test_hours_and_days_follow(engine: AsyncEngine, desk: Desk, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "90", executed_at=START)
    for half in range(1, 2 * 26):
        await desk.sample(START + 30 * half * MINUTE, BTCUSDT=f"{100 + half % 8}")
    over = START + timedelta(hours=26)
    roll_up = RollUpRepository(engine, minutes_for=timedelta(hours=1), hours_for=timedelta(days=9))
    await roll_up.sum_up_hours(over, 10)
    await roll_up.sum_up_days(over, 10)
    before = await desk.candles(alice.account_id, "day")

    await fill(engine, alice, "buy", "1", "90", executed_at=START + timedelta(hours=3))
    await desk.corrected(alice, START + timedelta(hours=3))
    await roll_up.sum_up_hours(over, 10)
    assert await desk.candles(alice.account_id, "day") == before
    await desk.restater.round()
    await roll_up.sum_up_hours(over, 10)
    await roll_up.sum_up_days(over, 10)

    after = await desk.candles(alice.account_id, "day")
    assert [(one.at, one.opened_at) for one in after] == [(one.at, one.opened_at) for one in before]
    assert [one.high for one in before] == [17 * 10**18]
    assert [one.high for one in after] == [34 * 10**18]
    hours = await desk.candles(alice.account_id, "hour")
    assert [(one.high or 0) // 10**18 for one in hours[:4]] == [12, 14, 16, 34]
    assert len({one.at for one in hours}) == len(hours) == 26


async def test_a_symbol_whose_mark_nobody_kept_is_unknown(engine: AsyncEngine, desk: Desk, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "90", executed_at=START)
    await desk.sample(START + MINUTE, BTCUSDT="100")

    await fill(engine, alice, "buy", "1", "5", listed=ETH, executed_at=START)
    await desk.corrected(alice, START)
    await desk.restater.round()

    figures = (await desk.kept(alice.account_id))[START + MINUTE]
    assert (figures.pnl, figures.is_complete) == (None, False)


async def test_a_correction_that_comes_meanwhile_makes_it_due_again(
    engine: AsyncEngine, desk: Desk, alice: Holder
) -> None:
    await fill(engine, alice, "buy", "1", "90", executed_at=START)
    await desk.sample(START + MINUTE, BTCUSDT="100")
    await desk.corrected(alice, START)
    repository = RestatingRepository(engine, desk.samples)
    due = await repository.next_due(0)
    assert due is not None

    await desk.corrected(alice, START + MINUTE / 2)

    assert not await repository.replace(due, START, [(START + MINUTE, Figures())])
    assert (await desk.kept(alice.account_id))[START + MINUTE].pnl == 10 * 10**18
    again = await repository.next_due(0)
    assert again is not None
    assert again.corrected_at > due.corrected_at
    assert await repository.next_due(60) is None


async def test_what_is_too_much_to_go_through_is_left_as_it_was(engine: AsyncEngine, desk: Desk, alice: Holder) -> None:
    for _ in range(3):
        await fill(engine, alice, "buy", "1", "90", executed_at=START)
    await desk.sample(START + MINUTE, BTCUSDT="100")
    await desk.corrected(alice, START)
    before = await desk.kept(alice.account_id)

    await HistoryRestater(RestatingRepository(engine, desk.samples), lambda: RATES, quiet_s=0, most_fills=2).round()

    assert await desk.kept(alice.account_id) == before
    async with transaction(engine) as connection:
        assert await connection.scalar(text("SELECT restate_from FROM history_scopes")) is None


async def test_funding_counts_from_its_time_on(engine: AsyncEngine, desk: Desk, alice: Holder) -> None:
    opened = await fill(engine, alice, "buy", "1", "90", executed_at=START)
    for minute in (1, 2):
        await desk.sample(START + minute * MINUTE, BTCUSDT="100")
    paid = {"position": opened.position.position_id, "user": alice.user_id, "at": START + 1.5 * MINUTE}
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                "INSERT INTO funding_payments (position_id, at, user_id, symbol, signed_qty, mark, rate, amount)"
                " VALUES (:position, :at, :user, 'BTCUSDT', 1, 100, 0.03, -3)"
            ),
            paid,
        )

    await desk.corrected(alice, START)
    await desk.restater.round()

    kept = await desk.kept(alice.account_id)
    assert [(one.funding // 10**18, (one.pnl or 0) // 10**18) for one in kept.values()] == [(0, 10), (-3, 7)]
