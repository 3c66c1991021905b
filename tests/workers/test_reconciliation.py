"""Reconciliation on a real PostgreSQL and a real Redis: each drift is planted, found, put right and told of."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus import keys
from app.bus.events import decode_event
from app.bus.prices import write_instruments
from app.bus.subscription import Message, Subscription
from app.domain.book import Book
from app.domain.drift import Kind, Place
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.positions import Position, UserBook
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.repositories.books import BookRepository
from app.repositories.database import create_engine, transaction
from app.repositories.events import Event, EventRepository
from app.repositories.fills import Holder
from app.repositories.leases import LeaseRepository
from app.repositories.reconciliation import ReconciliationRepository
from app.repositories.users import UserRepository
from app.workers.book_keeper import BookKeeper
from app.workers.cache_round import CacheRound
from app.workers.leadership import Leadership
from app.workers.reconciliation import Fence, Fenced, Limits, Reconciliation, WorkerBooks
from app.workers.reconciliation_report import Report
from tests.repositories.conftest import fill, fill_within, instrument, new_user, transfer
from tests.repositories.test_corrections import PERPETUAL, Storm
from tests.workers.desk import Market, Trader, listening, until, working

PROJECT = Path(__file__).parents[2]
ETH = instrument("ETHUSDT")
MARKS = {"BTCUSDT": "110", "ETHUSDT": "12"}


class Desk:
    """A user with two positions, one closed cycle and a deposit; the book of a worker, and his cached answer."""

    def __init__(self, engine: AsyncEngine, redis: "Redis", holder: Holder) -> None:
        self.engine = engine
        self.redis = redis
        self.holder = holder
        self.user_id = holder.user_id
        self.books = BookRepository(engine)
        self.book = Book(5000)
        self.keeper = BookKeeper(self.books, self.book, "USDT")
        self.cache = CacheRound()

    def reconciliation(self, **more: Any) -> Reconciliation:
        return Reconciliation(
            ReconciliationRepository(self.engine),
            self.redis,
            redis_timeout_s=5.0,
            held=WorkerBooks(self.book, self.keeper, self.cache),
            grace_s=0.05,
            rest=0.0,
            **more,
        )

    async def reconcile(self, **more: Any) -> Report:
        """One run, and time for the keeper to have read what it was asked to."""
        report = await self.reconciliation(**more).run()
        seq = await self.seq()
        async with asyncio.timeout(5):
            while report.users_repaired and self.held().ledger_seq < seq:
                await asyncio.sleep(0.01)
        return report

    async def say(self, statement: str, **parameters: Any) -> None:
        """Change the database behind everybody's back."""
        async with transaction(self.engine) as connection:
            await connection.execute(text(statement), {"user": self.user_id, **parameters})

    async def row(self, position_id: str) -> Mapping[str, Any]:
        async with transaction(self.engine) as connection:
            query = text("SELECT * FROM positions WHERE id = CAST(:id AS uuid)")
            return (await connection.execute(query, {"id": position_id})).mappings().one()

    async def events(self) -> list[Event]:
        async with transaction(self.engine) as connection:
            return await EventRepository(connection).since(self.user_id, 0, 100)

    async def seq(self) -> int:
        return (await self.truth()).ledger_seq

    async def truth(self) -> UserBook:
        (book,) = await self.books.load([self.user_id])
        return book

    def held(self) -> UserBook:
        found = self.book.find(self.user_id)
        assert found is not None
        return self.book.user_book(found.slot)

    async def body(self) -> dict[str, Any]:
        """The answer that a faultless worker would cache."""
        prices = {
            symbol: Price(symbol, Decimal(mark), "mid", None, None, None, None, 0, 0, 0)
            for symbol, mark in MARKS.items()
        }
        return pnl_snapshot(await self.truth(), Prices(prices, RateBook(), 0, 5000), StreamPosition(1, 1))

    async def write_cache(self, body: Mapping[str, Any]) -> None:
        await self.redis.set(keys.pnl_cache(self.user_id), msgspec.json.encode(body))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def desk(engine: AsyncEngine, redis: Redis) -> AsyncIterator[Desk]:
    holder = await new_user(engine, "ada")
    desk = Desk(engine, redis, holder)
    await transfer(engine, holder, "deposit", "1000")
    await fill(engine, holder, "buy", "1", "10", listed=ETH)
    await fill(engine, holder, "sell", "3", "12", listed=ETH)  # through zero: one cycle ends, a short of 2 begins
    await fill(engine, holder, "buy", "2", "100", fee=Decimal("0.3"))
    await fill(engine, holder, "sell", "0.7", "130")
    await desk.keeper.load_all()
    await desk.write_cache(await desk.body())
    keeping = asyncio.create_task(desk.keeper.run())
    yield desk
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


