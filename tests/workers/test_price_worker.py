"""The price worker: a steady pace, nothing lost, and an honest word about the feed."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Set
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from typing import NoReturn

import msgspec
import pytest
from msgspec import UNSET
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable
from app.bus.messages import PriceFlush
from app.bus.pnl import PnlPublisher
from app.bus.prices import Fenced, PriceBoard, PricePublisher, decode_flush, read_instruments, read_prices
from app.bus.subscription import Message, Resync, Subscription
from app.domain.conflation import Conflator, Quote, SnapshotQuote
from app.domain.instruments import Instrument, Market, Status
from app.domain.lateness import Lane
from app.domain.price_vector import PriceVector
from app.domain.prices import Feed
from app.exchanges.binance.endpoints import MarketUrls
from app.exchanges.binance.timing import Timing
from app.repositories.database import create_engine
from app.repositories.leases import LeaseRepository
from app.workers.leadership import LeaseLost
from app.workers.price_bus import RedisPriceBus
from app.workers.price_worker import PriceWorker, run_price_worker
from tests.exchanges.fake_exchange import FakeExchange, Session
from tests.exchanges.waiting import eventually, running

FLUSH_S = 0.01
STALE_MS = 5_000


def instrument(symbol: str, status: Status = "trading") -> Instrument:
    return Instrument(
        symbol=symbol,
        market="spot",
        base=symbol.removesuffix("USDT"),
        quote="USDT",
        settle="USDT",
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.001"),
        status=status,
    )


class FakeClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms


class RunningClock(FakeClock):
    """Runs as clocks do, for those who compare it with their own."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class FakeFeed:
    """A market that ticks when told."""

    source = "binance"
    market: Market = "spot"

    def __init__(self, clock: FakeClock) -> None:
        self.is_connected = True
        self.watched: Set[str] = set()
        self.breaks = asyncio.Event()
        self._clock = clock
        self._ticks: Conflator | None = None
        self._listed: Callable[[list[Instrument]], None] | None = None
        self._sequence = 0

    def watch(self, symbols: Set[str]) -> None:
        self.watched = symbols

    async def run(self, ticks: Conflator, listed: Callable[[list[Instrument]], None]) -> NoReturn:
        self._ticks, self._listed = ticks, listed
        await self.breaks.wait()
        raise ZeroDivisionError("a bug")

    @property
    def runs(self) -> bool:
        return self._ticks is not None

    def tick(self, symbol: str, bid: str, ask: str) -> None:
        assert self._ticks is not None
        self._sequence += 1
        self._ticks.quote(Quote(symbol, bid, ask, self._sequence), self._clock.now_ms(), Lane())

    def answer(self, symbol: str, bid: str, ask: str) -> None:
        """A price that was asked for, just now."""
        assert self._ticks is not None
        now_ms = self._clock.now_ms()
        self._ticks.snapshot([SnapshotQuote(symbol, bid, ask)], (), now_ms, now_ms)

    def list_symbols(self, *instruments: Instrument) -> None:
        assert self._listed is not None
        self._listed(list(instruments))


class FakeInterest:
    """Says what is watched and held, or fails to."""

    def __init__(self) -> None:
        self.symbols: set[str] | None = set()

    async def interesting_symbols(self) -> set[str]:
        if self.symbols is None:
            raise BusUnavailable("away")
        return self.symbols


class FlakyBus(RedisPriceBus):
    """The real bus, when it is not away."""

    is_away = False

    async def publish(self, flush: PriceFlush) -> None:
        if self.is_away:
            raise BusUnavailable("away")
        await super().publish(flush)


def overall(feed: Feed) -> Feed:
    """A feed without what is said of each market."""
    return msgspec.structs.replace(feed, markets=UNSET)


