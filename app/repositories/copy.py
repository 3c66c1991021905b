"""Writing rows by the thousand: COPY in its text form.

The text form needs no prepared statement, so it works behind a pooler as the
rest does. Every failure is one that the repositories know.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.database import DatabaseUnavailable, is_passing

NULL: Final = r"\N"

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def copy_text(value: Any) -> str:
    """One value as COPY reads it."""
    if value is None:
        return NULL
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode().translate(_ESCAPES)
    return str(value)


def copy_line(values: Iterable[Any]) -> str:
    return "\t".join(map(copy_text, values)) + "\n"


async def copy_in(connection: AsyncConnection, table: str, columns: Sequence[str], lines: list[str]) -> None:
    """Add rows, as lines of :func:`copy_line`. Raises DatabaseUnavailable."""
    if not lines:
        return
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert driver is not None
    # Bytes themselves would be taken for the name of a file.
    source = memoryview("".join(lines).encode())
    try:
        await driver.copy_to_table(table, source=source, columns=list(columns), format="text")
    except asyncpg.PostgresError as error:
        if not is_passing(error.sqlstate):
            raise
        raise DatabaseUnavailable(f"the database cannot serve now: {error.sqlstate}") from error
    except (asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise DatabaseUnavailable(f"the database connection failed: {type(error).__name__}") from error