def position_of(book: UserBook, symbol: str) -> Position:
    return next(position for position in book.positions if position.symbol == symbol)


def found(report: Report) -> dict[tuple[Place, Kind], int]:
    return dict(report.drifts)


async def assert_put_right(desk: Desk, was: UserBook, *, told_of: str | None) -> dict[str, Any]:
    """Rows, book and cache are as they were before the drift, in newer versions; one correction says so."""
    now = await desk.truth()
    assert ledger_of(now) == ledger_of(was)
    assert in_order(desk.held()) == in_order(now)
    assert (await desk.reconcile()).is_clean
    last = (await desk.events())[-1]
    assert (last.kind, last.seq) == ("correction", now.ledger_seq)
    assert last.data["reason"] == "reconciliation"
    assert told_of in [what["position_id"] for what in last.data["what"]]
    return last.data


def ledger_of(book: UserBook) -> dict[str, object]:
    """What a book says, without what a repair must change: versions and the times of writing."""
    positions = {
        position.position_id: msgspec.structs.replace(position, version=1, updated_at=position.opened_at)
        for position in book.positions
    }
    return {"positions": positions, "accounts": book.accounts}


def in_order(book: UserBook) -> UserBook:
    """A book as it can be compared: a worker keeps bases of days by a calendar of its own."""
    positions = sorted(book.positions, key=lambda position: position.position_id)
    return msgspec.structs.replace(book, positions=tuple(positions), day_base=None, base_day=None)


async def test_where_nothing_drifted_nothing_is_found_written_or_told(desk: Desk) -> None:
    before = await desk.truth()

    report = await desk.reconcile()

    assert report.is_clean
    assert (report.users, report.rows) == (1, 3 + 4)
    assert await desk.truth() == before
    assert "correction" not in [event.kind for event in await desk.events()]


@pytest.mark.parametrize("seed", [0, 1])
async def test_after_a_storm_of_fills_edits_deletions_and_funding_nothing_is_found(
    engine: AsyncEngine, redis: Redis, seed: int
) -> None:
    holder = await new_user(engine, "ada")
    storm = Storm(engine, holder, [instrument(), PERPETUAL][seed], random.Random(seed))
    for _ in range(50):
        await storm.move()
    repository = ReconciliationRepository(engine)
    ((ledger, _),) = await repository.read([holder.user_id])
    assert bool(ledger.payments) == bool(seed)

    report = await Reconciliation(repository, redis, redis_timeout_s=5.0, rest=0.0).run()

    assert report.findings == []
    assert report.is_clean


