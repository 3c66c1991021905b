"""Several instances and standbys: they share state through Redis and PostgreSQL only."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.e2e.system import ROOT, System, free_port, until
from tests.e2e.trader import Trader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


class Beside:
    """Another process of the same system: where its servers are, told by environment as on another host."""

    def __init__(self, system: System) -> None:
        sockets = system.data_dir / "demo"
        self.port = free_port()
        self.environment = {
            **os.environ,
            **system.environment_of("price-worker"),
            "TIDEMARK_PORT": str(self.port),
            "TIDEMARK_WEB_WORKERS": "1",
        }
        self.log_path = sockets / "beside.log"

    @asynccontextmanager
    async def running(self, command: str) -> AsyncIterator[subprocess.Popen[bytes]]:
        process = self._spawn(command)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            await asyncio.to_thread(process.wait, 30)

    def _spawn(self, command: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "run.py", command], cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class Elsewhere(System):
    """The same system, seen through another instance's port."""

    def __init__(self, system: System, port: int) -> None:
        super().__init__(system.data_dir)
        self.port = port
        self.simulator_port = system.simulator_port


@pytest.fixture
async def elsewhere(system: System) -> AsyncIterator[Elsewhere]:
    beside = Beside(system)
    async with beside.running("web"):
        other = Elsewhere(system, beside.port)
        async with httpx2.AsyncClient(base_url=other.url) as client:
            async with asyncio.timeout(30):
                while not await ready(client):
                    await asyncio.sleep(0.1)
        yield other


async def ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx2.HTTPError:
        return False


async def test_a_user_sees_the_same_figures_at_the_same_place_on_every_instance(
    system: System, elsewhere: Elsewhere
) -> None:
    async with Trader(system) as here, Trader(elsewhere, here.username) as there:
        await here.register()
        await there.login()
        for trader in (here, there):
            await trader.listen("BTCUSDT")
        await here.open("BTCUSDT", "long", "0.7")
        for trader in (here, there):
            await trader.until(lambda trader=trader: len(trader.rows) == 1, what="the row")
            await trader.fresh_update()
        await asyncio.sleep(1)

        def figures(trader: Trader) -> dict[tuple[int, int], str]:
            return {
                (frame["epoch"], frame["seq"]): frame["pnl"]["unrealized_pnl"]
                for frame in trader.frames
                if frame["type"] == "update" and "pnl" in frame
            }

        first, second = figures(here), figures(there)
        shared = first.keys() & second.keys()
        assert len(shared) >= 3
        assert all(first[place] == second[place] for place in shared)
        assert [event["seq"] for event in here.events] == [event["seq"] for event in there.events] == [1]


async def test_logging_out_on_one_instance_closes_the_sockets_on_another(system: System, elsewhere: Elsewhere) -> None:
    async with Trader(system) as here, Trader(elsewhere) as there:
        await here.register()
        there.rest.cookies = here.rest.cookies
        await there.listen()

        answer = await here.rest.post("/api/v1/auth/logout")

        assert answer.status_code == 204
        await there.until(lambda: there.closed_with is not None, what="the socket to close")
        assert there.closed_with == 4004


@pytest.mark.parametrize("command", ["price-worker", "pnl-worker"])
async def test_a_standby_takes_over_from_a_frozen_worker_which_then_ends(system: System, command: str) -> None:
    async with Trader(system) as trader:
        await trader.register()
        await trader.open("BTCUSDT", "long", "0.5")
        await trader.listen("BTCUSDT")
        await trader.until(lambda: len(trader.rows) == 1, what="the row")
        await trader.fresh_update()
        (active,) = system.pids("run.py", command)
        beside = Beside(system)
        async with beside.running(command) as standby:
            await until(lambda: "lease.standing_by" in beside.log(), what="the standby to say that it stands by")

            os.kill(active, signal.SIGSTOP)
            try:
                await until(lambda: "lease.acquired" in beside.log(), what="the standby to take over")
                await trader.fresh_update(30)
                assert standby.poll() is None
            finally:
                os.kill(active, signal.SIGCONT)

            await until(lambda: active not in system.pids("run.py", command), what="the frozen one to end")
            await trader.fresh_update(20)
    await system.ready()
