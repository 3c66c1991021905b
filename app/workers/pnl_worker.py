"""The P&L worker: follows prices and ledger events, and tells every web instance what its users are worth.

One is active per shard of the users, by a lease; its epoch marks everything it
says. A worker takes the first shard that nobody has, and stands by for any while
all are taken. It starts by loading everything of its shard, so a restart is the
recovery from anything. What ends it: a lost lease, a database that is away at the
start, and bugs. Redis or the database going away later is waited out.
"""

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import NoReturn

import msgspec
import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus import keys
from app.bus.connection import BusUnavailable, is_reachable
from app.bus.events import decode_event
from app.bus.interest import decode_interest
from app.bus.listings import Listings
from app.bus.messages import LedgerEvent, PriceFlush
from app.bus.pnl import PnlPublisher
from app.bus.prices import PriceBoard, decode_flush, read_prices
from app.bus.subscription import Message, Resync, Subscription
from app.domain.book import Book
from app.domain.prices import Price
from app.domain.shards import EVERYBODY, Shard, shards_of
from app.repositories.books import BEFORE_ALL, BookRepository
from app.repositories.database import DatabaseUnavailable
from app.repositories.day_bases import unknown_days
from app.repositories.funding_turns import FundingTurnRepository
from app.repositories.layouts import LayoutRepository, role_of
from app.repositories.leases import LeaseRepository
from app.repositories.reconciliation import ReconciliationRepository
from app.repositories.restating import RestatingRepository
from app.repositories.roll_up import RollUpRepository
from app.repositories.samples import SampleRepository
from app.workers.book_keeper import BookKeeper
from app.workers.cache_keeper import CACHE_EVERY_S, CacheKeeper
from app.workers.cache_round import CacheRound
from app.workers.day_turn import DayStart, DayTurn
from app.workers.funding_turn import FundingTurn
from app.workers.history_keeper import HistoryKeeper
from app.workers.inbox import Inbox
from app.workers.instance_keeper import InstanceKeeper
from app.workers.leadership import Leadership
from app.workers.pnl_pace import PnlPace
from app.workers.pnl_publication import Publication
from app.workers.prepared_users import PreparedUsers
from app.workers.readiness import Readiness
from app.workers.reconciliation import Fence, Reconciliation, WorkerBooks
from app.workers.schedule import Schedule
from app.workers.warm_books import KeptBook, WarmBooks, collect_dropped
from app.workers.watchers import Watchers

log = structlog.get_logger(__name__)

ROLE = role_of(EVERYBODY)
"""The role where nothing is split."""

_LOOK_EVERY_S = 0.05
"""How often the pace is asked when no message comes: well below every wait in it."""
_SILENCE_S = 5.0
"""The price worker speaks ten times a second; so long without a word and the connection counts as dead."""
_SUBSCRIBED_WITHIN_S = 0.5
"""Without Redis there is nothing to hear, and the load goes ahead: the end of the wait is a resync."""
_CLEAR_UP_AFTER_S = 30.0
_TAKING_OVER_S = 10.0
_CACHE_APART_S = 0.7 * CACHE_EVERY_S
"""What comes between two flushes of prices is no time to write."""
_HELD_EVERY_S = 0.3
_HELD_AGAIN_S = 10.0
_LAYOUT_EVERY_S = 1.0
_RATES_EVERY_S = 0.5