class TestRows:
    """Drift between the fills and the rows of positions."""

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ("cost = cost + 0.000000000000000001", "cost"),
            ("signed_qty = 13", "signed_qty"),
            ("fees = fees * 2", "fees"),
            ("strategy = 'other'", "strategy"),
            ("opened_at = opened_at - interval '1 day'", "opened_at"),
            ("realized_pnl_gross = 7", "published.realized_pnl_gross"),
        ],
    )
    async def test_an_altered_row_is_put_right(self, desk: Desk, change: str, field: str) -> None:
        was = await desk.truth()
        altered = position_of(was, "BTCUSDT")
        await desk.say(f"UPDATE positions SET {change} WHERE symbol = 'BTCUSDT'")

        report = await desk.reconcile()

        assert found(report) == {("positions", "different"): 1}
        data = await assert_put_right(desk, was, told_of=altered.position_id)
        assert field in data["before"][0]
        assert data["before"][0][field] != data["after"][0][field]
        assert (await desk.row(altered.position_id))["version"] == altered.version + 1

    async def test_a_row_closed_although_it_is_held_is_missing_and_opened_again(self, desk: Desk) -> None:
        was = await desk.truth()
        held = position_of(was, "BTCUSDT")
        await desk.say(
            "UPDATE positions SET status = 'closed', signed_qty = 0, cost = 0, closed_at = now()"
            " WHERE symbol = 'BTCUSDT'"
        )

        report = await desk.reconcile()

        assert found(report) == {("positions", "missing"): 1}
        await assert_put_right(desk, was, told_of=held.position_id)

    async def test_a_row_that_is_gone_is_written_again_with_its_fills_pointing_at_it(self, desk: Desk) -> None:
        short = position_of(await desk.truth(), "ETHUSDT")
        await desk.say("UPDATE trades SET opened_position_id = NULL WHERE opened_position_id IS NOT NULL")
        await desk.say("DELETE FROM positions WHERE id = CAST(:id AS uuid)", id=short.position_id)

        report = await desk.reconcile()

        assert found(report)["positions", "missing"] == 1
        assert found(report)["positions", "different"] == 1  # the fill that pointed nowhere
        restored = position_of(await desk.truth(), "ETHUSDT")
        assert restored.state == short.state
        assert restored.opened_at == short.opened_at
        assert in_order(desk.held()) == in_order(await desk.truth())
        async with transaction(desk.engine) as connection:
            pointed = await connection.scalar(
                text("SELECT opened_position_id::text FROM trades WHERE opened_position_id IS NOT NULL")
            )
        assert pointed == restored.position_id
        assert (await desk.reconcile()).is_clean

    async def test_a_row_open_although_its_cycle_ended_is_extra_and_closed(self, desk: Desk) -> None:
        was = await desk.truth()
        await desk.say(
            "UPDATE positions SET status = 'open', signed_qty = 1, cost = 10, closed_at = NULL, strategy = 'again'"
            " WHERE status = 'closed'"
        )

        report = await desk.reconcile()

        assert found(report) == {("positions", "extra"): 1}
        await assert_put_right(desk, was, told_of=(await desk.events())[-1].data["what"][0]["position_id"])

    async def test_a_row_that_no_fill_stands_behind_is_emptied(self, desk: Desk) -> None:
        was = await desk.truth()
        position_id = "00000000-0000-4000-8000-000000000001"
        await desk.say(
            "INSERT INTO positions SELECT (jsonb_populate_record(p, jsonb_build_object("
            "'id', CAST(:id AS text), 'strategy', 'ghost'))).* FROM positions p WHERE symbol = 'BTCUSDT'",
            id=position_id,
        )

        report = await desk.reconcile()

        assert found(report) == {("positions", "extra"): 1}
        await assert_put_right(desk, was, told_of=position_id)
        row = await desk.row(position_id)
        assert (row["status"], row["cash"], row["fees_published"]) == ("closed", 0, 0)

    async def test_sums_of_closed_rows_that_were_altered_are_put_right(self, desk: Desk) -> None:
        was = await desk.truth()
        await desk.say("UPDATE positions SET fees_published = 99 WHERE status = 'closed'")

        report = await desk.reconcile()

        assert found(report) == {("positions", "different"): 1}
        assert (await desk.truth()).accounts == was.accounts

    async def test_a_row_given_to_another_user_comes_back(self, desk: Desk, engine: AsyncEngine) -> None:
        was = await desk.truth()
        await write_instruments(desk.redis, [instrument()], 5.0)
        other = await new_user(engine, "bob")
        await desk.say(
            "UPDATE positions SET user_id = CAST(:other AS uuid) WHERE symbol = 'BTCUSDT'", other=other.user_id
        )

        await desk.reconcile()

        await assert_put_right(desk, was, told_of=position_of(was, "BTCUSDT").position_id)
        assert not (await desk.books.load([other.user_id]))[0].positions

    async def test_fills_that_cannot_be_booked_are_counted_and_left_alone(self, desk: Desk) -> None:
        await desk.say("UPDATE trades SET price = 1e17 WHERE symbol = 'BTCUSDT'")

        report = await desk.reconcile()

        assert (report.users_skipped, report.users_repaired, found(report)) == (1, 0, {})


