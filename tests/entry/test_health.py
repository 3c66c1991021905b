"""What a container's health check asks: does the web answer, does somebody hold the worker's lease."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from app.repositories.database import create_engine
from app.repositories.leases import LeaseRepository
from app.supervision.claims import free_port


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Alive) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def ask(subject: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.entry.health", subject],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_web_process_that_answers_is_well(web_port: int) -> None:
    assert ask("web", TIDEMARK_PORT=str(web_port)).returncode == 0


def test_a_web_process_that_does_not_answer_is_not_well() -> None:
    asked = ask("web", TIDEMARK_PORT=str(free_port("127.0.0.1")))

    assert asked.returncode == 1
    assert "unhealthy: " in asked.stderr
    assert "Traceback" not in asked.stderr


async def test_a_worker_is_well_while_somebody_holds_its_lease(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=5.0)
    leases = LeaseRepository(engine)
    servers = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1"}
    assert ask("price", **servers).returncode == 1

    epoch = await leases.acquire("price", "somebody", 60_000)
    assert ask("price", **servers).returncode == 0
    assert ask("pnl", **servers).returncode == 1

    assert epoch is not None
    await leases.release("price", "somebody", epoch)
    assert ask("price", **servers).returncode == 1
    await engine.dispose()


def test_a_database_that_is_away_is_not_well() -> None:
    asked = ask("price", DATABASE_URL="postgresql://x:y@127.0.0.1:1/x", REDIS_URL="redis://127.0.0.1:1")

    assert asked.returncode == 1
    assert "Traceback" not in asked.stderr
