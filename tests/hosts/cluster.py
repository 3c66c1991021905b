"""Tidemark on several hosts: each process started by its own command, told by environment where the others are."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import asyncpg
import httpx2
from redis import Redis

from app.domain.shards import shard_of, shards_of
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.embedded.tether import tethered
from app.repositories.layouts import role_of
from app.repositories.migrate import upgrade
from tests.e2e.system import ROOT, System, run_apart
from tests.hosts.network import Network

WEB = ("web1", "web2", "web3")
PRICE = ("price1", "price2")
PNL = ("pnl1", "pnl2", "pnl3")
"""One more than work at once."""
HOSTS = (*WEB, *PRICE, *PNL, "postgres", "redis", "exchange", "desk")
"""``desk`` is where clients are."""

SHARDS = shards_of(2)
HOSTS_OF: Mapping[str, tuple[str, ...]] = {"price": PRICE, **{role_of(shard): PNL for shard in SHARDS}}
"""Who may hold each role."""

WEB_PORT = 8000
REDIS_PORT = 6379
EXCHANGE_PORT = 9100
LEASE_TTL_MS = 1500

T = TypeVar("T")

_START_S = 60.0
_STOP_S = 15.0
_THROWAWAY = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}


class Holder(NamedTuple):
    """Who holds a lease."""

    host: str
    epoch: int


class Process:
    """One process of one host, as its service manager would start it."""

    def __init__(self, network: Network, host: str, arguments: list[str], environment: dict[str, str], logs: Path):
        self.host = host
        self._command = network.command(
            host, tethered([sys.executable, "run.py", *arguments], death_signal=signal.SIGTERM)
        )
        self._environment = environment
        self._log_path = logs / f"{host}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, **changes: str) -> None:
        """Start it, with some settings changed."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**self._environment, **changes},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it as the kernel does when memory is short: without a word."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""


