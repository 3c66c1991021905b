"""An import is booked once and whole, whatever is sent again, is taken away, or breaks off."""

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus import keys
from app.bus.events import decode_event
from app.imports import booking
from app.imports.job import ImportJob, Unlisted
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.fills import Holder
from app.repositories.imports import ImportRepository, ImportRunning, NotHeld

from .conftest import Office, ledger_of

HEADER = "symbol,side,quantity,price,executed_at,trade_id\n"


def rows(*given: str) -> str:
    return HEADER + "".join(f"BTCUSDT,{row}\n" for row in given)


async def scalar(engine: AsyncEngine, query: str) -> Any:
    async with transaction(engine) as connection:
        return await connection.scalar(text(query))


def reasons(job: ImportJob) -> list[tuple[int | None, str | None, str]]:
    return [(fault.row, fault.column, fault.reason) for fault in job.faults.kept]


async def test_equal_rows_without_ids_are_as_many_as_they_are_and_come_once(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    equal = "buy,1,100,2024-05-01T12:00:00Z,"
    january = rows(equal, equal, "buy,2,90,2024-05-02T12:00:00Z,")
    overlapping = rows(equal, "buy,2.0,90.00,1714651200000,", "sell,1,95,2024-05-03T12:00:00Z,", equal)

    await office.take(alice, january)
    await office.take(alice, january)
    repeated = office.last.progress.repeated_in_ledger
    await office.take(alice, overlapping)

    assert (repeated, office.last.progress.rows_booked, office.last.progress.repeated_in_ledger) == (3, 1, 3)
    assert await scalar(engine, "SELECT signed_qty FROM positions") == 3
    assert await scalar(engine, "SELECT count(DISTINCT trade_id) FROM trades WHERE trade_id LIKE 'row:%'") == 4


async def test_a_trade_id_is_one_fill_in_the_file_and_in_the_ledger(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    first = "buy,1,100,2024-05-01T12:00:00Z,a"
    twice = rows(first, first, "sell,1,100,2024-05-01T12:00:00Z,a")

    refused = await office.take(alice, twice)
    assert refused.state == "refused"
    assert reasons(office.last) == [(4, "trade_id", "a was another fill of BTCUSDT in row 2")]
    await office.take(alice, rows(first, first))
    assert (office.last.progress.rows_booked, office.last.progress.repeated_in_file) == (1, 1)
    contradicted = await office.take(alice, rows("buy,1,101,2024-05-01T12:00:00Z,a"))

    assert contradicted.state == "refused"
    assert reasons(office.last) == [(2, "trade_id", "a is another fill of BTCUSDT in the ledger")]
    assert await scalar(engine, "SELECT count(*) FROM trades") == 1


async def test_the_same_trade_id_of_another_symbol_is_another_fill(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    fills = rows("buy,1,100,2024-05-01T12:00:00Z,1") + "ETHUSDT,buy,1,10,2024-05-01T12:00:00Z,1\n"

    assert (await office.take(alice, fills)).state == "done"
    assert office.last.progress.rows_booked == 2


async def test_what_is_too_large_to_add_up_refuses_the_file(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    small = "buy,1,100,2024-05-01T12:00:00Z,a"
    outcome = await office.take(alice, rows(small, "buy,100000000,100000000,2024-05-02T12:00:00Z,b"), skip_errors=True)

    assert outcome.state == "refused"
    assert [fault[0] for fault in reasons(office.last)] == [3]
    assert await scalar(engine, "SELECT count(*) FROM trades") == 0
    assert await scalar(engine, "SELECT ledger_seq FROM users") == 0


@pytest.mark.parametrize("dry", [True, False])
async def test_more_open_positions_than_allowed_refuse_the_file(
    engine: AsyncEngine, office: Office, alice: Holder, dry: bool
) -> None:
    office.allow_open(1)
    bought = rows("buy,1,100,2024-05-01T12:00:00Z,a")
    ether = "ETHUSDT,buy,1,10,2024-05-01T12:00:00Z,{}\nETHUSDT,{},1,10,2024-05-01T13:00:00Z,{}\n"

    both = await office.take(alice, bought + ether.format(1, "buy", 2), dry=dry)
    # One after the other is no more than one at a time.
    closed = await office.take(alice, bought + ether.format(3, "sell", 4), dry=dry)

    assert (both.state, closed.state) == ("refused", "done")


async def test_what_was_known_of_past_midnights_is_not_known_after_older_fills(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    async with transaction(engine) as connection:
        for day in ("2024-05-01", "2024-05-02", "2024-05-03"):
            insert = text("INSERT INTO day_opens (user_id, day, total_pnl) VALUES (:user, :day, 5)")
            await connection.execute(insert, {"user": alice.user_id, "day": date.fromisoformat(day)})

    await office.take(alice, rows("buy,1,100,2024-05-02T12:00:00Z,a"))

    async with transaction(engine) as connection:
        days = list(await connection.scalars(text("SELECT day FROM day_opens ORDER BY day")))
    assert [day.isoformat() for day in days] == ["2024-05-01", "2024-05-02"]


async def test_everybody_is_told_by_one_event(engine: AsyncEngine, office: Office, redis: Redis, alice: Holder) -> None:
    async with redis.pubsub() as listener:
        await listener.subscribe(keys.EVENT_CHANNEL)
        await office.take(alice, rows("buy,1,100,2024-05-01T12:00:00Z,a"))
        async with asyncio.timeout(10):
            while (message := await listener.get_message(timeout=1.0)) is None or message["type"] != "message":
                pass

    event = decode_event(message["data"])
    # Positions are not named: whoever keeps the user's book reads it again.
    assert (event.user_id, event.seq, event.kind, event.positions) == (alice.user_id, 1, "account", [])
    assert event.data["import"]["rows_booked"] == 1


async def test_an_import_that_was_cancelled_books_nothing(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    job = await office.ask(alice, rows("buy,1,100,2024-05-01T12:00:00Z,a"))
    async with transaction(engine) as connection:
        assert await ImportRepository(connection).cancel(alice.user_id, job.import_id, datetime.now(UTC))

    with pytest.raises(NotHeld):
        await job.run()

    assert await scalar(engine, "SELECT count(*) FROM trades") == 0
    assert await scalar(engine, "SELECT ledger_seq FROM users") == 0


async def test_of_two_who_work_on_one_import_only_its_holder_books_it(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    slow = await office.ask(alice, rows("buy,1,100,2024-05-01T12:00:00Z,a"))
    await scalar(engine, "UPDATE imports SET held_until = now() - interval '1 second' RETURNING 1")
    async with transaction(engine) as connection:
        assert await ImportRepository(connection).take(slow.import_id, "another", 60)
        assert not await ImportRepository(connection).take(slow.import_id, "a third", 60)

    with pytest.raises(NotHeld):
        await slow.run()
    assert await scalar(engine, "SELECT count(*) FROM trades") == 0
    await office.by("another", slow).run()

    assert await scalar(engine, "SELECT count(*) FROM trades") == 1
    assert await scalar(engine, "SELECT state FROM imports") == "done"


async def test_an_import_cut_off_in_the_middle_is_done_again_from_the_beginning(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booking, "_AT_ONCE", 20)
    many = rows(*(f"{'buy' if n % 3 else 'sell'},1,{100 + n},2024-05-01T12:00:00Z,t{n}" for n in range(1000)))
    job = await office.ask(alice, many)

    async def cut() -> None:
        """Take the connection away as soon as trades are being written."""
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'COPY \"trades\"%' AND pid <> pg_backend_pid()"
        )
        while not await scalar(engine, query):
            await asyncio.sleep(0.002)

    cutting = asyncio.create_task(cut())
    with pytest.raises(DatabaseUnavailable):
        await job.run()
    await cutting
    # The control: it had begun to write, and nothing of it stayed.
    assert await scalar(engine, "SELECT count(*) FROM trades") == 0
    assert await scalar(engine, "SELECT state FROM imports") == "running"

    assert (await office.by("desk", job).run()).state == "done"
    assert (await office.take(bob, many)).state == "done"

    assert await ledger_of(engine, alice) == await ledger_of(engine, bob)
    assert await scalar(engine, "SELECT count(*) FROM trades") == 2000


async def test_without_a_list_of_instruments_an_import_waits(office: Office, redis: Redis, alice: Holder) -> None:
    job = await office.ask(alice, rows("buy,1,100,2024-05-01T12:00:00Z,a"))
    await redis.delete(keys.INSTRUMENTS)

    with pytest.raises(Unlisted):
        await job.run()
    async with transaction(office.desk.database) as connection:
        repository = ImportRepository(connection)
        await repository.release(job.import_id, "desk")
        one = await repository.find(job.import_id)

    # It was nobody's fault, so it does not count as one of the times that it broke off.
    assert one is not None
    assert (one.state, one.attempts) == ("waiting", 0)


async def test_a_user_has_one_unfinished_import(office: Office, alice: Holder, bob: Holder) -> None:
    await office.ask(alice, HEADER)
    await office.ask(bob, HEADER)

    with pytest.raises(ImportRunning):
        await office.ask(alice, HEADER)


async def test_only_the_newest_finished_imports_are_kept(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    await office.take(alice, rows("hold,1,1,2024-05-01T12:00:00Z,a"))
    await scalar(
        engine,
        "WITH old AS (INSERT INTO imports (id, user_id, account_id, state, is_dry_run, terms, size_bytes, created_at,"
        " finished_at) SELECT gen_random_uuid(), user_id, account_id, 'done', true, '{}', 1, now() - interval '1 day',"
        " now() FROM imports, generate_series(1, 150)) SELECT 1",
    )

    await office.take(alice, HEADER)

    assert await scalar(engine, "SELECT count(*) FROM imports") == 101
    assert await scalar(engine, "SELECT count(*) FROM import_errors") == 1


async def test_errors_are_counted_all_and_kept_in_part(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    await office.take(alice, rows(*["hold,1,1,2024-05-01T12:00:00Z,"] * 1500))

    assert await scalar(engine, "SELECT errors FROM imports") == 1500
    assert await scalar(engine, "SELECT count(*) FROM import_errors") == 1000
    assert await scalar(engine, "SELECT rows_total FROM imports") == 1500


async def test_figures_stay_exact_at_the_ends_of_the_scale(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    tiny, price = "0.000000000000000001", "0.123456789012345678"

    await office.take(alice, rows(f"buy,{tiny},{price},2024-05-01T12:00:00Z,a", f"buy,999999999,{price},1714651200,b"))

    quantity = Decimal("999999999.000000000000000001")
    assert await scalar(engine, "SELECT signed_qty FROM positions") == quantity
    with localcontext(prec=60):
        assert await scalar(engine, "SELECT cost FROM positions") == quantity * Decimal(price)
