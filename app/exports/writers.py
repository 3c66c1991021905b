"""Turns rows into the bytes of a file, as they come: no file has to fit in memory."""

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from app.domain.csv_text import csv_cell
from app.domain.decimals import format_decimal
from app.domain.export_tables import ExportTable, FileFormat, Kind, Rows, export_time

MEDIA_TYPES: Final[Mapping[FileFormat, str]] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


class TableWriter(Protocol):
    """A file in the making."""

    def begin(self) -> bytes:
        """What comes before all rows."""

    def rows(self, rows: Rows) -> bytes:
        """Some more rows."""

    def end(self) -> bytes:
        """What comes after all rows."""


def writer_of(file_format: FileFormat, table: ExportTable) -> TableWriter:
    """A writer of a table in a format. Parquet's is loaded the first time it is wanted, for it takes 40 MB."""
    if file_format == "csv":
        return CsvWriter(table)
    if file_format == "json":
        return JsonWriter(table)
    from app.exports.parquet import ParquetFile

    return ParquetFile(table)


class CsvWriter:
    """A header, then a line for each row. Text cannot be taken for a formula; unknown is empty."""

    def __init__(self, table: ExportTable) -> None:
        self._names = [column.name for column in table.columns]
        self._texts = [_CSV_TEXT[column.kind] for column in table.columns]

    def begin(self) -> bytes:
        return self._lines([self._names])

    def rows(self, rows: Rows) -> bytes:
        texts = self._texts
        return self._lines(
            ["" if value is None else text(value) for text, value in zip(texts, row, strict=True)] for row in rows
        )

    def end(self) -> bytes:
        return b""

    def _lines(self, rows: Any) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


class JsonWriter:
    """An array with one object a line; amounts are strings, unknown is null."""

    def __init__(self, table: ExportTable) -> None:
        self._names = [column.name for column in table.columns]
        self._values = [_JSON_VALUE[column.kind] for column in table.columns]
        self._before = "[\n"

    def begin(self) -> bytes:
        return b""

    def rows(self, rows: Rows) -> bytes:
        parts: list[str] = []
        for row in rows:
            named = zip(self._names, self._values, row, strict=True)
            item = {name: None if given is None else value(given) for name, value, given in named}
            parts += (self._before, msgspec.json.encode(item).decode())
            self._before = ",\n"
        return "".join(parts).encode()

    def end(self) -> bytes:
        return b"[]\n" if self._before == "[\n" else b"\n]\n"


def _flag(value: bool) -> str:
    return "true" if value else "false"


_CSV_TEXT: Final[Mapping[Kind, Callable[[Any], str]]] = {
    "text": csv_cell,
    "amount": format_decimal,
    "time": export_time,
    "flag": _flag,
    "count": str,
}

_JSON_VALUE: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "text": str,
    "amount": format_decimal,
    "time": export_time,
    "flag": bool,
    "count": int,
}
