"""Migrating from the command line: one line when it cannot be done."""

import asyncio
from contextlib import ExitStack

from app.embedded.errors import EmbeddedServerError
from app.embedded.postgres import EmbeddedPostgres
from app.entry.configuration import redacted
from app.repositories.database import DatabaseUnavailable
from app.repositories.migrate import upgrade
from app.settings import Settings
from app.supervision.claims import claimed_folder
from app.supervision.problems import StartProblem


def migrate(database_url: str) -> None:
    """Bring the database to this version's schema. Raises StartProblem."""
    try:
        asyncio.run(upgrade(database_url))
    except DatabaseUnavailable as error:
        raise StartProblem(f"cannot migrate {redacted(database_url)}: {error}") from None


def migrate_configured(settings: Settings) -> None:
    """Migrate the database of the settings, or the embedded one. Raises StartProblem."""
    if settings.database_url:
        migrate(settings.database_url)
        return
    with ExitStack() as opened:
        opened.enter_context(claimed_folder(settings.data_dir))
        server = EmbeddedPostgres(settings.data_dir)
        opened.callback(server.stop)
        try:
            migrate(server.start())
        except EmbeddedServerError as error:
            raise StartProblem(str(error)) from None
