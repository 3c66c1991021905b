"""Recorded fills: added once, never changed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Select, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.ledger import Fill
from app.domain.trades import Trade
from app.repositories.paging import Place, precedes
from app.repositories.tables import trades

_COLUMNS: Final = (
    trades.c.id,
    trades.c.user_id,
    trades.c.account_id,
    trades.c.symbol,
    trades.c.position_id,
    trades.c.opened_position_id,
    trades.c.side,
    trades.c.quantity,
    trades.c.price,
    trades.c.fee,
    trades.c.fee_asset,
    trades.c.fee_rate,
    trades.c.trade_id,
    trades.c.strategy,
    trades.c.source,
    trades.c.executed_at,
    trades.c.created_at,
    trades.c.position_side,
    trades.c.rate_to_reporting,
)


class TradeRepository:
    """Reads and writes fills within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        user_id: str,
        account_id: str,
        symbol: str,
        position_id: str,
        opened_position_id: str | None,
        fill: Fill,
        source: str,
        executed_at: datetime,
        now: datetime,
    ) -> Trade:
        trade = Trade(
            fill_id=str(uuid4()),
            user_id=user_id,
            account_id=account_id,
            symbol=symbol,
            position_id=position_id,
            opened_position_id=opened_position_id,
            fill=fill,
            source=source,
            executed_at=executed_at,
            created_at=now,
        )
        await self._connection.execute(insert(trades).values(**_values(trade)))
        return trade

    async def find(self, account_id: str, symbol: str, trade_id: str) -> Trade | None:
        """The fill with an external id, which is unique in its account and symbol."""
        query = select(*_COLUMNS).where(
            trades.c.account_id == account_id, trades.c.symbol == symbol, trades.c.trade_id == trade_id
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else _to_trade(row)

    async def page(
        self,
        user_id: str,
        *,
        limit: int,
        after: Place | None = None,
        symbol: str | None = None,
        account_id: str | None = None,
        strategy: str | None = None,
        position_id: str | None = None,
    ) -> list[Trade]:
        """Up to ``limit`` fills, newest first, that follow ``after`` in that order."""
        query = select(*_COLUMNS).where(trades.c.user_id == user_id)
        if symbol is not None:
            query = query.where(trades.c.symbol == symbol)
        if account_id is not None:
            query = query.where(trades.c.account_id == account_id)
        if strategy is not None:
            query = query.where(trades.c.strategy == strategy)
        if position_id is not None:
            query = query.where(or_(trades.c.position_id == position_id, trades.c.opened_position_id == position_id))
        rows = await self._connection.execute(_newest_first(query, limit, after))
        return [_to_trade(row) for row in rows]


def _newest_first(query: Select[*tuple[Any, ...]], limit: int, after: Place | None) -> Select[*tuple[Any, ...]]:
    if after is not None:
        query = query.where(precedes(after, trades.c.executed_at, trades.c.id))
    return query.order_by(trades.c.executed_at.desc(), trades.c.id.desc()).limit(limit)


def _values(trade: Trade) -> dict[str, Any]:
    fill = trade.fill
    return {
        "id": trade.fill_id,
        "user_id": trade.user_id,
        "account_id": trade.account_id,
        "symbol": trade.symbol,
        "position_id": trade.position_id,
        "opened_position_id": trade.opened_position_id,
        "side": fill.side,
        "quantity": fill.quantity,
        "price": fill.price,
        "fee": fill.fee,
        "fee_asset": fill.fee_asset,
        "fee_rate": fill.fee_rate,
        "trade_id": fill.trade_id,
        "strategy": fill.strategy,
        "position_side": fill.position_side,
        "rate_to_reporting": fill.rate_to_reporting,
        "source": trade.source,
        "executed_at": trade.executed_at,
        "created_at": trade.created_at,
    }


def _to_trade(row: Sequence[Any]) -> Trade:
    fill_id, user_id, account_id, symbol, position_id, opened_position_id = row[:6]
    side, quantity, price, fee, fee_asset, fee_rate, trade_id, strategy, source, executed_at, created_at = row[6:17]
    position_side, rate_to_reporting = row[17:]
    return Trade(
        fill_id=fill_id,
        user_id=user_id,
        account_id=account_id,
        symbol=symbol,
        position_id=position_id,
        opened_position_id=opened_position_id,
        fill=Fill(
            side=side,
            quantity=quantity,
            price=price,
            fee=fee,
            fee_asset=fee_asset,
            fee_rate=fee_rate,
            executed_at=executed_at,
            trade_id=trade_id,
            strategy=strategy,
            position_side=position_side,
            rate_to_reporting=rate_to_reporting,
        ),
        source=source,
        executed_at=executed_at,
        created_at=created_at,
    )
