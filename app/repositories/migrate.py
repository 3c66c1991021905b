"""Bringing a database to the schema of this version, from code: no ini file, no working directory."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.database import create_engine, transaction

_LOCK = 0x7469646D61726B  # "tidmark", any number that nothing else uses
_LONGEST_STATEMENT_S = 600
_LONGEST_TABLE_WAIT_S = 10


async def upgrade(url: str) -> None:
    """Run all missing migrations in one transaction. Several callers at once wait for each other.

    Raises:
        DatabaseUnavailable: not reachable, or a table stayed locked.
    """
    engine = create_engine(url, pool_size=1, timeout_s=_LONGEST_STATEMENT_S)
    try:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            # Rather fail than queue every request of a running system behind this one.
            await connection.execute(text(f"SET LOCAL lock_timeout = '{_LONGEST_TABLE_WAIT_S}s'"))
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def is_current(engine: AsyncEngine) -> bool:
    """Whether the database has every migration that this version knows. Raises DatabaseUnavailable.

    One that it does not know came with a newer version: during a deployment both run, and serve.
    """
    async with transaction(engine) as connection:
        return await connection.run_sync(_is_current)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_current(connection: Connection) -> bool:
    scripts = ScriptDirectory.from_config(_config())
    current = set(MigrationContext.configure(connection).get_current_heads())
    known = {script.revision for script in scripts.walk_revisions()}
    return bool(current - known) or current == set(scripts.get_heads())
