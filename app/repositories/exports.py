"""The rows of exports: read by a cursor of the server, all at one moment, a few at a time."""

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import DateTime, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.decimals import exact, from_units, to_units
from app.domain.export_tables import Held, Rows, TableName, entry_price_of, valued
from app.domain.instruments import Instrument
from app.domain.prices import Price
from app.repositories.database import snapshot

ROWS_AT_ONCE: Final = 500
"""Rendering so many takes some milliseconds."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows: ``since`` is included, ``until`` is not; None is without a bound."""

    user_id: str
    table: TableName
    since: datetime | None = None
    until: datetime | None = None
    account_id: str | None = None


_BOUNDS: Final = (
    bindparam("since", type_=DateTime(timezone=True)),
    bindparam("until", type_=DateTime(timezone=True)),
    bindparam("account", type_=Text),
)

_TRADES: Final = text(
    """
    SELECT id::text, trade_id, account_id::text, symbol, position_side, side, quantity, price, fee, fee_asset,
           fee_rate, rate_to_reporting, strategy, source, position_id::text, opened_position_id::text,
           executed_at, created_at
    FROM trades
    WHERE user_id = CAST(:user AS uuid)
      AND (CAST(:account AS uuid) IS NULL OR account_id = CAST(:account AS uuid))
      AND (:since IS NULL OR executed_at >= :since) AND (:until IS NULL OR executed_at < :until)
    ORDER BY executed_at, created_at, id
    """
).bindparams(*_BOUNDS)

# Those that stood at some time between the bounds.
_POSITIONS: Final = text(
    """
    SELECT p.id::text, p.account_id::text, p.symbol, p.market, p.base, p.quote, p.settle, p.multiplier,
           p.position_side, p.strategy, p.status, p.signed_qty, p.cost, p.realized_pnl_gross, p.fees_published,
           p.funding_published, p.fees_unpriced = '{}'::jsonb, a.currency,
           coalesce(p.reported_gross - p.reported_fees + p.reported_funding,
                    p.realized_pnl_gross - p.fees_published + p.funding_published),
           p.is_converted, p.take_profit, p.stop_loss, p.note, p.opened_at, p.closed_at, p.updated_at, p.version
    FROM positions p JOIN accounts a ON a.id = p.account_id
    WHERE p.user_id = CAST(:user AS uuid)
      AND (CAST(:account AS uuid) IS NULL OR p.account_id = CAST(:account AS uuid))
      AND (:since IS NULL OR p.closed_at IS NULL OR p.closed_at >= :since) AND (:until IS NULL OR p.opened_at < :until)
    ORDER BY p.opened_at, p.id
    """
).bindparams(*_BOUNDS)

# What positions realised that ended between the bounds, and what stands, where now is between them.
_PNL: Final = text(
    """
    SELECT p.account_id::text, p.strategy, p.symbol, p.market, p.position_side, p.settle,
           count(*) FILTER (WHERE p.status = 'closed'),
           sum(p.realized_pnl_gross), sum(p.fees_published), sum(p.funding_published),
           bool_and(p.fees_unpriced = '{}'::jsonb), sum(p.signed_qty), sum(p.cost), max(p.multiplier), max(a.valuation),
           max(a.currency),
           sum(coalesce(p.reported_gross - p.reported_fees + p.reported_funding,
                        p.realized_pnl_gross - p.fees_published + p.funding_published)),
           bool_and(p.is_converted)
    FROM positions p JOIN accounts a ON a.id = p.account_id
    WHERE p.user_id = CAST(:user AS uuid)
      AND (CAST(:account AS uuid) IS NULL OR p.account_id = CAST(:account AS uuid))
      AND CASE WHEN p.status = 'open' THEN :until IS NULL OR :until > clock_timestamp()
               ELSE (:since IS NULL OR p.closed_at >= :since) AND (:until IS NULL OR p.closed_at < :until) END
    GROUP BY p.account_id, p.strategy, p.symbol, p.market, p.position_side, p.settle
    ORDER BY p.account_id, p.strategy, p.symbol, p.position_side
    """
).bindparams(*_BOUNDS)

_QUERIES: Final = {"trades": _TRADES, "positions": _POSITIONS, "pnl": _PNL}


async def export_rows(engine: AsyncEngine, wanted: Wanted, prices: Mapping[str, Price]) -> AsyncGenerator[Rows]:
    """The rows of a table, some at a time; ``prices`` value what stands. Raises DatabaseUnavailable."""
    async with snapshot(engine) as connection:
        async for rows in _pages(connection, wanted):
            if wanted.table == "trades":
                yield rows
            elif wanted.table == "positions":
                yield [_position(row) for row in rows]
            else:
                yield [_pnl(row, prices) for row in rows]


async def _pages(connection: AsyncConnection, wanted: Wanted) -> AsyncGenerator[list[list[Any]]]:
    given = {"user": wanted.user_id, "account": wanted.account_id, "since": wanted.since, "until": wanted.until}
    result = await connection.stream(_QUERIES[wanted.table], given)
    # Without a number it would read all of them at once.
    async for page in result.partitions(ROWS_AT_ONCE):
        yield [_without_blanks(row) for row in page]


def _without_blanks(row: Any) -> list[Any]:
    """A row whose empty texts are null: no tag is not a tag without a name."""
    return [None if value == "" else value for value in row]


def _position(row: list[Any]) -> list[Any]:
    symbol, market, base, quote, settle, multiplier = row[2:8]
    qty, cost, gross, fees, funding = row[11:16]
    instrument = _instrument(symbol, market, settle, multiplier, base, quote)
    entry = entry_price_of(Held(instrument=instrument, signed_qty=qty, cost=cost, basis="auto"))
    with exact():
        realized = gross - fees + funding
    return [*row[:11], qty, entry, from_units(to_units(cost)), gross, fees, funding, realized, *row[16:]]


def _pnl(row: list[Any], prices: Mapping[str, Price]) -> list[Any]:
    symbol, market, settle = row[2], row[3], row[5]
    gross, fees, funding, fees_complete, qty, cost, multiplier, basis, currency, reported, reported_complete = row[7:]
    held = Held(instrument=_instrument(symbol, market, settle, multiplier), signed_qty=qty, cost=cost, basis=basis)
    mark, unrealized = valued(held, prices)
    with exact():
        realized = gross - fees + funding
        total = None if unrealized is None else realized + unrealized
    return [
        *row[:7],
        *(gross, fees, funding, realized, fees_complete, qty, from_units(to_units(cost)), mark, unrealized, total),
        *(currency, reported, reported_complete),
    ]


def _instrument(
    symbol: str, market: Any, settle: str, multiplier: Decimal, base: str = "", quote: str = ""
) -> Instrument:
    size = Decimal(1)
    return Instrument(
        symbol=symbol,
        market=market,
        base=base,
        quote=quote,
        settle=settle,
        tick_size=size,
        step_size=size,
        multiplier=multiplier,
    )
