"""run.py: what can go wrong at the start is one line saying what to do, and an exit code."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from app.entry.one_machine import Plan, run_one_machine
from app.settings import Settings
from app.supervision.claims import claimed_folder, free_port
from app.supervision.problems import StartProblem
from app.supervision.screen import Screen
from tests.redis_servers import ClusterServers

PROJECT = Path(__file__).parents[2]
COMMANDS = [
    "all",
    "web",
    "price-worker",
    "pnl-worker",
    "simulator",
    "migrate",
    "check",
    "reconcile",
    "import",
    "export",
]


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TIDEMARK_") and name not in {"DATABASE_URL", "REDIS_URL"}
    }
    return subprocess.run(
        [sys.executable, str(PROJECT / "run.py"), *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The lines on stderr, of which none may be a traceback."""
    assert result.returncode not in {0, -15}
    assert "Traceback" not in result.stderr
    assert all(line.startswith("tidemark: ") for line in result.stderr.splitlines()), result.stderr
    return result.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(run.cli, [command, "--help"])

    assert result.exit_code == 0
    assert f" {command} [OPTIONS]" in result.output


def test_every_command_of_the_design_is_there() -> None:
    named = {command.name or command.callback.__name__ for command in run.cli.registered_commands if command.callback}
    assert set(COMMANDS) <= named


def test_bad_settings_are_named_one_to_a_line() -> None:
    result = start(TIDEMARK_PORT="many", TIDEMARK_FLUSH_MS="1", TIDEMARK_PUBLIC_ORIGINS="*")

    lines = complaint(result).splitlines()
    assert result.returncode == 78
    assert [line.split("=")[0] for line in lines] == [
        "tidemark: bad setting TIDEMARK_PORT",
        "tidemark: bad setting TIDEMARK_PUBLIC_ORIGINS",
        "tidemark: bad setting TIDEMARK_FLUSH_MS",
    ]


def test_a_port_in_use_is_said_before_anything_is_started(taken_port: int, tmp_path: Path) -> None:
    result = start("--port", str(taken_port), "--data-dir", str(tmp_path / "data"), "--no-page")

    assert f"port {taken_port} on 127.0.0.1 is in use" in complaint(result)
    assert "--port" in result.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_an_address_of_another_machine_is_said(tmp_path: Path) -> None:
    result = start("--host", "host.invalid", "--no-page", "--data-dir", str(tmp_path))

    assert "TIDEMARK_HOST" in complaint(result)


def test_an_unusable_data_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    result = start("--port", "59731", "--data-dir", str(tmp_path / "file" / "data"), "--no-page")

    assert "cannot be used: Not a directory" in complaint(result)
    assert "--data-dir" in result.stderr


def test_a_second_copy_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with claimed_folder(tmp_path):
        result = start("--port", "59731", "--data-dir", str(tmp_path), "--no-page")

    assert f"another Tidemark (process {os.getpid()}) already uses {tmp_path}" in complaint(result)


def test_the_demo_keeps_its_data_apart(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)

    assert Plan(settings, is_demo=False, page=None).data_dir == tmp_path
    assert Plan(settings, is_demo=True, page=None).data_dir == tmp_path / "demo"


def test_a_page_that_was_not_built_is_said(tmp_path: Path) -> None:
    plan = Plan(Settings(data_dir=tmp_path / "data"), is_demo=False, page=tmp_path / "index.html")

    with pytest.raises(StartProblem, match="make page"):
        run_one_machine(plan, Screen())


@pytest.mark.parametrize("command", ["web", "price-worker", "pnl-worker"])
def test_a_single_process_says_which_servers_it_needs(command: str, tmp_path: Path) -> None:
    result = start(command, TIDEMARK_DATA_DIR=str(tmp_path))

    assert result.returncode == 78
    assert "DATABASE_URL and REDIS_URL must be set" in complaint(result)


def test_a_database_that_cannot_be_reached_is_said_without_its_password() -> None:
    result = start("migrate", DATABASE_URL="postgresql://someone:hidden@127.0.0.1:1/tidemark")

    assert "cannot migrate postgresql://someone:***@127.0.0.1:1/tidemark" in complaint(result)


def test_check_shows_the_settings_without_secrets_and_fails_when_something_does_not_answer() -> None:
    result = start(
        "check",
        DATABASE_URL="postgresql://someone:hidden@127.0.0.1:1/tidemark",
        REDIS_URL="redis://:hidden@127.0.0.1:1",
        TIDEMARK_SIMULATOR_URL="http://127.0.0.1:1",
    )

    assert "no answer from PostgreSQL, Redis, exchange" in complaint(result)
    assert "postgresql://someone:***@127.0.0.1:1/tidemark" in result.stdout
    assert "hidden" not in result.stdout + result.stderr


@pytest.mark.parametrize("command", ["check", "web"])
def test_a_redis_url_that_names_nothing_is_said_in_one_line_without_its_passwords(command: str) -> None:
    result = start(command, REDIS_URL="redis+sentinel://:hidden@127.0.0.1:1?sentinel_password=hidden")

    assert result.returncode == 78
    assert "names no service: redis+sentinel://host:26379/service" in complaint(result)
    assert "bad setting" in complaint(result)
    assert "hidden" not in result.stdout + result.stderr


def test_check_tells_the_shards_of_a_cluster(cluster_servers: ClusterServers) -> None:
    result = start("check", REDIS_URL=cluster_servers.url, TIDEMARK_SIMULATOR_URL="http://127.0.0.1:1")

    assert "in 3 shards at redis+cluster://:***@127.0.0.1:" in result.stdout


def test_migrate_and_check_succeed_on_servers_that_answer(empty_database_url: str, redis_url: str) -> None:
    migrated = start("migrate", DATABASE_URL=empty_database_url)
    checked = start(
        "check",
        DATABASE_URL=empty_database_url,
        REDIS_URL=redis_url,
        TIDEMARK_SIMULATOR_URL="http://127.0.0.1:1",
    )

    assert migrated.returncode == 0, migrated.stderr
    assert "✓ PostgreSQL" in checked.stdout
    assert "✓ Redis" in checked.stdout


def test_a_process_told_to_stop_stops_without_complaint() -> None:
    with subprocess.Popen(
        [sys.executable, str(PROJECT / "run.py"), "simulator", "--port", str(free_port("127.0.0.1"))],
        stderr=subprocess.PIPE,
        text=True,
    ) as simulator:
        assert simulator.stderr is not None
        assert "process.started" in simulator.stderr.readline()
        simulator.terminate()
        said = simulator.stderr.read()

    assert simulator.returncode == 0
    assert "Traceback" not in said
