"""How long users of a P&L shard wait when its worker is killed: two shards, one worker more, the default lease.

This program stands for a web instance with half of the users. Their wait is from
the kill to the message in which the successor tells their figures; beside it, how
long the other shard was silent meanwhile.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from redis.asyncio import Redis

from app.bus import keys
from app.bus.interest import InterestPublisher
from app.bus.pnl import decode_pnl_flush
from app.bus.sessions import SessionStore
from app.domain.shards import shards_of
from app.repositories.layouts import role_of
from benchmarks.population import Population
from benchmarks.system import System

_USERS: Final = 10_000
_POSITIONS: Final = 10
_SYMBOLS: Final = 300
_SHARDS: Final = shards_of(2)
_ROUNDS: Final = 3
_INSTANCE: Final = "takeover-bench"
_HEARTBEAT_S: Final = 1.0
_LONGEST_S: Final = 30.0


class _Told(NamedTuple):
    at: float
    book_epoch: int
    users: int


class _Instance:
    """What the P&L workers told."""

    def __init__(self) -> None:
        self.told: dict[int, list[_Told]] = {shard.number: [] for shard in _SHARDS}

    def take(self, payload: bytes) -> None:
        flush = decode_pnl_flush(payload)
        self.told[flush.shard].append(_Told(time.monotonic(), flush.book_epoch, len(flush.users)))

    def epoch(self, shard: int) -> int:
        """The newest holder heard of a shard."""
        return max((told.book_epoch for told in self.told[shard]), default=0)

    def known(self, shard: int) -> int:
        """How many users the newest holder has told of."""
        return sum(told.users for told in self.told[shard] if told.book_epoch == self.epoch(shard))

    def longest_silence_s(self, shard: int, since: float) -> float:
        times = [since, *(told.at for told in self.told[shard] if told.at > since)]
        return max((after - before for before, after in pairwise(times)), default=0.0)


def figures() -> dict[str, float]:
    """Seconds, the worst of some rounds."""
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, float]:
    load = os.getloadavg()[0]
    with System(folder, ticks_per_s=1000, web_workers=1, hz=1, symbols=_SYMBOLS, shards=len(_SHARDS)) as system:
        population = Population(_USERS, _POSITIONS, _POSITIONS, (await system.start_feed())[:_SYMBOLS], seed=1)
        await population.write(system.database_url)
        redis = system.connect_redis()
        try:
            sessions = SessionStore(redis, timeout_s=10.0, idle_s=3600, absolute_s=3600)
            online = {member.user_id for member in (await population.log_in(sessions))[::2]}
            await system.start_book(standbys=1)
            async with _connected(redis, online) as instance:
                rounds = [await _round(system, instance, len(online)) for _ in range(_ROUNDS)]
        finally:
            await redis.aclose()
    return {
        "load average": load,
        "users in two shards": _USERS,
        "users told of": len(online),
        **{f"s until the shard speaks again, round {n}": spoke for n, (spoke, _, _) in enumerate(rounds, 1)},
        **{f"s until all its users are told, round {n}": told for n, (_, told, _) in enumerate(rounds, 1)},
        "s the other shard was silent at most": max(silence for _, _, silence in rounds),
    }


async def _round(system: System, instance: _Instance, online: int) -> tuple[float, float, float]:
    """Kill the first shard's worker: until it speaks again, until all its users are told, the other's silence."""
    await _until(lambda: sum(instance.known(shard.number) for shard in _SHARDS) >= online)
    await asyncio.sleep(1.0)
    wanted, epoch = instance.known(0), instance.epoch(0)
    pid = await _holder(system.database_url, role_of(_SHARDS[0]))
    killed_at = time.monotonic()
    start_another = system.kill(pid)
    await _until(lambda: instance.epoch(0) > epoch)
    spoke_s = time.monotonic() - killed_at
    await _until(lambda: instance.known(0) >= wanted)
    told_s = time.monotonic() - killed_at
    start_another()
    return spoke_s, told_s, instance.longest_silence_s(1, killed_at)


async def _holder(database_url: str, role: str) -> int:
    database = await asyncpg.connect(database_url)
    try:
        holder: str = await database.fetchval("SELECT holder FROM leases WHERE role = $1", role)
    finally:
        await database.close()
    return int(holder.split(":")[1])


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.005)


@asynccontextmanager
async def _connected(redis: "Redis", online: set[str]) -> AsyncIterator[_Instance]:
    """Be a web instance with these users while the block runs."""
    instance = _Instance()
    interest = InterestPublisher(redis, _INSTANCE, 10.0)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.pnl_channel(_INSTANCE))

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    instance.take(message["data"])

        async def stay() -> None:
            while True:
                await interest.heartbeat(online, set())
                await asyncio.sleep(_HEARTBEAT_S)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(stay())]
        try:
            yield instance
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