class PnlWorker:
    """The work of one epoch of a shard."""

    def __init__(
        self,
        books: BookRepository,
        layouts: LayoutRepository,
        funding: FundingTurnRepository,
        ledger: ReconciliationRepository,
        redis: "Redis",
        leadership: Leadership,
        samples: SampleRepository,
        roll_up: RollUpRepository,
        restating: RestatingRepository,
        *,
        shard: Shard,
        epoch: int,
        stale_after_ms: int,
        reporting_currency: str,
        redis_timeout_s: float,
        cache_ttl_s: int,
        reconcile_every_s: float,
        kept: KeptBook | None = None,
    ) -> None:
        self._redis = redis
        self._redis_timeout_s = redis_timeout_s
        self._stale_after_ms = stale_after_ms
        self._leadership = leadership
        self._layouts = layouts
        self._shard = shard
        self._inbox = Inbox()
        self._board = PriceBoard()
        self._listings = Listings(redis, timeout_s=redis_timeout_s)
        self._book = Book(stale_after_ms) if kept is None else kept.book
        self._watchers = Watchers(self._book, shard)
        self._cache = CacheRound()
        self._was_warm = kept is not None
        self._prepared = PreparedUsers(self._book) if kept is None else kept.prepared
        self._cached = CacheKeeper(self._book, self._cache, ttl_s=cache_ttl_s, stale_after_ms=stale_after_ms)
        self._publication = Publication(
            self._book,
            self._watchers,
            self._cache,
            book_epoch=epoch,
            shard=shard,
            prepared=self._prepared,
            statements=self._cached.bodies.statements,
        )
        self._publisher = PnlPublisher(redis, redis_timeout_s, cache_ttl_s, shard)
        loaded_to = BEFORE_ALL if kept is None else kept.loaded_to
        self._keeper = BookKeeper(books, self._book, reporting_currency, loaded_to=loaded_to)
        self._funding = FundingTurn(
            funding, redis, redis_timeout_s, self._rate_now, is_active=lambda: leadership.is_certain
        )
        self._instances = InstanceKeeper(self._watchers, redis, redis_timeout_s)
        self.reconciliation = Reconciliation(
            ledger,
            redis,
            redis_timeout_s=redis_timeout_s,
            held=WorkerBooks(self._book, self._keeper, self._cache),
            fence=Fence(role_of(shard), epoch, lambda: leadership.is_certain),
        )
        self._reconcile_every_s = reconcile_every_s
        self._pace = PnlPace(time.monotonic())
        self._day = DayTurn()
        self._day_start = DayStart(self._book)
        self._history = HistoryKeeper(self._book, samples, roll_up, restating, stale_after_ms=stale_after_ms)
        self._event_ms = 0
        self._began_at = time.monotonic()
        self._has_spoken = asyncio.Event()
        self._prices_are_lost = False
        self._bus_is_away = False
        self._shards_in_force = 0
        self.refused_messages = 0

    async def run(self) -> NoReturn:
        """Run until cancelled. Raises DatabaseUnavailable where the load at the start fails."""
        channels = (keys.PRICE_CHANNEL, keys.EVENT_CHANNEL, keys.INTEREST_CHANNEL, keys.ASKED_CHANNEL)
        subscription = Subscription(self._redis, channels, silence_s=_SILENCE_S)
        async with asyncio.TaskGroup() as tasks:
            # Listening comes first: what happens during the load waits in the inbox.
            tasks.create_task(self._inbox.listen(subscription), name="pnl.listen")
            await self._inbox.wait(_SUBSCRIBED_WITHIN_S)
            await self._keeper.load_all()
            # A million positions would be walked through by every full collection.
            gc.freeze()
            with suppress(BusUnavailable):
                await self._listings.refresh()
            self._take_rates()
            tasks.create_task(self._listings.run(), name="pnl.listings")
            tasks.create_task(self._follow_rates(), name="pnl.rates")
            await self._enter_layout()
            tasks.create_task(self._follow_layout(), name="pnl.layout")
            tasks.create_task(self._serve(), name="pnl.serve")
            tasks.create_task(self._clear_up(), name="pnl.clear_up")
            tasks.create_task(self._keeper.run(), name="pnl.keeper")
            tasks.create_task(self._instances.run(), name="pnl.instances")
            tasks.create_task(self._keep_cache(), name="pnl.cache")
            tasks.create_task(self._keep_held(), name="pnl.held")
            tasks.create_task(self._history.run(), name="pnl.history")
            tasks.create_task(self._funding.run(), name="pnl.funding")
            if self._reconcile_every_s:
                tasks.create_task(self.reconciliation.keep(self._reconcile_every_s), name="pnl.reconciliation")
        raise AssertionError("none of the tasks returns")

    async def _follow_rates(self) -> NoReturn:
        """Convert by what is listed now."""
        while True:
            self._take_rates()
            await asyncio.sleep(_RATES_EVERY_S)

    def _take_rates(self) -> None:
        if self._listings.rates is not self._book.rates.book:
            self._book.set_rates(self._listings.rates)

    def _rate_now(self, asset: str, currency: str) -> Decimal | None:
        """What an asset is worth in a currency; None where that is not known, or is too old."""
        rate = self._book.rates.book.rate(asset, currency, self._book.prices.known)
        is_fresh = rate is not None and _now_ms() - rate.fresh_ms <= self._stale_after_ms
        return rate.value if rate is not None and is_fresh and not self._pace.is_silent else None

    async def _enter_layout(self) -> None:
        """Wait until the number of shards that this worker knows is in force: before that, nobody would listen."""
        while True:
            if await self._look_at_layout():
                return
            await asyncio.sleep(_LAYOUT_EVERY_S)

    async def _follow_layout(self) -> NoReturn:
        while True:
            await asyncio.sleep(_LAYOUT_EVERY_S)
            try:
                await self._look_at_layout()
            except DatabaseUnavailable as error:
                log.warning("pnl_worker.layout_unknown", reason=str(error))

    async def _look_at_layout(self) -> bool:
        """Whether this worker's number of shards is in force. Where it is no more, it goes on unheard."""
        in_force = await self._layouts.declare(self._shard.shards, is_new=not self._publication.layout)
        self._note_layout(in_force.shards)
        if in_force.shards != self._shard.shards:
            return False
        self._publication.layout = in_force.epoch
        return True

    def _note_layout(self, shards: int) -> None:
        """Log a change of the number in force, once each."""
        if shards != self._shards_in_force:
            self._shards_in_force = shards
            log.info("pnl_worker.layout", in_force=shards, own=self._shard.shards)

    async def _serve(self) -> NoReturn:
        while True:
            await self._inbox.wait(_LOOK_EVERY_S)
            for event in self._inbox.take():
                self._take(event)
            if self._prices_are_lost:
                await self._read_prices()
            await self._speak()

    async def _clear_up(self) -> None:
        """Once everybody is told, let go of what only the takeover needed."""
        if not self._was_warm:
            return
        await asyncio.sleep(_CLEAR_UP_AFTER_S)
        self._prepared.clear()
        collect_dropped()

    def _take(self, event: Message | Resync) -> None:
        """Take over one message. What cannot be read is dropped: polls and gaps find what was in it."""
        if isinstance(event, Resync):
            self._prices_are_lost = True
            self._instances.start_over()
            self._keeper.poll_soon()
            return
        try:
            if event.channel == keys.PRICE_CHANNEL:
                self._take_flush(decode_flush(event.payload))
            elif event.channel == keys.EVENT_CHANNEL:
                self._take_event(decode_event(event.payload))
            elif event.channel == keys.ASKED_CHANNEL:
                self._cached.ask(event.payload.decode(errors="replace"), time.monotonic())
            else:
                self._instances.announced(decode_interest(event.payload))
        except msgspec.DecodeError as error:
            self.refused_messages += 1
            log.warning("pnl_worker.message_refused", channel=event.channel, reason=str(error))

    def _take_flush(self, flush: PriceFlush) -> None:
        outcome = self._board.apply(flush)
        if outcome == "gap":
            self._prices_are_lost = True
        elif outcome == "applied":
            self._book.set_prices(flush.prices)
            self._moved_on(flush.prices)

    def _take_event(self, event: LedgerEvent) -> None:
        if not self._shard.has(event.user_id):
            return
        if event.kind == "correction":
            for day in unknown_days(event.data):
                self._day_start.forget(event.user_id, day)
        self._keeper.take(event)

    async def _read_prices(self) -> None:
        """Read the price hash after a loss; the next look tries again where Redis is away."""
        before, was_simulated = (self._board.epoch, self._board.flush), self._board.feed.simulated
        try:
            head, prices = await read_prices(self._redis, self._redis_timeout_s)
        except BusUnavailable as error:
            self._note_bus(error)
            return
        self._prices_are_lost = False
        self._board.load(head, prices)
        if (self._board.epoch, self._board.flush) == before:
            return
        if before[0] and self._board.feed.simulated != was_simulated:
            self._book.replace_prices(prices)
        else:
            self._book.set_prices(prices.values())
        self._moved_on(list(prices.values()))

    def _moved_on(self, prices: Sequence[Price]) -> None:
        self._event_ms = max((price.event_ms or price.received_ms for price in prices), default=self._event_ms)
        self._pace.flushed(self._board.epoch, self._board.flush, self._board.as_of_ms, time.monotonic())
        self._history.tick(self._board.as_of_ms, silent=False)

    async def _speak(self) -> None:
        """Publish if it is time. Several price flushes that waited are one: the newest wins."""
        now = time.monotonic()
        said = self._pace.due(now, has_news=self._publication.has_news)
        if said is None:
            return
        if said == "revision":
            self._pace.revise()
        as_of_ms = self._pace.as_of_ms(now, _now_ms())
        flushes = self._publication.compose(
            self._pace.place, as_of_ms=as_of_ms, event_ms=self._event_ms, silent=self._pace.is_silent
        )
        self._pace.spoke(said, now)
        self._turn_day(as_of_ms)
        if self._board.epoch and self._pace.is_silent:
            self._history.tick(as_of_ms, silent=True)
        self._keeper.fetch(self._publication.missing_users())
        try:
            await self._publisher.publish(flushes)
        except BusUnavailable as error:
            self._note_bus(error)
        else:
            self._note_bus(None)
        self._has_spoken.set()

    def _turn_day(self, as_of_ms: int) -> None:
        """Take everybody's base at the beginning of a UTC day."""
        turn = self._day.at(as_of_ms) if self._board.epoch else None
        if turn is not None:
            bases = self._day_start.begin(turn)
            marks = {symbol: price.price for symbol, price in self._book.prices.known.items()}
            totals = {self._book.holder(slot).user_id: base for slot, base in bases.items()}
            self._keeper.record_day(turn.day, totals, marks)
        self._day_start.step()

    async def _keep_cache(self) -> NoReturn:
        """Write the P&L of watched users for REST, as much at a time as does not disturb the stream."""
        written_at = 0.0
        while True:
            # Right behind a flush, so that the next one never waits for it. No beat of its own: one that falls
            # between flushes now and now behind them would miss every second one.
            self._has_spoken.clear()
            await self._has_spoken.wait()
            now = time.monotonic()
            # The cache is not fenced by the epoch: write only while nobody else can be active.
            is_due = now - written_at >= _CACHE_APART_S
            if not is_due or not self._leadership.is_certain or self._is_taking_over:
                continue
            written_at = now
            as_of_ms = self._pace.as_of_ms(now, _now_ms())
            bodies = self._cached.next_bodies(now, as_of_ms, self._pace.place, silent=self._pace.is_silent)
            try:
                if bodies:
                    await self._publisher.cache(bodies)
            except BusUnavailable as error:
                self._note_bus(error)

    @property
    def _is_taking_over(self) -> bool:
        """Whether this epoch is new and has not told everybody yet, before which no answer is kept ready for REST."""
        return time.monotonic() - self._began_at < _TAKING_OVER_S and self._publication.is_telling

    async def _keep_held(self) -> NoReturn:
        """Tell the price worker which symbols stand in a position."""
        schedule = Schedule(_HELD_EVERY_S)
        told: int | None = None
        told_at = 0.0
        while True:
            now = time.monotonic()
            version = self._book.held_version
            if self._leadership.is_certain and (version != told or now - told_at > _HELD_AGAIN_S):
                try:
                    await self._publisher.hold(self._book.held_symbols())
                    told, told_at = version, now
                except BusUnavailable as error:
                    self._note_bus(error)
            await schedule.beat()

    def _note_bus(self, error: BusUnavailable | None) -> None:
        """Log that the bus went or came back, once each."""
        if (error is not None) == self._bus_is_away:
            return
        self._bus_is_away = error is not None
        if error is None:
            log.info("pnl_worker.bus_back")
        else:
            log.warning("pnl_worker.bus_away", reason=str(error))


