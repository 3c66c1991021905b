"""The same sentences hold with PgBouncer in transaction mode in between: nothing relies on a session.

Ten connections of ours share three of the server's, so that hardly two transactions
of one connection meet the same session there.
"""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.books import BookRepository
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.fills import Holder
from app.repositories.leases import LeaseRepository
from app.repositories.migrate import is_current, upgrade
from tests.pgbouncer import SERVERS, PgBouncer

from . import test_books, test_corrections, test_database, test_fills, test_funding_turns, test_leases, test_realized
from .conftest import fill, new_user

leases = test_leases.leases

test_only_one_of_many_takes_a_lease = test_leases.test_only_one_of_many_takes_a_lease
test_a_lease_that_ran_out_is_taken_with_a_higher_epoch = (
    test_leases.test_a_lease_that_ran_out_is_taken_with_a_higher_epoch
)
test_a_lease_that_ran_out_unclaimed_may_be_renewed = test_leases.test_a_lease_that_ran_out_unclaimed_may_be_renewed
test_a_released_lease_is_free_at_once = (
    test_leases.test_a_released_lease_is_free_at_once_and_its_epoch_is_never_used_again
)
test_everybody_who_ever_held_anything_is_streamed_once = (
    test_books.test_everybody_who_ever_held_anything_is_streamed_once
)
test_the_base_of_the_day_is_what_was_recorded_first = test_books.test_the_base_of_the_day_is_what_was_recorded_first
test_heads_tell_who_changed_since_a_moment = test_books.test_heads_tell_who_changed_since_a_moment
test_fills_at_once_all_count_and_none_twice = test_fills.test_fills_at_once_all_count_and_none_twice
test_a_state_comes_back_exactly_as_it_was_reckoned = test_fills.test_a_state_comes_back_exactly_as_it_was_reckoned
test_without_the_users_lock_a_second_first_fill_is_refused = (
    test_fills.test_without_the_users_lock_a_second_first_fill_is_refused
)
test_a_rolled_back_change_leaves_no_hole_in_the_numbers = (
    test_fills.test_a_rolled_back_change_leaves_no_hole_in_the_numbers
)
test_corrections_and_fills_at_once_all_count = test_corrections.test_corrections_and_fills_at_once_all_count
test_two_workers_at_once_pay_once = test_funding_turns.test_two_workers_at_once_pay_once
test_many_fills_are_read_a_part_at_a_time = test_realized.test_many_fills_are_read_a_part_at_a_time
test_every_transaction_has_a_statement_timeout = test_database.test_every_transaction_has_a_statement_timeout
test_a_connection_that_was_cut_is_replaced = test_database.test_a_connection_that_was_cut_is_replaced
test_a_snapshot_sees_one_moment_and_writes_nothing = test_database.test_a_snapshot_sees_one_moment_and_writes_nothing
test_a_cancelled_transaction_changes_nothing = (
    test_database.test_a_cancelled_transaction_changes_nothing_and_returns_its_connection
)


@pytest.fixture
def direct_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """The way past the pooler."""
    host = f"host={pgbouncer.directory}"
    return database_url.replace(host, f"host={pgbouncer.server_directory}")


@pytest.fixture
def database_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """A database of this test's own, reached through the pooler."""
    return pgbouncer.url_of(database_url)


async def test_several_processes_may_migrate_at_once(empty_database_url: str, pgbouncer: PgBouncer) -> None:
    url = pgbouncer.url_of(empty_database_url)

    await asyncio.gather(*(upgrade(url) for _ in range(SERVERS + 1)))

    engine = create_engine(url, pool_size=1, timeout_s=5)
    assert await is_current(engine)
    await engine.dispose()


async def test_many_transactions_share_few_sessions_of_the_server(
    engine: AsyncEngine, alice: Holder, direct_url: str, pgbouncer: PgBouncer
) -> None:
    async def work() -> int:
        async with transaction(engine) as connection:
            return int(await connection.scalar(text("SELECT pg_backend_pid() FROM pg_sleep(0.01)")))

    sessions = await asyncio.gather(*(work() for _ in range(60)))

    assert 1 < len(set(sessions)) <= SERVERS
    assert await pgbouncer.server_connections(direct_url) <= SERVERS


