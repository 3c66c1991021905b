"""``run.py import FILE``: imports a file of fills for a user, without a web process."""

import asyncio
import csv
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.connection import BusUnavailable, connect
from app.domain.csv_text import csv_cell
from app.domain.imports import Import, RowFault, StoredTerms
from app.entry.accounts import find_account_of
from app.entry.process import holder_name
from app.entry.running import running_servers
from app.imports.job import HOLD_S, Desk, ImportJob, Outcome, Unlisted
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.imports import ImportRepository, ImportRunning, NotHeld
from app.settings import Settings
from app.supervision.problems import StartProblem

_BATCH_TIMEOUT_S = 60.0
_MOST_SHOWN = 20
_REPORT_EVERY_S = 2.0


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for. ``errors`` is where they are written to, as CSV."""

    path: Path
    username: str
    account: str | None = None
    is_dry_run: bool = False
    terms: StoredTerms = StoredTerms()
    errors: Path | None = None


def import_fills(settings: Settings, request: ImportRequest) -> None:
    """Import a file and say what came of it. Raises StartProblem where nothing was imported."""
    if not request.path.is_file():
        raise StartProblem(f"cannot read {request.path}")
    with running_servers(settings) as (database_url, redis_url):
        job, outcome = asyncio.run(_run(settings, request, database_url, redis_url))
    _report(request, job, outcome)


async def _run(
    settings: Settings, request: ImportRequest, database_url: str, redis_url: str
) -> tuple[ImportJob, Outcome]:
    engine = create_engine(database_url, pool_size=2, timeout_s=_BATCH_TIMEOUT_S)
    redis = connect(redis_url, settings.redis_timeout_s)
    desk = Desk(
        database=engine,
        redis=redis,
        redis_timeout_s=settings.redis_timeout_s,
        holder=holder_name(),
        max_open_positions=settings.max_open_positions_per_user,
    )
    try:
        one = await _begin(engine, request, desk.holder)
        job = ImportJob(desk, one, request.path)
        async with _cancelled_unless_finished(desk, one), _progress_shown(job):
            return job, await job.run()
    except (DatabaseUnavailable, BusUnavailable, Unlisted) as error:
        raise StartProblem(f"nothing was imported: {error}") from None
    except NotHeld:
        raise StartProblem("the import was cancelled") from None
    except ImportRunning:
        raise StartProblem(f"another import of {request.username} is not finished") from None
    finally:
        await redis.aclose()
        await engine.dispose()


async def _begin(engine: AsyncEngine, request: ImportRequest, holder: str) -> Import:
    """Ask for the import and take it."""
    import_id = str(uuid4())
    async with transaction(engine) as connection:
        user_id, account = await find_account_of(connection, request.username, request.account)
        repository = ImportRepository(connection)
        await repository.add(
            import_id=import_id,
            user_id=user_id,
            account_id=account.account_id,
            is_dry_run=request.is_dry_run,
            terms=request.terms,
            size_bytes=request.path.stat().st_size,
        )
        await repository.take(import_id, holder, HOLD_S)
        one = await repository.find(import_id)
    assert one is not None
    return one


@asynccontextmanager
async def _cancelled_unless_finished(desk: Desk, one: Import) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with suppress(DatabaseUnavailable):
            async with transaction(desk.database) as connection:
                await ImportRepository(connection).cancel(one.user_id, one.import_id, desk.now())
        raise


@asynccontextmanager
async def _progress_shown(job: ImportJob) -> AsyncIterator[None]:
    showing = asyncio.create_task(_show_progress(job), name="import.progress")
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})


async def _show_progress(job: ImportJob) -> None:
    size = max(1, job.one.size_bytes)
    while True:
        await asyncio.sleep(_REPORT_EVERY_S)
        progress = job.progress
        if progress.rows_total is None:
            _say(f"reading: {progress.bytes_read / size:.0%}, {progress.rows_read:,} rows, {job.faults.count:,} errors")
        else:
            _say(f"booking: {progress.rows_booked + progress.repeated_in_ledger:,} of {progress.rows_total:,} rows")


def _report(request: ImportRequest, job: ImportJob, outcome: Outcome) -> None:
    progress = job.progress
    if request.errors is not None:
        _write_errors(request.errors, job.faults.kept)
    for fault in job.faults.kept[:_MOST_SHOWN]:
        _say(_line(fault))
    if job.faults.count > _MOST_SHOWN:
        _say(f"and {job.faults.count - _MOST_SHOWN:,} more errors")
    if outcome.state != "done":
        raise StartProblem(f"{request.path.name}: {outcome.reason}")
    done = "could be booked (dry run: nothing was)" if request.is_dry_run else "booked"
    sys.stdout.write(
        f"{request.path.name} ({progress.format}): "
        f"{progress.rows_booked:,} of {progress.rows_total or 0:,} rows {done}; "
        f"{progress.repeated_in_ledger:,} were in the ledger, {progress.repeated_in_file:,} twice in the file, "
        f"{job.faults.count:,} had errors\n"
    )


def _write_errors(path: Path, faults: list[RowFault]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("row", "column", "reason"))
            writer.writerows((fault.row, fault.column, csv_cell(fault.reason)) for fault in faults)
    except OSError as error:
        raise StartProblem(f"cannot write {path}: {error.strerror}") from None


def _line(fault: RowFault) -> str:
    where = "" if fault.row is None else f"row {fault.row:,}"
    parts = [part for part in (where, fault.column) if part]
    return f"{', '.join(parts)}: {fault.reason}" if parts else fault.reason


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
