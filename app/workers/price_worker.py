"""The price worker: takes ticks as fast as they come, publishes the newest at a steady pace.

One is active at a time, by a lease; the epoch that comes with it marks everything
it publishes. Network errors, of the exchange or the bus, are waited out. What
ends the worker, and with it the process: a lost lease, a newer epoch on the
bus, and bugs. The next start loads everything, so ending is safe.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple, NoReturn, Protocol

import structlog

from app.bus.connection import BusUnavailable, connect, is_reachable
from app.bus.messages import PriceFlush
from app.bus.prices import StoredPrices
from app.domain.conflation import Conflator
from app.domain.instruments import Instrument, Market
from app.domain.marks import MarkConflator
from app.domain.prices import Feed, FeedState
from app.domain.rates import hub_symbols
from app.exchanges.binance.endpoints import MarketUrls
from app.exchanges.binance.markets import binance_markets
from app.exchanges.binance.timing import Timing
from app.repositories.database import create_engine
from app.repositories.funding import FundingRepository
from app.repositories.leases import LeaseRepository
from app.workers.funding_recorder import EVERY_S as FUNDING_EVERY_S
from app.workers.funding_recorder import FundingRecorder
from app.workers.leadership import Leadership
from app.workers.listing import Listing, SymbolOwners
from app.workers.price_bus import RedisPriceBus
from app.workers.price_outbox import PriceOutbox
from app.workers.readiness import Readiness
from app.workers.schedule import Schedule
from app.workers.steady_clock import SteadyClock

log = structlog.get_logger(__name__)

_INTEREST_EVERY_S = 0.3
_SURVEY_EVERY_S = 1.0
_REPORT_EVERY_S = 60.0
_RETRY_S = 1.0
_LOOK_EVERY_S = 0.05
_LOOKS = 20


class MarketFeed(Protocol):
    """One market of one exchange. The seam for others: a feed of its own beside, with its own conflator."""

    @property
    def source(self) -> str:
        """The exchange's name, as clients see it."""

    @property
    def market(self) -> Market:
        """Which market its instruments belong to."""

    @property
    def is_connected(self) -> bool:
        """Whether its streams can be reached, be they silent."""

    def watch(self, symbols: Set[str]) -> None:
        """Follow these symbols closely, as far as this market lists them."""

    async def run(self, ticks: Conflator, listed: Callable[[list[Instrument]], None]) -> NoReturn:
        """Deliver ticks and complete lists of instruments, for ever. Network errors never come out."""


class PriceBus(Protocol):
    """Where prices go. Every method raises BusUnavailable; ``publish`` also Fenced."""

    async def publish(self, flush: PriceFlush) -> None: ...
    async def survey(self) -> StoredPrices: ...
    async def forget(self) -> None: ...
    async def read_instruments(self) -> list[Instrument]: ...
    async def write_instruments(self, instruments: Iterable[Instrument]) -> None: ...


class InterestSource(Protocol):
    """Who knows what is watched and held. Raises BusUnavailable."""

    async def interesting_symbols(self) -> set[str]: ...


class _Followed(NamedTuple):
    feed: MarketFeed
    ticks: Conflator
    listing: Listing


