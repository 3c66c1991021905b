"""A worker that Redis cannot hear gives way to one that it can, and to nobody else."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.repositories.database import create_engine
from app.repositories.leases import LeaseRepository
from app.workers.leadership import Leadership, LeaseLost
from app.workers.readiness import Readiness

TTL_MS = 300


class Worker:
    """One worker's claim, and whether it reaches Redis."""

    def __init__(self, leases: LeaseRepository, name: str, *, can_work: bool = True) -> None:
        self.can_work = can_work
        self.leadership = Leadership(leases, "pnl:0", name, TTL_MS)
        self.readiness = Readiness(leases, "pnl", name, TTL_MS, self._is_able)

    async def _is_able(self) -> bool:
        return self.can_work

    async def stand_by(self) -> int:
        return await self.readiness.stand_by(self.leadership)

    async def serve(self) -> None:
        """Hold the role until it is lost, as a worker process does."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.leadership.keep())
                tasks.create_task(self.readiness.give_way())
        finally:
            await self.leadership.release()


@pytest.fixture
async def leases(database_url: str) -> AsyncIterator[LeaseRepository]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield LeaseRepository(engine)
    await engine.dispose()


async def cancelled(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_cannot_work_hands_over_to_one_that_can(leases: LeaseRepository) -> None:
    active, standby = Worker(leases, "a"), Worker(leases, "b")
    epoch = await active.stand_by()
    serving = asyncio.create_task(active.serve())
    waiting = asyncio.create_task(standby.stand_by())

    active.can_work = False

    assert await asyncio.wait_for(waiting, 10) == epoch + 1
    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(serving, 10)
    assert ended.group_contains(LeaseLost)


async def test_where_nobody_can_work_everything_stays_as_it_is(leases: LeaseRepository) -> None:
    active, standby = Worker(leases, "a"), Worker(leases, "b")
    await active.stand_by()
    serving = asyncio.create_task(active.serve())
    waiting = asyncio.create_task(standby.stand_by())
    await asyncio.sleep(2 * TTL_MS / 1000)

    active.can_work = standby.can_work = False

    done, _ = await asyncio.wait([serving, waiting], timeout=6 * TTL_MS / 1000)
    assert not done
    await cancelled(serving, waiting)


async def test_a_worker_that_cannot_work_leaves_a_free_role_to_others(leases: LeaseRepository) -> None:
    unable, able = Worker(leases, "a", can_work=False), Worker(leases, "b")
    waiting = asyncio.create_task(unable.stand_by())
    await asyncio.sleep(TTL_MS / 1000)

    assert await asyncio.wait_for(able.stand_by(), 5) == 1

    assert not waiting.done()
    await able.leadership.release()
    unable.can_work = True
    assert await asyncio.wait_for(waiting, 5) == 2


async def test_a_worker_alone_keeps_its_role_though_it_cannot_work(leases: LeaseRepository) -> None:
    alone = Worker(leases, "a")
    await alone.stand_by()
    serving = asyncio.create_task(alone.serve())

    alone.can_work = False

    done, _ = await asyncio.wait([serving], timeout=6 * TTL_MS / 1000)
    assert not done
    await cancelled(serving)