class WebHost(System):
    """One web host as a client sees it."""

    def __init__(self, address: str, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.address = address
        self.port = WEB_PORT

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def stream_url(self) -> str:
        return f"ws://{self.address}:{self.port}/api/v1/stream"


class Cluster:
    """All of it. Start and stop it from the main thread: its children end with the thread that made them."""

    def __init__(self, directory: Path) -> None:
        self.network = Network(HOSTS)
        self._directory = directory
        self._postgres = EmbeddedPostgres(
            directory, settings={**_THROWAWAY, "listen_addresses": self.address("postgres")}, sync_new_data=False
        )
        self._redis = EmbeddedRedis(directory)
        self.processes: dict[str, Process] = {}
        self.web = {host: WebHost(self.address(host), directory / host) for host in WEB}
        self.postgres_socket_url = ""
        self.redis_socket_url = ""

    def address(self, host: str) -> str:
        return self.network.addresses[host]

    @property
    def environment(self) -> dict[str, str]:
        """What every process is told."""
        exchange = f"{self.address('exchange')}:{EXCHANGE_PORT}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMARK_", "DATABASE_"))}
        return {
            **kept,
            # A proxy of the environment leads out of these hosts.
            "NO_PROXY": "*",
            "DATABASE_URL": f"postgresql://postgres@{self.address('postgres')}:5432/postgres",
            "REDIS_URL": f"redis://{self.address('redis')}:{REDIS_PORT}/0",
            "TIDEMARK_LEASE_TTL_MS": str(LEASE_TTL_MS),
            "TIDEMARK_PNL_SHARDS": str(len(SHARDS)),
            "TIDEMARK_SIMULATOR_URL": f"http://{exchange}",
            "TIDEMARK_SIMULATOR_PORT": str(EXCHANGE_PORT),
            "TIDEMARK_SIMULATOR_TICKS_PER_S": "300",
            "TIDEMARK_PORT": str(WEB_PORT),
            "TIDEMARK_WEB_WORKERS": "1",
            "TIDEMARK_LOGINS_PER_MINUTE_PER_IP": "1000",
            "TIDEMARK_LOGINS_PER_MINUTE_PER_USER": "1000",
        }

    def start(self) -> None:
        self.network.build()
        self._start("exchange", ["simulator", "--host", self.address("exchange")])
        self._start_servers()
        for host in (*PRICE, *PNL):
            command = "price-worker" if host in PRICE else "pnl-worker"
            self._start(host, [command])
        for host in WEB:
            self._start(host, ["web"], TIDEMARK_HOST=self.address(host))
        with self.network.entered("desk"):
            run_apart(self.ready())

    def stop(self) -> None:
        """Take everything down, whatever state it is in."""
        try:
            for process in self.processes.values():
                process.terminate()
            for process in self.processes.values():
                process.wait()
            self._redis.stop()
            self._postgres.stop()
        finally:
            self.network.remove()

    def _start_servers(self) -> None:
        with self.network.entered("postgres"):
            self.postgres_socket_url = self._postgres.start()
        with self.network.entered("redis"):
            self.redis_socket_url = self._redis.start()
        with (self._directory / "postgres" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.address('postgres')}/24 trust\n")
        run_apart(self._prepare_database())
        with Redis.from_url(self.redis_socket_url) as redis:
            redis.config_set("protected-mode", "no")
            redis.config_set("bind", self.address("redis"))
            redis.config_set("port", REDIS_PORT)

    async def _prepare_database(self) -> None:
        connection = await asyncpg.connect(self.postgres_socket_url)
        try:
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()
        await upgrade(self.postgres_socket_url)

    def _start(self, host: str, arguments: list[str], **environment: str) -> None:
        told = {**self.environment, **environment}
        process = self.processes[host] = Process(self.network, host, arguments, told, self._directory)
        process.start()

    # Looking

    async def holder(self, role: str) -> Holder | None:
        """Who holds a role now, asked of the database itself and not over the network."""
        connection = await asyncpg.connect(self.postgres_socket_url)
        try:
            row = await connection.fetchrow(
                "SELECT holder, epoch FROM leases WHERE role = $1 AND expires_at > clock_timestamp()", role
            )
        finally:
            await connection.close()
        if row is None:
            return None
        pid = int(row["holder"].split(":")[1])
        return next((Holder(host, row["epoch"]) for host, each in self.processes.items() if each.pid == pid), None)

    async def active(self, role: str) -> Holder:
        found = await self.holder(role)
        assert found is not None, f"nobody holds {role}"
        return found

    async def taken_over(self, role: str, before: Holder, within_s: float) -> Holder:
        """Wait until another host holds a role."""

        async def other() -> Holder | None:
            now = await self.holder(role)
            return now if now is not None and now.host != before.host else None

        return await poll(other, within_s, f"another host than {before.host} to hold {role}")

    async def ended(self, host: str, within_s: float = 15.0) -> None:
        """Wait until a host's process has ended by itself."""

        async def is_over() -> bool:
            return self.processes[host].pid is None

        await poll(is_over, within_s, f"the process of {host} to end:\n{self.processes[host].log()[-2000:]}")

    def revive(self) -> None:
        """Heal all links and start again what ended, as service managers do."""
        self.network.heal()
        self._start_again()

    def _start_again(self) -> None:
        for process in self.processes.values():
            if process.pid is None:
                process.start()

    async def restart(self, host: str, **changes: str) -> None:
        """Start a host's process anew with some settings changed, until it is revived."""
        process = self.processes[host]
        process.terminate()
        await asyncio.to_thread(process.wait)
        process.start(**changes)

    async def ready(self) -> None:
        """Wait until every web host is ready and a market flows, all roles are held and the others stand by."""
        async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
            for host in self.web.values():
                await poll(lambda host=host: _is_ready(client, host.url), _START_S, f"{host.url} to be ready", self.log)
        await self.manned(_START_S)

    async def manned(self, within_s: float) -> None:
        """Wait until all roles are held and the other hosts stand by, starting again what ends meanwhile."""
        await poll(self._is_manned, within_s, "all roles to be held and a host to stand by for each", self.log)

    async def _is_manned(self) -> bool:
        self._start_again()
        holders = [await self.holder(role) for role in HOSTS_OF]
        working = {holder.host for holder in holders if holder is not None}
        return None not in holders and all(self._stands_by(host) for host in {*PRICE, *PNL} - working)

    def _stands_by(self, host: str) -> bool:
        process = self.processes[host]
        return process.pid is not None and "standing_by" in process.log().rpartition("process.started")[2]

    def log(self) -> str:
        """The end of every process's log."""
        return "\n".join(f"== {host}\n{process.log()[-1500:]}" for host, process in self.processes.items())


def role_for(user_id: str) -> str:
    """The role of whoever values a user."""
    return role_of(SHARDS[shard_of(user_id, len(SHARDS))])


async def _is_ready(client: httpx2.AsyncClient, url: str) -> bool:
    with suppress(httpx2.HTTPError):
        answer = await client.get(f"{url}/readyz")
        return answer.status_code == 200 and answer.json()["feed"]["state"] == "simulated"
    return False


async def poll(ask: Callable[[], Awaitable[T]], within_s: float, what: str, more: Callable[[], str] = lambda: "") -> T:
    """Ask until the answer is true; fail naming what was waited for."""
    deadline = time.monotonic() + within_s
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}\n{more()}"
        await asyncio.sleep(0.1)
    return answer
