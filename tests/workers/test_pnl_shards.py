"""Users split over P&L workers that are real processes; a web process's state; one of them is killed."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.interest import InterestPublisher, read_interesting_symbols
from app.domain.prices import StreamPosition
from app.domain.shards import Shard, shard_of
from app.repositories.database import create_engine
from app.websocket import frames
from app.websocket.events import EventNotice
from app.websocket.follower import Follower
from app.websocket.state import StreamState
from tests.domain.books import instrument
from tests.workers.desk import Market, Trader, until, working

PROJECT = Path(__file__).parents[2]
TTL_MS = 3000
"""The default: what is promised of a takeover is promised with it."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def traders(engine: AsyncEngine, redis: Redis) -> list[Trader]:
    """One user of each of two shards, in order of the shards."""
    found: dict[int, Trader] = {}
    number = 0
    while len(found) < 2:
        number += 1
        trader = await Trader.register(engine, redis, f"trader{number}")
        found.setdefault(shard_of(trader.user_id, 2), trader)
    return [found[0], found[1]]


class Web:
    """A web process without sockets: its real state and follower, and what every commit would have shown."""

    def __init__(self, redis: Redis) -> None:
        self.interest = InterestPublisher(redis, "w1", 2.0)
        self.here: set[str] = set()
        self.state = StreamState(stale_after_ms=60_000, is_wanted=self.here.__contains__, now=time.monotonic())
        self.follower = Follower(redis, "w1", self.state, self, timeout_s=2.0, clock=time.monotonic)
        self.asked: list[Shard | None] = []
        self.shown: dict[str, list[tuple[StreamPosition, Decimal, bool]]] = {}

    def arrive(self, *traders: Trader) -> None:
        for trader in traders:
            self.here.add(trader.user_id)
            self.state.arrive(trader.user_id)
            self.shown[trader.user_id] = []

    def unrealized(self, trader: Trader) -> Decimal | None:
        """As a snapshot now would show it, unless it is stale."""
        view = self.state.view_of(trader.user_id)
        if view is None or not view.rows:
            return None
        figures = json.loads(frames.pnl_snapshot(self.state, view))["pnl"]
        return None if figures["is_stale"] else Decimal(figures["unrealized_pnl"])

    def is_stale(self, trader: Trader) -> bool:
        view = self.state.view_of(trader.user_id)
        return view is not None and bool(json.loads(frames.pnl_snapshot(self.state, view))["pnl"]["is_stale"])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.follower.run())
            tasks.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            asked, self.asked = self.asked, []
            for shard in asked:
                await self.interest.reset(shard)
            await self.interest.heartbeat(self.here, set())
            self.state.check_silence(time.monotonic())
            await asyncio.sleep(0.2)

    # What the follower reports.

    def committed(self) -> None:
        for user_id, shown in self.shown.items():
            view = self.state.view_of(user_id)
            if view is not None and view.rows:
                figures = json.loads(frames.pnl_snapshot(self.state, view))["pnl"]
                lane = self.state.lane_of(user_id)
                # Prices go on without a worker that was killed; its figures are then known to be late.
                is_late = lane.reached < lane.position
                shown.append((lane.position, Decimal(figures["unrealized_pnl"]), is_late))

    def ask_again(self, shard: Shard | None) -> None:
        self.asked.append(shard)

    def happened(self, notice: EventNotice) -> None:
        """Of no interest here."""

    def session_ended(self, notice: object) -> None:
        """Of no interest here."""

    def resynchronised(self) -> None:
        self.asked.append(None)


@asynccontextmanager
async def serving(redis: Redis, *traders: Trader) -> AsyncIterator[Web]:
    web = Web(redis)
    web.arrive(*traders)
    task = asyncio.create_task(web.run())
    try:
        yield web
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def ticking(market: Market) -> AsyncIterator[None]:
    """Ten flushes a second; the price of the n-th is 1000 + n."""

    async def tick() -> None:
        while True:
            await market.tick(BTCUSDT=str(1001 + market.flush))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def worker_process(database_url: str, redis_url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A P&L worker for one of two shards."""
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TIDEMARK_LEASE_TTL_MS": str(TTL_MS),
        "TIDEMARK_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "run.py", "pnl-worker", "--shards", "2"]
    process = subprocess.Popen(command, cwd=PROJECT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def holders(engine: AsyncEngine) -> dict[str, tuple[int, int]]:
    """By role of a shard: its epoch, and the process that holds it."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT role, epoch, holder FROM leases WHERE role LIKE 'pnl:%/%' AND expires_at > clock_timestamp()")
        )
        return {role: (epoch, int(holder.split(":")[1])) for role, epoch, holder in rows}