class TestBook:
    """Drift between the rows and the P&L worker's book."""

    async def test_a_position_missing_there_is_taken_in(self, desk: Desk) -> None:
        was = await desk.truth()
        lost = position_of(was, "BTCUSDT")
        kept = tuple(position for position in was.positions if position != lost)
        desk.book.upsert_user(msgspec.structs.replace(was, positions=kept))

        report = await desk.reconcile()

        assert found(report) == {("book", "missing"): 1}
        await assert_put_right(desk, was, told_of=lost.position_id)

    async def test_a_position_extra_there_is_taken_out(self, desk: Desk) -> None:
        was = await desk.truth()
        ghost = msgspec.structs.replace(was.positions[0], position_id="00000000-0000-4000-8000-000000000001")
        desk.book.upsert_user(msgspec.structs.replace(was, positions=(*was.positions, ghost)))

        report = await desk.reconcile()

        assert found(report) == {("book", "extra"): 1}
        await assert_put_right(desk, was, told_of=ghost.position_id)

    @pytest.mark.parametrize(("version", "kind"), [(1, "stale"), (7, "different")])
    async def test_a_position_told_otherwise_there_is_taken_anew(self, desk: Desk, version: int, kind: Kind) -> None:
        was = await desk.truth()
        right = position_of(was, "BTCUSDT")
        state = msgspec.structs.replace(right.state, signed_qty=Decimal(5))
        wrong = msgspec.structs.replace(right, state=state, version=version)
        positions = tuple(wrong if position == right else position for position in was.positions)
        desk.book.upsert_user(msgspec.structs.replace(was, positions=positions))

        report = await desk.reconcile()

        assert found(report) == {("book", kind): 1}
        data = await assert_put_right(desk, was, told_of=right.position_id)
        assert data["before"][0]["signed_qty"] == "5"
        assert data["after"][0]["signed_qty"] == "1.3"

    async def test_the_same_version_with_another_content_is_found_too(self, desk: Desk) -> None:
        was = await desk.truth()
        right = position_of(was, "BTCUSDT")
        desk.book.upsert_user(msgspec.structs.replace(was, positions=()))
        wrong = msgspec.structs.replace(right, note="tampered")
        positions = tuple(wrong if position == right else position for position in was.positions)
        desk.book.upsert_user(msgspec.structs.replace(was, positions=positions))

        report = await desk.reconcile()

        assert found(report) == {("book", "different"): 1}
        await assert_put_right(desk, was, told_of=right.position_id)

    async def test_sums_that_are_wrong_there_are_taken_anew(self, desk: Desk) -> None:
        was = await desk.truth()
        (account,) = was.accounts
        wrong = msgspec.structs.replace(account, assets=())
        desk.book.upsert_user(msgspec.structs.replace(was, accounts=(wrong,)))

        report = await desk.reconcile()

        assert found(report) == {("book", "different"): 1}
        await assert_put_right(desk, was, told_of=None)

    async def test_an_event_that_never_came_is_caught_up_with(self, desk: Desk) -> None:
        await fill(desk.engine, desk.holder, "sell", "1", "140")
        was = await desk.truth()

        report = await desk.reconcile()

        assert found(report) == {("book", "stale"): 1}
        await assert_put_right(desk, was, told_of=position_of(was, "BTCUSDT").position_id)

    async def test_a_book_ahead_of_the_database_comes_back_to_it(self, desk: Desk) -> None:
        was = await desk.truth()
        right = position_of(was, "BTCUSDT")
        wrong = msgspec.structs.replace(right, note="of a future that was undone", version=right.version + 1)
        for seq in range(was.ledger_seq + 1, was.ledger_seq + 4):
            desk.book.apply_positions(desk.user_id, seq, [wrong])

        report = await desk.reconcile()

        assert found(report) == {("book", "different"): 1}
        await assert_put_right(desk, was, told_of=right.position_id)

    async def test_an_event_on_its_way_is_no_drift(self, desk: Desk) -> None:
        recorded = await fill(desk.engine, desk.holder, "sell", "1", "140")
        reconciliation = desk.reconciliation()
        running = asyncio.create_task(reconciliation.run())
        await asyncio.sleep(0)
        # The message of the commit arrives within the grace.
        desk.book.apply_positions(desk.user_id, await desk.seq(), recorded.positions)

        report = await running

        assert report.is_clean
        assert "correction" not in [event.kind for event in await desk.events()]


