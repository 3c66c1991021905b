"""What clients that do not read cost the others: 300 users with large frames, and five more whose process is stopped.

In rounds: some seconds with everybody reading, then as many with five clients stopped, until the server has closed them
as slow. Figures are milliseconds from a flush to a healthy client.
"""

import asyncio
import os
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from app.bus.sessions import SessionStore
from app.supervision.problems import StartProblem
from benchmarks.client import Client, Load
from benchmarks.histogram import quantiles
from benchmarks.native import library
from benchmarks.population import Member, Population
from benchmarks.reader import Reading
from benchmarks.system import System

_HEALTHY: Final = 300
_STALLED: Final = 5
_ROUNDS: Final = 3
_WINDOW_S: Final = 8.0
"""Longer than a client may stay behind before it is closed."""
_POSITIONS: Final = 10
_WATCHED: Final = 100
_SYMBOLS: Final = 300
_TICKS_PER_S: Final = 5_000
_LOOKS: Final = 300
_LOOK_EVERY_S: Final = 0.1


def figures() -> dict[str, float]:
    """p50 and p99 of the healthy, by round, without and with the stalled."""
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {"load average": os.getloadavg()[0]}
    users = _HEALTHY + _STALLED * _ROUNDS
    with System(folder, ticks_per_s=_TICKS_PER_S, web_workers=1, hz=10, symbols=_SYMBOLS) as system:
        population = Population(users, _POSITIONS, _WATCHED, (await system.start_feed())[:_SYMBOLS], seed=1)
        await population.write(system.database_url)
        redis = system.connect_redis()
        members = await population.log_in(SessionStore(redis, timeout_s=10.0, idle_s=3600, absolute_s=3600))
        await redis.aclose()
        await system.start_book()
        await system.start_web()
        with ExitStack() as opened:
            healthy = await _connected(0, system, members[:_HEALTHY], opened)
            for number in range(_ROUNDS):
                first = _HEALTHY + number * _STALLED
                await _round(number + 1, healthy, system, members[first : first + _STALLED], found)
        system.check()
    return found


async def _round(number: int, healthy: Client, system: System, members: list[Member], found: dict[str, float]) -> None:
    with ExitStack() as opened:
        stalled = await _connected(number, system, members, opened)
        _note(f"round {number}, all reading", await _window(healthy), found)
        os.kill(stalled.pid, signal.SIGSTOP)
        opened.callback(os.kill, stalled.pid, signal.SIGCONT)
        _note(f"round {number}, {_STALLED} stopped", await _window(healthy), found)


async def _connected(number: int, system: System, members: list[Member], opened: ExitStack) -> Client:
    """A load client whose users have their snapshots."""
    client = Client(Load(number, system.port, members, native=library() is not None))
    opened.callback(client.stop)
    await asyncio.to_thread(client.ask, "connect")
    for _ in range(_LOOKS):
        if (await asyncio.to_thread(client.ask, "state"))[0] == len(members):
            return client
        await asyncio.sleep(_LOOK_EVERY_S)
    raise StartProblem("the clients did not get their snapshots")


async def _window(client: Client) -> Reading:
    await asyncio.to_thread(client.ask, "reset")
    await asyncio.sleep(_WINDOW_S)
    return await asyncio.to_thread(client.read)


def _note(name: str, reading: Reading, found: dict[str, float]) -> None:
    latency = quantiles(reading.histograms["flush"]) or {}
    updates = reading.counters["updates"]
    found |= {
        f"{name}: p50 ms": latency["p50"],
        f"{name}: p99 ms": latency["p99"],
        f"{name}: frames/s of each": updates / len(reading.per_connection) / _WINDOW_S,
        f"{name}: bytes a frame": reading.counters["bytes"] / max(updates, 1),
    }