class System:
    """A price worker between a feed that obeys and a real Redis."""

    def __init__(
        self,
        redis: Redis,
        *,
        epoch: int = 1,
        simulated: bool = False,
        flush_s: float = FLUSH_S,
        clock: FakeClock | None = None,
    ) -> None:
        self.redis = redis
        self.clock = clock or FakeClock()
        self.feed = FakeFeed(self.clock)
        self.interest = FakeInterest()
        self.bus = FlakyBus(redis, 2.0)
        self.board = PriceBoard()
        self.flushes: list[PriceFlush] = []
        self.worker = PriceWorker(
            [self.feed],
            self.bus,
            self.interest,
            epoch=epoch,
            flush_s=flush_s,
            stale_after_ms=STALE_MS,
            simulated=simulated,
            now_ms=self.clock.now_ms,
        )

    @property
    def state(self) -> Feed:
        """What is said of the feed as a whole."""
        return overall(self.flushes[-1].feed)

    async def listen(self) -> NoReturn:
        """Read the channel as every process does."""
        subscription = Subscription(self.redis, [keys.PRICE_CHANNEL], silence_s=None)
        async with aclosing(subscription.events()) as events:
            async for event in events:
                match event:
                    case Resync():
                        await self._resync()
                    case Message(payload=payload):
                        flush = decode_flush(payload)
                        self.flushes.append(flush)
                        if self.board.apply(flush) == "gap":
                            await self._resync()
        raise AssertionError("a subscription never ends")

    async def _resync(self) -> None:
        self.board.load(*await read_prices(self.redis, 2.0))

    async def flushed(self, count: int = 2) -> None:
        """Wait for that many more flushes."""
        target = len(self.flushes) + count
        await eventually(lambda: len(self.flushes) >= target)

    async def stored(self) -> dict[str, Decimal]:
        _, prices = await read_prices(self.redis, 2.0)
        return {symbol: price.price for symbol, price in prices.items()}


@asynccontextmanager
async def at_work(system: System) -> AsyncIterator[System]:
    async with running(system.listen()), running(system.worker.run()):
        await eventually(lambda: system.feed.runs)
        await system.flushed()
        yield system


@pytest.fixture
async def system(redis: Redis) -> AsyncIterator[System]:
    async with at_work(System(redis)) as system:
        yield system


async def test_flushes_count_up_by_one_also_when_nothing_changed(system: System) -> None:
    await system.flushed(5)

    numbers = [flush.flush for flush in system.flushes]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {flush.epoch for flush in system.flushes} == {1}


async def test_a_tick_is_in_the_message_and_in_the_hash(system: System) -> None:
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    system.feed.tick("BTCUSDT", "102.0", "103.0")
    await eventually(lambda: "BTCUSDT" in system.board.prices)

    [flush] = [flush for flush in system.flushes if flush.prices]
    assert flush.ticks == 2
    assert [price.price for price in flush.prices] == [Decimal("102.5")]
    assert flush.as_of_ms == system.clock.ms
    assert await system.stored() == {"BTCUSDT": Decimal("102.5")}


async def test_only_what_changed_is_in_a_flush(system: System) -> None:
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: "BTCUSDT" in system.board.prices)
    system.feed.tick("ETHUSDT", "10.0", "11.0")
    await eventually(lambda: "ETHUSDT" in system.board.prices)

    changed = [[price.symbol for price in flush.prices] for flush in system.flushes if flush.prices]
    assert changed == [["BTCUSDT"], ["ETHUSDT"]]


async def test_nothing_is_lost_while_the_bus_is_away(system: System) -> None:
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: "BTCUSDT" in system.board.prices)
    system.bus.is_away = True
    for n in range(1, 10):
        system.feed.tick("ETHUSDT", f"{n}.0", f"{n}.5")
        await asyncio.sleep(FLUSH_S)
    system.bus.is_away = False
    await eventually(lambda: "ETHUSDT" in system.board.prices)

    back = next(flush for flush in system.flushes if any(price.symbol == "ETHUSDT" for price in flush.prices))
    # Everything known, for the bus may have lost it; a new number, for the last one may have got out.
    assert {price.symbol: price.price for price in back.prices} == {
        "BTCUSDT": Decimal("100.5"),
        "ETHUSDT": Decimal("9.25"),
    }
    assert back.ticks == 9
    assert back.flush > system.flushes[system.flushes.index(back) - 1].flush + 1


