"""A master that crashes or stalls: nobody waits longer than its deadline, everybody hears that something was missed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable, connect, deadline
from app.bus.prices import PricePublisher, read_prices
from app.bus.sentinel import SentinelRedis
from app.bus.sessions import SessionStore
from app.bus.subscription import Message, Resync, Subscription
from tests.bus.test_prices import flush, price
from tests.exchanges.waiting import running
from tests.redis_servers import SentinelServers, Servers, everywhere, until
from tests.workers.test_price_worker import System, at_work

Event = Message | Resync

TIMEOUT_S = 0.5
FAILOVER_S = 15.0


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[Redis]:
    client = connect(servers.url, TIMEOUT_S)
    await everywhere(client, "FLUSHALL")
    yield client
    await client.aclose()


class Publishing:
    """A price worker's flushes, twenty per second, whatever happens to them."""

    def __init__(self, redis: Redis) -> None:
        self._publisher = PricePublisher(redis, TIMEOUT_S)
        self.longest_s = 0.0
        self.done = 0
        self.refused = 0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            try:
                await self._publisher.publish(flush(self.done + self.refused + 1, price("BTCUSDT", "1")))
                self.done += 1
            except BusUnavailable:
                self.refused += 1
            self.longest_s = max(self.longest_s, time.monotonic() - before)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def heard(redis: Redis, *channels: str) -> AsyncIterator[list[Event]]:
    seen: list[Event] = []

    async def collect() -> None:
        async with aclosing(Subscription(redis, channels, silence_s=2.0).events()) as events:
            async for event in events:
                seen.append(event)

    async with running(collect()):
        await until(lambda: bool(seen))
        yield seen


def is_back(seen: list[Event]) -> bool:
    """Subscribed again, and messages come."""
    resyncs = [place for place, event in enumerate(seen) if isinstance(event, Resync)]
    return len(resyncs) > 1 and any(isinstance(event, Message) for event in seen[resyncs[-1] :])


async def test_after_a_crash_of_the_master_prices_flow_again_after_a_resync(servers: Servers, redis: Redis) -> None:
    publishing = Publishing(redis)
    old = servers.master_of(keys.PRICES)
    async with heard(redis, keys.PRICE_CHANNEL, keys.EVENT_CHANNEL) as seen, running(publishing.run()):
        await until(lambda: len(seen) > 3)
        done = publishing.done
        old.stop()

        await until(lambda: is_back(seen) and publishing.done > done + 5, FAILOVER_S)

        assert publishing.refused
        assert publishing.longest_s < 3 * TIMEOUT_S
        head, prices = await read_prices(redis, TIMEOUT_S)
        assert head is not None
        assert set(prices) == {"BTCUSDT"}

        # The old master comes back: it is neither written to nor heard.
        servers.restore()
        refused, done = publishing.refused, publishing.done
        await until(lambda: publishing.done > done + 10, FAILOVER_S)

    assert publishing.refused == refused
    assert servers.master_of(keys.PRICES) is not old
    assert old.says("replication")["role"] == "slave"


async def test_a_stalled_master_holds_nobody_up_and_is_left_for_another(servers: Servers, redis: Redis) -> None:
    publishing = Publishing(redis)
    async with heard(redis, keys.PRICE_CHANNEL) as seen, running(publishing.run()):
        await until(lambda: len(seen) > 3)
        with servers.master_of(keys.PRICES).stalled():
            before = time.monotonic()
            with suppress(BusUnavailable):
                await deadline(redis.get(keys.PRICE_HEAD), TIMEOUT_S)
            assert time.monotonic() - before < 3 * TIMEOUT_S
            done = publishing.done

            await until(lambda: is_back(seen) and publishing.done > done + 5, FAILOVER_S)

    assert publishing.longest_s < 3 * TIMEOUT_S


async def test_the_price_worker_fills_in_again_what_a_failover_lost(servers: Servers, redis: Redis) -> None:
    async with at_work(System(redis)) as system:
        system.feed.tick("BTCUSDT", "100.0", "101.0")
        system.feed.tick("ETHUSDT", "10.0", "11.0")
        await until(lambda: len(system.board.prices) == 2)
        servers.master_of(keys.PRICES).stop()
        flushes = len(system.flushes)
        await until(lambda: len(system.flushes) > flushes + 5, FAILOVER_S)

        # What the master had acknowledged, and its replica not yet received.
        new = connect(servers.url, 5.0)
        await deadline(new.delete(keys.PRICES), 5.0)
        async with asyncio.timeout(FAILOVER_S):
            while len((await read_prices(new, 5.0))[1]) < 2:
                await asyncio.sleep(0.02)
        await new.aclose()


async def test_sessions_answer_or_are_unavailable_and_nothing_else(servers: Servers, redis: Redis) -> None:
    store = SessionStore(redis, timeout_s=TIMEOUT_S, idle_s=100, absolute_s=1000)
    kept = [(await store.create(f"user-{n}", "name"))[0] for n in range(12)]
    if isinstance(servers, SentinelServers):
        await deadline(redis.execute_command("WAIT", 1, 1000), 2.0)
    servers.master_of(keys.PRICES).stop()

    async with asyncio.timeout(FAILOVER_S):
        while True:
            with suppress(BusUnavailable):
                found = [await store.resolve(token) for token in kept]
                break
            await asyncio.sleep(0.05)

    # In a cluster nothing was waited for, and the shard that failed may have lost its newest.
    assert sum(session is not None for session in found) >= (12 if isinstance(servers, SentinelServers) else 8)


async def test_no_sentinel_is_forgotten_however_many_ask_at_once(sentinel_servers: SentinelServers) -> None:
    client = connect(sentinel_servers.url, 5.0)
    assert isinstance(client, SentinelRedis)
    before = set(client.sentinels)
    sentinel_servers.sentinels[0].stop()
    try:
        for _ in range(5):
            await asyncio.gather(*(client.connection_pool.get_master_address() for _ in range(20)))
    finally:
        sentinel_servers.restore()

    assert set(client.sentinels) == before
    await client.aclose()