async def both_held(engine: AsyncEngine) -> dict[str, tuple[int, int]]:
    async with asyncio.timeout(20):
        while len(held := await holders(engine)) < 2:
            await asyncio.sleep(0.05)
    return held


def check_exact(web: Web, trader: Trader, quantity: int) -> None:
    """Every figure that was ever shown is that of the flush it was shown at, unless it is known to be late."""
    shown = web.shown[trader.user_id]
    assert shown
    for place, unrealized, is_late in shown:
        if not is_late and not place.revision:
            assert unrealized == quantity * (1000 + place.flush - 900), place


async def test_a_killed_worker_s_users_are_taken_over_and_nobody_else_notices(
    database_url: str, redis_url: str, engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    first, second = traders
    await first.trade("buy", "2", "900")
    await second.trade("sell", "3", "900")
    market = Market(redis)
    await market.tick(BTCUSDT="1001")
    async with serving(redis, first, second) as web, ticking(market):
        with (
            worker_process(database_url, redis_url) as one,
            worker_process(database_url, redis_url) as two,
        ):
            held = await both_held(engine)
            assert {pid for _, pid in held.values()} == {one.pid, two.pid}
            await until(lambda: None not in {web.unrealized(first), web.unrealized(second)}, within_s=20)
            assert {lane.mirror.book_epoch for lane in web.state.lanes} == {1}
            with worker_process(database_url, redis_url) as standby:
                await asyncio.sleep(3)  # it is up, and has nothing to do
                assert await holders(engine) == held

                _, pid = held["pnl:1/2"]
                killed_at = market.flush
                (one if one.pid == pid else two).kill()

                await until(lambda: web.state.health.degraded == ["pnl"])
                assert not web.is_stale(first)
                await until(lambda: web.state.lanes[1].mirror.book_epoch == 2, within_s=5)
                await until(lambda: web.unrealized(second) is not None and web.state.health.degraded == [])
                recovered_at = market.flush
                after = await both_held(engine)

    assert after["pnl:0/2"] == held["pnl:0/2"]
    assert after["pnl:1/2"] == (2, standby.pid)
    check_exact(web, first, 2)
    check_exact(web, second, -3)
    assert recovered_at - killed_at <= 50  # flushes: five seconds
    # The other shard's user missed nothing: every flush was shown, a few perhaps together with the next.
    flushes = [place.flush for place, _, _ in web.shown[first.user_id] if place.flush >= killed_at]
    assert max(later - earlier for earlier, later in pairwise(flushes)) <= 3
    late = [is_late for place, _, is_late in web.shown[first.user_id] if place.flush >= killed_at]
    assert sum(late) <= len(late) / 5  # none but where this machine itself was held up
    assert web.state.lanes[0].mirror.book_epoch == 1
    assert web.state.lanes[0].mirror.holes == 0


async def test_a_trade_reaches_its_own_shard_and_held_symbols_are_those_of_all(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    first, second = traders
    market = Market(redis)
    await market.tick(BTCUSDT="1001", ETHUSDT="10")
    async with (
        working(engine, redis, holder="a", shards=2),
        working(engine, redis, holder="b", shards=2),
        serving(redis, first, second) as web,
        ticking(market),
    ):
        await first.trade("buy", "2", "900")
        await second.trade("buy", "1", "8", instrument("ETHUSDT"))
        await until(lambda: None not in {web.unrealized(first), web.unrealized(second)})

        async with asyncio.timeout(5):
            while await read_interesting_symbols(redis, 2.0) != {"BTCUSDT", "ETHUSDT"}:
                await asyncio.sleep(0.05)
        assert [set(lane.mirror.users) for lane in web.state.lanes] == [{first.user_id}, {second.user_id}]
    check_exact(web, first, 2)


async def test_the_number_of_shards_changes_under_a_running_web_process(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    first, second = traders
    await first.trade("buy", "2", "900")
    await second.trade("sell", "3", "900")
    market = Market(redis)
    await market.tick(BTCUSDT="1001")
    async with serving(redis, first, second) as web, ticking(market), working(engine, redis, holder="alone"):
        await until(lambda: None not in {web.unrealized(first), web.unrealized(second)})
        async with working(engine, redis, holder="a", shards=2):
            await asyncio.sleep(1.5)
            assert len(web.state.lanes) == 1  # one of two shards serves nobody yet
            async with working(engine, redis, holder="b", shards=2):
                await until(lambda: len(web.state.lanes) == 2)
                await until(lambda: None not in {web.unrealized(first), web.unrealized(second)})
                assert web.state.health.degraded == []
    for trader, quantity in ((first, 2), (second, -3)):
        check_exact(web, trader, quantity)
        places = [place for place, _, _ in web.shown[trader.user_id]]
        assert places == sorted(places)
