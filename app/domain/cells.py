"""Cells of a table as text, and what they mean: numbers, times, words.

Where a cell is wrong, :class:`CellProblem` says which column and why; its text
never repeats more than the beginning of what stands there.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

_EXPONENT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?[eE][+-]?[0-9]{1,2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = {10: 1_000_000, 13: 1_000, 16: 1}
_LONGEST_SHOWN = 60


class CellProblem(ValueError):
    """A cell that cannot be taken. ``column`` is None where no single one is to blame."""

    def __init__(self, column: str | None, detail: str) -> None:
        super().__init__(detail if column is None else f"{column}: {detail}")
        self.column = column
        self.detail = detail


def shown(text: str) -> str:
    """The beginning of a cell for a message: escaped, quoted, of bounded length."""
    return repr(text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…")


def number(cells: Mapping[str, str], column: str, parse: Callable[[str], Decimal]) -> Decimal:
    """The number in a column; an exponent, as programs write small ones, is expanded. Raises CellProblem."""
    text = cells[column]
    if _EXPONENT.fullmatch(text):
        text = f"{Decimal(text):f}"
    try:
        return parse(text)
    except ValueError as error:
        raise CellProblem(column, f"{shown(cells[column])} is {_refusal(error)}") from None


def one_of(cells: Mapping[str, str], column: str, allowed: tuple[str, ...]) -> Any:
    """The word in a column, in whatever letter case. Raises CellProblem."""
    value = cells[column].lower()
    if value not in allowed:
        raise CellProblem(column, f"{shown(cells[column])} is not {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def moment(text: str, zone: tzinfo = UTC, column: str = "executed_at") -> datetime:
    """A time in UTC: ISO 8601, or seconds, milli-, micro- or nanoseconds since 1970.

    ``zone`` is that of a time which does not say its own. Raises CellProblem.
    """
    if text.isascii() and text.isdigit():
        if len(text) == 19:
            return _EPOCH + timedelta(microseconds=int(text) // 1000)
        if len(text) in _MICROSECONDS:
            return _EPOCH + timedelta(microseconds=int(text) * _MICROSECONDS[len(text)])
    try:
        found = datetime.fromisoformat(text)
        return (found.replace(tzinfo=zone) if found.tzinfo is None else found).astimezone(UTC)
    except (ValueError, OverflowError):
        raise CellProblem(column, f"{shown(text)} is not a time") from None


def _refusal(error: ValueError) -> str:
    return "not greater than zero" if str(error).startswith("must") else str(error)
