"""Imports: a file of fills is taken whole, then worked on beside; how far it is and what came of it can be asked."""

import asyncio
import csv
import io
from typing import Annotated, Any, BinaryIO, Final, Literal
from uuid import uuid4

from fastapi import Path, Query, Request, Response
from pydantic import Field

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader, Trader
from app.api.context import ImportIntake, Opened, Web
from app.api.fields import Id, QueryParameters, Strategy, is_id
from app.api.fills import find_account
from app.api.paging import Cursor, Limit, offset_of, page_by_place, place_of
from app.api.problems import Problem, unavailable
from app.api.routing import new_router
from app.domain.csv_text import csv_cell
from app.domain.import_formats import FormatName
from app.domain.imports import MOST_FAULTS_KEPT, Import, StoredTerms, fault_statement, import_statement
from app.repositories.database import transaction
from app.repositories.imports import ImportRepository, ImportRunning
from app.repositories.paging import Place

router = new_router("/api/v1/imports", "imports", raw_bodies=True)

_MEDIA_TYPES: Final = ("text/csv", "application/json", "application/x-ndjson", "application/jsonl")
_LONGEST_SILENCE_S: Final = 20.0
_LONGEST_UPLOAD_S: Final = 3600.0
_WRITTEN_AT_ONCE: Final = 1 << 20

_FILE: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "The file itself: CSV with a header, a JSON array, or one JSON object a line.",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in _MEDIA_TYPES},
    }
}


class NewImport(QueryParameters):
    """How the file is to be read, and what is to be done with it.

    ``fees`` says how the file writes a fee that was paid. ``utc_offset`` is that
    of times which do not say theirs.
    """

    dry_run: bool = False
    format: FormatName | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None
    utc_offset: Annotated[str, Field(pattern=r"^[+-](0[0-9]|1[0-4]):[0-5][0-9]$")] = "+00:00"
    fees: Literal["positive", "negative"] = "positive"
    skip_errors: bool = False


class ImportPage(QueryParameters):
    """Which page of the list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class FaultPage(ImportPage):
    """Which page of the errors; ``csv`` is all of them as a file."""

    format: Literal["json", "csv"] = "json"


ImportId = Annotated[str, Path()]


@router.post("", status_code=202, response_model=bodies.ImportBody, openapi_extra=_FILE)
async def create_import(
    web: Opened, caller: Trader, request: Request, wanted: Annotated[NewImport, Query()]
) -> Response:
    """Take a file of fills. Nothing is booked before all of it is checked, and then all of it or nothing is."""
    _judge_media_type(request)
    account_id = await _account_of(web, caller, wanted.account_id)
    import_id = str(uuid4())
    files = web.imports.files
    try:
        size = await _receive(web.imports, request, import_id)
        one = await _add(web, caller, account_id, import_id, wanted, size)
    except OSError as error:
        await asyncio.to_thread(files.forget, import_id)
        raise unavailable("unavailable", "Files cannot be taken at the moment.") from error
    except BaseException:
        files.forget(import_id)
        raise
    web.imports.wake()
    return json_answer(import_statement(one), 202, {"Location": f"/api/v1/imports/{import_id}"})


@router.get("", response_model=bodies.ImportList)
async def list_imports(web: Opened, caller: Reader, wanted: Annotated[ImportPage, Query()]) -> Response:
    """The caller's imports, the newest first."""
    after = place_of(wanted.cursor)
    async with transaction(web.database) as connection:
        rows = await ImportRepository(connection).page(caller.user_id, limit=wanted.limit + 1, after=after)
    return page_by_place(rows, wanted.limit, lambda one: Place(one.created_at, one.import_id), import_statement)


@router.get("/{import_id}", response_model=bodies.ImportBody)
async def get_import(web: Opened, caller: Reader, import_id: ImportId) -> Response:
    """How far an import is, or how it ended."""
    return json_answer(import_statement(await _find(web, caller, import_id)))


@router.get("/{import_id}/errors", response_model=bodies.ImportFaultList)
async def list_import_errors(
    web: Opened, caller: Reader, import_id: ImportId, wanted: Annotated[FaultPage, Query()]
) -> Response:
    """What is wrong with the file, row by row; the first thousand are kept."""
    await _find(web, caller, import_id)
    as_file = wanted.format == "csv"
    after = offset_of(wanted.cursor)
    limit = MOST_FAULTS_KEPT if as_file else wanted.limit + 1
    async with transaction(web.database) as connection:
        found = await ImportRepository(connection).errors(import_id, after=0 if as_file else after, limit=limit)
    if as_file:
        return _csv([(fault.row, fault.column, fault.reason) for _, fault in found], import_id)
    shown = found[: wanted.limit]
    cursor = str(shown[-1][0]) if len(found) > wanted.limit else None
    return json_answer({"items": [fault_statement(fault) for _, fault in shown], "next_cursor": cursor})


