"""One profile: the whole system, its users connected, and what the measured seconds cost."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from app.bus.interest import live_instances
from app.bus.sessions import SessionStore
from app.supervision.problems import StartProblem
from app.supervision.screen import Screen
from benchmarks.client import Client, Load
from benchmarks.counters import Counters, Counts
from benchmarks.histogram import merged, quantiles, quantiles_of
from benchmarks.hops import Bus, marking, watching
from benchmarks.loop_lag import LoopLag
from benchmarks.native import COUNTERS, HISTOGRAMS
from benchmarks.population import Member, Population, Quoted
from benchmarks.processes import Usage, family, machine_busy_s, memory_bytes, usage, usage_by_role
from benchmarks.profiles import Profile
from benchmarks.reader import Reading
from benchmarks.system import System

_SNAPSHOTS_S: Final = 120.0
_SEED: Final = 1

_MOST_CLIENT_CPU: Final = 0.85
_MOST_CLIENT_LAG_MS: Final = 250
"""Above these the client measures itself, and the run is void."""

_MOST_OTHER_CPU: Final = 0.1
"""In cores. With more from other programs a run says little, and is void."""
_MOST_LEFT_OUT: Final = 0.05


@dataclass
class Result:
    """What a profile gave. Latencies in milliseconds by quantile, CPU in shares of one core."""

    profile: dict[str, Any]
    load_average: float
    metrics: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    hops_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)
    closed: dict[int, int] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    void: str | None = None


@dataclass(frozen=True)
class _Crowd:
    """Who is to connect, and a symbol that nobody would miss."""

    members: list[Member]
    marked: Quoted


@dataclass(frozen=True)
class _Moment:
    at: float
    counts: Counts
    usage: dict[str, Usage]
    busy_s: float
    ticks: tuple[int, int]


async def measure(profile: Profile, directory: Path, screen: Screen, *, native: bool) -> Result:
    """Run a profile. Raises StartProblem when a part does not start or dies."""
    result = Result(profile=asdict(profile), load_average=os.getloadavg()[0])
    with System(
        directory,
        ticks_per_s=profile.ticks_per_s,
        web_workers=profile.web_workers,
        hz=profile.hz,
        symbols=profile.symbols,
    ) as system:
        crowd = await _start(system, profile, screen, result)
        await _Run(system, profile, screen, result).run(crowd, native=native)
        system.check()
    return result


async def _start(system: System, profile: Profile, screen: Screen, result: Result) -> _Crowd:
    """Everything up to the web processes."""
    with screen.step("Exchange and prices") as step:
        quoted = (await system.start_feed())[: profile.symbols]
        step.outcome = f"{len(quoted)} symbols, {profile.ticks_per_s} ticks/s"
    with screen.step("Users") as step:
        population = Population(profile.users, profile.positions, profile.watched, quoted, seed=_SEED)
        await population.write(system.database_url)
        redis = system.connect_redis()
        sessions = SessionStore(redis, timeout_s=10.0, idle_s=3600, absolute_s=3600)
        members = await population.log_in(sessions)
        await redis.aclose()
        step.outcome = f"{profile.users:,} with {profile.positions} positions each"
    with screen.step("P&L worker") as step:
        result.metrics["book_load_s"] = await system.start_book()
        step.outcome = f"{profile.users * profile.positions:,} positions loaded"
    with screen.step("Web"):
        await system.start_web()
    watched = {symbol for member in members for symbol in member.symbols}
    marked = [each for each in quoted if each.instrument.symbol in watched][-1]
    return _Crowd(members, marked)


class _Run:
    """The connected part of a profile."""

    def __init__(self, system: System, profile: Profile, screen: Screen, result: Result) -> None:
        self._system = system
        self._profile = profile
        self._screen = screen
        self._result = result
        self._clients: list[Client] = []

    async def run(self, crowd: _Crowd, *, native: bool) -> None:
        before = self._web_memory()
        with ExitStack() as opened, LoopLag(self._system.port, self._web_workers()) as lag:
            await self._connect(crowd.members, opened, native=native)
            self._result.latency_ms["loop, connecting"] = quantiles_of(lag.take())
            self._result.metrics["memory_per_connection_bytes"] = (self._web_memory() - before) / self._profile.users
            self._result.metrics["web_memory_before_bytes"] = before
            bus = Bus()
            async with self._counting() as counters, self._watching(bus, crowd.marked):
                await asyncio.sleep(self._profile.warm_up_s)
                await self._measure(counters, bus, lag)

    async def _connect(self, members: list[Member], opened: ExitStack, *, native: bool) -> None:
        count = self._profile.client_processes
        with self._screen.step("Connections") as step:
            for number in range(count):
                client = Client(Load(number, self._system.port, members[number::count], native=native))
                opened.callback(client.stop)
                self._clients.append(client)
            await asyncio.gather(*(asyncio.to_thread(client.ask, "state") for client in self._clients))
            began, spent = time.monotonic(), self._web_cpu_s()
            took = await asyncio.gather(*(asyncio.to_thread(client.ask, "connect") for client in self._clients))
            await self._until_ready(began + _SNAPSHOTS_S)
            self._result.metrics |= {
                "connect_s": max(took),
                "all_snapshots_s": time.monotonic() - began,
                "web_ms_per_connection": (self._web_cpu_s() - spent) / len(members) * 1000,
            }
            step.outcome = f"{len(members):,}, all with snapshots after {time.monotonic() - began:.1f} s"

    async def _until_ready(self, deadline: float) -> None:
        while True:
            states = [client.ask("state") for client in self._clients]
            ready, closed, refused = (sum(parts) for parts in zip(*states, strict=True))
            self._result.metrics["handshakes_refused"] = refused
            if ready + closed >= self._profile.users:
                return
            self._system.check()
            if time.monotonic() > deadline:
                raise StartProblem(
                    f"only {ready} of {self._profile.users} users had their snapshots within {_SNAPSHOTS_S:g} s"
                )
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[Counters]:
        redis = self._system.connect_redis()
        database = await asyncpg.connect(self._system.database_url)
        try:
            yield Counters(redis, database)
        finally:
            await database.close()
            await redis.aclose()

    @asynccontextmanager
    async def _watching(self, bus: Bus, marked: Quoted) -> AsyncIterator[None]:
        redis = self._system.connect_redis()
        async with AsyncExitStack() as opened:
            opened.push_async_callback(redis.aclose)
            instances = await live_instances(redis, 10.0)
            await opened.enter_async_context(watching(redis, bus, min(instances)))
            await opened.enter_async_context(marking(self._system.simulator_url, bus, marked))
            yield

    async def _measure(self, counters: Counters, bus: Bus, lag: LoopLag) -> None:
        with self._screen.step("Measuring") as step:
            for client in self._clients:
                client.ask("reset")
            bus.reset()
            before = await self._moment(counters)
            lag.take()
            await asyncio.sleep(self._profile.measure_s)
            lags = lag.take()
            after = await self._moment(counters)
            readings = await asyncio.gather(*(asyncio.to_thread(client.read) for client in self._clients))
            self._note_frames(readings, after.at - before.at)
            self._note_costs(before, after)
            self._note_bus(bus, before, after)
            self._result.hops_ms = bus.hops(sample for reading in readings for sample in reading.samples)
            self._result.latency_ms["loop"] = quantiles_of(lags)
            self._result.metrics["web_loops_asked"] = lag.heard
            self._result.notes = self._notes()
            self._result.void = self._reason_to_void()
            step.outcome = f"{self._result.metrics['frames_per_s']:,.0f} frames/s"

    async def _moment(self, counters: Counters) -> _Moment:
        counts, ticks = await counters.read(), await self._system.tick_counts()
        clients = {f"client {number}": client.pid for number, client in enumerate(self._clients)}
        used = usage_by_role({**self._system.roles(), **clients})
        used["this bench"] = usage([os.getpid()])
        return _Moment(time.monotonic(), counts, used, machine_busy_s(), ticks)

    def _note_frames(self, readings: Sequence[Reading], seconds: float) -> None:
        result = self._result
        totals = {name: sum(reading.counters[name] for reading in readings) for name in COUNTERS}
        for name in HISTOGRAMS:
            result.latency_ms[name] = quantiles(merged([reading.histograms[name] for reading in readings])) or {}
        per_connection = [count / seconds for reading in readings for count in reading.per_connection]
        rates = sorted(per_connection)
        result.metrics |= {
            "seconds": seconds,
            "frames_per_s": totals["updates"] / seconds,
            "bytes_per_s": totals["bytes"] / seconds,
            "bytes_per_frame": totals["bytes"] / max(totals["updates"], 1),
            "flushes_per_frame": totals["merged"] / max(totals["updates"], 1),
            "frames_per_user_s_min": rates[0],
            "frames_per_user_s_median": rates[len(rates) // 2],
            "unexpected_closes": totals["closed"],
            "unreadable_frames": totals["broken"],
        }
        for reading in readings:
            for code, count in reading.codes.items():
                result.closed[code] = result.closed.get(code, 0) + count

    def _note_costs(self, before: _Moment, after: _Moment) -> None:
        result, seconds = self._result, after.at - before.at
        for role, total in after.usage.items():
            spent = total.since(before.usage[role])
            result.cpu[role] = spent.cpu_s / seconds
            result.waited[role] = spent.waited_s / seconds
        busy = (after.busy_s - before.busy_s) / seconds
        result.cpu["other programs"] = max(0.0, busy - sum(result.cpu.values()))
        frames = max(result.metrics["frames_per_s"], 1e-9)
        result.metrics |= {f"us_per_frame_{role}": result.cpu[role] / frames * 1e6 for role in self._system.roles()}
        result.metrics["us_per_frame_clients"] = (
            sum(share for role, share in result.cpu.items() if role.startswith("client")) / frames * 1e6
        )
        counts = after.counts.since(before.counts)
        result.metrics |= {
            "redis_commands_per_s": counts.redis_commands / seconds,
            "redis_output_bytes_per_s": counts.redis_output_bytes / seconds,
            "redis_memory_bytes": after.counts.redis_memory_bytes,
            # Less the one that asked.
            "postgres_transactions_per_s": (counts.transactions - 1) / seconds,
            "postgres_rows_written_per_s": counts.rows_written / seconds,
        }

    def _note_bus(self, bus: Bus, before: _Moment, after: _Moment) -> None:
        seconds = after.at - before.at
        made, left_out = (now - then for now, then in zip(after.ticks, before.ticks, strict=True))
        self._result.metrics |= {
            "ticks_made_per_s": made / seconds,
            "ticks_left_out_per_s": left_out / seconds,
            "ticks_taken_per_s": bus.ticks / seconds,
            "flushes_per_s": bus.flushes / seconds,
            "prices_per_flush": bus.prices / max(bus.flushes, 1),
            "ticks_per_price": bus.ticks / max(bus.prices, 1),
            "price_bytes_per_flush": bus.price_bytes / max(bus.flushes, 1),
            "pnl_bytes_per_flush_and_instance": bus.pnl_bytes / max(bus.flushes, 1),
        }

    def _notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        metrics, notes = self._result.metrics, []
        asked = self._profile.ticks_per_s
        if metrics["ticks_left_out_per_s"] > _MOST_LEFT_OUT * asked:
            notes.append(f"the simulator made {metrics['ticks_made_per_s']:,.0f} ticks/s instead of {asked:,}")
        if metrics["web_loops_asked"] < self._profile.web_workers:
            notes.append(f"the loops of {metrics['web_loops_asked']:.0f} web processes were asked, not of all")
        return notes

    def _reason_to_void(self) -> str | None:
        busiest = max((share for role, share in self._result.cpu.items() if role.startswith("client")), default=0.0)
        lag = self._result.latency_ms["lag"].get("p99", 0)
        if busiest > _MOST_CLIENT_CPU:
            return f"a load client used {busiest:.0%} of a core"
        if lag > _MOST_CLIENT_LAG_MS:
            return f"the load clients read {lag} ms late (p99)"
        others = self._result.cpu["other programs"]
        if others > _MOST_OTHER_CPU:
            return f"other programs used {others:.0%} of a core"
        return None

    def _web_cpu_s(self) -> float:
        return usage(family(self._system.roles()["web"])).cpu_s

    def _web_memory(self) -> int:
        """Memory of the web workers, without gunicorn's master."""
        return memory_bytes(self._web_workers())

    def _web_workers(self) -> list[int]:
        return family(self._system.roles()["web"])[1:]
