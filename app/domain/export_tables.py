"""What is exported: three tables, with their columns, in the order they are written.

The columns of ``trades`` are those that an import reads: what was exported can
be imported again.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from app.domain.decimals import exact, from_units, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import price_of_cost
from app.domain.prices import Basis, Price

Kind = Literal["text", "amount", "time", "flag", "count"]
TableName = Literal["trades", "positions", "pnl"]
FileFormat = Literal["csv", "json", "parquet"]


class Column(msgspec.Struct, frozen=True):
    """A column. An amount is exact; in Parquet it has 38 digits, 18 of them after the point."""

    name: str
    kind: Kind = "text"


class ExportTable(msgspec.Struct, frozen=True):
    """A table: rows are sequences in the order of ``columns``."""

    name: TableName
    columns: tuple[Column, ...]


def _columns(**kinds: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for kind, names in kinds.items() for name in names.split())  # type: ignore[arg-type]


TRADES: Final = ExportTable(
    "trades",
    (
        *_columns(text="fill_id trade_id account_id symbol position_side side"),
        *_columns(amount="quantity price fee"),
        Column("fee_asset"),
        *_columns(amount="fee_rate rate_to_reporting"),
        *_columns(text="strategy source position_id opened_position_id"),
        *_columns(time="executed_at created_at"),
    ),
)

POSITIONS: Final = ExportTable(
    "positions",
    (
        *_columns(text="position_id account_id symbol market base quote settle_asset"),
        Column("multiplier", "amount"),
        *_columns(text="position_side strategy status"),
        *_columns(amount="signed_qty entry_price cost_basis realized_pnl_gross fees funding realized_pnl"),
        Column("fees_complete", "flag"),
        *_columns(text="reporting_currency", amount="realized_pnl_reported", flag="reported_complete"),
        *_columns(amount="take_profit stop_loss"),
        Column("note"),
        *_columns(time="opened_at closed_at updated_at", count="version"),
    ),
)

PNL: Final = ExportTable(
    "pnl",
    (
        *_columns(text="account_id strategy symbol market position_side settle_asset"),
        *_columns(count="closed_positions"),
        *_columns(amount="realized_pnl_gross fees funding realized_pnl"),
        Column("fees_complete", "flag"),
        *_columns(amount="signed_qty cost_basis mark_price unrealized_pnl total_pnl"),
        *_columns(text="reporting_currency", amount="realized_pnl_reported", flag="reported_complete"),
    ),
)

TABLES: Final[Mapping[TableName, ExportTable]] = {table.name: table for table in (TRADES, POSITIONS, PNL)}


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of an instrument, and on which basis it is valued."""

    instrument: Instrument
    signed_qty: Decimal
    cost: Decimal
    basis: Basis


def entry_price_of(held: Held) -> Decimal | None:
    """The average entry price to 16 significant digits, None when flat."""
    with exact():
        return price_of_cost(held.instrument, held.signed_qty, held.cost)


def valued(held: Held, prices: Mapping[str, Price]) -> tuple[Decimal | None, Decimal | None]:
    """The price that values what is held, and its unrealised profit as published; None is unknown. Flat is zero."""
    if not held.signed_qty:
        return None, Decimal(0)
    price = prices.get(held.instrument.symbol)
    mark = None if price is None else price.on_basis(held.basis, is_long=held.signed_qty > 0)
    if mark is None:
        return None, None
    with exact():
        worth = to_units(held.instrument.value(held.signed_qty, mark[0]))
    return mark[0], from_units(worth - to_units(held.cost))


def export_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond: what the ledger keeps."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Rows = Sequence[Sequence[Any]]
"""Some rows of a table: text as str, amounts as Decimal, times as datetime, flags as bool, counts as int, or None."""
