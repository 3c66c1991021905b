"""Parquet, a row group at a time. Import it where it is needed only: pyarrow takes 40 MB."""

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.decimals import SCALE
from app.domain.export_tables import ExportTable, Kind, Rows

_ROWS_PER_GROUP: Final = 20_000
_PLACES: Final = Decimal(1).scaleb(-SCALE)
_DIGITS: Final = Context(prec=76, rounding=ROUND_HALF_EVEN)

_TYPES: Final[dict[Kind, pa.DataType]] = {
    "text": pa.string(),
    "amount": pa.decimal128(38, SCALE),
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "count": pa.int64(),
}


def schema_of(table: ExportTable) -> pa.Schema:
    """The columns in Arrow's types."""
    return pa.schema([(column.name, _TYPES[column.kind]) for column in table.columns])


class ParquetFile:
    """A Parquet file in the making, compressed with Zstandard.

    All amounts have at most 18 places but entry prices, which are derived and
    rounded to them. One of 10^20 or more, which no ledger figure is, raises
    pyarrow.ArrowInvalid.
    """

    def __init__(self, table: ExportTable) -> None:
        self._schema = schema_of(table)
        self._amounts = [column.kind == "amount" for column in table.columns]
        self._pending: list[Any] = []
        self._out = _Drain()
        self._writer = pq.ParquetWriter(self._out, self._schema, compression="zstd")

    def begin(self) -> bytes:
        return self._out.take()

    def rows(self, rows: Rows) -> bytes:
        self._pending.extend(rows)
        if len(self._pending) >= _ROWS_PER_GROUP:
            self._write_group()
        return self._out.take()

    def end(self) -> bytes:
        if self._pending:
            self._write_group()
        self._writer.close()
        return self._out.take()

    def _write_group(self) -> None:
        columns = zip(*self._pending, strict=True)
        self._pending = []
        arrays = [
            pa.array([_places(value) for value in column] if is_amount else column, type=field.type)
            for column, is_amount, field in zip(columns, self._amounts, self._schema, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


class _Drain:
    """Takes what is written and gives it away; knows only how much there was."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        # What comes is a view of memory that is used again.
        self._parts.append(bytes(data))
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """What was written may still be taken."""

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _places(value: Decimal | None) -> Decimal | None:
    return None if value is None else value.quantize(_PLACES, context=_DIGITS)
