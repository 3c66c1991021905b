"""One active worker per role, on a real PostgreSQL; and a database that fails when told to."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from app.repositories.database import DatabaseUnavailable, create_engine
from app.repositories.leases import LeaseRepository
from app.workers.leadership import Leadership, LeaseLost

TTL_MS = 300


@pytest.fixture
async def leases(database_url: str) -> AsyncIterator[LeaseRepository]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield LeaseRepository(engine)
    await engine.dispose()


class ScriptedLeases:
    """Leases that answer as told; an exception among the answers is raised."""

    def __init__(self, *answers: int | bool | Exception | None, held: dict[str, float] | None = None) -> None:
        self._answers = list(answers)
        self.held = held or {}
        self.calls = 0

    def _next(self) -> int | bool | None:
        self.calls += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def held_by_others(self, roles: Sequence[str], holder: str) -> dict[str, float]:
        return self.held

    async def acquire(self, role: str, holder: str, ttl_ms: int) -> int | None:
        return self._next()

    async def renew(self, role: str, holder: str, epoch: int, ttl_ms: int) -> bool:
        return bool(self._next())

    async def release(self, role: str, holder: str, epoch: int) -> None:
        self._next()


async def test_a_worker_stands_by_until_the_active_one_lets_go(leases: LeaseRepository) -> None:
    first, second = (Leadership(leases, "pnl:0", holder, TTL_MS) for holder in ("a", "b"))
    assert await first.acquire() == 1
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.1)
    assert not waiting.done()

    await first.release()

    assert await asyncio.wait_for(waiting, 2) == 2


async def test_a_worker_that_stops_renewing_is_followed_by_another(leases: LeaseRepository) -> None:
    first, second = (Leadership(leases, "pnl:0", holder, TTL_MS) for holder in ("a", "b"))
    await first.acquire()

    assert await asyncio.wait_for(second.acquire(), 2) == 2
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(first.keep(), 2)


async def test_a_kept_lease_outlives_its_time(leases: LeaseRepository) -> None:
    first, second = (Leadership(leases, "pnl:0", holder, TTL_MS) for holder in ("a", "b"))
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(second.acquire(), 3 * TTL_MS / 1000)
        assert first.is_certain
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_roles_are_apart(leases: LeaseRepository) -> None:
    assert await Leadership(leases, "price", "a", TTL_MS).acquire() == 1
    assert await Leadership(leases, "pnl:0", "b", TTL_MS).acquire() == 1


async def test_a_database_away_while_standing_by_is_waited_for() -> None:
    leases = ScriptedLeases(DatabaseUnavailable("away"), DatabaseUnavailable("away"), None, 7)

    assert await asyncio.wait_for(Leadership(leases, "pnl:0", "a", 30).acquire(), 2) == 7


async def test_a_database_away_while_active_is_not_a_lost_lease_but_no_certainty_either() -> None:
    leases = ScriptedLeases(1, DatabaseUnavailable("away"))
    leadership = Leadership(leases, "pnl:0", "a", 60)
    await leadership.acquire()
    assert leadership.is_certain

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(leadership.keep(), 0.3)

    assert leases.calls > 3
    assert not leadership.is_certain


async def test_a_lease_denied_once_is_lost() -> None:
    leadership = Leadership(ScriptedLeases(1, True, False), "pnl:0", "a", 30)
    await leadership.acquire()

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(leadership.keep(), 2)


async def test_a_lease_that_cannot_be_released_does_not_stop_the_end() -> None:
    leadership = Leadership(ScriptedLeases(1, DatabaseUnavailable("away")), "pnl:0", "a", 30)
    await leadership.acquire()

    await leadership.release()

    assert not leadership.is_certain


async def test_workers_share_several_roles_and_the_one_too_many_stands_by_for_any(leases: LeaseRepository) -> None:
    roles = ["pnl:0/2", "pnl:1/2"]
    first, second, third = (Leadership(leases, roles, holder, TTL_MS) for holder in ("a", "b", "c"))
    await asyncio.wait_for(asyncio.gather(first.acquire(), second.acquire()), 2)
    assert {first.role, second.role} == set(roles)
    keeping = asyncio.create_task(first.keep())
    try:
        # The second does not renew: it is as good as dead.
        assert await asyncio.wait_for(third.acquire(), 3) == 2
        assert third.role == second.role
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_worker_takes_the_first_role_that_is_free(leases: LeaseRepository) -> None:
    roles = ["pnl:0/3", "pnl:1/3", "pnl:2/3"]
    await leases.acquire("pnl:0/3", "somebody", 60_000)
    worker = Leadership(leases, roles, "a", TTL_MS)

    await worker.acquire()

    assert worker.role == "pnl:1/3"


async def test_a_role_is_in_danger_once_its_lease_was_not_renewed_in_time() -> None:
    leases = ScriptedLeases(7, held={"pnl:0/2": 2.1, "pnl:1/2": 2.9})
    standby = Leadership(leases, ["pnl:0/2", "pnl:1/2"], "c", 3000)
    waiting = asyncio.create_task(standby.acquire())
    async with asyncio.timeout(5):
        await standby.others_are_active.wait()
        assert standby.endangered is None
        leases.held = {"pnl:0/2": 2.9, "pnl:1/2": 1.2}
        while standby.endangered != "pnl:1/2":
            await asyncio.sleep(0.01)
        # It was only late, and its holder goes on.
        leases.held = {"pnl:0/2": 2.5, "pnl:1/2": 2.8}
        while standby.endangered is not None:
            await asyncio.sleep(0.01)
        leases.held = {"pnl:0/2": 2.5}
        assert await waiting == 7
    assert standby.role == "pnl:1/2"


async def test_who_takes_a_role_at_once_has_not_stood_by() -> None:
    worker = Leadership(ScriptedLeases(1), "pnl:0", "a", 300)

    await worker.acquire()

    assert not worker.others_are_active.is_set()
