"""A server left by a run.py that was killed: it is on its way out, and its successor waits for it."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_PATIENCE_S = 3.0
_TIMEOUT_S = 20.0


def wait_for_predecessor(pid_file: Path, directory: Path) -> None:
    """Wait until the server that a pid file names has ended; tell it to, when it takes its time.

    Only a process that works in ``directory`` is meant: the pid may long be a stranger's.
    """
    pid = _read_pid(pid_file)
    started = time.monotonic()
    told = False
    while pid > 1 and _works_in(pid, directory) and time.monotonic() - started < _TIMEOUT_S:
        if not told and time.monotonic() - started > _PATIENCE_S:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            told = True
        time.sleep(0.02)


def _read_pid(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return 0


def _works_in(pid: int, directory: Path) -> bool:
    try:
        os.kill(pid, 0)
        if Path("/proc/self/cwd").exists():
            return Path(f"/proc/{pid}/cwd").samefile(directory)
        shown = subprocess.run(  # noqa: S603 - a fixed program
            ["/bin/ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False, timeout=5
        )
        return str(directory) in shown.stdout
    except (ProcessLookupError, FileNotFoundError, PermissionError):
        return False
