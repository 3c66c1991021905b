"""At most one holder per role, and epochs that only grow."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.repositories.database import create_engine
from app.repositories.leases import LeaseRepository


@pytest.fixture
async def leases(database_url: str) -> AsyncIterator[LeaseRepository]:
    engine = create_engine(database_url, pool_size=10, timeout_s=5)
    yield LeaseRepository(engine)
    await engine.dispose()


async def test_only_one_of_many_takes_a_lease(leases: LeaseRepository) -> None:
    epochs = await asyncio.gather(*(leases.acquire("price", f"worker-{n}", 60_000) for n in range(20)))

    assert [epoch for epoch in epochs if epoch is not None] == [1]


async def test_a_lease_that_ran_out_is_taken_with_a_higher_epoch(leases: LeaseRepository) -> None:
    first = await leases.acquire("price", "a", 0)
    second = await leases.acquire("price", "b", 60_000)

    assert first is not None
    assert second == first + 1
    assert not await leases.renew("price", "a", first, 60_000)
    assert await leases.renew("price", "b", second, 60_000)


async def test_a_lease_that_ran_out_unclaimed_may_be_renewed(leases: LeaseRepository) -> None:
    epoch = await leases.acquire("price", "a", 0)

    assert epoch is not None
    assert await leases.renew("price", "a", epoch, 60_000)
    assert await leases.acquire("price", "b", 60_000) is None


async def test_a_released_lease_is_free_at_once_and_its_epoch_is_never_used_again(leases: LeaseRepository) -> None:
    first = await leases.acquire("price", "a", 60_000)
    assert first is not None
    await leases.release("price", "a", first)

    assert await leases.acquire("price", "b", 60_000) == first + 1


async def test_releasing_a_lost_lease_changes_nothing(leases: LeaseRepository) -> None:
    first = await leases.acquire("price", "a", 0)
    assert first is not None
    await leases.acquire("price", "b", 60_000)

    await leases.release("price", "a", first)

    assert await leases.acquire("price", "c", 60_000) is None


async def test_roles_do_not_touch_each_other(leases: LeaseRepository) -> None:
    assert await leases.acquire("price", "a", 60_000) == 1
    assert await leases.acquire("pnl:0", "b", 60_000) == 1


async def test_others_leases_are_told_with_the_time_that_is_left(leases: LeaseRepository) -> None:
    await leases.acquire("pnl:0/4", "a", 60_000)
    await leases.acquire("pnl:1/4", "b", 60_000)
    await leases.acquire("pnl:2/4", "a", 0)

    held = await leases.held_by_others(["pnl:0/4", "pnl:1/4", "pnl:2/4", "pnl:3/4"], "b")

    assert held.keys() == {"pnl:0/4"}
    assert 50 < held["pnl:0/4"] <= 60
