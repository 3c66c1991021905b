"""How long users of a P&L shard wait when its worker is killed: two shards, one worker more, the default lease.

This program stands for web instances with half of the users. Their wait is from
the kill to the message in which the successor tells their figures; of it, until the
lease was noticed and until the book was ready, as the successor's log has it; beside
it, how long the other shard was silent meanwhile.

``python -m benchmarks.takeover --positions 250000`` measures larger shards, and with
``--cold`` a standby that keeps no book.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.interest import InterestPublisher
from app.domain.shards import shards_of
from app.repositories.layouts import role_of
from benchmarks.population import Population
from benchmarks.processes import usage
from benchmarks.system import System

_SHARD_POSITIONS: Final = 50_000
_POSITIONS: Final = 10
_SYMBOLS: Final = 300
_SHARDS: Final = shards_of(2)
_ROUNDS: Final = 3
_USERS_AN_INSTANCE: Final = 6_250
"""As many as a web process may have at several updates a second."""
_HEARTBEAT_S: Final = 1.0
_LONGEST_S: Final = 300.0


class _Heard(msgspec.Struct):
    """Of a flush, what is looked at. The rest is not read: web instances would do that in processes of their own."""

    shard: int
    book_epoch: int
    users: list[msgspec.Raw]


_decoder: Final = msgspec.msgpack.Decoder(_Heard)


class _Instance:
    """What the P&L workers told."""

    def __init__(self) -> None:
        self.heard_at: dict[int, list[float]] = {shard.number: [] for shard in _SHARDS}
        self._newest: dict[int, tuple[int, int]] = {shard.number: (0, 0) for shard in _SHARDS}

    def take(self, payload: bytes) -> None:
        flush = _decoder.decode(payload)
        epoch, users = self._newest[flush.shard]
        if flush.book_epoch >= epoch:
            known = users if flush.book_epoch == epoch else 0
            self._newest[flush.shard] = flush.book_epoch, known + len(flush.users)
            self.heard_at[flush.shard].append(time.monotonic())

    def epoch(self, shard: int) -> int:
        """The newest holder heard of a shard."""
        return self._newest[shard][0]

    def known(self, shard: int) -> int:
        """How many users the newest holder has told of."""
        return self._newest[shard][1]

    def longest_silence_s(self, shard: int, since: float) -> float:
        times = [since, *(at for at in self.heard_at[shard] if at > since)]
        return max((after - before for before, after in pairwise(times)), default=0.0)


class _Round(NamedTuple):
    """One takeover: seconds since the kill, but for the last three."""

    noticed: float
    """A standby held the lease."""
    ready: float
    """It had the book."""
    spoke: float
    """Its first word arrived."""
    told: float
    """It had told of every user who is connected."""
    silence: float
    """The longest silence of the other shard meanwhile."""
    cpu: float
    """CPU of the successor from the kill on, what it did ahead included."""
    waited: float
    """For how long it was ready to run while other programs had the cores."""


def figures(positions: int = _SHARD_POSITIONS, rounds: int = _ROUNDS, *, is_warm: bool = True) -> dict[str, float]:
    """Seconds, round by round, with so many positions in each of two shards, half of whose users are connected."""
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder), positions * len(_SHARDS) // _POSITIONS, rounds, is_warm=is_warm))


async def _measure(folder: Path, users: int, rounds: int, *, is_warm: bool) -> dict[str, float]:
    load = os.getloadavg()[0]
    with System(
        folder,
        ticks_per_s=1000,
        web_workers=1,
        hz=1,
        symbols=_SYMBOLS,
        shards=len(_SHARDS),
        LOG_LEVEL="info",
        LOG_FORMAT="json",
        **({} if is_warm else {"PNL_WARM_POSITIONS": "0"}),
    ) as system:
        population = Population(users, _POSITIONS, _POSITIONS, (await system.start_feed())[:_SYMBOLS], seed=1)
        await population.write(system.database_url)
        redis = system.connect_redis()
        try:
            online = set(population.user_ids[::2])
            await system.start_book(standbys=1)
            async with _connected(redis, online) as instance:
                measured = [await _round(system, instance, len(online), is_warm=is_warm) for _ in range(rounds)]
        finally:
            await redis.aclose()
    return {
        "load average": load,
        "users in two shards": users,
        "positions in two shards": users * _POSITIONS,
        "users told of": len(online),
        **{name: figure for number, one in enumerate(measured, 1) for name, figure in _named(number, one)},
        "s the other shard was silent at most": max(one.silence for one in measured),
    }


def _named(number: int, one: _Round) -> Iterator[tuple[str, float]]:
    yield f"s until a standby has the lease, round {number}", one.noticed
    yield f"s until it has the book, round {number}", one.ready
    yield f"s until the shard speaks again, round {number}", one.spoke
    yield f"s until all its users are told, round {number}", one.told
    yield f"s of CPU that the successor used, round {number}", one.cpu
    yield f"s that it waited for a core, round {number}", one.waited


async def _round(system: System, instance: _Instance, online: int, *, is_warm: bool) -> _Round:
    """Kill the first shard's worker, and follow what its successor does."""
    await _until(lambda: sum(instance.known(shard.number) for shard in _SHARDS) >= online)
    holders = {shard: await _holder(system.database_url, role_of(shard)) for shard in _SHARDS}
    if is_warm:
        standby = next(
            pid for name, pid in system.roles().items() if name.startswith("pnl-") and pid not in holders.values()
        )
        await _until(lambda: len(_moments(system, standby, "pnl_worker.warm")) == len(_SHARDS), every_s=0.5)
    await asyncio.sleep(1.0)
    wanted, epoch = instance.known(0), instance.epoch(0)
    before = {pid: usage([pid]) for pid in system.roles().values()}
    killed_at, killed_at_utc = time.monotonic(), time.time()
    start_another = system.kill(holders[_SHARDS[0]])
    await _until(lambda: instance.epoch(0) > epoch)
    spoke_s = time.monotonic() - killed_at
    await _until(lambda: instance.known(0) >= wanted)
    told_s = time.monotonic() - killed_at
    successor = await _holder(system.database_url, role_of(_SHARDS[0]))
    used = usage([successor]).since(before[successor])
    start_another()
    noticed, ready = (
        _moments(system, successor, event)[-1] - killed_at_utc for event in ("lease.acquired", "pnl_worker.loaded")
    )
    return _Round(noticed, ready, spoke_s, told_s, instance.longest_silence_s(1, killed_at), used.cpu_s, used.waited_s)


