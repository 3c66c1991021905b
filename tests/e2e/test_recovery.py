"""Each process in turn is killed under a trader who watches: what he sees stays right, and comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System, until
from tests.e2e.trader import Trader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PROCESSES = {
    "price worker": ("run.py", "price-worker"),
    "P&L worker": ("run.py", "pnl-worker"),
    "local exchange": ("run.py", "simulator"),
    "Redis": ("valkey-server",),
    "PostgreSQL": ("postgres", "-D"),
}


@pytest.fixture
async def watching(system: System) -> AsyncIterator[Trader]:
    """A trader with two positions, whose frames flow."""
    async with Trader(system) as trader:
        await trader.register()
        await trader.open("BTCUSDT", "long", "0.5")
        await trader.open("ETHUSDT", "short", "2")
        await trader.listen("BTCUSDT", "ETHUSDT")
        await trader.until(lambda: len(trader.rows) == 2, what="both rows")
        await trader.fresh_update()
        yield trader


@pytest.mark.parametrize("name", PROCESSES)
async def test_a_killed_process_comes_back_and_the_numbers_with_it(system: System, name: str) -> None:
    async with Trader(system) as trader:
        await trader.register()
        await trader.open("BTCUSDT", "long", "0.5")
        await trader.listen("BTCUSDT")
        await trader.until(lambda: len(trader.rows) == 1, what="the row")
        await trader.fresh_update()
        old = system.pids(*PROCESSES[name])
        assert old, name

        os.kill(old[0], signal.SIGKILL)

        await until(lambda: bool(set(system.pids(*PROCESSES[name])) - set(old)), what=f"a new {name}")
        await system.ready()
        if name == "Redis":  # Sessions were in it: the one thing that an empty Redis costs.
            await trader.hang_up()
            await trader.login()
            await trader.listen("BTCUSDT")
        await trader.until(lambda: len(trader.rows) == 1, 30, what="the row again")
        await trader.fresh_update(30)
        statement = await trader.pnl()
        assert [row["symbol"] for row in statement["positions"]] == ["BTCUSDT"]


async def test_killed_web_workers_are_replaced_and_clients_come_back(system: System, watching: Trader) -> None:
    master = min(system.pids("gunicorn"))
    workers = [child.pid for child in psutil.Process(master).children()]
    assert workers

    for worker in workers:
        os.kill(worker, signal.SIGKILL)

    await until(lambda: len(psutil.Process(master).children()) == len(workers), what="new workers")
    seen = len(watching.frames)
    await watching.until(
        lambda: any(frame["type"] == "hello" for frame in watching.frames[seen:]), what="a new connection"
    )
    await watching.fresh_update(30)
    assert len(watching.rows) == 2


async def test_a_stalled_exchange_turns_every_number_stale_and_never_shows_an_old_one_as_live(
    system: System, watching: Trader
) -> None:
    await system.silence_exchange()
    try:
        await watching.until(
            lambda: all(row["is_stale"] for row in watching.rows.values()), 30, what="both rows to be stale"
        )
        assert watching.totals["is_stale"]
        last = watching.totals["unrealized_pnl"]
        await asyncio.sleep(1)
        assert watching.totals["is_stale"]
        assert watching.totals["unrealized_pnl"] == last
    finally:
        await system.restore_exchange()
    await watching.until(
        lambda: not any(row["is_stale"] for row in watching.rows.values()), 30, what="both rows to be live again"
    )
    assert not watching.totals["is_stale"]


async def test_what_was_acknowledged_survives_the_kill_of_everything(own_data_dir: Path) -> None:
    system = System(own_data_dir)
    await system.start()
    async with Trader(system) as trader:
        await trader.register()
        opened = await trader.open("BTCUSDT", "long", "0.5", price="60000")
        assert system.process is not None
        below = psutil.Process(system.process.pid).children(recursive=True)

        system.process.kill()
        system.process.wait()

        gone = await asyncio.to_thread(psutil.wait_procs, below, 20)
        assert not gone[1], "children outlived run.py"
        await system.start()
        try:
            await trader.login()
            statement = await trader.pnl()
            assert [row["position_id"] for row in statement["positions"]] == [opened["position_id"]]
            assert statement["positions"][0]["entry_price"] == "60000"
        finally:
            await system.stop()
    assert not psutil.pid_exists(system.process.pid) or system.process.poll() is not None
