"""A program run once, to its end, that never outlives who wants it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.embedded.tether import tethered

_POLL_S = 0.05


async def run_child(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path, stop_timeout_s: float
) -> int:
    """Run a program and return its exit code. What it writes goes where this process writes.

    Cancelled, it asks the program to stop, and makes it when that takes too long.
    Call it from the main thread: the program dies with the thread.
    """
    process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own programs; starting takes a millisecond
        tethered(command, death_signal=signal.SIGTERM),
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while (exit_code := process.poll()) is None:  # noqa: ASYNC110 - the kernel sets no events
            await asyncio.sleep(_POLL_S)
        return exit_code
    finally:
        if process.poll() is None:
            await asyncio.shield(_stop(process, stop_timeout_s))


async def _stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while process.poll() is None:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