def _moments(system: System, pid: int, event: str) -> list[float]:
    """When a process logged something, in Unix seconds."""
    return [
        datetime.fromisoformat(record["timestamp"]).timestamp()
        for record in system.logged(pid)
        if record["event"] == event
    ]


async def _holder(database_url: str, role: str) -> int:
    database = await asyncpg.connect(database_url)
    try:
        holder: str = await database.fetchval("SELECT holder FROM leases WHERE role = $1", role)
    finally:
        await database.close()
    return int(holder.split(":")[1])


async def _until(condition: Callable[[], bool], *, every_s: float = 0.005) -> None:
    async with asyncio.timeout(_LONGEST_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(every_s)


@asynccontextmanager
async def _connected(redis: "Redis", online: set[str]) -> AsyncIterator[_Instance]:
    """Be web instances with these users while the block runs."""
    instance = _Instance()
    listed = sorted(online)
    parts = [listed[start : start + _USERS_AN_INSTANCE] for start in range(0, len(listed), _USERS_AN_INSTANCE)]
    names = {f"takeover-bench-{number}": set(part) for number, part in enumerate(parts)}
    tasks: list[asyncio.Task[None]] = []
    try:
        for name, users in names.items():
            tasks += [
                asyncio.create_task(_listen(redis, name, instance)),
                asyncio.create_task(_stay(redis, name, users)),
            ]
        yield instance
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)


async def _listen(redis: "Redis", name: str, instance: _Instance) -> None:
    """Each on a connection of its own, as web processes are."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.pnl_channel(name))
        async for message in pubsub.listen():
            if message["type"] == "message":
                instance.take(message["data"])


async def _stay(redis: "Redis", name: str, users: set[str]) -> None:
    interest = InterestPublisher(redis, name, 10.0)
    while True:
        await interest.heartbeat(users, set())
        await asyncio.sleep(_HEARTBEAT_S)


def main() -> None:
    """Measure as the command line says, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.takeover", description="A takeover of a P&L shard.")
    parser.add_argument("--positions", type=int, default=_SHARD_POSITIONS, help="in each of the two shards")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--cold", action="store_true", help="the standby keeps no book")
    given = parser.parse_args()
    print(json.dumps(figures(given.positions, given.rounds, is_warm=not given.cold), indent=1))


if __name__ == "__main__":
    main()
