"""Interest on a real Redis: who is where, told by messages and kept in sets that expire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable, connect
from app.bus.interest import (
    TTL_S,
    InterestPublisher,
    decode_interest,
    digest,
    live_instances,
    online_users,
    read_interesting_symbols,
)
from app.bus.messages import Interest
from app.bus.pnl import PnlPublisher
from app.bus.subscription import Message, Subscription
from app.domain.shards import Shard
from tests.redis_servers import all_keys, everywhere

TIMEOUT_S = 2.0


@asynccontextmanager
async def heard(redis: Redis) -> AsyncIterator[list[Interest]]:
    """Every announcement made while the block runs."""
    announcements: list[Interest] = []
    ready = asyncio.Event()

    async def listen() -> None:
        async with aclosing(Subscription(redis, [keys.INTEREST_CHANNEL], silence_s=None).events()) as events:
            async for event in events:
                ready.set()
                if isinstance(event, Message):
                    announcements.append(decode_interest(event.payload))

    task = asyncio.create_task(listen())
    await asyncio.wait_for(ready.wait(), TIMEOUT_S)
    yield announcements
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def settled(announcements: list[Interest], count: int) -> list[Interest]:
    async with asyncio.timeout(TIMEOUT_S):
        while len(announcements) < count:
            await asyncio.sleep(0.01)
    return announcements


@pytest.fixture
def publisher(redis: Redis) -> InterestPublisher:
    return InterestPublisher(redis, "w1", TIMEOUT_S)


async def test_who_comes_and_goes_is_announced_with_a_digest_of_who_is_there(
    redis: Redis, publisher: InterestPublisher
) -> None:
    async with heard(redis) as announcements:
        await publisher.announce(["u1", "u2"], [])
        await publisher.announce(["u3"], ["u1"])

        first, second = await settled(announcements, 2)

    assert (first.added, first.removed, first.digest) == (["u1", "u2"], [], digest(["u1", "u2"]))
    assert (second.added, second.removed, second.digest) == (["u3"], ["u1"], digest(["u2", "u3"]))
    assert await online_users(redis, "w1", TIMEOUT_S) == {"u2", "u3"}


async def test_saying_the_same_twice_adds_nothing(redis: Redis, publisher: InterestPublisher) -> None:
    async with heard(redis) as announcements:
        await publisher.announce(["u1"], [])
        await publisher.announce(["u1"], ["u9"])

        _, second = await settled(announcements, 2)

    assert (second.added, second.removed, second.digest) == ([], [], digest(["u1"]))


async def test_a_heartbeat_keeps_an_instance_alive_with_a_limit_in_time(
    redis: Redis, publisher: InterestPublisher
) -> None:
    await publisher.heartbeat({"u1"}, {"BTCUSDT"})

    assert await live_instances(redis, TIMEOUT_S) == {"w1"}
    for key in (keys.online("w1"), keys.watched("w1")):
        assert 0 < await redis.ttl(key) <= TTL_S


async def test_an_instance_whose_time_is_up_is_not_alive(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.heartbeat({"u1"}, set())
    await redis.zadd(keys.INSTANCES, {"w1": 1})

    assert await live_instances(redis, TIMEOUT_S) == set()
    assert await redis.zcard(keys.INSTANCES) == 0


async def test_a_heartbeat_repairs_what_an_announcement_missed(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.announce(["u1", "u2"], [])
    async with heard(redis) as announcements:
        await publisher.heartbeat({"u2", "u3"}, set())

        (said,) = await settled(announcements, 1)

    assert (said.added, said.removed, said.digest) == (["u3"], ["u1"], digest(["u2", "u3"]))
    assert await online_users(redis, "w1", TIMEOUT_S) == {"u2", "u3"}


async def test_heartbeats_write_again_what_redis_lost(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.heartbeat({"u1", "u2"}, {"BTCUSDT"})
    await publisher.heartbeat({"u1", "u2"}, {"BTCUSDT"})
    await everywhere(redis, "FLUSHALL")

    for _ in range(2):
        await publisher.heartbeat({"u1", "u2"}, {"BTCUSDT"})

    assert await online_users(redis, "w1", TIMEOUT_S) == {"u1", "u2"}
    assert await live_instances(redis, TIMEOUT_S) == {"w1"}
    assert await read_interesting_symbols(redis, TIMEOUT_S) == {"BTCUSDT"}


async def test_what_could_not_be_said_is_said_by_the_next_heartbeat(redis: Redis, redis_url: str) -> None:
    flaky = connect(redis_url, 0.3)
    publisher = InterestPublisher(flaky, "w1", 0.3)
    await publisher.heartbeat({"u1"}, set())
    await everywhere(redis, "CLIENT", "PAUSE", "700", "ALL")
    with pytest.raises(BusUnavailable):
        await publisher.announce(["u2"], ["u1"])
    await redis.ping()

    await publisher.heartbeat({"u2"}, set())

    assert await online_users(redis, "w1", TIMEOUT_S) == {"u2"}
    await flaky.aclose()


async def test_a_reset_leaves_and_joins_with_everybody(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.announce(["u1", "u2"], [])
    async with heard(redis) as announcements:
        await publisher.reset()

        gone, joined = await settled(announcements, 2)

    assert gone.gone
    assert (joined.gone, joined.added, joined.digest) == (False, ["u1", "u2"], digest(["u1", "u2"]))


async def test_who_leaves_leaves_nothing_behind(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.heartbeat({"u1"}, {"BTCUSDT"})
    async with heard(redis) as announcements:
        await publisher.leave()

        (said,) = await settled(announcements, 1)

    assert said.gone
    assert await all_keys(redis) == []


async def test_interesting_symbols_are_those_held_or_watched_at_any_living_instance(redis: Redis) -> None:
    await PnlPublisher(redis, TIMEOUT_S, 60).hold({"ADAUSDT"})
    await InterestPublisher(redis, "w1", TIMEOUT_S).heartbeat(set(), {"BTCUSDT", "ETHUSDT"})
    await InterestPublisher(redis, "w2", TIMEOUT_S).heartbeat(set(), {"ETHUSDT", "１２３４５６"})
    await InterestPublisher(redis, "w3", TIMEOUT_S).heartbeat(set(), {"DEADUSDT"})
    await redis.zadd(keys.INSTANCES, {"w3": 1})

    symbols = await read_interesting_symbols(redis, TIMEOUT_S)

    assert symbols == {"ADAUSDT", "BTCUSDT", "ETHUSDT", "１２３４５６"}


async def test_symbols_nobody_watches_any_more_are_not_interesting(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.heartbeat(set(), {"BTCUSDT", "ETHUSDT"})
    await publisher.heartbeat(set(), {"ETHUSDT"})

    assert await read_interesting_symbols(redis, TIMEOUT_S) == {"ETHUSDT"}


async def test_many_thousand_users_fit(redis: Redis, publisher: InterestPublisher) -> None:
    users = {f"user-{n}" for n in range(12_000)}
    await publisher.heartbeat(users, set())

    assert await online_users(redis, "w1", TIMEOUT_S) == users


@given(st.sets(st.text(min_size=1), max_size=20), st.randoms(use_true_random=False))
def test_a_digest_is_of_the_set_and_not_of_its_order(users: set[str], chance: object) -> None:
    listed = sorted(users)
    chance.shuffle(listed)  # type: ignore[attr-defined]

    assert digest(listed) == digest(users)
    assert digest(users | {"one more, of all"}) != digest(users)


async def test_symbols_held_in_any_shard_are_interesting_for_as_long_as_they_last(redis: Redis) -> None:
    shards = [PnlPublisher(redis, TIMEOUT_S, 60, Shard(number, 3)) for number in range(3)]
    for publisher, symbol in zip(shards, ("ADAUSDT", "BTCUSDT", "ETHUSDT"), strict=True):
        await publisher.hold({symbol})
    await shards[1].hold({"XRPUSDT"})  # says what it holds now; the others may be dead and stay in force
    await redis.zadd(keys.HELD_BY, {"2/3": 1})

    assert await read_interesting_symbols(redis, TIMEOUT_S) == {"ADAUSDT", "XRPUSDT"}
    assert await redis.ttl(keys.held_symbols("0/3")) > 3600


async def test_one_shard_alone_can_be_asked_for_everything(redis: Redis, publisher: InterestPublisher) -> None:
    await publisher.heartbeat({"ada"}, set())
    async with heard(redis) as announcements:
        await publisher.reset(Shard(1, 2))

        gone, again = await settled(announcements, 2)

    assert (gone.gone, gone.shard) == (True, "1/2")
    assert again.added == ["ada"]
