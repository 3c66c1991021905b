"""Keeping one program running: start it, follow its output, start it again when it dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.embedded.tether import tethered
from app.supervision.output import ProcessOutput
from app.supervision.problems import CONFIGURATION_EXIT_CODE

_LONGEST_DELAY_S = 15.0
_STEADY_AFTER_S = 30.0
"""A program that ran this long starts its back-off anew."""
_ATTEMPTS_TO_START = 5
_LONGEST_LINE_BYTES = 65_536
_POLL_S = 0.05
_LAST_WORDS_S = 0.5
_GUNICORN_CANNOT_START = frozenset({3, 4})
"""gunicorn's exit codes for a worker that failed to boot and an application that failed to load."""


@dataclass(frozen=True)
class Program:
    """What to run, and how long it may take to stop."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    directory: Path
    stop_timeout_s: float = 10.0


class Keeper:
    """One program, kept running until :meth:`stop`.

    ``notice`` gets one line for every death. Before :meth:`expect_to_last`, dying a few
    times means that it cannot start, and ``give_up`` is told why; after it, an outage of
    something else is the likelier cause, and it is tried for as long as it takes.
    """

    def __init__(
        self,
        program: Program,
        output: ProcessOutput,
        *,
        notice: Callable[[str], None],
        give_up: Callable[[str], None],
        first_delay_s: float = 0.5,
    ) -> None:
        self.program = program
        self._output = output
        self._notice = notice
        self._give_up = give_up
        self._first_delay_s = first_delay_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._lasts = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def expect_to_last(self) -> None:
        """From now on it is known to be able to run."""
        self._lasts = True

    async def run(self) -> None:
        """Run until :meth:`stop`, or until it cannot be started."""
        try:
            await self._keep_running()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Ask it to stop, make it when it takes longer than it may, and wait for :meth:`run` to end."""
        self._stopping.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), self.program.stop_timeout_s)
        except TimeoutError:
            self._notice(f"{self.program.name} did not stop within {self.program.stop_timeout_s:g} s and is killed")
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End it and everything it started, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _keep_running(self) -> None:
        deaths = 0
        delay = self._first_delay_s
        while not self._stopping.is_set():
            started = time.monotonic()
            exit_code = await self._run_once()
            if self._stopping.is_set():
                return
            deaths += 1
            if time.monotonic() - started > _STEADY_AFTER_S:
                deaths, delay = 1, self._first_delay_s
            if self._is_hopeless(exit_code, deaths):
                self._give_up(f"{self._epitaph(exit_code)}: {self._output.last_line} (see {self._output.file.path})")
                return
            self._notice(f"{self._epitaph(exit_code)}; starting it again in {delay:g} s (see {self._output.file.path})")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(delay * 2, _LONGEST_DELAY_S)

    def _is_hopeless(self, exit_code: int, deaths: int) -> bool:
        if exit_code == CONFIGURATION_EXIT_CODE:
            return True
        return not self._lasts and (deaths >= _ATTEMPTS_TO_START or exit_code in _GUNICORN_CANNOT_START)

    def _epitaph(self, exit_code: int) -> str:
        if exit_code < 0:
            with suppress(ValueError):
                return f"{self.program.name} was ended by {signal.Signals(-exit_code).name}"
        return f"{self.program.name} ended with exit code {exit_code}"

    async def _run_once(self) -> int:
        # Not asyncio's own kind of process: waiting for that one also waits for whoever
        # else holds the pipe, and workers of a killed master hold it for ever.
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own programs; starting takes a millisecond
            tethered(self.program.command, death_signal=signal.SIGTERM),
            cwd=self.program.directory,
            env=dict(self.program.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C at the terminal is for run.py alone, which stops everything in order.
            start_new_session=True,
        )
        self._process = process
        if self._stopping.is_set():
            # Told to stop while it was about to be started.
            self.kill()
        try:
            return await self._follow(process)
        finally:
            # Also workers whose master was killed: they must not keep its port from the next one.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._process = None

    async def _follow(self, process: subprocess.Popen[bytes]) -> int:
        """Take what it writes until it is gone."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        reading = asyncio.create_task(self._read_lines(reader), name=f"{self.program.name}.output")
        try:
            while (exit_code := process.poll()) is None:  # noqa: ASYNC110 - the kernel sets no events
                await asyncio.sleep(_POLL_S)
            # What it wrote last is usually why it died.
            await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
            return exit_code
        finally:
            transport.close()
            reading.cancel()
            await asyncio.wait({reading})

    async def _read_lines(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(_LONGEST_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                self._output.take(line.decode(errors="replace").rstrip())
        if rest:
            self._output.take(rest.decode(errors="replace").rstrip())


def python_command(*arguments: str) -> tuple[str, ...]:
    """The command that runs this same Python."""
    return (sys.executable, *arguments)
