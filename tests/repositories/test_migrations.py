"""The schema in the database is the schema in the code."""

import asyncio
from collections.abc import Iterable
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, text

from app.repositories.database import create_engine, transaction
from app.repositories.migrate import is_current, upgrade
from app.repositories.tables import metadata


async def test_migrated_tables_are_the_tables_of_the_code(database_url: str) -> None:
    def differences(connection: Connection) -> Iterable[Any]:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    engine = create_engine(database_url, pool_size=1, timeout_s=5)
    async with transaction(engine) as connection:
        found = await connection.run_sync(differences)
        names = set(await connection.scalars(text("SELECT conname FROM pg_constraint WHERE contype = 'c'")))
        indexes = set(await connection.scalars(text("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")))
    await engine.dispose()

    assert list(found) == []
    checks = {
        str(constraint.name)
        for table in metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    assert checks <= names
    assert {str(index.name) for table in metadata.tables.values() for index in table.indexes} <= indexes


async def test_a_version_serves_on_a_schema_that_a_newer_one_has_migrated(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, timeout_s=5)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'of a newer version'"))

    assert await is_current(engine)
    await engine.dispose()


async def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    engine = create_engine(empty_database_url, pool_size=1, timeout_s=5)
    before = await is_current(engine)

    await asyncio.gather(*(upgrade(empty_database_url) for _ in range(4)))

    after = await is_current(engine)
    await engine.dispose()
    assert (before, after) == (False, True)
