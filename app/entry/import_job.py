"""One import, worked on in this process: started by a web process, ended when it is done.

``python -m app.entry.import_job IMPORT HOLDER``. Exit code 0 says that the import
is finished, whatever came of it; any other that it can be tried again.
"""

import asyncio
import os
import sys
from contextlib import suppress

import structlog

from app.bus.connection import BusUnavailable, connect
from app.domain.imports import Progress
from app.entry.configuration import external_servers, load_settings
from app.entry.process import run_process
from app.imports.job import Desk, ImportJob, Unlisted
from app.repositories.database import DatabaseUnavailable, create_engine, transaction
from app.repositories.import_files import ImportFolder
from app.repositories.imports import ImportRepository, NotHeld
from app.settings import Settings

log = structlog.get_logger(__name__)

_BATCH_TIMEOUT_S = 60.0
"""For a statement that writes thousands of rows, or deletes the positions of a chain."""

_NICE = 5
"""Streams and requests come first."""


def main(import_id: str, holder: str) -> None:
    """Work on an import that was taken for ``holder``."""
    os.nice(_NICE)
    settings = load_settings()
    run_process("import", settings, lambda: _work(settings, import_id, holder))


async def _work(settings: Settings, import_id: str, holder: str) -> None:
    database_url, redis_url = external_servers(settings)
    engine = create_engine(database_url, pool_size=2, timeout_s=_BATCH_TIMEOUT_S)
    redis = connect(redis_url, settings.redis_timeout_s)
    desk = Desk(
        database=engine,
        redis=redis,
        redis_timeout_s=settings.redis_timeout_s,
        holder=holder,
        max_open_positions=settings.max_open_positions_per_user,
    )
    try:
        await _work_at(desk, ImportFolder(settings.import_folder), import_id)
    finally:
        await redis.aclose()
        await engine.dispose()


async def _work_at(desk: Desk, folder: ImportFolder, import_id: str) -> None:
    async with transaction(desk.database) as connection:
        one = await ImportRepository(connection).find(import_id)
    if one is None:
        return
    job = ImportJob(desk, one, folder.file(import_id), folder.spool(import_id))
    try:
        outcome = await job.run()
        log.info("import.ended", import_id=import_id, state=outcome.state, rows=job.progress.rows_read)
    except NotHeld:
        # Cancelled, or somebody else's by now: there is nothing left to do here.
        log.info("import.lost", import_id=import_id)
    except (DatabaseUnavailable, BusUnavailable, Unlisted) as error:
        log.warning("import.interrupted", import_id=import_id, reason=str(error))
        await _release(desk, import_id)
        sys.exit(1)
    except asyncio.CancelledError:
        # Told to stop: the next to look goes on at once.
        await _release(desk, import_id)
        raise
    except Exception:
        # A bug would meet the same file again.
        log.exception("import.failed", import_id=import_id)
        await _fail(desk, import_id, job.progress)


async def _release(desk: Desk, import_id: str) -> None:
    with suppress(NotHeld, DatabaseUnavailable):
        async with transaction(desk.database) as connection:
            await ImportRepository(connection).release(import_id, desk.holder)


async def _fail(desk: Desk, import_id: str, progress: Progress) -> None:
    with suppress(NotHeld):
        async with transaction(desk.database) as connection:
            await ImportRepository(connection).finish(
                import_id, desk.holder, "failed", progress, reason="an error here, which was recorded", now=desk.now()
            )


if __name__ == "__main__":
    main(*sys.argv[1:3])