async def test_a_bus_that_was_emptied_is_filled_again(system: System) -> None:
    system.feed.list_symbols(instrument("BTCUSDT"))
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: "BTCUSDT" in system.board.prices)
    await system.redis.flushall()

    async with asyncio.timeout(5):
        while not (await system.stored() and await read_instruments(system.redis, 2.0)):
            await asyncio.sleep(0.02)
    assert await system.stored() == {"BTCUSDT": Decimal("100.5")}


async def test_what_is_listed_is_published_and_what_is_no_longer_listed_stays_as_delisted(system: System) -> None:
    system.feed.list_symbols(instrument("BTCUSDT"), instrument("OLDUSDT"))
    await statuses(system, {"BTCUSDT": "trading", "OLDUSDT": "trading"})
    system.feed.list_symbols(instrument("BTCUSDT", "halted"))

    await statuses(system, {"BTCUSDT": "halted", "OLDUSDT": "delisted"})


async def statuses(system: System, expected: dict[str, str]) -> None:
    """Wait until these are the statuses on the bus."""
    async with asyncio.timeout(5):
        while {symbol: each.status for symbol, each in (await read_instruments(system.redis, 2.0)).items()} != expected:
            await asyncio.sleep(0.02)


async def test_a_restart_remembers_what_was_listed(redis: Redis) -> None:
    async with at_work(System(redis)) as before:
        before.feed.list_symbols(instrument("BTCUSDT"), instrument("OLDUSDT"))
        await statuses(before, {"BTCUSDT": "trading", "OLDUSDT": "trading"})
    async with at_work(System(redis, epoch=2)) as after:
        after.feed.list_symbols(instrument("BTCUSDT"))

        await statuses(after, {"BTCUSDT": "trading", "OLDUSDT": "delisted"})


async def test_the_feed_follows_what_is_watched_and_held(system: System) -> None:
    system.interest.symbols = {"BTCUSDT"}
    await eventually(lambda: system.feed.watched == {"BTCUSDT"})
    system.interest.symbols = None
    await system.flushed(50)
    assert system.feed.watched == {"BTCUSDT"}
    system.interest.symbols = {"ETHUSDT"}
    await eventually(lambda: system.feed.watched == {"ETHUSDT"})


async def test_pairs_between_the_most_traded_assets_are_followed_before_anybody_asks(system: System) -> None:
    """A rate that a first trade needs must be there already."""
    system.feed.list_symbols(instrument("BTCUSDT"), instrument("PEPEUSDT"))

    await eventually(lambda: system.feed.watched == {"BTCUSDT"})


async def test_the_feed_is_down_before_the_first_tick_and_live_after_it(system: System) -> None:
    assert system.state == Feed("down", "binance", None)
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    system.clock.ms += 41

    await eventually(lambda: system.state == Feed("live", "binance", 41))


async def test_a_feed_that_stops_is_stale_and_one_that_cannot_be_reached_is_down(system: System) -> None:
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: system.state.state == "live")
    system.clock.ms += STALE_MS + 1
    await eventually(lambda: system.state == Feed("stale", "binance", STALE_MS + 1))
    system.feed.is_connected = False
    await eventually(lambda: system.state.state == "down")


