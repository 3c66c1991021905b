"""What was realised in a period, lot by lot: reads the fills of whole chains one after the other."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.decimals import ZERO
from app.domain.instruments import Instrument
from app.domain.lots import Method, RealizedSums
from app.domain.trades import ChainKey, Trade
from app.repositories.rows import INSTRUMENT_COLUMNS, to_instrument
from app.repositories.tables import funding_payments, positions, trades
from app.repositories.trades import TRADE_COLUMNS, to_trade

MOST_FILLS: Final = 200_000
"""Fills that one report reads: some seconds of work. Fewer accounts or symbols need fewer."""

_AT_ONCE: Final = 1000


class TooManyFills(Exception):
    """The report would read more fills than one request may."""


class Wanted(msgspec.Struct, frozen=True):
    """Which fills are reported, by which method, and of which period."""

    user_id: str
    method: Method = "average"
    since: datetime | None = None
    until: datetime | None = None
    symbol: str | None = None
    account_id: str | None = None
    strategy: str | None = None


class ChainRealized(msgspec.Struct, frozen=True):
    """What one chain realised in the period, in its settle asset."""

    key: ChainKey
    instrument: Instrument
    sums: RealizedSums


class FundingReceived(msgspec.Struct, frozen=True):
    """Funding of one contract in the period."""

    symbol: str
    settle: str
    amount: Decimal


class RealizedRepository:
    """Reads within the caller's transaction; a snapshot shows one moment."""

    def __init__(self, connection: AsyncConnection, most_fills: int = MOST_FILLS) -> None:
        self._connection = connection
        self._most_fills = most_fills

    async def chains(self, wanted: Wanted) -> AsyncIterator[ChainRealized]:
        """What each chain realised, one after the other. Raises TooManyFills."""
        current: ChainRealized | None = None
        async for trade, instrument in self._fills(wanted):
            if current is None or current.key != trade.chain:
                if current is not None:
                    yield current
                current = _begin(trade, instrument, wanted)
            current.sums.book(trade.fill, trade.executed_at)
        if current is not None:
            yield current

    async def funding(self, wanted: Wanted) -> list[FundingReceived]:
        """Funding of the period by contract."""
        query = (
            select(positions.c.symbol, positions.c.settle, func.sum(funding_payments.c.amount))
            .join(positions, positions.c.id == funding_payments.c.position_id)
            .where(funding_payments.c.user_id == wanted.user_id, *_selected(positions, wanted))
            .group_by(positions.c.symbol, positions.c.settle)
        )
        if wanted.since is not None:
            query = query.where(funding_payments.c.at >= wanted.since)
        if wanted.until is not None:
            query = query.where(funding_payments.c.at < wanted.until)
        rows = await self._connection.execute(query)
        return [FundingReceived(symbol, settle, amount or ZERO) for symbol, settle, amount in rows]

    async def _fills(self, wanted: Wanted) -> AsyncIterator[tuple[Trade, Instrument]]:
        query = (
            select(*TRADE_COLUMNS, *INSTRUMENT_COLUMNS)
            .join(positions, positions.c.id == trades.c.position_id)
            .where(trades.c.user_id == wanted.user_id, *_selected(trades, wanted))
            .order_by(
                trades.c.account_id,
                trades.c.symbol,
                trades.c.position_side,
                trades.c.strategy,
                trades.c.executed_at,
                trades.c.created_at,
                trades.c.id,
            )
            .limit(self._most_fills + 1)
        )
        if wanted.until is not None:
            query = query.where(trades.c.executed_at < wanted.until)
        count = 0
        async with self._connection.stream(query) as rows:
            async for part in rows.partitions(_AT_ONCE):
                count += len(part)
                if count > self._most_fills:
                    raise TooManyFills(f"there are more than {self._most_fills} fills to read")
                for row in part:
                    yield _split(row)


def _begin(trade: Trade, instrument: Instrument, wanted: Wanted) -> ChainRealized:
    side = trade.fill.position_side
    sums = RealizedSums(instrument, wanted.method, side, since=wanted.since, until=wanted.until)
    return ChainRealized(trade.chain, instrument, sums)


def _split(row: Sequence[Any]) -> tuple[Trade, Instrument]:
    width = len(TRADE_COLUMNS)
    return to_trade(row[:width]), to_instrument(tuple(row[width:]))


def _selected(table: Table, wanted: Wanted) -> list[ColumnElement[bool]]:
    filters = {"symbol": wanted.symbol, "account_id": wanted.account_id, "strategy": wanted.strategy}
    return [table.c[name] == value for name, value in filters.items() if value is not None]
