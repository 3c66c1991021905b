"""Has imports worked on: one at a time in this process's care, each in a process of its own.

A process of its own keeps the work of minutes out of the way of a stream of ten
frames a second, gives its memory back, and can be ended at any moment. Several
runners share the imports; one that dies leaves its import to whoever has the file.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, NoReturn

import structlog
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.imports import Progress
from app.imports.job import HOLD_S
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.import_files import ImportFolder
from app.repositories.imports import ImportRepository, NotHeld

log = structlog.get_logger(__name__)

Launch = Callable[[str, str], Awaitable[int]]
"""Works on an import as its holder, in a process of its own, and gives the exit code."""

_LOOK_EVERY_S: Final = 5.0
_TIDY_EVERY_S: Final = 60.0
_MOST_LOOKED_AT: Final = 100
_MOST_ATTEMPTS: Final = 3
_ABANDONED_AFTER_S: Final = 3600.0
_FORGOTTEN_AFTER_S: Final = 3600.0
"""How old a file without an import must be: one that is arriving has none yet."""


class ImportRunner:
    """Finds imports whose file is here, and has them worked on."""

    def __init__(
        self, database: AsyncEngine, folder: ImportFolder, launch: Launch, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._folder = folder
        self._launch = launch
        self._now = now
        self._wake = asyncio.Event()
        self._tidied_at = -_TIDY_EVERY_S

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        while True:
            try:
                await self._tidy_now_and_then()
                while await self._work_on_one():
                    pass
            except DatabaseUnavailable as error:
                log.warning("imports.unavailable", reason=str(error))
            except ProgrammingError as error:
                # The database is not migrated yet: readiness says so, and this waits.
                log.warning("imports.unavailable", reason=type(error.orig).__name__)
            except OSError as error:
                log.warning("imports.folder_unusable", reason=str(error))
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _work_on_one(self) -> bool:
        """Have the oldest import worked on that can be. False where there is none."""
        holder = secrets.token_hex(8)
        import_id = await self._take(holder)
        if import_id is None:
            return False
        exit_code = await self._launch(import_id, holder)
        if exit_code == 0:
            self._folder.forget(import_id)
        else:
            # It is taken again when it is not held any more: by us, or by whoever else has the file.
            log.warning("import.broke_off", import_id=import_id, exit_code=exit_code)
        return exit_code == 0

    async def _take(self, holder: str) -> str | None:
        kept = self._folder.kept()
        async with transaction(self._database) as connection:
            repository = ImportRepository(connection)
            for import_id in await repository.unheld(_MOST_LOOKED_AT) if kept else ():
                if self._folder.file(import_id).exists() and await repository.take(import_id, holder, HOLD_S):
                    return None if await self._is_hopeless(repository, import_id, holder) else import_id
        return None

    async def _is_hopeless(self, repository: ImportRepository, import_id: str, holder: str) -> bool:
        """Whether it broke off too often; then it is ended."""
        one = await repository.find(import_id)
        if one is None or one.attempts <= _MOST_ATTEMPTS:
            return False
        reason = f"broke off {_MOST_ATTEMPTS} times"
        with suppress(NotHeld):
            await repository.finish(
                import_id, holder, "failed", Progress(format=one.terms.format), reason=reason, now=self._now()
            )
        return True

    async def _tidy_now_and_then(self) -> None:
        """End imports whose file went with its host, and forget files whose import is finished."""
        if time.monotonic() - self._tidied_at < _TIDY_EVERY_S:
            return
        async with transaction(self._database) as connection:
            repository = ImportRepository(connection)
            for import_id in await repository.abandon(_ABANDONED_AFTER_S, "nobody could read its file any more"):
                log.warning("import.abandoned", import_id=import_id)
            kept = self._folder.kept()
            unfinished = await repository.unfinished_of(list(kept))
        for import_id, written_at in kept.items():
            if import_id not in unfinished and time.time() - written_at > _FORGOTTEN_AFTER_S:
                self._folder.forget(import_id)
        self._tidied_at = time.monotonic()