@router.delete("/{import_id}", status_code=204)
async def cancel_import(web: Opened, caller: Trader, import_id: ImportId) -> Response:
    """End an import before it is booked: then nothing of it is."""
    await _find(web, caller, import_id)
    async with transaction(web.database) as connection:
        is_cancelled = await ImportRepository(connection).cancel(caller.user_id, import_id, web.now())
    if not is_cancelled:
        raise Problem("import_finished", "It has ended already.")
    return Response(status_code=204)


def _judge_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise Problem("unsupported_media_type", f"Send the file as {', '.join(_MEDIA_TYPES[:-1])}.")


async def _account_of(web: Web, caller: Caller, account_id: str | None) -> str:
    """The account to book in. Raises Problem also while an import of the user runs: before its file is taken."""
    async with transaction(web.database) as connection:
        account = await find_account(connection, caller, account_id)
        if await ImportRepository(connection).has_unfinished(caller.user_id):
            raise _running()
    return account.account_id


async def _add(web: Web, caller: Caller, account_id: str, import_id: str, wanted: NewImport, size: int) -> Import:
    terms = StoredTerms(
        format=wanted.format,
        strategy=wanted.strategy or "",
        utc_offset_minutes=_minutes(wanted.utc_offset),
        paid_is_negative=wanted.fees == "negative",
        skip_errors=wanted.skip_errors,
    )
    try:
        async with transaction(web.database) as connection:
            repository = ImportRepository(connection)
            await repository.add(
                import_id=import_id,
                user_id=caller.user_id,
                account_id=account_id,
                is_dry_run=wanted.dry_run,
                terms=terms,
                size_bytes=size,
            )
            one = await repository.get(caller.user_id, import_id)
    except ImportRunning:
        raise _running() from None
    assert one is not None
    return one


async def _receive(intake: ImportIntake, request: Request, import_id: str) -> int:
    """Write the body into the folder as it comes; its size in bytes. Raises Problem, OSError."""
    if intake.uploads.locked():
        raise unavailable("busy", "Too many files are arriving.")
    async with intake.uploads:
        with await asyncio.to_thread(intake.files.begin, import_id) as file:
            try:
                async with asyncio.timeout(_LONGEST_UPLOAD_S):
                    size = await _write_body(request, file)
            except TimeoutError:
                raise Problem("request_timeout", "The file did not arrive in time.") from None
            if not size:
                raise Problem("malformed_request", "The body is empty: send the file as the body.")
            await asyncio.to_thread(intake.files.complete, import_id, file)
    return size


async def _write_body(request: Request, file: BinaryIO) -> int:
    body = aiter(request.stream())
    size = 0
    gathered = bytearray()
    while True:
        async with asyncio.timeout(_LONGEST_SILENCE_S):
            chunk = await anext(body, b"")
        size += len(chunk)
        gathered += chunk
        if not chunk or len(gathered) >= _WRITTEN_AT_ONCE:
            await asyncio.to_thread(file.write, bytes(gathered))
            gathered.clear()
        if not chunk:
            return size


async def _find(web: Web, caller: Caller, import_id: str) -> Import:
    one = None
    if is_id(import_id):
        async with transaction(web.database) as connection:
            one = await ImportRepository(connection).get(caller.user_id, import_id)
    if one is None:
        raise Problem("not_found", "There is no such import.")
    return one


def _csv(rows: list[tuple[int | None, str | None, str]], import_id: str) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("row", "column", "reason"))
    writer.writerows((row, column and csv_cell(column), csv_cell(reason)) for row, column, reason in rows)
    headers = {"Content-Disposition": f'attachment; filename="import-{import_id}-errors.csv"'}
    return Response(text.getvalue(), headers=headers, media_type="text/csv")


def _minutes(utc_offset: str) -> int:
    hours, minutes = utc_offset[1:].split(":")
    total = int(hours) * 60 + int(minutes)
    return -total if utc_offset[0] == "-" else total


def _running() -> Problem:
    return Problem("import_running", "Another import of yours is not finished.")
