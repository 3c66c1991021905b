"""Recording fills: exact in the row, and one after the other for each user."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.ledger import FLAT, Fill, apply_fill
from app.repositories.database import transaction
from app.repositories.fills import Holder, TooManyPositions, record_fill
from app.repositories.positions import PositionChanged, PositionRepository, StandingAlready
from app.repositories.users import UserGone, UserRepository

from .conftest import fill, fill_within, instrument


async def test_a_state_comes_back_exactly_as_it_was_reckoned(engine: AsyncEngine, alice: Holder) -> None:
    fills = [
        Fill(side="buy", quantity=Decimal("3"), price=Decimal("0.123456789012345678"), fee=Decimal("1e-18")),
        Fill(side="sell", quantity=Decimal("1.000000000000000001"), price=Decimal("999999999999.999999999999999999")),
        Fill(side="buy", quantity=Decimal("7"), price=Decimal("1"), fee=Decimal("0.1"), fee_asset="XYZ"),
    ]
    state = FLAT
    for each in fills:
        state = apply_fill(instrument(), state, each)
        async with transaction(engine) as connection:
            repository = PositionRepository(connection)
            standing = await repository.standing(alice.user_id, alice.account_id, "BTCUSDT", "")
            now = datetime.now(UTC)
            await record_fill(connection, alice, instrument(), each, standing, source="api", now=now, max_open=9)

    async with transaction(engine) as connection:
        stored = await PositionRepository(connection).standing(alice.user_id, alice.account_id, "BTCUSDT", "")
    assert stored is not None
    assert stored.state == state
    assert stored.state.cost.as_tuple().exponent == -36  # The scale is kept, so nothing was rounded.


async def test_fills_at_once_all_count_and_none_twice(engine: AsyncEngine, alice: Holder) -> None:
    await asyncio.gather(*(fill(engine, alice, "buy", "0.1", "100") for _ in range(20)))

    async with transaction(engine) as connection:
        [position] = await PositionRepository(connection).page(alice.user_id, limit=9)
    assert (position.state.signed_qty, position.version) == (2, 20)


async def test_without_the_users_lock_a_late_writer_is_refused_not_lost(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")
    read, written = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with transaction(engine) as connection:
            repository = PositionRepository(connection)
            standing = await repository.standing(alice.user_id, alice.account_id, "BTCUSDT", "")
            assert standing is not None
            read.set()
            await written.wait()
            await repository.move(standing, FLAT, None, at=standing.opened_at, now=standing.opened_at)

    late = asyncio.create_task(slow())
    await read.wait()
    await fill(engine, alice, "buy", "1", "100")
    written.set()

    with pytest.raises(PositionChanged):
        await late


async def test_without_the_users_lock_a_second_first_fill_is_refused(engine: AsyncEngine, alice: Holder) -> None:
    ready, written = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with transaction(engine) as connection:
            repository = PositionRepository(connection)
            assert await repository.standing(alice.user_id, alice.account_id, "BTCUSDT", "") is None
            ready.set()
            await written.wait()
            await fill_first(repository)

    async def fill_first(repository: PositionRepository) -> None:
        now = datetime.now(UTC)
        state = apply_fill(instrument(), FLAT, Fill(side="buy", quantity=Decimal(1), price=Decimal(1)))
        await repository.open(
            user_id=alice.user_id,
            account_id=alice.account_id,
            instrument=instrument(),
            strategy="",
            position_side="net",
            state=state,
            converted=None,
            at=now,
            now=now,
        )

    late = asyncio.create_task(slow())
    await ready.wait()
    await fill(engine, alice, "buy", "1", "100")
    written.set()

    with pytest.raises(StandingAlready):
        await late


async def test_a_fill_beyond_the_allowed_positions_changes_nothing(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")
    with pytest.raises(TooManyPositions):
        async with transaction(engine) as connection:
            await record_fill(
                connection,
                alice,
                instrument("ETHUSDT"),
                Fill(side="buy", quantity=Decimal(1), price=Decimal(1)),
                None,
                source="api",
                now=datetime.now(UTC),
                max_open=1,
            )

    async with transaction(engine) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM trades")) == 1


async def test_a_rolled_back_change_leaves_no_hole_in_the_numbers(engine: AsyncEngine, alice: Holder) -> None:
    async def broken() -> None:
        async with transaction(engine) as connection:
            await UserRepository(connection).advance(alice.user_id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()

    async with transaction(engine) as connection:
        assert await UserRepository(connection).advance(alice.user_id) == 1


async def test_nobody_writes_for_a_user_who_is_switched_off(engine: AsyncEngine, alice: Holder) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE users SET is_active = false"))

    with pytest.raises(UserGone):
        async with transaction(engine) as connection:
            await UserRepository(connection).advance(alice.user_id)


async def test_an_opening_fill_within_a_transaction_is_seen_by_the_next(engine: AsyncEngine, alice: Holder) -> None:
    async with transaction(engine) as connection:
        await fill_within(connection, alice, "buy", "1", "100")
        recorded = await fill_within(connection, alice, "sell", "1", "110")

    assert recorded.position.status == "closed"
    assert recorded.position.state.realized_pnl_gross == 10
