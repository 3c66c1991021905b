"""Two shards through real processes: users of both see exact figures, also past the death of one worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.domain.shards import shard_of
from tests.e2e.system import System, until
from tests.e2e.trader import Trader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
async def split(own_data_dir: Path) -> AsyncIterator[System]:
    async with System(own_data_dir, TIDEMARK_PNL_SHARDS="2") as system:
        yield system


async def trader_of(system: System, shard: int, opened: AsyncExitStack) -> Trader:
    """A new user of one of two shards, streaming a position."""
    while True:
        trader = await opened.enter_async_context(Trader(system))
        await trader.register()
        await trader.listen("BTCUSDT")
        if shard_of(trader.frames[0]["user_id"], 2) == shard:
            break
        await trader.hang_up()
    await trader.open("BTCUSDT", "long", "0.5")
    await trader.until(lambda: len(trader.rows) == 1, what="the row")
    return trader


async def test_users_of_both_shards_are_served_and_one_shard_s_loss_is_healed(split: System) -> None:
    workers = split.pids("run.py", "pnl-worker")
    assert len(workers) == 2
    async with AsyncExitStack() as opened:
        traders = [await trader_of(split, shard, opened) for shard in range(2)]
        # Trader.check compares every row and every total of every frame.
        for trader in traders:
            await trader.fresh_update()
        seen = [len(trader.frames) for trader in traders]

        os.kill(workers[0], signal.SIGKILL)

        def snapshots(number: int) -> bool:
            return any(frame["type"] == "snapshot" for frame in traders[number].frames[seen[number] :])

        await until(lambda: snapshots(0) or snapshots(1), within_s=20, what="a snapshot by the successor")
        for trader in traders:
            await trader.fresh_update()
        await asyncio.sleep(1)
        assert [snapshots(0), snapshots(1)].count(True) == 1  # the other shard's user was told nothing anew
        await until(lambda: len(split.pids("run.py", "pnl-worker")) == 2, what="both workers")
