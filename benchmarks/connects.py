"""What a connection costs from its first packet to its first snapshots, in each process: a crowd, several times over.

``python -m benchmarks.connects``. CPU time of the whole family of each process, a
connection, less what it uses with nobody there. The market is nearly still, so
that the fan-out to those who are in already adds little.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from app.bus.sessions import SessionStore
from benchmarks.client import Client, Load
from benchmarks.population import Member, Population
from benchmarks.processes import family, usage, usage_by_role
from benchmarks.profiles import raise_descriptor_limit
from benchmarks.system import System

_BETWEEN_S: Final = 4.0
"""Users linger for two seconds once their connections are gone."""
_LONGEST_S: Final = 120.0
_SEED: Final = 1


async def _run(options: argparse.Namespace, folder: Path) -> None:
    with System(
        folder, ticks_per_s=options.ticks, web_workers=options.workers, hz=options.hz, symbols=options.symbols
    ) as system:
        members = await _start(system, options)
        print(f"web {family(system.roles()['web'])} roles {system.roles()}", flush=True)
        rounds = []
        for number in range(options.rounds):
            await asyncio.sleep(_BETWEEN_S)
            figures = await _round(system, members, options)
            if number:  # The first finds nothing warm.
                rounds.append(figures)
            print("  ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)
        for name, of in (("median", median), ("least", min)):
            print(name, "  ".join(f"{key} {of(one[key] for one in rounds):.3f}" for key in rounds[0]))


async def _start(system: System, options: argparse.Namespace) -> list[Member]:
    quoted = (await system.start_feed())[: options.symbols]
    population = Population(options.users, options.positions, options.watched, quoted, seed=_SEED)
    await population.write(system.database_url)
    redis = system.connect_redis()
    members = await population.log_in(SessionStore(redis, timeout_s=10.0, idle_s=3600, absolute_s=3600))
    await redis.aclose()
    await system.start_book()
    await system.start_web()
    return members


async def _round(system: System, members: Sequence[Member], options: argparse.Namespace) -> dict[str, float]:
    """Connect everybody; milliseconds of CPU a connection by process, and the seconds it took."""
    with _clients(system, members, options) as clients:
        await asyncio.gather(*(asyncio.to_thread(client.ask, "state") for client in clients))
        idle = await _spent(system, 2.0)
        before, client_before, began = usage_by_role(system.roles()), _cpu(clients), time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(client.ask, "connect") for client in clients))
        connected_s = time.monotonic() - began
        if options.subscribe:
            await asyncio.to_thread(_wait_ready, clients, len(members), began + _LONGEST_S)
        else:
            await asyncio.sleep(1.5)
        took = time.monotonic() - began
        after = usage_by_role(system.roles())
        spent = {name: after[name].since(before[name]).cpu_s - idle[name] * took for name in after}
        figures = {name: cpu_s / len(members) * 1000 for name, cpu_s in spent.items()}
        figures["clients"] = (_cpu(clients) - client_before) / len(members) * 1000
    return figures | {"connect_s": connected_s, "all_s": took}


async def _spent(system: System, for_s: float) -> dict[str, float]:
    """What the processes use a second with nobody there."""
    before = usage_by_role(system.roles())
    await asyncio.sleep(for_s)
    after = usage_by_role(system.roles())
    return {name: after[name].since(before[name]).cpu_s / for_s for name in after}


@contextmanager
def _clients(system: System, members: Sequence[Member], options: argparse.Namespace) -> Iterator[list[Client]]:
    count = options.clients
    clients = [
        Client(Load(number, system.port, members[number::count], subscribe=options.subscribe))
        for number in range(count)
    ]
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()


def _cpu(clients: Sequence[Client]) -> float:
    return usage([client.pid for client in clients]).cpu_s


def _wait_ready(clients: Sequence[Client], count: int, deadline: float) -> None:
    while True:
        states: list[Any] = [client.ask("state") for client in clients]
        ready, closed, _ = (sum(parts) for parts in zip(*states, strict=True))
        if ready + closed >= count:
            if closed:
                print(f"{closed} were closed")
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"only {ready} of {count} had their snapshots")
        time.sleep(0.02)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--hz", type=float, default=5)
    parser.add_argument("--ticks", type=int, default=1)
    parser.add_argument("--symbols", type=int, default=2000)
    parser.add_argument("--positions", type=int, default=10)
    parser.add_argument("--watched", type=int, default=10)
    parser.add_argument("--no-subscribe", dest="subscribe", action="store_false")
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_run(options, Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
