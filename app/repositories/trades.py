"""Recorded fills: added once, and every earlier form of one that is changed later is kept."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec
from sqlalchemy import ARRAY, Select, Uuid, bindparam, delete, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.ledger import Fill
from app.domain.trades import Trade, trade_statement
from app.repositories.paging import Place, precedes
from app.repositories.tables import deleted_trades, trade_revisions, trades

TRADE_COLUMNS: Final = (
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
    trades.c.revision,
)

_IDS: Final = ARRAY(Uuid(as_uuid=False))

_REPOINT: Final = text(
    """
    UPDATE trades SET position_id = moved.position_id, opened_position_id = moved.opened_position_id
    FROM unnest(:ids, :positions, :opened) AS moved (id, position_id, opened_position_id)
    WHERE trades.id = moved.id
    """
).bindparams(bindparam("ids", type_=_IDS), bindparam("positions", type_=_IDS), bindparam("opened", type_=_IDS))


class TradeDeleted(Exception):
    """The fill with this external id was deleted; it is not recorded again."""


class Ending(msgspec.Struct, frozen=True):
    """What ends one form of a fill: which change, why, when, and the number of the event that tells of it."""

    change: Literal["edited", "deleted", "retagged"]
    reason: str
    at: datetime
    event_seq: int


class Revision(msgspec.Struct, frozen=True):
    """An earlier form of a fill, as it was published, and what ended it."""

    fill_id: str
    revision: int
    ending: Ending
    data: dict[str, Any]


PositionsOfFill = tuple[str, str | None]
"""The position of a fill, and the one that its rest opened where it went through zero."""


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
        await self.insert(trade)
        return trade

    async def insert(self, trade: Trade) -> None:
        """Add a fill as it is."""
        await self._connection.execute(insert(trades).values(**_values(trade)))

    async def get(self, user_id: str, fill_id: str) -> Trade | None:
        """A fill of this user; another's, and a deleted one, is as absent as one that never was."""
        query = select(*TRADE_COLUMNS).where(trades.c.id == fill_id, trades.c.user_id == user_id)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else to_trade(row)

    async def find(self, account_id: str, symbol: str, trade_id: str) -> Trade | None:
        """The fill with an external id, which is unique in its account and symbol."""
        query = select(*TRADE_COLUMNS).where(
            trades.c.account_id == account_id, trades.c.symbol == symbol, trades.c.trade_id == trade_id
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else to_trade(row)

    async def refuse_deleted(self, account_id: str, symbol: str, trade_id: str) -> None:
        """Raise TradeDeleted where a fill with this external id was deleted."""
        query = select(deleted_trades.c.fill_id).where(
            deleted_trades.c.account_id == account_id,
            deleted_trades.c.symbol == symbol,
            deleted_trades.c.trade_id == trade_id,
        )
        if await self._connection.scalar(query) is not None:
            raise TradeDeleted(trade_id)

    async def replace(self, before: Trade, after: Trade, ending: Ending) -> None:
        """Give a fill another form and keep the one it had."""
        await self._keep(before, ending)
        values = _values(after)
        del values["id"]
        await self._connection.execute(update(trades).where(trades.c.id == after.fill_id).values(**values))

    async def retag(self, befores: Sequence[Trade], strategy: str, ending: Ending) -> list[Trade]:
        """Move fills to another strategy."""
        moved = []
        for before in befores:
            fill = msgspec.structs.replace(before.fill, strategy=strategy)
            after = msgspec.structs.replace(before, fill=fill, revision=before.revision + 1)
            await self.replace(before, after, ending)
            moved.append(after)
        return moved

    async def delete(self, trade: Trade, ending: Ending) -> None:
        """Take a fill out of the ledger; what it was, and its external id, stay known."""
        await self._keep(trade, ending)
        await self._connection.execute(
            insert(deleted_trades).values(
                fill_id=trade.fill_id,
                user_id=trade.user_id,
                account_id=trade.account_id,
                symbol=trade.symbol,
                trade_id=trade.fill.trade_id,
                deleted_at=ending.at,
            )
        )
        await self._connection.execute(delete(trades).where(trades.c.id == trade.fill_id))

    async def repoint(self, moved: Mapping[str, PositionsOfFill]) -> None:
        """Tell fills, by id, which positions they now belong to."""
        if moved:
            parameters = {
                "ids": list(moved),
                "positions": [position for position, _ in moved.values()],
                "opened": [opened for _, opened in moved.values()],
            }
            await self._connection.execute(_REPOINT, parameters)

    async def revisions(self, user_id: str, fill_id: str) -> list[Revision]:
        """The earlier forms of a fill, the first one first; of a deleted one all there were."""
        table = trade_revisions.c
        query = (
            select(table.fill_id, table.revision, table.change, table.reason, table.at, table.event_seq, table.data)
            .where(table.fill_id == fill_id, table.user_id == user_id)
            .order_by(table.revision)
        )
        return [
            Revision(fill_id, revision, Ending(change, reason, at, seq), data)
            for fill_id, revision, change, reason, at, seq, data in await self._connection.execute(query)
        ]

    async def _keep(self, trade: Trade, ending: Ending) -> None:
        await self._connection.execute(
            insert(trade_revisions).values(
                fill_id=trade.fill_id,
                revision=trade.revision,
                user_id=trade.user_id,
                data=trade_statement(trade),
                **msgspec.structs.asdict(ending),
            )
        )

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
        query = select(*TRADE_COLUMNS).where(trades.c.user_id == user_id)
        if symbol is not None:
            query = query.where(trades.c.symbol == symbol)
        if account_id is not None:
            query = query.where(trades.c.account_id == account_id)
        if strategy is not None:
            query = query.where(trades.c.strategy == strategy)
        if position_id is not None:
            query = query.where(or_(trades.c.position_id == position_id, trades.c.opened_position_id == position_id))
        rows = await self._connection.execute(_newest_first(query, limit, after))
        return [to_trade(row) for row in rows]


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
        "revision": trade.revision,
    }


def to_trade(row: Sequence[Any]) -> Trade:
    """A fill from a row of TRADE_COLUMNS."""
    fill_id, user_id, account_id, symbol, position_id, opened_position_id = row[:6]
    side, quantity, price, fee, fee_asset, fee_rate, trade_id, strategy, source, executed_at, created_at = row[6:17]
    position_side, rate_to_reporting, revision = row[17:]
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
        revision=revision,
    )
