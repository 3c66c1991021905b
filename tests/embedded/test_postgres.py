"""The private PostgreSQL: up in a folder, whoever runs it; what was committed stays."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.embedded.errors import EmbeddedServerError
from app.embedded.postgres import EmbeddedPostgres

PARENT = """
import sys, time
from pathlib import Path
from app.embedded.postgres import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1]), sync_new_data=False).start(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "data", sync_new_data=False)
    yield server
    server.stop()


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_data_survive_a_restart(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    await query(url, "CREATE TABLE kept AS SELECT 0.1::numeric + 0.2 AS total")
    postgres.stop()

    assert str(await query(postgres.start(), "SELECT total FROM kept")) == "0.3"


async def test_data_survive_a_kill_of_the_server(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    await query(url, "CREATE TABLE kept AS SELECT 7 AS answer")
    assert postgres.process is not None
    postgres.process.kill()
    postgres.process.wait()

    assert postgres.start() == url
    assert await query(url, "SELECT answer FROM kept") == 7


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels tell nobody of a parent's death")
def test_the_server_ends_when_its_parent_is_killed_and_the_next_one_takes_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        asyncio.run(query(url, "CREATE TABLE kept AS SELECT 7 AS answer"))
        pid = int((tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        parent.kill()

    # At once, while the one before may still be shutting down.
    successor = EmbeddedPostgres(tmp_path)
    try:
        assert asyncio.run(query(successor.start(), "SELECT answer FROM kept")) == 7
        assert not is_alive(pid)
    finally:
        successor.stop()


async def test_only_its_owner_can_reach_the_server(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    url = postgres.start()

    assert await query(url, "SHOW listen_addresses") == ""
    assert stat.S_IMODE((tmp_path / "data" / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "postgres" / ".s.PGSQL.5432").stat().st_mode) == 0o700


async def test_commits_are_durable_before_they_are_acknowledged(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()

    assert await query(url, "SHOW synchronous_commit") == "on"
    assert await query(url, "SHOW fsync") == "on"


async def test_a_folder_may_be_closed_to_others_and_deeper_than_a_socket_path_can_be(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private / ("deep" * 30) / "with, comma & space", sync_new_data=False)
    try:
        assert await query(server.start(), "SELECT 1") == 1
    finally:
        server.stop()


def test_a_cluster_half_made_by_a_killed_process_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(tmp_path, sync_new_data=False)
    try:
        server.start()
    finally:
        server.stop()

    assert not (tmp_path / "postgres.new").exists()


def test_a_cluster_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir(mode=0o700)
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")

    with pytest.raises(EmbeddedServerError, match="was made by PostgreSQL 9"):
        EmbeddedPostgres(tmp_path).start()


def test_what_stopped_the_server_from_starting_is_said(tmp_path: Path) -> None:
    broken = EmbeddedPostgres(tmp_path, settings={"max_connections": "none"}, sync_new_data=False, patience_s=0.0)

    with pytest.raises(EmbeddedServerError, match="max_connections"):
        broken.start()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root")
def test_root_does_not_lend_the_server_its_rights(postgres: EmbeddedPostgres) -> None:
    postgres.start()

    assert postgres.process is not None
    assert Path(f"/proc/{postgres.process.pid}").stat().st_uid != 0


def test_a_stopped_server_stops_for_good(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert postgres.process is not None
    pid = postgres.process.pid

    postgres.stop()

    assert not is_alive(pid)
    assert postgres.process is None


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_server(postgres: EmbeddedPostgres) -> None:
    postgres.start()

    assert postgres.process is not None
    assert os.getsid(postgres.process.pid) != os.getsid(0)