async def test_a_storm_of_new_connections_gets_through(database_url: str) -> None:
    async def fresh(number: int) -> int:
        engine = create_engine(database_url, pool_size=1, timeout_s=5)
        try:
            async with transaction(engine) as connection:
                return int(await connection.scalar(text("SELECT CAST(:n AS integer)"), {"n": number}))
        finally:
            await engine.dispose()

    assert await asyncio.gather(*(fresh(number) for number in range(40))) == list(range(40))


async def test_the_book_streams_while_others_write(engine: AsyncEngine) -> None:
    holders = [await new_user(engine, f"user{number}") for number in range(12)]
    for holder in holders:
        await fill(engine, holder, "buy", "1", "100")
    leases = LeaseRepository(engine)
    epoch = await leases.acquire("pnl:0", "one", 60_000)
    assert epoch is not None

    async def trade(holder: Holder) -> None:
        for _ in range(5):
            await fill(engine, holder, "buy", "0.1", "100")

    async def read() -> set[str]:
        return {book.user_id async for batch in BookRepository(engine).stream(batch_size=3) for book in batch}

    async def renew() -> bool:
        return all([await leases.renew("pnl:0", "one", epoch, 60_000) for _ in range(20)])

    today = datetime.now(UTC).date()
    bases = {holder.user_id: number for number, holder in enumerate(holders)}
    _, *seen, held, _ = await asyncio.gather(
        asyncio.gather(*(trade(holder) for holder in holders)),
        read(),
        read(),
        renew(),
        BookRepository(engine).record_day_bases(today, bases),
    )

    assert held
    assert all(users == {holder.user_id for holder in holders} for users in seen)
    books = await BookRepository(engine).load([holder.user_id for holder in holders])
    assert {(book.ledger_seq, str(book.positions[0].state.signed_qty.normalize())) for book in books} == {(6, "1.5")}
    assert {book.user_id: book.day_base for book in books} == bases


async def test_nothing_is_left_behind_in_a_session(engine: AsyncEngine, alice: Holder, direct_url: str) -> None:
    await asyncio.gather(*(fill(engine, alice, "buy", "1", "100") for _ in range(20)))

    async def look() -> tuple[int, int, str]:
        async with transaction(engine) as connection:
            row = await connection.execute(
                text(
                    """
                    SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''),
                           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
                           (SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings
                            WHERE source = 'session' AND name <> 'statement_timeout'
                              AND name NOT LIKE 'transaction_%')
                    """
                )
            )
            prepared, locks, changed = row.one()
            return prepared, locks, changed or ""

    left = await asyncio.gather(*(look() for _ in range(20)))

    assert {(prepared, locks) for prepared, locks, _ in left} == {(0, 0)}
    # What the pooler itself carries from client to session.
    pooled = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}
    assert {part.partition("=")[0] for _, _, changed in left for part in changed.split()} <= pooled


async def test_a_client_that_relies_on_its_session_would_fail_here(database_url: str) -> None:
    """The control: a statement prepared by name, asyncpg's default, is missing in the next server session."""
    question = "SELECT pg_backend_pid() + $1::int"
    client = await asyncpg.connect(database_url)
    others: list[asyncpg.Connection] = []
    try:
        session = await client.fetchval(question, 0)
        held = None
        while held != session:
            others.append(await asyncpg.connect(database_url))
            await others[-1].execute("BEGIN")
            held = await others[-1].fetchval("SELECT pg_backend_pid()")
        if len(others) == SERVERS:
            await others[0].execute("ROLLBACK")  # Its session is another one, and now the only free one.

        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await client.fetchval(question, 0)
    finally:
        for each in (client, *others):
            each.terminate()


async def test_a_pooler_without_a_free_session_is_an_outage_that_passes(database_url: str) -> None:
    engines = [create_engine(database_url, pool_size=1, timeout_s=1) for _ in range(SERVERS + 1)]
    held, done = asyncio.Event(), asyncio.Event()
    waiting = SERVERS

    async def occupy(engine: AsyncEngine) -> None:
        nonlocal waiting
        async with transaction(engine):
            waiting -= 1
            if not waiting:
                held.set()
            await done.wait()

    occupants = [asyncio.create_task(occupy(engine)) for engine in engines[:SERVERS]]
    try:
        await held.wait()
        with pytest.raises(DatabaseUnavailable):
            async with transaction(engines[-1]):
                pytest.fail("there is no free session")
        done.set()
        await asyncio.gather(*occupants)
        async with transaction(engines[-1]) as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
    finally:
        for engine in engines:
            await engine.dispose()