class TestCache:
    """Drift between the rows and the cached answer of GET /pnl."""

    async def test_a_position_missing_there_is_found_and_the_answer_dropped(self, desk: Desk) -> None:
        was, body = await desk.truth(), await desk.body()
        lost = body["positions"].pop()
        await desk.write_cache(body)

        report = await desk.reconcile()

        assert found(report) == {("cache", "missing"): 1}
        assert await desk.redis.get(keys.pnl_cache(desk.user_id)) is None
        await assert_put_right(desk, was, told_of=lost["position_id"])

    async def test_a_position_extra_there_is_found(self, desk: Desk) -> None:
        was, body = await desk.truth(), await desk.body()
        body["positions"].append({**body["positions"][0], "position_id": "ghost"})
        await desk.write_cache(body)

        report = await desk.reconcile()

        assert found(report) == {("cache", "extra"): 1}
        await assert_put_right(desk, was, told_of="ghost")

    @pytest.mark.parametrize(
        ("field", "value", "kind"),
        [
            ("signed_qty", "77", "different"),
            ("realized_pnl", "1", "different"),
            ("version", 0, "stale"),
            ("market_value", "1", "different"),
            ("unrealized_pnl", None, "different"),
            ("mark_price", "nonsense", "different"),
        ],
    )
    async def test_a_figure_that_is_wrong_there_is_found(
        self, desk: Desk, field: str, value: object, kind: Kind
    ) -> None:
        was, body = await desk.truth(), await desk.body()
        body["positions"][0][field] = value
        await desk.write_cache(body)

        report = await desk.reconcile()

        assert found(report) == {("cache", kind): 1}
        assert await desk.redis.get(keys.pnl_cache(desk.user_id)) is None
        await assert_put_right(desk, was, told_of=body["positions"][0]["position_id"])

    async def test_a_total_that_is_wrong_there_is_found(self, desk: Desk) -> None:
        was, body = await desk.truth(), await desk.body()
        body["totals"]["fees"] = "0"
        await desk.write_cache(body)

        report = await desk.reconcile()

        assert found(report) == {("cache", "different"): 1}
        await assert_put_right(desk, was, told_of=None)

    async def test_an_answer_that_is_none_is_found(self, desk: Desk) -> None:
        await desk.redis.set(keys.pnl_cache(desk.user_id), b"\xff{")

        report = await desk.reconcile()

        assert found(report) == {("cache", "different"): 1}
        assert await desk.redis.get(keys.pnl_cache(desk.user_id)) is None

    async def test_an_answer_older_than_the_ledger_is_left_to_be_written_anew(self, desk: Desk) -> None:
        body = await desk.body()
        await desk.write_cache({**body, "ledger_seq": body["ledger_seq"] - 1, "positions": []})

        assert (await desk.reconcile()).is_clean


