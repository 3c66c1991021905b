"""The whole system as real processes on free ports, with servers and data of its own."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx2
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import connect
from app.bus.interest import live_instances
from app.bus.pnl import PnlPublisher
from app.bus.prices import read_instruments, read_prices
from app.domain.shards import shards_of
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.tether import tethered
from app.repositories.migrate import upgrade
from app.supervision.claims import free_port
from app.supervision.keeper import python_command
from app.supervision.problems import StartProblem
from benchmarks.population import Quoted

_PROJECT: Final = Path(__file__).resolve().parents[1]
_START_S: Final = 60.0
_STOP_S: Final = 15.0
_STOP_ORDER: Final = ("web", "pnl-worker", "price-worker", "simulator", "blaster")
_REDIS_TIMEOUT_S: Final = 10.0
_REAL_SYMBOLS: Final = 200
"""So many at least trade against USDT without made-up coins."""


class System:
    """Servers, simulator, workers and web, started one after the other so that each finds what it needs.

    ``settings`` are more of them, by name (``LOG_LEVEL``). Use it in a ``with`` block, which stops everything.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ticks_per_s: int,
        web_workers: int,
        hz: float,
        symbols: int = 0,
        shards: int = 1,
        **settings: str,
    ) -> None:
        self.port = free_port("127.0.0.1")
        self.simulator_url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
        self.redis_url = self.database_url = ""
        self._directory = directory
        self._web_workers = web_workers
        self._shards = shards_of(shards)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._opened = ExitStack()
        self._servers: tuple[tuple[str, EmbeddedPostgres | EmbeddedRedis], ...] = ()
        self._settings = {
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "WEB_WORKERS": str(web_workers),
            "PNL_SHARDS": str(shards),
            "SIMULATOR_PORT": self.simulator_url.rpartition(":")[2],
            "SIMULATOR_TICKS_PER_S": str(ticks_per_s),
            "SIMULATOR_URL": self.simulator_url,
            "SIMULATOR_MADE_UP_COINS": str(max(0, symbols - _REAL_SYMBOLS)),
            "STREAM_DEFAULT_HZ": str(hz),
            "STREAM_MAX_HZ": str(hz),
            "DRAIN_S": "0",
            "LOG_LEVEL": "warning",
            # The positions of the population have no fills behind them.
            "RECONCILE_EVERY_S": "0",
            **settings,
        }

    def __enter__(self) -> "System":
        postgres, redis = EmbeddedPostgres(self._directory, sync_new_data=False), EmbeddedRedis(self._directory)
        try:
            self._opened.callback(postgres.stop)
            self.database_url = postgres.start()
            self._opened.callback(redis.stop)
            self.redis_url = redis.start()
        except BaseException:
            self._opened.close()
            raise
        self._servers = (("postgres", postgres), ("redis", redis))
        return self

    def __exit__(self, *_: object) -> None:
        for name in sorted(self._children, key=lambda name: _STOP_ORDER.index(name.partition(" ")[0])):
            _stop(self._children[name])
        self._opened.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def roles(self) -> dict[str, int]:
        """The process of each part, by name."""
        servers = {name: server.process.pid for name, server in self._servers if server.process is not None}
        return {name: child.pid for name, child in self._children.items()} | servers

    def connect_redis(self) -> "Redis":
        """A client of its Redis, for the caller to close."""
        return connect(self.redis_url, _REDIS_TIMEOUT_S)

    async def start_blaster(self, symbols: int) -> None:
        """In place of the market: schema, an exchange that only sends, and the price worker following all of it."""
        await upgrade(self.database_url)
        port = self.simulator_url.rpartition(":")[2]
        self._start("blaster", python_command("-m", "benchmarks.blaster", port, str(symbols)))
        await self._until("blaster", self._exchange_answers)
        redis = self.connect_redis()

        async def all_subscribed() -> bool:
            return int((await self._exchange_state())["subscribed"]) == symbols

        try:
            await PnlPublisher(redis, _REDIS_TIMEOUT_S, 60).hold({f"S{number:04d}USDT" for number in range(symbols)})
            self._start("price-worker")
            await self._until("price-worker", all_subscribed)
        finally:
            await redis.aclose()

    async def set_blaster_rate(self, ticks_per_s: int) -> None:
        """How fast it sends: 0 is silence, -1 whatever is taken."""
        async with httpx2.AsyncClient(base_url=self.simulator_url, timeout=5.0, trust_env=False) as client:
            (await client.post("/control/rate", params={"ticks_per_s": ticks_per_s})).raise_for_status()

    async def start_feed(self) -> list[Quoted]:
        """Schema, simulator and price worker; the symbols settled in USDT that have a price, the busiest first."""
        await upgrade(self.database_url)
        self._start("simulator")
        await self._until("simulator", self._exchange_answers)
        self._start("price-worker")
        redis = self.connect_redis()
        quoted: list[Quoted] = []

        async def prices_flow() -> bool:
            listed = await read_instruments(redis, _REDIS_TIMEOUT_S)
            _, prices = await read_prices(redis, _REDIS_TIMEOUT_S)
            quoted[:] = [
                Quoted(instrument, prices[symbol].price)
                for symbol, instrument in listed.items()
                if symbol in prices and instrument.settle == "USDT" and instrument.status == "trading"
            ]
            # Prices of quiet symbols come by REST, of all others with the stream of the whole market.
            return (
                len(quoted) * 100 > sum(i.settle == "USDT" and i.status == "trading" for i in listed.values()) * 99 > 0
            )

        try:
            await self._until("price-worker", prices_flow)
        finally:
            await redis.aclose()
        return quoted

    async def start_book(self, standbys: int = 0) -> float:
        """A P&L worker for each shard, and more; how long it took until every position was loaded, in seconds."""
        redis = self.connect_redis()

        async def is_loaded() -> bool:
            held = [keys.held_symbols(shard.name) for shard in self._shards]
            return int(await redis.exists(*held)) == len(held)

        started = time.monotonic()
        try:
            for number in range(len(self._shards) + standbys):
                self._start_pnl_worker(number)
            await self._until("pnl-worker", is_loaded, longest_s=300)
        finally:
            await redis.aclose()
        return time.monotonic() - started

    def kill(self, pid: int) -> Callable[[], None]:
        """End a P&L worker without a word; gives what puts another in its place."""
        name = next(name for name, child in self._children.items() if child.pid == pid)
        os.killpg(pid, signal.SIGKILL)
        self._children.pop(name).wait()
        return lambda: self._start_pnl_worker(int(name.partition(" ")[2] or 0))

    def logged(self, pid: int) -> list[dict[str, Any]]:
        """What a process has logged, where it does so as JSON."""
        name = next(name for name, child in self._children.items() if child.pid == pid)
        return [json.loads(line) for line in self._log_path(name).read_text().splitlines() if line.startswith("{")]

    def _start_pnl_worker(self, number: int) -> None:
        name = f"pnl-worker {number}" if number else "pnl-worker"
        self._start(name, python_command(str(_PROJECT / "run.py"), "pnl-worker"))

    async def start_web(self) -> None:
        """The web processes; returns when each of them follows the bus."""
        redis = self.connect_redis()

        async def all_follow() -> bool:
            return len(await live_instances(redis, _REDIS_TIMEOUT_S)) == self._web_workers

        try:
            self._start("web")
            await self._until("web", all_follow)
        finally:
            await redis.aclose()

    async def tick_counts(self) -> tuple[int, int]:
        """How many ticks the exchange has made, and how many it left out for want of time."""
        state = await self._exchange_state()
        return int(state["ticks"]), int(state["skipped_ticks"])

    async def _exchange_state(self) -> dict[str, Any]:
        async with httpx2.AsyncClient(base_url=self.simulator_url, timeout=5.0, trust_env=False) as client:
            state: dict[str, Any] = (await client.get("/control/state")).json()
        return state

    def check(self) -> None:
        """Raise StartProblem when a part has died."""
        for name, child in self._children.items():
            if child.poll() is not None:
                raise StartProblem(f"{name} ended with exit code {child.returncode}: {self._last_line(name)}")

    def _start(self, name: str, command: Sequence[str] = ()) -> None:
        """Start a part: by its own command, or as ``run.py`` names it."""
        environment = {
            **os.environ,
            **{f"TIDEMARK_{setting}": value for setting, value in self._settings.items()},
            "TIDEMARK_DATA_DIR": str(self._directory),
            "TIDEMARK_DATABASE_URL": self.database_url,
            "TIDEMARK_REDIS_URL": self.redis_url,
        }
        with self._log_path(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                tethered(command or python_command(str(_PROJECT / "run.py"), name), death_signal=signal.SIGTERM),
                cwd=_PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _until(self, name: str, condition: Callable[[], Awaitable[bool]], longest_s: float = _START_S) -> None:
        deadline = time.monotonic() + longest_s
        while not await condition():
            self.check()
            if time.monotonic() > deadline:
                raise StartProblem(f"{name} was not ready within {longest_s:g} s: {self._last_line(name)}")
            await asyncio.sleep(0.02)

    async def _exchange_answers(self) -> bool:
        async with httpx2.AsyncClient(base_url=self.simulator_url, timeout=2.0, trust_env=False) as client:
            try:
                return (await client.get("/api/v3/ping")).is_success
            except httpx2.HTTPError:
                return False

    def _log_path(self, name: str) -> Path:
        path = self._directory / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _last_line(self, name: str) -> str:
        lines = self._log_path(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
