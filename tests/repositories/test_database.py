"""How the database is spoken to, and how its failures are named."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.database import DatabaseUnavailable, create_engine, snapshot, transaction
from app.repositories.fills import Holder
from app.repositories.users import UserRepository

from .conftest import fill


async def test_nothing_is_left_prepared_that_a_pooler_could_lose(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")

    async with transaction(engine) as connection:
        for _ in range(3):
            await UserRepository(connection).get(alice.user_id)
        named = await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"))
    assert named == 0


async def test_every_transaction_has_a_statement_timeout(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=0.2)
    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            async with transaction(engine) as connection:
                await connection.execute(text("SELECT pg_sleep(5)"))
        async with transaction(engine) as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        await engine.dispose()
    assert not raised.value.outcome_unknown


async def test_a_pool_without_a_free_connection_says_so_within_a_second(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=5)
    try:
        async with transaction(engine):
            with pytest.raises(DatabaseUnavailable, match="became free"):
                async with transaction(engine):
                    pytest.fail("there is no second connection")
    finally:
        await engine.dispose()


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    engine = create_engine(f"postgresql://postgres@/postgres?host={tmp_path}", pool_size=1, timeout_s=1)
    try:
        with pytest.raises(DatabaseUnavailable):
            async with transaction(engine):
                pytest.fail("there is no server")
    finally:
        await engine.dispose()


async def test_a_connection_that_was_cut_is_replaced(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=5)
    try:
        with pytest.raises(DatabaseUnavailable):
            async with transaction(engine) as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        async with transaction(engine) as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        await engine.dispose()


async def test_a_wrong_statement_is_a_bug_and_not_an_outage(engine: AsyncEngine) -> None:
    with pytest.raises(DBAPIError):
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT nonsense"))


async def test_a_cancelled_transaction_changes_nothing_and_returns_its_connection(
    engine: AsyncEngine, alice: Holder
) -> None:
    started = asyncio.Event()

    async def unfinished() -> None:
        async with transaction(engine) as connection:
            await UserRepository(connection).advance(alice.user_id)
            started.set()
            await connection.execute(text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(unfinished())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])

    async with transaction(engine) as connection:
        assert await UserRepository(connection).advance(alice.user_id) == 1


async def test_a_snapshot_sees_one_moment_and_writes_nothing(engine: AsyncEngine, alice: Holder) -> None:
    async with snapshot(engine) as connection:
        before = await connection.scalar(text("SELECT ledger_seq FROM users"))
        await fill(engine, alice, "buy", "1", "100")
        after = await connection.scalar(text("SELECT ledger_seq FROM users"))
        with pytest.raises(DBAPIError):
            await connection.execute(text("UPDATE users SET is_active = false"))
        await connection.rollback()

    assert (before, after) == (0, 0)


async def test_a_url_in_the_words_of_libpq_is_understood() -> None:
    engine = create_engine("postgresql://u@h:1/d?sslmode=require", pool_size=1, timeout_s=1)

    assert engine.url.drivername == "postgresql+asyncpg"
    assert engine.url.query == {"ssl": "require"}
