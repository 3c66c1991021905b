"""All of Tidemark on one machine: servers, workers and web as children of one process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.embedded.errors import EmbeddedServerError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.entry import demo
from app.entry.migrations import migrate
from app.entry.probes import Probe, host_for_clients
from app.entry.web import web_command
from app.settings import Settings
from app.supervision.claims import claimed_folder, ensure_port_is_free, free_port, unusable_folder
from app.supervision.keeper import Keeper, Program, python_command
from app.supervision.output import LogFile, ProcessOutput
from app.supervision.problems import StartProblem
from app.supervision.screen import Screen

_PROJECT = Path(__file__).resolve().parents[2]
_WEB_START_TIMEOUT_S = 60.0
_WEB_STOP_S = 15.0
"""For what comes after the drain: requests in flight, closing what was opened."""
_EXCHANGE_PATIENCE_S = 6.0
_SERVER_CHECK_S = 0.5
_FEED_CHECK_S = 2.0


@dataclass(frozen=True)
class Plan:
    """What run.py was asked to run."""

    settings: Settings
    is_demo: bool
    page: Path | None
    """The built page that has to be there; None when it may be missing."""

    @property
    def data_dir(self) -> Path:
        """Simulated trades never share a database with real ones."""
        base = self.settings.data_dir.absolute()
        return base / "demo" if self.is_demo else base


def run_one_machine(plan: Plan, screen: Screen) -> None:
    """Run until told to stop. Raises StartProblem."""
    settings = plan.settings
    if plan.page is not None and not plan.page.exists():
        raise StartProblem("the page is not built: run `make page` first, or start with --no-page for the API alone")
    with ExitStack() as opened:
        was_killed = opened.enter_context(claimed_folder(plan.data_dir))
        # The web processes of one that was killed may still be draining.
        patience_s = settings.drain_s + _WEB_STOP_S if was_killed else 0.0
        ensure_port_is_free(
            settings.host, settings.port, option="--port", variable="TIDEMARK_PORT", patience_s=patience_s
        )
        try:
            servers = _start_servers(plan, screen, opened)
            with screen.step("Schema"):
                migrate(servers.database_url)
            _Machine(plan, servers, screen).run()
        except EmbeddedServerError as error:
            raise StartProblem(str(error)) from None


@dataclass(frozen=True)
class _Servers:
    database_url: str
    redis_url: str
    embedded: tuple[tuple[str, EmbeddedPostgres | EmbeddedRedis], ...]


def _start_servers(plan: Plan, screen: Screen, opened: ExitStack) -> _Servers:
    """Outside any event loop: a Ctrl-C while PostgreSQL recovers then ends it at once."""
    settings = plan.settings
    database_url = None if plan.is_demo else settings.database_url
    redis_url = None if plan.is_demo else settings.redis_url
    if plan.is_demo and (settings.database_url or settings.redis_url):
        screen.say("  The demo leaves DATABASE_URL and REDIS_URL alone and brings its own servers.")
    embedded: list[tuple[str, EmbeddedPostgres | EmbeddedRedis]] = []
    if not database_url:
        postgres = EmbeddedPostgres(plan.data_dir)
        opened.callback(postgres.stop)
        with screen.step("PostgreSQL") as step, _usable(plan.data_dir):
            database_url = postgres.start()
            step.outcome = f"embedded, data in {_short(plan.data_dir / 'postgres')}"
        embedded.append(("PostgreSQL", postgres))
    if not redis_url:
        redis = EmbeddedRedis(plan.data_dir)
        opened.callback(redis.stop)
        with screen.step("Redis") as step, _usable(plan.data_dir):
            redis_url = redis.start()
            step.outcome = "embedded, in memory"
        embedded.append(("Redis", redis))
    return _Servers(database_url, redis_url, tuple(embedded))


class _Machine:
    """The children and what is said about them, from the first start to the last stop."""

    def __init__(self, plan: Plan, servers: _Servers, screen: Screen) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._servers = servers
        self._screen = screen
        self._keepers: dict[str, Keeper] = {}
        self._outputs: list[ProcessOutput] = []
        self._stop_requested = asyncio.Event()
        self._failure: str | None = None
        self._environment = self._child_environment()
        self._url = f"http://{host_for_clients(self._settings.host)}:{self._settings.port}"

    def run(self) -> None:
        asyncio.run(self._run())
        if self._failure is not None:
            raise StartProblem(self._failure)

    async def _run(self) -> None:
        with self._signals_caught():
            async with asyncio.TaskGroup() as tasks, AsyncExitStack() as opened:
                try:
                    await self._unless_stopped(self._live(tasks, opened))
                except StartProblem as problem:
                    # Kept until everything is stopped.
                    self._give_up(str(problem))
                self._screen.say("  Stopping …")

    async def _live(self, tasks: asyncio.TaskGroup, opened: AsyncExitStack) -> None:
        for name, server in self._servers.embedded:
            await opened.enter_async_context(_cancelled_at_exit(tasks, self._watch_server(name, server)))
        probe = await opened.enter_async_context(Probe.open(self._url))
        await self._start_processes(tasks, opened, probe)
        for keeper in self._keepers.values():
            keeper.expect_to_last()
        if self._plan.is_demo:
            await self._prepare_demo()
        self._screen.address(f"{self._url}/")
        await self._watch_feed(probe)

    # Processes

    async def _start_processes(self, tasks: asyncio.TaskGroup, opened: AsyncExitStack, probe: Probe) -> None:
        """Web first, for it takes longest and waits for nobody; the workers once there is an exchange to talk to."""
        opened.push_async_callback(self._stop_processes)
        port = self._choose_simulator_port() if self._plan.is_demo else None
        self._keep("web", web_command(), tasks, stop_timeout_s=self._settings.drain_s + _WEB_STOP_S)
        if port is not None:
            with self._screen.step("Local exchange") as step:
                self._keep("simulator", self._own("simulator"), tasks)
                await demo.until_exchange_answers(f"http://127.0.0.1:{port}")
                step.outcome = f"simulated prices, port {port}"
        with self._screen.step("Workers and web") as step:
            self._keep("price-worker", self._own("price-worker"), tasks)
            for name in self._pnl_workers:
                self._keep(name, self._own("pnl-worker"), tasks)
            await probe.until_alive(_WEB_START_TIMEOUT_S)
            step.outcome = f"prices, P&L, {self._settings.web_workers} web processes"

    def _keep(
        self,
        name: str,
        command: tuple[str, ...],
        tasks: asyncio.TaskGroup,
        *,
        stop_timeout_s: float = 10.0,
    ) -> None:
        program = Program(name, command, dict(self._environment), _PROJECT, stop_timeout_s)
        as_json = self._settings.log_format == "json"
        log = LogFile(self._plan.data_dir / "logs" / f"{name}.log")
        output = ProcessOutput(name, log, self._screen.warn, as_json=as_json)
        self._outputs.append(output)
        self._keepers[name] = Keeper(program, output, notice=self._screen.warn, give_up=self._give_up)
        tasks.create_task(self._keepers[name].run(), name=name)

    async def _stop_processes(self) -> None:
        """Browsers are sent away first, then nobody misses the workers, then they do not miss the exchange."""
        for name in ("web", *self._pnl_workers, "price-worker", "simulator"):
            if name in self._keepers:
                await self._keepers[name].stop()
        for output in self._outputs:
            output.close()

    @property
    def _pnl_workers(self) -> tuple[str, ...]:
        """One process per shard; which has which, they settle among themselves."""
        shards = self._settings.pnl_shards
        return ("pnl-worker",) if shards == 1 else tuple(f"pnl-worker-{number}" for number in range(1, shards + 1))

    def _own(self, command: str) -> tuple[str, ...]:
        return python_command(str(_PROJECT / "run.py"), command)

    def _child_environment(self) -> dict[str, str]:
        settings = self._settings
        return {
            # No proxy is in front unless somebody says so: a client must not choose its own address.
            "FORWARDED_ALLOW_IPS": "",
            **os.environ,
            "TIDEMARK_HOST": settings.host,
            "TIDEMARK_PORT": str(settings.port),
            "TIDEMARK_WEB_WORKERS": str(settings.web_workers),
            "TIDEMARK_PNL_SHARDS": str(settings.pnl_shards),
            "TIDEMARK_DATA_DIR": str(self._plan.data_dir),
            "TIDEMARK_DATABASE_URL": self._servers.database_url,
            "TIDEMARK_REDIS_URL": self._servers.redis_url,
            # Read line by line here, and shown as the person asked for.
            "TIDEMARK_LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
        }

    def _choose_simulator_port(self) -> int:
        """The port that was asked for, else any: copies can run side by side."""
        port = self._settings.simulator_port
        if "simulator_port" in self._settings.model_fields_set:
            ensure_port_is_free("127.0.0.1", port, option="--simulator-port", variable="TIDEMARK_SIMULATOR_PORT")
        else:
            port = free_port("127.0.0.1")
        self._environment |= {
            "TIDEMARK_SIMULATOR_PORT": str(port),
            "TIDEMARK_SIMULATOR_URL": f"http://127.0.0.1:{port}",
        }
        return port

    async def _watch_server(self, name: str, server: EmbeddedPostgres | EmbeddedRedis) -> None:
        """Start an embedded server again when it dies; the workers find it by the same URL."""
        while True:
            await asyncio.sleep(_SERVER_CHECK_S)
            if server.process is not None and server.process.poll() is None:
                continue
            self._screen.warn(f"{name} ended unexpectedly; starting it again")
            try:
                # Here and not in a thread: the server would die with the thread.
                server.start()
            except (EmbeddedServerError, OSError) as error:
                self._give_up(f"{name} cannot be started again: {error}")
                return

    # Stopping

    def _give_up(self, reason: str) -> None:
        if self._failure is None and not self._stop_requested.is_set():
            self._failure = reason
        self._stop_requested.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work until it ends or somebody wants to stop."""
        working = asyncio.create_task(work, name="live")
        stopping = asyncio.create_task(self._stop_requested.wait(), name="stop")
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for signum in signals:
            loop.add_signal_handler(signum, self._on_signal)
        try:
            yield
        finally:
            for signum in signals:
                loop.remove_signal_handler(signum)

    def _on_signal(self) -> None:
        if not self._stop_requested.is_set():
            self._stop_requested.set()
            return
        for keeper in self._keepers.values():
            keeper.kill()
        # The servers are told by the kernel, and keep what was committed.
        os._exit(130)

    # What is said

    async def _prepare_demo(self) -> None:
        with self._screen.step("Demo trader") as step:
            login = await demo.seed(self._url, self._plan.data_dir)
            step.outcome = login
        self._screen.say("  Prices are SIMULATED: a local exchange speaks Binance's protocol. Nothing here is real.")

    async def _watch_feed(self, probe: Probe) -> None:
        """Say when the exchange cannot be reached, and when it can be again; never more than one line a change."""
        said_down = False
        await probe.until_feed_is_live(_EXCHANGE_PATIENCE_S)
        while True:
            state = await probe.feed_state()
            if state in {"live", "simulated"} and said_down:
                self._screen.say("  The exchange answers again: prices flow.")
                said_down = False
            if state in {"down", "stale"} and not said_down:
                self._screen.warn(self._feed_trouble())
                said_down = True
            await asyncio.sleep(_FEED_CHECK_S)

    def _feed_trouble(self) -> str:
        if self._plan.is_demo:
            return "The local exchange sends no prices; they are marked stale, and Tidemark keeps trying."
        return (
            "Binance cannot be reached: prices are marked stale, and Tidemark keeps trying. "
            "`make demo` shows it against a local exchange."
        )


@contextmanager
def _usable(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unusable_folder(data_dir, error) from None


@asynccontextmanager
async def _cancelled_at_exit(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = tasks.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
