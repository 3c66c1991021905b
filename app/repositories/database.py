"""The connection to PostgreSQL: how it is made, what a transaction is, how its failures are named.

Works behind PgBouncer in transaction mode: statements are prepared without a
name and never cached, nothing outlives a transaction, and no start-up
parameter is sent that a pooler would refuse.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_LONGEST_POOL_WAIT_S = 1.0

# Classes and codes of SQLSTATE that say "not now" and nothing about the request: connection,
# rollback by conflict, resources, operator, system, read-only, lock timeout.
_PASSING = ("08", "40", "53", "57", "58", "25006", "55P03")


class DatabaseUnavailable(Exception):
    """PostgreSQL cannot be reached, is too slow, or refuses for a reason that passes.

    ``outcome_unknown`` is true when the commit itself failed: it may have happened.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


def create_engine(url: str, *, pool_size: int, timeout_s: float) -> AsyncEngine:
    """An engine for a ``postgresql://`` or ``postgresql+asyncpg://`` URL. Connects on first use.

    ``timeout_s`` bounds each statement, at the server and, a little later, here.
    """
    target = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in target.query:  # libpq's name for what asyncpg calls ssl
        mode = target.query["sslmode"]
        target = target.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    engine = create_async_engine(
        target,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=min(timeout_s, _LONGEST_POOL_WAIT_S),
        pool_pre_ping=True,
        connect_args={
            "timeout": timeout_s,
            "command_timeout": timeout_s + 1,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
        },
    )
    _limit_statements(engine, timeout_s)
    return engine


def _limit_statements(engine: AsyncEngine, timeout_s: float) -> None:
    """Begin every transaction with a statement timeout: a session setting would not survive a pooler."""
    statement = f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}"

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine.sync_engine, "begin", begun)


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """One transaction: committed when the block ends, rolled back when it raises.

    Raises:
        DatabaseUnavailable: for everything that may pass by waiting.
    """
    committing = False
    try:
        async with engine.begin() as connection:
            yield connection
            committing = True
    except (DBAPIError, PoolTimeout, OSError, TimeoutError) as error:
        if (reason := _passing_reason(error)) is None:
            raise
        raise DatabaseUnavailable(reason, outcome_unknown=committing) from error


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A read-only transaction in which every statement sees the same moment. Raises DatabaseUnavailable."""
    frozen = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    async with transaction(frozen) as connection:
        yield connection


def violated(error: IntegrityError) -> str | None:
    """The name of the constraint that a statement broke."""
    cause: Any = getattr(error.orig, "__cause__", None)
    name: str | None = getattr(cause, "constraint_name", None)
    return name


def is_passing(state: object) -> bool:
    """Whether a SQLSTATE says "not now" and nothing about the statement."""
    return isinstance(state, str) and state.startswith(_PASSING)


def _passing_reason(error: Exception) -> str | None:
    """Why the database cannot serve now, or None if the statement itself is wrong."""
    if isinstance(error, PoolTimeout):
        return "no database connection became free in time"
    if not isinstance(error, DBAPIError):
        return f"the database cannot be reached: {type(error).__name__}"
    state = getattr(error.orig, "sqlstate", None)
    if error.connection_invalidated or is_passing(state):
        return f"the database cannot serve now: {state or 'connection lost'}"
    if state is None and type(error.orig).__name__ in {"InterfaceError", "OperationalError"}:
        return "the database connection failed"
    return None
