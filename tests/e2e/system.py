"""The whole system as a user starts it: ``run.py`` and its children, and how a test breaks them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 60

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], within_s: float = 20, what: str = "condition") -> None:
    """Poll until a condition holds; fail naming it."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:g} s: {what}") from None


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own thread: the caller may be inside one, as Playwright's callers are."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


class System:
    """``run.py all --demo`` on free ports with a data folder of its own."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.simulator_port = free_port()
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/v1/stream"

    @property
    def simulator_url(self) -> str:
        return f"http://127.0.0.1:{self.simulator_port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        environment = {
            **os.environ,
            "TIDEMARK_SIMULATOR_PORT": str(self.simulator_port),
            "TIDEMARK_LOGINS_PER_MINUTE_PER_IP": "1000",
            **self.environment,
        }
        self.process = self._spawn(environment)
        await self.ready()

    def _spawn(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "run.py", "all", "--demo", "--no-page"]
        options = ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*command, *options], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    async def ready(self) -> None:
        """Wait until the system says that it is ready and its feed flows."""
        async with httpx2.AsyncClient(base_url=self.url) as client:
            try:
                async with asyncio.timeout(START_S):
                    while not await self._answers(client):
                        await asyncio.sleep(0.1)
            except TimeoutError:
                raise AssertionError(f"not ready in {START_S} s:\n{self.log()[-4000:]}") from None

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"run.py ended with {self.process.returncode}:\n{self.log()[-4000:]}")
        with suppress(httpx2.HTTPError):
            answer = await client.get("/readyz", params={"verbose": ""})
            return answer.status_code == 200 and answer.json()["feed"]["state"] == "simulated"
        return False

    async def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not stop in 30 s:\n{self.log()[-4000:]}") from None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def pids(self, *words: str) -> list[int]:
        """Processes below run.py whose command line has all the words."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                if all(word in line for word in words):
                    found.append(child.pid)
        return sorted(found)

    def environment_of(self, *words: str) -> dict[str, str]:
        """The settings that run.py gave to a process: another host would be given the same."""
        environment = psutil.Process(self.pids(*words)[0]).environ()
        names = ("TIDEMARK_", "DATABASE_URL", "REDIS_URL")
        return {name: value for name, value in environment.items() if name.startswith(names)}

    async def silence_exchange(self) -> None:
        """Streams say nothing and REST answers 503, until :meth:`restore_exchange`."""
        await self.control("stall", new=True)
        await self.control("rest", status=503)

    async def restore_exchange(self) -> None:
        await self.control("resume")
        await self.control("rest")

    async def control(self, fault: str, **arguments: Any) -> dict[str, Any]:
        """Ask the local exchange for a fault."""
        async with httpx2.AsyncClient(base_url=self.simulator_url) as client:
            answer = await client.post(f"/control/{fault}", json=arguments)
            assert answer.status_code == 200, answer.text
            result: dict[str, Any] = answer.json()
            return result
