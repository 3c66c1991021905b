"""Real servers for the tests: started once per session, emptied or made anew for each test."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from app.bus.connection import connect
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from tests.pgbouncer import PROGRAM, PgBouncer

_TEMPLATE = "tidemark_template"

_THROWAWAY_SETTINGS = {
    # Commits stay synchronous: durability is under test. Only the machine's own crash is left out.
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "1GB",
}


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for servers, with a path short enough for their sockets."""
    directory = Path(tempfile.mkdtemp(prefix="tidemark-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(server_dir: Path) -> Iterator[str]:
    """A PostgreSQL server of this session's own; the URL is of its maintenance database."""
    server = EmbeddedPostgres(server_dir, settings=_THROWAWAY_SETTINGS, sync_new_data=False)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def _template_database(postgres_url: str) -> str:
    from app.repositories.migrate import upgrade

    _execute(postgres_url, f"CREATE DATABASE {_TEMPLATE}")
    _run(upgrade(_url_of(postgres_url, _TEMPLATE)))
    return _TEMPLATE


@pytest.fixture(scope="session")
def _database_names() -> Iterator[str]:
    return (f"test_{number}" for number in count())


@pytest.fixture
def database_url(postgres_url: str, _template_database: str, _database_names: Iterator[str]) -> Iterator[str]:
    """A migrated database of this test's own, dropped after it."""
    yield from _database(postgres_url, next(_database_names), _template_database)


@pytest.fixture
def empty_database_url(postgres_url: str, _database_names: Iterator[str]) -> Iterator[str]:
    """A database of this test's own that no migration has seen."""
    yield from _database(postgres_url, next(_database_names), "template1")


@pytest.fixture(scope="session")
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """A pooler in transaction mode before this session's PostgreSQL."""
    if not PROGRAM.exists():
        pytest.skip(f"PgBouncer is not installed ({PROGRAM})")
    pooler = PgBouncer(postgres_url)
    pooler.start()
    yield pooler
    pooler.stop()


@pytest.fixture(scope="session")
def redis_url(server_dir: Path) -> Iterator[str]:
    """A Redis server of this session's own."""
    server = EmbeddedRedis(server_dir)
    yield server.start()
    server.stop()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis."""
    client = connect(redis_url, 5.0)
    await client.flushall()
    yield client
    await client.aclose()


def _database(server_url: str, name: str, template: str) -> Iterator[str]:
    _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield _url_of(server_url, name)
    _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def _url_of(server_url: str, database: str) -> str:
    return server_url.replace("/postgres?", f"/{database}?")


def _execute(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    _run(execute())


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of its own thread, so that the loop of the test is left as it is."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()
