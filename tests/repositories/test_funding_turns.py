"""Funding: every position that held something at a stamp is paid once, whatever happens in between."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.instruments import Instrument
from app.domain.positions import Position
from app.domain.shards import shards_of
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.fills import Holder
from app.repositories.funding_payments import FundingPaymentRepository
from app.repositories.funding_turns import FundingTurnRepository, Stamp
from app.repositories.positions import PositionRepository
from app.workers.funding_turn import FundingTurn

from .conftest import fill, new_user
from .ledger_storm import differences

D = Decimal
NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
PERPETUAL = Instrument(
    symbol="BTCUSDT_PERP",
    market="linear",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=D("0.1"),
    step_size=D("0.001"),
)
COIN = Instrument(
    symbol="BTCUSD_PERP",
    market="inverse",
    base="BTC",
    quote="USD",
    settle="BTC",
    multiplier=D(100),
    tick_size=D("0.1"),
    step_size=D(1),
)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


async def store(engine: AsyncEngine, at: datetime, listed: Instrument = PERPETUAL, rate: str = "0.001") -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            text("INSERT INTO funding_rates (symbol, at, rate, mark) VALUES (:symbol, :at, :rate, 100)"),
            {"symbol": listed.symbol, "at": at, "rate": D(rate)},
        )


async def position(engine: AsyncEngine, holder: Holder) -> Position:
    async with transaction(engine) as connection:
        [only] = await PositionRepository(connection).page(holder.user_id, limit=10)
        return only


async def events(engine: AsyncEngine, holder: Holder) -> list[tuple[int, str, dict[str, Any]]]:
    query = text("SELECT seq, kind, data FROM events WHERE user_id = :user ORDER BY seq")
    async with transaction(engine) as connection:
        return [tuple(row) for row in await connection.execute(query, {"user": holder.user_id})]  # type: ignore[misc]


def no_rate(asset: str, currency: str) -> Decimal | None:
    return None


@pytest.fixture
def turn(engine: AsyncEngine, redis: Redis) -> FundingTurn:
    return FundingTurn(FundingTurnRepository(engine), redis, 5.0, no_rate)


async def test_an_open_position_is_paid_once_with_one_event(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn, redis: Redis
) -> None:
    await fill(engine, alice, "buy", "2", "100", executed_at=ago(10), listed=PERPETUAL)
    await store(engine, ago(5))

    await turn.take()
    await turn.take()
    await FundingTurn(FundingTurnRepository(engine), redis, 5.0, no_rate).take()

    paid = await position(engine, alice)
    assert (paid.state.funding, paid.version) == (D("-0.2"), 2)
    [(seq, kind, data)] = await events(engine, alice)
    assert (seq, kind, data["payments"], data["funding"][0]["amount"]) == (2, "account", 1, "-0.2")


async def test_who_closed_after_the_stamp_is_paid_for_what_was_held_at_it(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    await fill(engine, alice, "buy", "2", "100", executed_at=ago(10), listed=PERPETUAL)
    await fill(engine, alice, "sell", "2", "100", executed_at=ago(4), listed=PERPETUAL)
    await store(engine, ago(5))

    await turn.take()

    closed = await position(engine, alice)
    assert (closed.status, closed.state.funding) == ("closed", D("-0.2"))


async def test_who_closed_before_the_stamp_or_opened_after_it_is_not_paid(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    bob = await new_user(engine, "bob")
    await fill(engine, alice, "buy", "2", "100", executed_at=ago(10), listed=PERPETUAL)
    await fill(engine, alice, "sell", "2", "100", executed_at=ago(6), listed=PERPETUAL)
    await fill(engine, bob, "buy", "2", "100", executed_at=ago(4), listed=PERPETUAL)
    await store(engine, ago(5))

    await turn.take()

    assert [(await position(engine, one)).state.funding for one in (alice, bob)] == [0, 0]
    assert await events(engine, alice) == []


async def test_several_stamps_that_come_late_are_one_transaction(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    await fill(engine, alice, "sell", "1", "100", executed_at=ago(10), listed=PERPETUAL)
    for minutes in (9, 7, 5):
        await store(engine, ago(minutes))

    await turn.take()

    assert (await position(engine, alice)).state.funding == D("0.3")
    assert len(await events(engine, alice)) == 1


async def test_a_stamp_of_yesterday_changes_the_total_that_today_began_with(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    await fill(engine, alice, "buy", "1", "100", executed_at=TODAY - timedelta(days=2), listed=PERPETUAL)
    async with transaction(engine) as connection:
        await connection.execute(
            text("INSERT INTO day_opens VALUES (:user, :day, 7)"), {"user": alice.user_id, "day": TODAY.date()}
        )
    await store(engine, TODAY - timedelta(hours=8))

    await turn.take()

    async with transaction(engine) as connection:
        assert await connection.scalar(text("SELECT total_pnl FROM day_opens")) == D("6.9")


async def test_funding_in_another_asset_is_converted_at_the_rate_of_its_time_or_not_at_all(
    engine: AsyncEngine, alice: Holder, redis: Redis
) -> None:
    bob = await new_user(engine, "bob")
    await fill(engine, alice, "buy", "100", "100", executed_at=ago(10), listed=COIN)
    await store(engine, ago(1), COIN)
    turn = FundingTurn(FundingTurnRepository(engine), redis, 5.0, lambda asset, currency: D(50_000))
    await turn.take()
    await fill(engine, bob, "buy", "100", "100", executed_at=ago(600), listed=COIN)
    await store(engine, ago(500), COIN)
    await turn.take()

    recent, old = await position(engine, alice), await position(engine, bob)

    assert recent.converted is not None
    assert old.converted is not None
    assert (recent.state.funding, recent.converted.funding, recent.converted.is_complete) == (D("-0.1"), -5000, True)
    assert (old.converted.funding, old.converted.is_complete) == (0, False)


async def test_each_shard_pays_its_own_users(engine: AsyncEngine, redis: Redis) -> None:
    holders = [await new_user(engine, f"user{number}") for number in range(8)]
    for holder in holders:
        await fill(engine, holder, "buy", "1", "100", executed_at=ago(10), listed=PERPETUAL)
    await store(engine, ago(5))

    shards = list(shards_of(2))
    turns = [FundingTurn(FundingTurnRepository(engine, shard), redis, 5.0, no_rate) for shard in shards]
    await asyncio.gather(*(turn.take() for turn in turns))

    own = [sum(shard.has(holder.user_id) for holder in holders) for shard in shards]
    assert [turn.paid_users for turn in turns] == own
    assert {(await position(engine, holder)).state.funding for holder in holders} == {D("-0.1")}


async def test_two_workers_at_once_pay_once(engine: AsyncEngine, alice: Holder, redis: Redis) -> None:
    await fill(engine, alice, "buy", "1", "100", executed_at=ago(10), listed=PERPETUAL)
    await store(engine, ago(5))
    turns = [FundingTurn(FundingTurnRepository(engine), redis, 5.0, no_rate) for _ in range(5)]

    await asyncio.gather(*(turn.take() for turn in turns))

    assert (await position(engine, alice)).state.funding == D("-0.1")
    assert [seq for seq, _, _ in await events(engine, alice)] == [2]


async def test_a_turn_cut_off_at_any_statement_is_taken_up_again(
    engine: AsyncEngine, alice: Holder, redis: Redis
) -> None:
    await fill(engine, alice, "buy", "3", "100", executed_at=ago(10), listed=PERPETUAL)
    await fill(engine, alice, "sell", "1", "100", executed_at=ago(4), listed=PERPETUAL)
    await store(engine, ago(5))
    cuts = 0

    for statements in range(1, 60):
        with _cut_off(engine, statements) as was_cut:
            try:
                await FundingTurn(FundingTurnRepository(engine), redis, 5.0, no_rate).take()
            except DatabaseUnavailable:
                cuts += 1
        if not was_cut():
            break

    assert cuts > 10
    assert (await position(engine, alice)).state.funding == D("-0.3")
    [(seq, _, _)] = await events(engine, alice)
    assert seq == 3
    async with transaction(engine) as connection:
        assert await differences(connection, alice.user_id, PERPETUAL, "USDT") == []


class _cut_off:  # noqa: N801 - Used like a function.
    """Break the connection at the given statement; calling what it gives tells whether it came to that."""

    def __init__(self, engine: AsyncEngine, statements: int) -> None:
        self._engine = engine.sync_engine
        self._left = statements

    def __enter__(self) -> Callable[[], bool]:
        event.listen(self._engine, "before_cursor_execute", self._count)
        return lambda: self._left <= 0

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._count)

    def _count(self, connection: Any, *_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            connection.connection.driver_connection.terminate()


async def test_a_fill_of_before_a_stamp_that_was_recorded_after_it_was_paid_is_paid(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    await store(engine, ago(5))
    await turn.take()

    await fill(engine, alice, "buy", "1", "100", executed_at=ago(6), listed=PERPETUAL)
    await turn.take()

    assert (await position(engine, alice)).state.funding == D("-0.1")


async def test_the_payments_of_a_user_are_listed_newest_first(
    engine: AsyncEngine, alice: Holder, turn: FundingTurn
) -> None:
    await fill(engine, alice, "buy", "1", "100", executed_at=ago(10), listed=PERPETUAL)
    await store(engine, ago(7))
    await store(engine, ago(5))
    await turn.take()

    async with transaction(engine) as connection:
        listed = await FundingPaymentRepository(connection).page(alice.user_id, limit=10)
    assert [one.payment.at for one in listed] == [ago(5), ago(7)]


async def test_an_inactive_user_is_passed_over(engine: AsyncEngine, alice: Holder, turn: FundingTurn) -> None:
    await fill(engine, alice, "buy", "1", "100", executed_at=ago(10), listed=PERPETUAL)
    await store(engine, ago(5))
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE users SET is_active = false"))

    await turn.take()

    assert await events(engine, alice) == []


async def test_what_was_looked_at_is_not_looked_at_again(engine: AsyncEngine) -> None:
    repository = FundingTurnRepository(engine)
    await store(engine, ago(5))

    assert await repository.looked_until() is None
    await repository.note(NOW)
    assert await repository.looked_until() == NOW
    assert await repository.stamps_stored_since(ago(60)) == [Stamp("BTCUSDT_PERP", ago(5))]
    assert await repository.stamps_stored_since(datetime.now(UTC) + timedelta(minutes=1)) == []
