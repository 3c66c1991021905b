"""Cursors: opaque to clients, a place in the list to us."""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import Response
from pydantic import Field

from app.api.answers import json_answer
from app.api.fields import is_id
from app.api.problems import Problem
from app.repositories.paging import Place

T = TypeVar("T")

MAX_LIMIT: Final = 200

Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str, Field(min_length=1, max_length=200)]


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    at: datetime
    id: str


def place_of(cursor: str | None) -> Place | None:
    """Where a cursor points. Raises Problem."""
    if cursor is None:
        return None
    try:
        decoded = msgspec.json.decode(_unwrap(cursor), type=_Cursor)
        # A time zone may carry a moment out of the years there are.
        at = decoded.at.astimezone(UTC)
    except (msgspec.DecodeError, ValueError, OverflowError, binascii.Error):
        raise _not_a_cursor() from None
    if decoded.at.tzinfo is None or not is_id(decoded.id):
        raise _not_a_cursor()
    return Place(at, decoded.id)


def offset_of(cursor: str | None) -> int:
    """The index at which a page of a list in memory starts. Raises Problem."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise _not_a_cursor()
    return int(cursor)


def page_by_place(rows: Sequence[T], limit: int, place: Callable[[T], Place], show: Callable[[T], Any]) -> Response:
    """An answer from up to ``limit + 1`` rows: one more than is shown says that there is a next page."""
    shown = rows[:limit]
    cursor = None
    if len(rows) > limit:
        last = place(shown[-1])
        cursor = base64.urlsafe_b64encode(msgspec.json.encode(_Cursor(last.at, last.id))).decode().rstrip("=")
    return json_answer({"items": [show(row) for row in shown], "next_cursor": cursor})


def page_by_offset(rows: Sequence[T], limit: int, cursor: str | None, show: Callable[[T], Any]) -> Response:
    """An answer from a list in memory."""
    start = offset_of(cursor)
    end = start + limit
    items = [show(row) for row in rows[start:end]]
    return json_answer({"items": items, "next_cursor": str(end) if end < len(rows) else None})


def _unwrap(cursor: str) -> bytes:
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)


def _not_a_cursor() -> Problem:
    detail = "is not a cursor of this list"
    error = {"parameter": "cursor", "field": "cursor", "code": "not_a_cursor", "detail": detail}
    return Problem("invalid_request", f"cursor {detail}.", errors=[error])
