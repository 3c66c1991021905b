"""``run.py import`` and ``run.py export``: what they say, and what they leave."""

import asyncio
import csv
import io
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.prices import write_instruments
from app.domain.imports import StoredTerms
from app.entry.export import ExportRequest, export
from app.entry.import_fills import ImportRequest, import_fills
from app.repositories.database import create_engine
from app.settings import Settings
from app.supervision.problems import StartProblem
from tests.imports.conftest import INSTRUMENTS, new_holder

HEADER = "symbol,side,quantity,price,executed_at,trade_id\n"
FILLS = HEADER + "BTCUSDT,buy,1,100,2024-05-01T12:00:00Z,a\nBTCUSDT,sell,1,110,2024-05-01T13:00:00Z,b\n"
PROJECT = Path(__file__).parents[2]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=2, timeout_s=10)
    yield made
    await made.dispose()


@pytest.fixture
async def settings(database_url: str, redis_url: str, redis: Redis, engine: AsyncEngine) -> Settings:
    """Settings of running servers, with instruments listed and a user named alice."""
    await write_instruments(redis, INSTRUMENTS, 5.0)
    await new_holder(engine, "alice")
    return Settings(_env_file=None, DATABASE_URL=database_url, REDIS_URL=redis_url)  # type: ignore[call-arg]


@pytest.fixture
def fills(tmp_path: Path) -> Path:
    path = tmp_path / "fills.csv"
    path.write_text(FILLS)
    return path


async def run_import(settings: Settings, path: Path, **more: Any) -> None:
    """As the command does it: on a loop of its own."""
    await asyncio.to_thread(import_fills, settings, ImportRequest(path=path, username="alice", **more))


async def count(database_url: str, table: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return found
    finally:
        await connection.close()


async def test_a_file_is_imported_and_exported(
    settings: Settings, fills: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await run_import(settings, fills)
    await run_import(settings, fills)

    said = capsys.readouterr().out.splitlines()
    assert said == [
        "fills.csv (generic): 2 of 2 rows booked; 0 were in the ledger, 0 twice in the file, 0 had errors",
        "fills.csv (generic): 0 of 2 rows booked; 2 were in the ledger, 0 twice in the file, 0 had errors",
    ]
    target = tmp_path / "pnl.parquet"
    await asyncio.to_thread(
        export, settings, ExportRequest(table="pnl", username="ALICE", file_format="parquet", output=target)
    )
    assert [str(total) for total in pq.read_table(target).column("realized_pnl").to_pylist()] == [
        "10.000000000000000000"
    ]
    target = tmp_path / "trades.csv"
    await asyncio.to_thread(export, settings, ExportRequest(table="trades", username="alice", output=target))
    assert [row["trade_id"] for row in csv.DictReader(io.StringIO(target.read_text()))] == ["a", "b"]


async def test_a_dry_run_books_nothing(
    settings: Settings, fills: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await run_import(settings, fills, is_dry_run=True)

    assert "2 of 2 rows could be booked (dry run: nothing was)" in capsys.readouterr().out
    assert await count(database_url, "trades") == 0


async def test_errors_are_said_and_written(
    settings: Settings, tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, errors = tmp_path / "wrong.csv", tmp_path / "errors.csv"
    path.write_text(FILLS + "BTCUSDT,hold,1,1,2024-05-01T12:00:00Z,\n" * 30)

    with pytest.raises(StartProblem, match=r"wrong.csv: 30 errors: nothing was booked"):
        await run_import(settings, path, errors=errors)

    said = capsys.readouterr().err.splitlines()
    assert said[0] == "row 4, side: 'hold' is not buy or sell"
    assert said[-1] == "and 10 more errors"
    assert len(errors.read_text().splitlines()) == 31
    assert await count(database_url, "trades") == 0
    await run_import(settings, path, terms=StoredTerms(skip_errors=True))
    assert await count(database_url, "trades") == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"username": "nobody"}, "there is no user nobody"),
        ({"account": "Other"}, "alice has no account Other; there are Main"),
        ({"path": Path("/nowhere.csv")}, "cannot read /nowhere.csv"),
    ],
)
async def test_what_is_not_there_is_said(settings: Settings, fills: Path, change: Any, reason: str) -> None:
    request = ImportRequest(**{"path": fills, "username": "alice", **change})

    with pytest.raises(StartProblem, match=reason):
        await asyncio.to_thread(import_fills, settings, request)


async def test_an_import_that_is_interrupted_is_cancelled(
    settings: Settings, tmp_path: Path, database_url: str
) -> None:
    path = tmp_path / "many.csv"
    rows = (f"BTCUSDT,buy,1,100,2024-05-01T12:00:00Z,{number}\n" for number in range(300_000))
    path.write_text(HEADER + "".join(rows))
    environment = {"DATABASE_URL": str(settings.database_url), "REDIS_URL": str(settings.redis_url), "PATH": ""}
    command = [sys.executable, str(PROJECT / "run.py"), "import", str(path), "--user", "alice"]
    process = await asyncio.create_subprocess_exec(
        # Who runs the tests in the background has them ignore the signal, and with them what they start.
        *command,
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    async with asyncio.timeout(60):
        while not await count(database_url, "imports WHERE state = 'running'"):
            await asyncio.sleep(0.02)

    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()

    assert process.returncode == 130
    assert b"Traceback" not in said
    assert await count(database_url, "imports WHERE state = 'cancelled'") == 1
    assert await count(database_url, "trades") == 0
