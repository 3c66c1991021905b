"""Interest: which users are at which web instance, and which symbols anybody watches.

A web instance announces who came and went, and keeps what it announced in sets
that expire with it. P&L workers follow the announcements; a digest in each
tells them when they missed one, and then they read the set.
"""

import hashlib
import time
from collections.abc import Iterable, Set

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from app.bus import keys
from app.bus.connection import deadline
from app.bus.messages import Interest
from app.domain.shards import Shard

TTL_S = 15
"""How long an instance counts as alive after its last heartbeat."""

_MEMBERS_PER_COMMAND = 5000

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Interest)


def digest(user_ids: Iterable[str]) -> int:
    """A sum modulo 2^64 of one hash per user: equal for equal sets, in any order."""
    return sum(_hash(user_id) for user_id in user_ids) % 2**64


def _hash(user_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "big")


def decode_interest(payload: bytes) -> Interest:
    """Read a message of :data:`keys.INTEREST_CHANNEL`. Raises msgspec.DecodeError."""
    return _decoder.decode(payload)


class InterestPublisher:
    """One web instance's voice. Every method but :meth:`announce` repairs what an earlier failure left."""

    def __init__(self, redis: "Redis", instance_id: str, timeout_s: float) -> None:
        self._redis = redis
        self._instance_id = instance_id
        self._timeout_s = timeout_s
        self._users: set[str] = set()
        self._symbols: set[str] = set()
        self._digest = 0
        self._is_written = False

    async def announce(self, added: Iterable[str], removed: Iterable[str]) -> None:
        """Say that users came (their first connection here) and went (their last).

        Raises:
            BusUnavailable: the next heartbeat says it again.
        """
        came = set(added) - self._users
        went = set(removed) & self._users
        self._users = (self._users | came) - went
        self._digest = (self._digest + digest(came) - digest(went)) % 2**64
        pipeline = self._redis.pipeline(transaction=True)
        _change_set(pipeline, keys.online(self._instance_id), came, went)
        self._say(pipeline, Interest(self._instance_id, self._digest, added=sorted(came), removed=sorted(went)))
        await self._send(pipeline)

    async def heartbeat(self, users: Set[str], symbols: Set[str]) -> None:
        """Keep the instance alive for :data:`TTL_S`, with exactly these users and watched symbols.

        Call it about every second. Raises BusUnavailable.
        """
        came, went = users - self._users, self._users - users
        self._users = set(users)
        self._digest = (self._digest + digest(came) - digest(went)) % 2**64
        more, fewer = symbols - self._symbols, self._symbols - symbols
        self._symbols = set(symbols)
        online, watched = keys.online(self._instance_id), keys.watched(self._instance_id)
        pipeline = self._redis.pipeline(transaction=True)
        if self._is_written:
            _change_set(pipeline, online, came, went)
            _change_set(pipeline, watched, more, fewer)
        else:
            _write_set(pipeline, online, self._users)
            _write_set(pipeline, watched, self._symbols)
        self._say(pipeline, Interest(self._instance_id, self._digest, added=sorted(came), removed=sorted(went)))
        pipeline.scard(online)
        pipeline.scard(watched)
        counts = (await self._send(pipeline))[-2:]
        # Sets that are not as large as they should be were wiped or expired: written whole next time.
        self._is_written = counts == [len(self._users), len(self._symbols)]

    async def reset(self, shard: Shard | None = None) -> None:
        """Ask to be told everything again, by one shard or by all. Raises BusUnavailable."""
        pipeline = self._redis.pipeline(transaction=True)
        _write_set(pipeline, keys.online(self._instance_id), self._users)
        gone = Interest(self._instance_id, 0, gone=True, shard=None if shard is None else shard.name)
        pipeline.publish(keys.INTEREST_CHANNEL, _encoder.encode(gone))
        self._say(pipeline, Interest(self._instance_id, self._digest, added=sorted(self._users)))
        await self._send(pipeline)

    async def leave(self) -> None:
        """Say that the instance is going; nothing is sent to it any more. Raises BusUnavailable."""
        self._users, self._symbols, self._digest, self._is_written = set(), set(), 0, False
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zrem(keys.INSTANCES, self._instance_id)
        pipeline.delete(keys.online(self._instance_id), keys.watched(self._instance_id))
        pipeline.publish(keys.INTEREST_CHANNEL, _encoder.encode(Interest(self._instance_id, 0, gone=True)))
        await deadline(pipeline.execute(), self._timeout_s)

    def _say(self, pipeline: "Pipeline", interest: Interest) -> None:
        pipeline.zadd(keys.INSTANCES, {self._instance_id: _now_ms() + TTL_S * 1000})
        pipeline.expire(keys.online(self._instance_id), TTL_S)
        pipeline.expire(keys.watched(self._instance_id), TTL_S)
        pipeline.publish(keys.INTEREST_CHANNEL, _encoder.encode(interest))

    async def _send(self, pipeline: "Pipeline") -> list[object]:
        written = self._is_written
        self._is_written = False
        replies: list[object] = await deadline(pipeline.execute(), self._timeout_s)
        self._is_written = written
        return replies


async def live_instances(redis: "Redis", timeout_s: float) -> set[str]:
    """The web instances alive now; forgets the dead. Raises BusUnavailable."""
    now = _now_ms()
    pipeline = redis.pipeline(transaction=False)
    # Long dead ones only: another host's clock may be a little behind.
    pipeline.zremrangebyscore(keys.INSTANCES, "-inf", now - TTL_S * 1000)
    pipeline.zrangebyscore(keys.INSTANCES, now, "+inf")
    _, alive = await deadline(pipeline.execute(), timeout_s)
    return {instance_id.decode() for instance_id in alive}


async def online_users(redis: "Redis", instance_id: str, timeout_s: float) -> set[str]:
    """The users connected to an instance, as it last said. Raises BusUnavailable."""
    return _texts(await deadline(redis.smembers(keys.online(instance_id)), timeout_s))


async def read_interesting_symbols(redis: "Redis", timeout_s: float) -> set[str]:
    """The symbols that anybody holds or watches. Raises BusUnavailable."""
    instances = await live_instances(redis, timeout_s)
    pipeline = redis.pipeline(transaction=False)
    pipeline.zrangebyscore(keys.HELD_BY, _now_ms(), "+inf")
    (held,) = await deadline(pipeline.execute(), timeout_s)
    shards = _texts(held)
    sets = [*map(keys.held_symbols, shards), *map(keys.watched, instances)]
    return _texts(await deadline(redis.sunion(sets), timeout_s)) if sets else set()


def _texts(members: Iterable[bytes | str]) -> set[str]:
    return {member.decode() if isinstance(member, bytes) else member for member in members}


def _change_set(pipeline: "Pipeline", key: str, added: Set[str], removed: Set[str]) -> None:
    for part in _parts(added):
        pipeline.sadd(key, *part)
    for part in _parts(removed):
        pipeline.srem(key, *part)


def _write_set(pipeline: "Pipeline", key: str, members: Set[str]) -> None:
    pipeline.delete(key)
    _change_set(pipeline, key, members, set())


def _parts(members: Set[str]) -> Iterable[list[str]]:
    listed = sorted(members)
    return (listed[start : start + _MEMBERS_PER_COMMAND] for start in range(0, len(listed), _MEMBERS_PER_COMMAND))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
