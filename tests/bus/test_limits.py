"""Token buckets: a burst up to the capacity, then the steady rate, whoever asks at once."""

import asyncio

from redis.asyncio import Redis

from app.bus.limits import RateLimiter
from tests.redis_servers import all_keys


async def test_a_bucket_gives_its_capacity_and_then_says_how_long_to_wait(redis: Redis) -> None:
    limiter = RateLimiter(redis, timeout_s=5.0)

    waits = [await limiter.take("login", "a", capacity=3, per_second=0.1) for _ in range(5)]

    assert waits[:3] == [0, 0, 0]
    assert all(9 < wait <= 10 for wait in waits[3:])


async def test_of_many_at_once_no_more_get_through_than_the_bucket_holds(redis: Redis) -> None:
    limiter = RateLimiter(redis, timeout_s=5.0)

    waits = await asyncio.gather(*(limiter.take("login", "a", capacity=7, per_second=0.001) for _ in range(40)))

    assert sum(wait == 0 for wait in waits) == 7


async def test_buckets_of_others_and_for_other_things_are_full(redis: Redis) -> None:
    limiter = RateLimiter(redis, timeout_s=5.0)
    assert await limiter.take("login", "a", capacity=1, per_second=0.001) == 0
    assert await limiter.take("login", "a", capacity=1, per_second=0.001) > 0

    assert await limiter.take("login", "b", capacity=1, per_second=0.001) == 0
    assert await limiter.take("write", "a", capacity=1, per_second=0.001) == 0


async def test_a_bucket_fills_up_again_and_forgets_itself(redis: Redis) -> None:
    limiter = RateLimiter(redis, timeout_s=5.0)
    assert await limiter.take("write", "a", capacity=2, per_second=1000, cost=2) == 0

    async with asyncio.timeout(5):
        while await limiter.take("write", "a", capacity=2, per_second=1000, cost=2):
            await asyncio.sleep(0.001)
    [key] = await all_keys(redis)
    assert 0 < await redis.pttl(key) <= 1002