class PriceWorker:
    """Publishes the prices of some markets under one epoch.

    ``simulated`` says that the prices are not a real market's: every flush then
    says so too, and prices left behind by the other kind are removed first.
    """

    def __init__(
        self,
        feeds: Sequence[MarketFeed],
        bus: PriceBus,
        interest: InterestSource,
        *,
        epoch: int,
        flush_s: float,
        stale_after_ms: int,
        simulated: bool,
        now_ms: Callable[[], int],
    ) -> None:
        self._markets = [_Followed(feed, _new_ticks(feed.market, stale_after_ms), Listing()) for feed in feeds]
        self._owners = SymbolOwners()
        self._needed: set[Market] = {feed.market for feed in feeds[:1]}
        self._bus = bus
        self._interest = interest
        self._epoch = epoch
        self._flush_s = flush_s
        self._stale_after_ms = stale_after_ms
        self._simulated = simulated
        self._now_ms = now_ms
        self._outbox = PriceOutbox()
        self._flush_number = 0
        self._bus_is_away = False
        self._listing_changed = asyncio.Event()
        self._hub_symbols: set[str] = set()

    def instrument(self, symbol: str) -> Instrument | None:
        """What is, or was, listed under a symbol."""
        found = (market.listing.get(symbol) for market in self._markets)
        return next((instrument for instrument in found if instrument is not None), None)

    def next_funding_ms(self, symbol: str) -> int | None:
        """When the exchange will settle funding next, as far as it said so."""
        price = self._outbox.price(symbol)
        return None if price is None else price.next_funding_ms

    async def run(self) -> NoReturn:
        """Run until cancelled or fenced. Unpublished prices are dropped: newer ones follow a restart."""
        await self._take_over()
        async with asyncio.TaskGroup() as tasks:
            for market in self._markets:
                tasks.create_task(self._run_feed(market), name=f"price.{market.feed.source}")
            tasks.create_task(self._flush(), name="price.flush")
            tasks.create_task(self._follow_interest(), name="price.interest")
            tasks.create_task(self._publish_listing(), name="price.listing")
            tasks.create_task(self._survey(), name="price.survey")
            tasks.create_task(self._report(), name="price.report")
        raise AssertionError("none of the tasks returns")

    async def _take_over(self) -> None:
        """Look at what an earlier worker left: keep what is of the same kind, remove what is not."""
        while True:
            try:
                stored = await self._bus.survey()
                if stored.simulated is not None and stored.simulated != self._simulated:
                    await self._bus.forget()
                earlier = await self._bus.read_instruments()
            except BusUnavailable as error:
                self._note_bus(error)
                await asyncio.sleep(_RETRY_S)
                continue
            for market in self._markets:
                own = [each for each in earlier if each.market == market.feed.market]
                market.listing.remember(self._owners.admit(market.feed.market, own))
            return

    async def _run_feed(self, market: _Followed) -> NoReturn:
        await market.feed.run(market.ticks, partial(self._take_listing, market))

    def _take_listing(self, market: _Followed, listed: list[Instrument]) -> None:
        market.listing.update(self._owners.admit(market.feed.market, listed))
        if market.feed.market == "spot":
            self._hub_symbols = hub_symbols(listed)
        self._listing_changed.set()

    async def _flush(self) -> NoReturn:
        schedule = Schedule(self._flush_s)
        while True:
            await schedule.beat()
            for market in self._markets:
                drained = market.ticks.drain()
                if refused := self._owners.refused(market.feed.market):
                    drained = drained.without(refused)
                self._outbox.add(drained)
            await self._publish()

    async def _publish(self) -> None:
        """Publish one flush. One that failed is not repeated: the next has a new number and all it had."""
        ticks, prices = self._outbox.take()
        self._flush_number += 1
        now_ms = self._now_ms()
        flush = PriceFlush(self._epoch, self._flush_number, now_ms, ticks, self._feed(now_ms), prices)
        try:
            await self._bus.publish(flush)
        except BusUnavailable as error:
            self._outbox.failed()
            self._note_bus(error)
        else:
            self._outbox.succeeded()
            self._note_bus(None)

    def _feed(self, now_ms: int) -> Feed:
        """The state of the worst market that is needed, for a total needs all of those; of equals the newest tick."""
        states = {market.feed.market: _state_of(market, now_ms, self._stale_after_ms) for market in self._markets}
        state, age_ms = max((states[market] for market in self._needed), key=_badness)
        source = "+".join(sorted({market.feed.source for market in self._markets}))
        said = {market: self._say(each) for market, (each, _) in states.items()}
        return Feed(self._say(state), source, age_ms, self._simulated, said)

    def _say(self, state: FeedState) -> FeedState:
        return "simulated" if state == "live" and self._simulated else state

    async def _follow_interest(self) -> NoReturn:
        schedule = Schedule(_INTEREST_EVERY_S)
        while True:
            try:
                symbols = await self._interest.interesting_symbols()
                for market in self._markets:
                    market.feed.watch(symbols | self._hub_symbols)
                self._needed = _needed(self._markets, symbols)
            except BusUnavailable:
                pass  # what was watched before stays watched; the flush says that the bus is away
            await schedule.beat()

    async def _publish_listing(self) -> NoReturn:
        await self._first_listings()
        while True:
            await self._listing_changed.wait()
            self._listing_changed.clear()
            try:
                await self._bus.write_instruments(
                    instrument for market in self._markets for instrument in market.listing.instruments
                )
            except BusUnavailable:
                self._listing_changed.set()
                await asyncio.sleep(_RETRY_S)

    async def _first_listings(self) -> None:
        """Give all markets a moment: whoever read the first list looks again only after a while."""
        schedule = Schedule(_LOOK_EVERY_S)
        for _ in range(_LOOKS):
            if all(market.listing.instruments for market in self._markets):
                return
            await schedule.beat()

    async def _survey(self) -> NoReturn:
        """Look from time to time whether the bus still has what it was given: it may have been emptied."""
        schedule = Schedule(_SURVEY_EVERY_S)
        while True:
            await schedule.beat()
            published = self._outbox.published
            try:
                stored = await self._bus.survey()
            except BusUnavailable:
                continue
            if stored.prices < published:
                log.warning("price_worker.bus_emptied", stored=stored.prices, published=published)
                self._outbox.republish()
            if not stored.has_instruments and any(market.listing.instruments for market in self._markets):
                self._listing_changed.set()

    async def _report(self) -> NoReturn:
        """Say now and then how many ticks were refused, and why."""
        reported = [dict(market.ticks.rejected) for market in self._markets]
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            for number, market in enumerate(self._markets):
                rejected = dict(market.ticks.rejected)
                if rejected != reported[number]:
                    log.info("price_worker.ticks_rejected", source=market.feed.source, since_start=rejected)
                    reported[number] = rejected

    def _note_bus(self, error: BusUnavailable | None) -> None:
        """Log that the bus went or came back, once each."""
        if (error is not None) == self._bus_is_away:
            return
        self._bus_is_away = error is not None
        if error is None:
            log.info("price_worker.bus_back")
        else:
            log.warning("price_worker.bus_away", reason=str(error))


