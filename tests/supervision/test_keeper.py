"""A program is kept running, loudly; one that cannot start is given up; stopping always ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.supervision.keeper import Keeper, Program
from app.supervision.output import LogFile, ProcessOutput

DEADLINE_S = 20.0


class Desk:
    """A keeper and all that it said."""

    def __init__(self, folder: Path, script: str, *, stop_timeout_s: float = 5.0) -> None:
        self.notices: list[str] = []
        self.given_up: list[str] = []
        self.shown: list[str] = []
        self.output = ProcessOutput("worker", LogFile(folder / "worker.log"), self.shown.append)
        program = Program("worker", (sys.executable, "-c", script), os.environ, folder, stop_timeout_s)
        self.keeper = Keeper(
            program, self.output, notice=self.notices.append, give_up=self.given_up.append, first_delay_s=0.01
        )
        self.folder = folder

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    async def run(self, scene: Callable[[], "asyncio.Future[None] | object"]) -> None:
        """Play a scene while the keeper runs; then stop it."""
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keeper.run())
            try:
                await scene()  # type: ignore[misc]
            finally:
                await self.keeper.stop()
                self.output.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_a_program_that_dies_is_started_again_and_each_death_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "print('started', flush=True); raise SystemExit(9)")
    desk.keeper.expect_to_last()

    await desk.run(lambda: until(lambda: desk.log.count("started") >= 3))

    assert desk.notices[0].startswith("worker ended with exit code 9; starting it again in 0.01 s")
    assert desk.notices[1].startswith("worker ended with exit code 9; starting it again in 0.02 s")
    assert not desk.given_up


async def test_a_killed_program_is_told_by_the_signal(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "import time; print('started', flush=True); time.sleep(600)")

    async def scene() -> None:
        await until(lambda: "started" in desk.log)
        assert desk.keeper.pid is not None
        os.kill(desk.keeper.pid, signal.SIGKILL)
        await until(lambda: desk.log.count("started") == 2)

    await desk.run(scene)

    assert desk.notices[0].startswith("worker was ended by SIGKILL; starting it again")


async def test_a_program_that_cannot_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "raise SystemExit('no such thing')")

    await desk.run(lambda: until(lambda: desk.given_up))

    assert len(desk.notices) == 4
    assert desk.given_up == [f"worker ended with exit code 1: no such thing (see {tmp_path / 'worker.log'})"]


async def test_a_bad_setting_is_not_tried_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "import sys; sys.exit(78)")
    desk.keeper.expect_to_last()

    await desk.run(lambda: until(lambda: desk.given_up))

    assert not desk.notices


async def test_a_program_that_ignores_being_told_to_stop_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('started', flush=True); time.sleep(600)"
    desk = Desk(tmp_path, script, stop_timeout_s=0.1)

    await desk.run(lambda: until(lambda: "started" in desk.log))

    assert desk.notices == ["worker did not stop within 0.1 s and is killed"]


async def test_what_a_dead_program_started_does_not_outlive_it(tmp_path: Path) -> None:
    """A killed master must not leave workers behind that hold its port."""
    script = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print('child', child.pid, flush=True); time.sleep(600)"
    )
    desk = Desk(tmp_path, script)

    async def scene() -> None:
        await until(lambda: "child" in desk.log)
        assert desk.keeper.pid is not None
        os.kill(desk.keeper.pid, signal.SIGKILL)
        child = int(desk.log.split()[1])
        await until(lambda: not _is_alive(child))

    await desk.run(scene)


async def test_stopping_while_it_starts_stops_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "import time; time.sleep(600)")

    await desk.run(lambda: asyncio.sleep(0))

    assert desk.keeper.pid is None


async def test_only_warnings_reach_the_console_and_everything_the_file(tmp_path: Path) -> None:
    record = '{"event": "it broke", "level": "error", "timestamp": "2026-01-01T00:00:00Z", "symbol": "BTCUSDT"}'
    desk = Desk(tmp_path, f"import time; print('all well'); print({record!r}, flush=True); time.sleep(600)")

    await desk.run(lambda: until(lambda: desk.shown))

    assert desk.shown == ["worker: 2026-01-01T00:00:00Z error    it broke symbol=BTCUSDT"]
    assert "all well" in desk.log


PARENT = """
import signal, subprocess, sys, time
from app.embedded.tether import tethered
child = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
subprocess.run(tethered(child, death_signal=signal.SIGTERM))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels tell nobody of a parent's death")
def test_a_program_dies_with_the_process_that_keeps_it() -> None:
    project = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=project) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()

        # The pipe ends when the last who holds it is going.
        assert parent.stdout.read() == b""
    deadline = time.monotonic() + DEADLINE_S
    while _is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
