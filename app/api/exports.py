"""Exports: a table as a file, written while it is read."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import Path, Query, Response
from pydantic import Field, SkipValidation
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.api.authentication import Reader
from app.api.context import Opened, Web
from app.api.fields import Id, Moment, QueryParameters
from app.api.fills import find_account
from app.api.problems import Problem, unavailable
from app.api.routing import new_router
from app.domain.export_tables import TABLES, FileFormat, TableName
from app.exports.writers import MEDIA_TYPES, writer_of
from app.repositories.database import transaction
from app.repositories.exports import Wanted, export_rows

router = new_router("/api/v1/exports", "exports")

_LONGEST_SEND_S: Final = 30.0
"""A client that takes nothing for so long is let go: its rows are read at one moment of the database's."""

_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file. An amount is a decimal string, in Parquet a decimal of 38 digits with 18 places.",
        "content": {media_type.partition(";")[0]: {} for media_type in MEDIA_TYPES.values()},
    }
}


class ExportQuery(QueryParameters):
    """Which rows, and as which kind of file. ``from`` is included, ``to`` is not."""

    format: FileFormat = "csv"
    since: Annotated[Moment | None, Field(alias="from")] = None
    until: Annotated[Moment | None, Field(alias="to")] = None
    account_id: Id | None = None


TablePath = Annotated[TableName, SkipValidation(), Path()]
"""Documented as one of the tables; what is none is not found, as every path that leads nowhere."""


@router.get("/{table}", response_class=Response, responses=_FILES)
async def export_table(
    web: Opened, caller: Reader, table: TablePath, query: Annotated[ExportQuery, Query()]
) -> Response:
    """The caller's trades (by time), positions (by opening) or P&L (by account, strategy and symbol) as a file."""
    if table not in TABLES:
        raise Problem("not_found", f"There is no such table; there are {', '.join(TABLES)}.")
    if query.account_id is not None:
        async with transaction(web.database) as connection:
            await find_account(connection, caller, query.account_id)
    if web.exports.places.locked():
        raise unavailable("busy", "Too many exports are being written.")
    wanted = Wanted(
        user_id=caller.user_id, table=table, since=query.since, until=query.until, account_id=query.account_id
    )
    headers = {"Content-Disposition": f'attachment; filename="tidemark-{table}.{query.format}"'}
    return _TimedStream(_pieces(web, wanted, query.format), headers=headers, media_type=MEDIA_TYPES[query.format])


async def _pieces(web: Web, wanted: Wanted, file_format: FileFormat) -> AsyncGenerator[bytes]:
    async with web.exports.places:
        # Loading it the first time takes a tenth of a second.
        writer = await asyncio.to_thread(writer_of, file_format, TABLES[wanted.table])
        prices = dict(web.market.board.prices) if wanted.table == "pnl" else {}
        yield writer.begin()
        async with aclosing(export_rows(web.exports.database, wanted, prices)) as pages:
            async for rows in pages:
                # In a thread where it takes long: a row group of Parquet is some hundred milliseconds.
                yield await asyncio.to_thread(writer.rows, rows) if file_format == "parquet" else writer.rows(rows)
        yield await asyncio.to_thread(writer.end)


class _TimedStream(StreamingResponse):
    """A stream that ends when its reader stands still."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(_LONGEST_SEND_S):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        finally:
            # However it ended: what it reads from is let go now, and not when somebody collects it.
            await self.body_iterator.aclose()  # type: ignore[attr-defined]
