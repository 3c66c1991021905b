"""P&L on the bus: flushes to web instances, the cached body of ``GET /pnl``, the held symbols."""

import time
from collections.abc import Mapping, Sequence, Set
from typing import cast

import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import deadline
from app.bus.messages import PnlFlush
from app.domain.shards import EVERYBODY, Shard

_HELD_TTL_S = 24 * 3600
"""Said again every few seconds, and kept for long: while a shard is being taken over, or has nobody at all,
its symbols are still followed, since REST goes on valuing its users."""

_encoder = msgspec.msgpack.Encoder(decimal_format="string")
_decoder = msgspec.msgpack.Decoder(PnlFlush)


def encode_pnl_flush(flush: PnlFlush) -> bytes:
    return _encoder.encode(flush)


def decode_pnl_flush(payload: bytes) -> PnlFlush:
    """Read a message of :func:`keys.pnl_channel`. Raises msgspec.DecodeError."""
    return _decoder.decode(payload)


class PnlPublisher:
    """Everything the P&L worker writes to Redis. Every method raises BusUnavailable."""

    def __init__(self, redis: "Redis", timeout_s: float, cache_ttl_s: int, shard: Shard = EVERYBODY) -> None:
        self._shard = shard
        self._redis = redis
        self._timeout_s = timeout_s
        self._cache_ttl_s = cache_ttl_s

    async def publish(self, flushes: Sequence[tuple[str, PnlFlush]]) -> None:
        """Send one flush to each instance, in one round trip.

        After a failure nobody knows which arrived; the receiver of a hole asks again.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for instance_id, flush in flushes:
            pipeline.publish(keys.pnl_channel(instance_id), _encoder.encode(flush))
        await deadline(pipeline.execute(), self._timeout_s)

    async def cache(self, bodies: Mapping[str, bytes]) -> None:
        """Keep bodies of ``GET /pnl`` by user id."""
        pipeline = self._redis.pipeline(transaction=False)
        for user_id, body in bodies.items():
            pipeline.set(keys.pnl_cache(user_id), body, ex=self._cache_ttl_s)
        await deadline(pipeline.execute(), self._timeout_s)

    async def hold(self, symbols: Set[str]) -> None:
        """Say which symbols stand in any position of the shard."""
        key = keys.held_symbols(self._shard.name)
        now_ms = time.time_ns() // 1_000_000
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(key)
        if symbols:
            pipeline.sadd(key, *sorted(symbols))
            pipeline.expire(key, _HELD_TTL_S)
        pipeline.zremrangebyscore(keys.HELD_BY, "-inf", now_ms)
        pipeline.zadd(keys.HELD_BY, {self._shard.name: now_ms + _HELD_TTL_S * 1000})
        await deadline(pipeline.execute(), self._timeout_s)


async def read_cached_pnl(redis: "Redis", user_id: str, timeout_s: float) -> bytes | None:
    """The cached body of a user's ``GET /pnl``, with ``ledger_seq`` beside. Raises BusUnavailable."""
    return cast("bytes | None", await deadline(redis.get(keys.pnl_cache(user_id)), timeout_s))


async def read_cached_pnls(redis: "Redis", user_ids: Sequence[str], timeout_s: float) -> dict[str, bytes]:
    """The cached bodies of many users, of those who have one. Raises BusUnavailable."""
    pipeline = redis.pipeline(transaction=False)
    for user_id in user_ids:
        pipeline.get(keys.pnl_cache(user_id))
    bodies: list[bytes | None] = await deadline(pipeline.execute(), timeout_s)
    return {user_id: body for user_id, body in zip(user_ids, bodies, strict=True) if body is not None}


async def drop_cached_pnl(redis: "Redis", user_id: str, timeout_s: float) -> None:
    """Forget a user's cached body. Raises BusUnavailable."""
    await deadline(redis.delete(keys.pnl_cache(user_id)), timeout_s)


async def ask_for_pnl(redis: "Redis", user_id: str, timeout_s: float) -> None:
    """Have a user's body kept ready for a while. Raises BusUnavailable."""
    await deadline(redis.publish(keys.ASKED_CHANNEL, user_id), timeout_s)