@pytest.mark.parametrize("is_connected", [True, False])
async def test_prices_that_are_only_asked_for_are_fresh_but_the_feed_is_stale(
    system: System, is_connected: bool
) -> None:
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: system.state.state == "live")
    system.feed.is_connected = is_connected
    system.clock.ms += STALE_MS + 1
    system.feed.answer("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: system.state == Feed("stale", "binance", STALE_MS + 1))
    await eventually(lambda: system.board.prices["BTCUSDT"].fresh_ms == system.clock.ms)

    _, stored = await read_prices(system.redis, 2.0)
    assert stored == system.board.prices
    assert stored["BTCUSDT"].price == Decimal("100.5")


async def test_prices_that_were_asked_for_before_anything_streamed_do_not_make_the_feed_live(system: System) -> None:
    system.feed.is_connected = False
    system.feed.answer("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: system.state == Feed("stale", "binance", None))
    system.clock.ms += STALE_MS + 1

    await eventually(lambda: system.state == Feed("down", "binance", None))


async def test_a_price_that_is_confirmed_unchanged_does_not_change_what_positions_are_worth(system: System) -> None:
    held = PriceVector(STALE_MS)
    column = held.column("BTCUSDT")
    system.feed.tick("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: "BTCUSDT" in system.board.prices)
    held.set(system.board.prices.values())
    held.take_changes()
    system.clock.ms += STALE_MS + 1
    assert held.age(system.clock.ms, silent=False)[column]
    system.feed.answer("BTCUSDT", "100.0", "101.0")
    await eventually(lambda: system.board.prices["BTCUSDT"].fresh_ms == system.clock.ms)
    turns = held.set(system.board.prices.values())

    assert not held.age(system.clock.ms, silent=False)[column]
    values_changed, _ = held.take_changes()
    assert turns.moved == []
    assert not values_changed[column]


async def test_simulated_prices_say_so_while_they_flow_and_when_they_stop(redis: Redis) -> None:
    async with at_work(System(redis, simulated=True)) as system:
        system.feed.tick("BTCUSDT", "100.0", "101.0")
        await eventually(lambda: system.state == Feed("simulated", "binance", 0, True))
        system.clock.ms += STALE_MS + 1
        await eventually(lambda: system.state == Feed("stale", "binance", STALE_MS + 1, True))


async def test_simulated_prices_never_mix_with_those_of_a_market(redis: Redis) -> None:
    async with at_work(System(redis, simulated=True)) as simulated:
        simulated.feed.list_symbols(instrument("FAKEUSDT"))
        simulated.feed.tick("FAKEUSDT", "100.0", "101.0")
        await statuses(simulated, {"FAKEUSDT": "trading"})
        await eventually(lambda: "FAKEUSDT" in simulated.board.prices)
    async with at_work(System(redis, epoch=2)) as real:
        assert await real.stored() == {}
        real.feed.list_symbols(instrument("BTCUSDT"))
        await statuses(real, {"BTCUSDT": "trading"})


async def test_prices_of_the_same_kind_outlive_a_restart(redis: Redis) -> None:
    async with at_work(System(redis)) as before:
        before.feed.tick("BTCUSDT", "100.0", "101.0")
        await eventually(lambda: "BTCUSDT" in before.board.prices)
    async with at_work(System(redis, epoch=2)) as after:
        assert await after.stored() == {"BTCUSDT": Decimal("100.5")}


async def test_a_newer_epoch_on_the_bus_ends_the_worker(redis: Redis) -> None:
    system = System(redis, epoch=3)
    worker = asyncio.ensure_future(system.worker.run())
    await eventually(lambda: system.feed.runs)
    await PricePublisher(redis, 2.0).publish(PriceFlush(4, 1, 0, 0, Feed("down", "binance", None), []))

    with pytest.raises(ExceptionGroup) as error:
        await worker
    assert error.group_contains(Fenced)


async def test_a_bug_in_a_feed_ends_the_worker(redis: Redis) -> None:
    system = System(redis)
    system.feed.breaks.set()

    with pytest.raises(ExceptionGroup) as error:
        await system.worker.run()
    assert error.group_contains(ZeroDivisionError)


async def send_ticker(session: Session, symbol: str, price: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    await session.send("!miniTicker@arr", [{"e": "24hrMiniTicker", "E": now_ms, "s": symbol, "c": price}])


class Processes:
    """What the processes of a deployment share."""

    def __init__(self, database_url: str, redis_url: str, rest_url: str, stream_url: str) -> None:
        self.database_url = database_url
        self._redis_url = redis_url
        self._rest_url = rest_url
        self._stream_url = stream_url

    async def price_worker(self, holder: str) -> NoReturn:
        await run_price_worker(
            database_url=self.database_url,
            database_pool_size=2,
            database_timeout_s=5.0,
            redis_url=self._redis_url,
            redis_timeout_s=2.0,
            holder=holder,
            lease_ttl_ms=600,
            flush_ms=10,
            stale_after_ms=STALE_MS,
            simulated=False,
            binance_urls={"spot": MarketUrls(self._rest_url, self._stream_url, self._stream_url)},
            binance_timing=Timing(backoff_base_s=0.02, backoff_cap_s=0.1, close_s=0.2),
            binance_max_streams_per_connection=300,
        )


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    async with FakeExchange().listening() as exchange:
        yield exchange


async def head(redis: Redis) -> tuple[int, Feed] | None:
    stored, _ = await read_prices(redis, 2.0)
    return None if stored is None else (stored.epoch, overall(stored.feed))


async def wait_for_epoch(redis: Redis, epoch: int) -> None:
    async with asyncio.timeout(10):
        while (stored := await head(redis)) is None or stored[0] != epoch:
            await asyncio.sleep(0.02)


async def test_prices_go_from_the_exchange_to_redis(
    database_url: str, redis_url: str, redis: Redis, exchange: FakeExchange
) -> None:
    processes = Processes(database_url, redis_url, exchange.rest_url, exchange.stream_url)
    async with running(processes.price_worker("one")):
        await wait_for_epoch(redis, 1)
        await PnlPublisher(redis, 2.0, 60).hold({"BTCUSDT"})
        await eventually(lambda: "btcusdt@bookTicker" in exchange.latest.streams)
        quote = {"u": 7, "s": "BTCUSDT", "b": "100.0", "B": "1", "a": "101.0", "A": "1"}
        await exchange.latest.send("btcusdt@bookTicker", quote)
        async with asyncio.timeout(5):
            while "BTCUSDT" not in (await read_prices(redis, 2.0))[1]:
                await asyncio.sleep(0.02)

        _, prices = await read_prices(redis, 2.0)
        assert prices["BTCUSDT"].price == Decimal("100.5")
        # The first list waits a moment for those of other markets.
        async with asyncio.timeout(20):
            while "XRPUSDT" not in await read_instruments(redis, 2.0):
                await asyncio.sleep(0.02)


async def test_a_second_worker_stands_by_without_connecting_and_takes_over_with_a_higher_epoch(
    database_url: str, redis_url: str, redis: Redis, exchange: FakeExchange
) -> None:
    processes = Processes(database_url, redis_url, exchange.rest_url, exchange.stream_url)
    async with running(processes.price_worker("one")) as first:
        await wait_for_epoch(redis, 1)
        await eventually(lambda: exchange.attempts == 1)
        async with running(processes.price_worker("two")):
            await asyncio.sleep(0.3)
            assert exchange.attempts == 1
            first.cancel()
            await wait_for_epoch(redis, 2)
            await eventually(lambda: exchange.attempts == 2)


async def test_a_worker_whose_lease_another_took_ends(
    database_url: str, redis_url: str, redis: Redis, exchange: FakeExchange
) -> None:
    processes = Processes(database_url, redis_url, exchange.rest_url, exchange.stream_url)
    worker = asyncio.ensure_future(processes.price_worker("one"))
    await wait_for_epoch(redis, 1)
    engine = create_engine(database_url, pool_size=1, timeout_s=5.0)
    leases = LeaseRepository(engine)
    # As if this process had been stopped for longer than the lease.
    await leases.release("price", "one", 1)
    assert await leases.acquire("price", "two", 60_000) == 2
    await engine.dispose()

    with pytest.raises(ExceptionGroup) as error:
        async with asyncio.timeout(5):
            await worker
    assert error.group_contains(LeaseLost)


async def test_an_exchange_that_cannot_be_reached_is_said_to_be_down_until_it_can(
    database_url: str, redis_url: str, redis: Redis, unused_tcp_port: int
) -> None:
    base = f"127.0.0.1:{unused_tcp_port}"
    processes = Processes(database_url, redis_url, f"http://{base}", f"ws://{base}")
    async with running(processes.price_worker("one")):
        await wait_for_epoch(redis, 1)
        assert await head(redis) == (1, Feed("down", "binance", None))
        async with FakeExchange().listening(unused_tcp_port):
            async with asyncio.timeout(10):
                while (stored := await head(redis)) is None or stored[1].state != "live":
                    await asyncio.sleep(0.02)