async def run_pnl_worker(
    *,
    engine: AsyncEngine,
    redis: "Redis",
    holder: str,
    lease_ttl_ms: int,
    stale_after_ms: int,
    reporting_currency: str,
    redis_timeout_s: float,
    cache_ttl_s: int,
    shards: int = 1,
    minutes_for: timedelta = timedelta(days=2),
    hours_for: timedelta = timedelta(days=92),
    reconcile_every_s: float = 0.0,
    warm_positions: int = 0,
) -> NoReturn:
    """Stand by until the lease of a shard is this worker's, then publish until cancelled.

    With ``reconcile_every_s`` of zero nothing is reconciled. While it stands by
    it keeps the books of all shards, with up to ``warm_positions`` positions.

    Raises (in an exception group): LeaseLost, another worker is active now;
    DatabaseUnavailable, the load at the start failed. Either way this process
    must end.
    """
    roles = {role_of(shard): shard for shard in shards_of(shards)}
    leases = LeaseRepository(engine)
    leadership = Leadership(leases, list(roles), holder, lease_ttl_ms)
    readiness = Readiness(leases, "pnl", holder, lease_ttl_ms, partial(is_reachable, redis, redis_timeout_s))
    warm = WarmBooks(
        partial(BookRepository, engine),
        redis,
        shards_of(shards),
        most_positions=warm_positions,
        stale_after_ms=stale_after_ms,
        reporting_currency=reporting_currency,
        redis_timeout_s=redis_timeout_s,
    )
    epoch, kept = await _stand_by(readiness, leadership, warm, roles)
    shard = roles[leadership.role]
    samples = SampleRepository(engine, leadership.role, epoch)
    try:
        worker = PnlWorker(
            BookRepository(engine, shard),
            LayoutRepository(engine),
            FundingTurnRepository(engine, shard),
            ReconciliationRepository(engine, shard),
            redis,
            leadership,
            samples,
            RollUpRepository(engine, shard, minutes_for=minutes_for, hours_for=hours_for),
            RestatingRepository(engine, samples, shard),
            shard=shard,
            epoch=epoch,
            stale_after_ms=stale_after_ms,
            reporting_currency=reporting_currency,
            redis_timeout_s=redis_timeout_s,
            cache_ttl_s=cache_ttl_s,
            reconcile_every_s=reconcile_every_s,
            kept=kept,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(leadership.keep(), name="pnl.lease")
            tasks.create_task(readiness.give_way(), name="pnl.readiness")
            tasks.create_task(worker.run(), name="pnl.worker")
    finally:
        await leadership.release()
    raise AssertionError("none of the tasks returns")


async def _stand_by(
    readiness: Readiness, leadership: Leadership, warm: WarmBooks, roles: Mapping[str, Shard]
) -> tuple[int, KeptBook | None]:
    """Keep books until a lease is held; its epoch, and the book of its shard, if it was kept."""
    warming = asyncio.create_task(
        warm.run(leadership.others_are_active, lambda: roles.get(leadership.endangered or "")), name="pnl.warm"
    )
    standing_by = asyncio.create_task(readiness.stand_by(leadership), name="pnl.stand_by")
    try:
        await asyncio.wait([warming, standing_by], return_when=asyncio.FIRST_COMPLETED)
        if not standing_by.done():
            warming.result()
        epoch = standing_by.result()
    finally:
        for task in (warming, standing_by):
            task.cancel()
        await asyncio.wait([warming, standing_by])
    return epoch, warm.hand_over(roles[leadership.role])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