class TestFence:
    """What may not happen while drift is put right."""

    async def test_a_fill_that_lands_meanwhile_wins(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET signed_qty = 13 WHERE symbol = 'BTCUSDT'")
        async with desk.engine.begin() as connection:
            # A writer is in the middle of it: the user is locked.
            await UserRepository(connection).advance(desk.user_id)
            running = asyncio.create_task(desk.reconciliation().run())
            await until_waiting_for_lock(desk.engine)
            await connection.execute(text("UPDATE positions SET signed_qty = 1.3 WHERE symbol = 'BTCUSDT'"))
            await fill_within(connection, desk.holder, "buy", "10", "100")

        report = await running

        assert position_of(await desk.truth(), "BTCUSDT").state.signed_qty == Decimal("11.3")
        # The rows had been put right by the writer; the book had not heard of it within the grace.
        assert ("positions", "different") not in found(report)

    async def test_rows_are_put_right_by_the_fills_of_the_moment_of_writing(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        async with desk.engine.begin() as connection:
            await UserRepository(connection).advance(desk.user_id)
            running = asyncio.create_task(desk.reconciliation().run())
            await until_waiting_for_lock(desk.engine)
            await fill_within(connection, desk.holder, "buy", "10", "100")  # on top of the wrong cost

        report = await running

        state = position_of(await desk.truth(), "BTCUSDT").state
        assert (state.signed_qty, state.cost) == (Decimal("11.3"), Decimal(1130))
        assert found(report)["positions", "different"] == 1

    async def test_nothing_is_put_right_once_the_epoch_is_over(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        fence = Fence("pnl:0/1", 4, lambda: True)  # nobody ever held this

        with pytest.raises(Fenced):
            await desk.reconcile(fence=fence)

        assert position_of(await desk.truth(), "BTCUSDT").state.cost == 1

    async def test_nor_while_somebody_else_may_have_the_role(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        leadership = Leadership(LeaseRepository(desk.engine), "pnl:0/1", "me", 60_000)
        epoch = await leadership.acquire()
        await leadership.release()

        with pytest.raises(Fenced):
            await desk.reconcile(fence=Fence("pnl:0/1", epoch, lambda: leadership.is_certain))

    async def test_two_runs_never_overlap(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        reconciliation = desk.reconciliation()

        first, second = await asyncio.gather(reconciliation.run(), reconciliation.run())

        assert (first.users_repaired, second.users_repaired) == (1, 0)
        assert [event.kind for event in await desk.events()].count("correction") == 1
        assert (reconciliation.counts.runs, reconciliation.counts.users_repaired) == (2, 1)
        assert reconciliation.counts.drifts == {("positions", "different"): 1}

    async def test_more_drift_than_is_believable_is_left_for_a_person(self, desk: Desk) -> None:
        other = await new_user(desk.engine, "bob")
        await fill(desk.engine, other, "buy", "1", "10")
        await desk.keeper.load_all()
        await desk.say("UPDATE positions SET cash = cash + 1")

        report = await desk.reconcile(limits=Limits(most_repairs=1))

        assert (report.users_repaired, report.users_left) == (1, 1)

    async def test_a_dry_run_finds_and_changes_nothing(self, desk: Desk) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        before = await desk.truth()

        report = await desk.reconcile(is_dry_run=True)

        assert [(f.user_id, f.drift.kind, f.is_repaired) for f in report.findings] == [
            (desk.user_id, "different", False)
        ]
        assert await desk.truth() == before


async def until_waiting_for_lock(engine: AsyncEngine) -> None:
    """Wait until some transaction waits for another."""
    async with asyncio.timeout(5), engine.connect() as connection:
        while not await connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            await asyncio.sleep(0.01)


class TestWorker:
    """Reconciliation as the P&L worker runs it."""

    async def test_drift_that_is_there_when_it_starts_is_put_right_and_told_on_the_bus(self, desk: Desk) -> None:
        was = await desk.truth()
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        subscription = Subscription(desk.redis, [keys.EVENT_CHANNEL], silence_s=None)
        async with aclosing(subscription.events()) as events, working(desk.engine, desk.redis, reconcile_every_s=900):
            async with asyncio.timeout(8):
                heard = [decode_event(event.payload) async for event in first(events)]

        assert [(event.user_id, event.kind) for event in heard] == [(desk.user_id, "correction")]
        assert [position.symbol for position in heard[0].positions] == ["BTCUSDT"]
        assert ledger_of(await desk.truth()) == ledger_of(was)

    async def test_drift_that_comes_later_is_put_right_by_a_later_run_and_reaches_the_stream(self, desk: Desk) -> None:
        trader = Trader(desk.engine, desk.redis, desk.user_id, desk.holder.account_id)
        market = Market(desk.redis)
        await market.tick(BTCUSDT="110", ETHUSDT="12")
        async with (
            listening(desk.redis) as web,
            working(desk.engine, desk.redis, reconcile_every_s=0.2),
            market.beating(),
        ):
            await web.connect(trader)
            await until(lambda: web.total(trader) is not None)
            right = web.total(trader)
            await desk.say("UPDATE positions SET cost = 1, version = version + 1 WHERE symbol = 'BTCUSDT'")
            seq = await desk.seq()

            def is_told() -> bool:
                return web.mirror.users[trader.user_id].ledger_seq > seq

            await until(is_told)
            assert web.total(trader) == right

    async def test_without_reconciliation_the_drift_stays(self, desk: Desk) -> None:
        trader = Trader(desk.engine, desk.redis, desk.user_id, desk.holder.account_id)
        market = Market(desk.redis)
        await market.tick(BTCUSDT="110", ETHUSDT="12")
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")
        async with (
            listening(desk.redis) as web,
            working(desk.engine, desk.redis, reconcile_every_s=0),
            market.beating(),
        ):
            await web.connect(trader)
            await until(lambda: web.total(trader) is not None)
            heard = web.heard
            await until(lambda: web.heard > heard + 10)

        assert position_of(await desk.truth(), "BTCUSDT").state.cost == 1
        assert "correction" not in [event.kind for event in await desk.events()]


async def first(events: AsyncIterator[object]) -> AsyncIterator[Message]:
    """The first message, and then the end."""
    async for event in events:
        if isinstance(event, Message):
            yield event
            return


class TestCommand:
    """run.py reconcile."""

    def run(self, desk: Desk, database_url: str, redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PROJECT / "run.py"), "reconcile", *arguments],
            env={**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def test_it_reports_repairs_and_says_by_its_exit_code_whether_anything_was_wrong(
        self, desk: Desk, database_url: str, redis_url: str
    ) -> None:
        await desk.say("UPDATE positions SET cost = 1 WHERE symbol = 'BTCUSDT'")

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return self.run(desk, database_url, redis_url, *arguments)

        dry = await asyncio.to_thread(run, "--dry-run")
        still = position_of(await desk.truth(), "BTCUSDT").state.cost
        wet = await asyncio.to_thread(run, "--user", "ADA")
        clean = await asyncio.to_thread(run)

        assert (dry.returncode, wet.returncode, clean.returncode) == (3, 3, 0), dry.stderr + wet.stderr + clean.stderr
        assert "positions: different BTCUSDT" in dry.stdout
        assert "cost 1 → 130" in dry.stdout
        assert still == 1
        assert "1 users put right" in wet.stdout
        assert position_of(await desk.truth(), "BTCUSDT").state.cost == 130
        assert "everything is as the ledger has it" in clean.stdout

    async def test_a_user_whom_nobody_knows_is_one_line(self, desk: Desk, database_url: str, redis_url: str) -> None:
        result = await asyncio.to_thread(self.run, desk, database_url, redis_url, "--user", "nobody")

        assert (result.returncode, result.stderr) == (1, "tidemark: there is no user 'nobody'\n")
