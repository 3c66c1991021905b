"""The number of shards in force: who may change it, and what orders the changes."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.shards import shards_of
from app.repositories.layouts import Layout, LayoutRepository, role_of
from app.repositories.leases import LeaseRepository

MINUTE_MS = 60_000


@pytest.fixture
def layouts(engine: AsyncEngine) -> LayoutRepository:
    return LayoutRepository(engine)


@pytest.fixture
def leases(engine: AsyncEngine) -> LeaseRepository:
    return LeaseRepository(engine)


async def hold_all(leases: LeaseRepository, shards: int) -> dict[str, int]:
    """Hold the leases of all shards; the result is their epochs."""
    epochs = {}
    for role in map(role_of, shards_of(shards)):
        epoch = await leases.acquire(role, "somebody", MINUTE_MS)
        assert epoch is not None
        epochs[role] = epoch
    return epochs


async def test_the_first_number_is_in_force_at_once_and_stays(layouts: LayoutRepository) -> None:
    assert await layouts.declare(2, is_new=True) == Layout(1, 2)
    assert await layouts.declare(2, is_new=True) == Layout(1, 2)
    assert await layouts.declare(2, is_new=False) == Layout(1, 2)


async def test_a_number_that_is_served_gives_way_only_to_one_that_can_serve_everybody(
    layouts: LayoutRepository, leases: LeaseRepository
) -> None:
    await layouts.declare(2, is_new=True)
    await hold_all(leases, 2)

    for role in ("pnl:0/3", "pnl:1/3"):
        await leases.acquire(role, "somebody", MINUTE_MS)
        assert await layouts.declare(3, is_new=True) == Layout(1, 2)
    await leases.acquire("pnl:2/3", "somebody", MINUTE_MS)
    assert await layouts.declare(3, is_new=True) == Layout(2, 3)


async def test_a_number_that_gave_way_does_not_come_back_while_the_other_is_served(
    layouts: LayoutRepository, leases: LeaseRepository
) -> None:
    await layouts.declare(2, is_new=True)
    await hold_all(leases, 2)
    held = await hold_all(leases, 3)
    await layouts.declare(3, is_new=True)

    assert await layouts.declare(2, is_new=False) == Layout(2, 3)

    for role, epoch in held.items():
        await leases.release(role, "somebody", epoch)
    assert await layouts.declare(2, is_new=False) == Layout(3, 2)


async def test_a_number_that_nobody_serves_gives_way_at_once(layouts: LayoutRepository) -> None:
    await layouts.declare(2, is_new=True)

    assert await layouts.declare(1, is_new=True) == Layout(2, 1)


async def test_one_number_is_not_taken_for_another_that_ends_alike(
    layouts: LayoutRepository, leases: LeaseRepository
) -> None:
    await layouts.declare(2, is_new=True)
    await leases.acquire("pnl:0/12", "somebody", MINUTE_MS)

    assert await layouts.declare(3, is_new=True) == Layout(2, 3)
