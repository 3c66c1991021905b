"""A subscription notices each gap, whatever caused it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from redis.asyncio import Redis

from app.bus.connection import BusUnavailable, connect, deadline
from app.bus.subscription import Message, Resync, Subscription
from tests.redis_servers import everywhere, until

Event = Message | Resync


@asynccontextmanager
async def listening(subscription: Subscription) -> AsyncIterator[list[Event]]:
    """Collect a subscription's events; ready once subscribed."""
    seen: list[Event] = []

    async def collect() -> None:
        async with aclosing(subscription.events()) as events:
            async for event in events:
                seen.append(event)

    task = asyncio.create_task(collect())
    try:
        await until(lambda: seen == [Resync()])
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_says_resync_first_then_passes_messages_on(redis: Redis) -> None:
    async with listening(Subscription(redis, ["a", "b"], silence_s=None)) as seen:
        await redis.publish("b", b"1")
        await until(lambda: len(seen) == 2)
        await redis.publish("a", b"2")
        await until(lambda: len(seen) == 3)

    assert seen[1:] == [Message("b", b"1"), Message("a", b"2")]


async def test_a_killed_connection_is_a_resync_and_messages_flow_again(redis: Redis) -> None:
    async with listening(Subscription(redis, ["a"], silence_s=None)) as seen:
        await everywhere(redis, "CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: len(seen) == 2)
        await redis.publish("a", b"after")
        await until(lambda: len(seen) == 3)

    assert seen == [Resync(), Resync(), Message("a", b"after")]


async def test_silence_beyond_the_bound_is_a_resync(redis: Redis) -> None:
    async with listening(Subscription(redis, ["a"], silence_s=0.2)) as seen:
        await until(lambda: len(seen) >= 2)

    assert set(map(type, seen)) == {Resync}


async def test_without_a_bound_silence_is_normal(redis: Redis) -> None:
    async with listening(Subscription(redis, ["a"], silence_s=None)) as seen:
        await asyncio.sleep(0.5)

    assert seen == [Resync()]


AWAY = ["redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1,127.0.0.1:2/desk", "redis+cluster://127.0.0.1:1"]


@pytest.mark.parametrize("url", AWAY)
async def test_a_server_that_is_away_is_waited_for_and_does_not_raise(url: str) -> None:
    client = connect(url, 0.2)
    seen: list[Event] = []

    async def collect() -> None:
        async with aclosing(Subscription(client, ["a"], silence_s=None).events()) as events:
            async for event in events:
                seen.append(event)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.6):
            await collect()
    await client.aclose()
    assert seen == []


@pytest.mark.parametrize("url", AWAY)
async def test_a_command_to_a_server_that_is_away_is_bus_unavailable(url: str) -> None:
    client = connect(url, 0.2)

    with pytest.raises(BusUnavailable):
        await deadline(client.get("a"), 0.5)
    await client.aclose()


async def test_a_command_on_a_paused_server_ends_at_its_deadline(redis: Redis) -> None:
    await everywhere(redis, "CLIENT", "PAUSE", "700", "ALL")

    with pytest.raises(BusUnavailable, match="did not answer"):
        await deadline(redis.get("a"), 0.2)

    await asyncio.sleep(0.6)
    await deadline(redis.set("a", b"1"), 5.0)
    assert await deadline(redis.get("a"), 5.0) == b"1"
