"""A command ends in time, and a cancellation always comes through."""

import asyncio
from contextlib import suppress

import pytest

from app.bus.connection import BusUnavailable, deadline


async def swallow_a_cancellation() -> str:
    """What asyncio.wait_for does before Python 3.12, when its work ends at the same moment."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    return "done"


async def test_a_cancellation_that_the_command_swallows_still_cancels() -> None:
    task = asyncio.create_task(deadline(swallow_a_cancellation(), 60.0))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_the_command_swallows_does_not_cancel_the_caller() -> None:
    assert await deadline(swallow_a_cancellation(), 0.01) == "done"


async def test_a_command_that_takes_too_long_is_unavailability() -> None:
    with pytest.raises(BusUnavailable, match="did not answer"):
        await deadline(asyncio.sleep(60), 0.01)
