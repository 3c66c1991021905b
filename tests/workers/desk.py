"""A trading desk for tests of the P&L worker: real ledger, real bus, prices and receivers by hand."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus import keys
from app.bus.events import publish_event
from app.bus.interest import InterestPublisher
from app.bus.messages import LedgerEvent, PriceFlush
from app.bus.pnl import decode_pnl_flush
from app.bus.prices import PricePublisher
from app.bus.subscription import Message, Subscription
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, Side
from app.domain.positions import Position
from app.domain.prices import Feed, Price
from app.repositories.accounts import AccountRepository
from app.repositories.fills import Holder, record_fill
from app.repositories.positions import PositionRepository
from app.repositories.transfers import TransferRepository
from app.repositories.users import UserRepository
from app.websocket.mirror import PnlMirror, Row
from app.workers.pnl_worker import run_pnl_worker
from tests.domain.books import instrument

TIMEOUT_S = 5.0
LIVE = Feed(state="live", source="test", age_ms=0)


class Trader:
    """A user who writes to the ledger as the web does."""

    def __init__(self, engine: AsyncEngine, redis: "Redis", user_id: str, account_id: str) -> None:
        self._engine = engine
        self._redis = redis
        self.user_id = user_id
        self.account_id = account_id

    @classmethod
    async def register(cls, engine: AsyncEngine, redis: "Redis", username: str) -> "Trader":
        async with engine.begin() as connection:
            user_id = await UserRepository(connection).create(username, "no password")
            account_id = await AccountRepository(connection).create(user_id, "Main", "manual", "USDT")
        return cls(engine, redis, user_id, account_id)

    async def trade(
        self,
        side: Side,
        quantity: str,
        price: str,
        of: Instrument | None = None,
        *,
        is_published: bool = True,
        executed_at: datetime | None = None,
    ) -> list[Position]:
        """Record a fill; the event is published unless it is to be lost, of a late one as a correction."""
        of = of or instrument("BTCUSDT")
        now = datetime.now(UTC)
        async with self._engine.begin() as connection:
            seq = await UserRepository(connection).advance(self.user_id)
            standing = await PositionRepository(connection).standing(self.user_id, self.account_id, of.symbol, "")
            recorded = await record_fill(
                connection,
                Holder(self.user_id, self.account_id, "USDT"),
                of,
                Fill(
                    side=side,
                    quantity=Decimal(quantity),
                    price=Decimal(price),
                    fee=Decimal("0.5"),
                    executed_at=executed_at,
                ),
                standing,
                source="api",
                now=now,
                max_open=100,
            )
        event = LedgerEvent(self.user_id, seq, "fill", now, recorded.positions, {})
        if recorded.correction is not None:
            event = LedgerEvent(self.user_id, seq, "correction", now, [], {})
        if is_published:
            await publish_event(self._redis, event, TIMEOUT_S)
        return recorded.positions

    async def deposit(self, amount: str, asset: str, *, rate: str) -> None:
        """Record a deposit at a rate."""
        now = datetime.now(UTC)
        async with self._engine.begin() as connection:
            seq = await UserRepository(connection).advance(self.user_id)
            await TransferRepository(connection).add(
                user_id=self.user_id,
                account_id=self.account_id,
                kind="deposit",
                asset=asset,
                amount=Decimal(amount),
                rate_to_reporting=Decimal(rate),
                note="",
                at=now,
                now=now,
            )
        await publish_event(self._redis, LedgerEvent(self.user_id, seq, "account", now, [], {}), TIMEOUT_S)


class Market:
    """A price worker by hand."""

    def __init__(self, redis: "Redis", epoch: int = 1) -> None:
        self._publisher = PricePublisher(redis, TIMEOUT_S)
        self.epoch = epoch
        self.flush = 0

    async def tick(self, *, at_ms: int | None = None, **prices: str) -> None:
        """One flush, of this moment or another."""
        self.flush += 1
        now_ms = at_ms or time.time_ns() // 1_000_000
        changed = [
            Price(symbol, Decimal(value), "mid", None, None, None, None, now_ms, now_ms, now_ms)
            for symbol, value in prices.items()
        ]
        await self._publisher.publish(PriceFlush(self.epoch, self.flush, now_ms, len(changed), LIVE, changed))

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Empty flushes ten times a second while the block runs."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(0.1)
                await self.tick()

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class WebInstance:
    """The part of a web process that hears of P&L."""

    def __init__(self, redis: "Redis", instance_id: str) -> None:
        self._redis = redis
        self.instance_id = instance_id
        self.interest = InterestPublisher(redis, instance_id, TIMEOUT_S)
        self.users: set[str] = set()
        self.mirror = PnlMirror(lambda _: True)
        self.outcomes: list[str] = []
        self.places: list[tuple[int, int]] = []
        self.heard = 0
        self.is_deaf = False

    async def connect(self, *traders: Trader) -> None:
        """Connections of these users appear here."""
        added = {trader.user_id for trader in traders}
        self.users |= added
        await self.interest.heartbeat(self.users, set())

    def total(self, trader: Trader) -> Decimal | None:
        """Total P&L as this instance would show it."""
        view = self.mirror.users.get(trader.user_id)
        unrealized = None if view is None else self.mirror.user_unrealized.value(view.slot)
        if view is None or unrealized is None:
            return None
        return Decimal(view.realized_pnl + unrealized).scaleb(-18)

    async def listen(self) -> None:
        subscription = Subscription(self._redis, [keys.pnl_channel(self.instance_id)], silence_s=None)
        events: AsyncGenerator[object, None] = subscription.events()
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Message) and not self.is_deaf:
                    await self._hear(event.payload)

    async def _hear(self, payload: bytes) -> None:
        flush = decode_pnl_flush(payload)
        self.heard += 1
        outcome = self.mirror.apply(flush, self.heard)
        self.outcomes.append(outcome)
        if outcome != "old":
            self.places.append((flush.position.epoch, flush.position.seq))
        if outcome == "hole":
            self.mirror.desynchronise()
            await self.interest.reset()


@asynccontextmanager
async def listening(redis: "Redis", instance_id: str = "w1") -> AsyncIterator[WebInstance]:
    """A web instance that hears and keeps itself alive while the block runs."""
    web = WebInstance(redis, instance_id)

    async def stay_alive() -> None:
        while True:
            await web.interest.heartbeat(web.users, set())
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(web.listen()), asyncio.create_task(stay_alive())]
    await asyncio.sleep(0.05)
    try:
        yield web
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def working(
    engine: AsyncEngine,
    redis: "Redis",
    *,
    holder: str = "worker",
    ttl_ms: int = 600,
    shards: int = 1,
    reconcile_every_s: float = 0,
    warm_positions: int = 1_000_000,
) -> AsyncIterator["asyncio.Task[None]"]:
    """A P&L worker (or one standing by) while the block runs."""

    async def run() -> None:
        await run_pnl_worker(
            engine=engine,
            redis=redis,
            holder=holder,
            lease_ttl_ms=ttl_ms,
            stale_after_ms=5000,
            reporting_currency="USDT",
            redis_timeout_s=1.0,
            cache_ttl_s=60,
            shards=shards,
            reconcile_every_s=reconcile_every_s,
            warm_positions=warm_positions,
        )

    task = asyncio.create_task(run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], *, within_s: float = 8.0) -> None:
    """Wait for a condition; fail when it does not come true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def statement_of(row: Row) -> dict[str, Any]:
    """What a web process keeps of a position beside its moving figures."""
    decoded: dict[str, Any] = msgspec.json.decode(row.statement + "}")
    return decoded


async def cached(redis: "Redis", trader: Trader) -> dict[str, Any]:
    """The cached body of ``GET /pnl``, once it is there."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            body = await redis.get(keys.pnl_cache(trader.user_id))
            if body is not None:
                decoded: dict[str, Any] = msgspec.json.decode(body)
                return decoded
            await asyncio.sleep(0.05)


def stale_marks(mirror: PnlMirror) -> set[str]:
    """The names of the marks that are too old."""
    return {name for name, mark in mirror.marks.items() if mark.is_stale}
