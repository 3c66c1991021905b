"""``run.py export TABLE``: writes a user's trades, positions or P&L into a file."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from app.bus.connection import BusUnavailable, connect
from app.bus.prices import read_prices
from app.domain.export_tables import TABLES, FileFormat, TableName
from app.domain.prices import Price
from app.entry.accounts import find_account_of
from app.entry.running import running_servers
from app.exports.writers import writer_of
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.exports import Wanted, export_rows
from app.settings import Settings
from app.supervision.problems import StartProblem

_TIMEOUT_S = 60.0


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for; ``output`` None is the standard output."""

    table: TableName
    username: str
    file_format: FileFormat = "csv"
    since: datetime | None = None
    until: datetime | None = None
    account: str | None = None
    output: Path | None = None


def export(settings: Settings, request: ExportRequest) -> None:
    """Write the file. Raises StartProblem."""
    if request.output is None and request.file_format == "parquet" and sys.stdout.isatty():
        raise StartProblem("Parquet is not for a screen: give --output FILE")
    with running_servers(settings) as (database_url, redis_url), _opened(request.output) as file:
        try:
            asyncio.run(_write(settings, request, database_url, redis_url, file))
        except (DatabaseUnavailable, BusUnavailable) as error:
            raise StartProblem(str(error)) from None
        except BrokenPipeError:
            # Whoever reads has seen enough. Python would complain when it flushes again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise StartProblem(f"cannot write {path}: {error.strerror}") from None


async def _write(settings: Settings, request: ExportRequest, database_url: str, redis_url: str, file: BinaryIO) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=_TIMEOUT_S)
    try:
        async with transaction(engine) as connection:
            user_id, account = await find_account_of(connection, request.username, request.account)
        prices = await _prices(settings, redis_url) if request.table == "pnl" else {}
        wanted = Wanted(
            user_id=user_id,
            table=request.table,
            since=request.since,
            until=request.until,
            account_id=None if request.account is None else account.account_id,
        )
        writer = writer_of(request.file_format, TABLES[request.table])
        file.write(writer.begin())
        async with aclosing(export_rows(engine, wanted, prices)) as pages:
            async for rows in pages:
                file.write(writer.rows(rows))
        file.write(writer.end())
    finally:
        await engine.dispose()


async def _prices(settings: Settings, redis_url: str) -> dict[str, Price]:
    redis = connect(redis_url, settings.redis_timeout_s)
    try:
        _, prices = await read_prices(redis, settings.redis_timeout_s)
    finally:
        await redis.aclose()
    return prices