def _new_ticks(market: Market, stale_after_ms: int) -> Conflator:
    kind = Conflator if market == "spot" else MarkConflator
    return kind(stale_after_ms=stale_after_ms)


def _needed(markets: Sequence[_Followed], symbols: Set[str]) -> set[Market]:
    """The markets in which something is held or watched; the first in any case."""
    return {each.feed.market for n, each in enumerate(markets) if n == 0 or each.listing.has_any(symbols)}


_WORSE: tuple[FeedState, ...] = ("live", "stale", "down")


def _badness(said: tuple[FeedState, int | None]) -> tuple[int, int]:
    state, age_ms = said
    return _WORSE.index(state), -(age_ms or 0)


def _state_of(market: _Followed, now_ms: int, stale_after_ms: int) -> tuple[FeedState, int | None]:
    """The state of one market, and the age of its newest tick.

    Live is what streams. Prices that are only asked for come slowly, so a market
    that has nothing else is stale, though each of its prices may still be fresh.
    """
    newest_ms, asked_ms = market.ticks.newest_ms, market.ticks.newest_asked_ms
    age_ms = None if newest_ms is None else max(0, now_ms - newest_ms)
    if age_ms is not None and age_ms <= stale_after_ms:
        return "live", age_ms
    is_answering = asked_ms is not None and now_ms - asked_ms <= stale_after_ms
    is_silent = age_ms is not None and market.feed.is_connected
    return ("stale" if is_answering or is_silent else "down"), age_ms


async def run_price_worker(
    *,
    database_url: str,
    database_pool_size: int,
    database_timeout_s: float,
    redis_url: str,
    redis_timeout_s: float,
    holder: str,
    lease_ttl_ms: int,
    flush_ms: int,
    stale_after_ms: int,
    simulated: bool,
    binance_urls: Mapping[Market, MarketUrls],
    binance_timing: Timing,
    binance_max_streams_per_connection: int,
    funding_every_s: float = FUNDING_EVERY_S,
) -> NoReturn:
    """Stand by until the lease is this worker's, then publish until cancelled.

    Raises (in an exception group): LeaseLost, Fenced; both mean that another
    worker is active now, and that this process must end.
    """
    async with AsyncExitStack() as opened:
        engine = create_engine(database_url, pool_size=database_pool_size, timeout_s=database_timeout_s)
        opened.push_async_callback(engine.dispose)
        redis = connect(redis_url, redis_timeout_s)
        opened.push_async_callback(redis.aclose)
        leases = LeaseRepository(engine)
        leadership = Leadership(leases, "price", holder, lease_ttl_ms)
        readiness = Readiness(leases, "price", holder, lease_ttl_ms, partial(is_reachable, redis, redis_timeout_s))
        epoch = await readiness.stand_by(leadership)
        opened.push_async_callback(leadership.release)

        clock = SteadyClock()
        binance = await opened.enter_async_context(
            binance_markets(
                binance_urls,
                now_ms=clock.now_ms,
                timing=binance_timing,
                max_streams_per_connection=binance_max_streams_per_connection,
            )
        )
        bus = RedisPriceBus(redis, redis_timeout_s)
        worker = PriceWorker(
            binance.feeds,
            bus,
            bus,
            epoch=epoch,
            flush_s=flush_ms / 1000,
            stale_after_ms=stale_after_ms,
            simulated=simulated,
            now_ms=clock.now_ms,
        )
        funding = FundingRecorder(
            binance.funding,
            FundingRepository(engine),
            instrument=worker.instrument,
            next_funding_ms=worker.next_funding_ms,
            now_ms=clock.now_ms,
            every_s=funding_every_s,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(leadership.keep(), name="price.lease")
            tasks.create_task(readiness.give_way(), name="price.readiness")
            tasks.create_task(worker.run(), name="price.worker")
            if binance.funding:
                tasks.create_task(funding.run(), name="price.funding")
    raise AssertionError("none of the tasks returns")
