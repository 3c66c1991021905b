"""Positions: one row per cycle from flat to flat. Closing updates the row; it never makes one."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import uuid4

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState, PositionSide
from app.domain.positions import Converted, Position
from app.repositories.database import violated
from app.repositories.paging import Place, precedes
from app.repositories.rows import (
    POSITION_COLUMNS,
    converted_values,
    instrument_values,
    position_reader,
    state_values,
)
from app.repositories.tables import positions


class PositionChanged(Exception):
    """Somebody else changed the row between reading and writing it."""


class StandingAlready(Exception):
    """An open position stands in this account, symbol and strategy."""


class PositionEdit(msgspec.Struct, frozen=True):
    """What a user may change by hand: the whole of it, as it shall be."""

    strategy: str
    note: str
    take_profit: Decimal | None
    stop_loss: Decimal | None


class PositionRepository:
    """Reads and writes positions within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, user_id: str, position_id: str) -> Position | None:
        """A position of this user; another's is as absent as one that never was."""
        query = select(*POSITION_COLUMNS).where(positions.c.id == position_id, positions.c.user_id == user_id)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else position_reader()(row)

    async def of_ids(self, user_id: str, position_ids: list[str]) -> list[Position]:
        query = select(*POSITION_COLUMNS).where(positions.c.user_id == user_id, positions.c.id.in_(position_ids))
        read = position_reader()
        return [read(row) for row in await self._connection.execute(query)]

    async def standing(
        self, user_id: str, account_id: str, symbol: str, strategy: str, position_side: PositionSide = "net"
    ) -> Position | None:
        """The open position that a fill adds to or takes from."""
        query = select(*POSITION_COLUMNS).where(
            positions.c.user_id == user_id,
            positions.c.account_id == account_id,
            positions.c.symbol == symbol,
            positions.c.position_side == position_side,
            positions.c.strategy == strategy,
            positions.c.status == "open",
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else position_reader()(row)

    async def is_anything_open(self, account_id: str) -> bool:
        """Whether an account holds anything."""
        query = select(positions.c.id).where(positions.c.account_id == account_id, positions.c.status == "open")
        return await self._connection.scalar(query.limit(1)) is not None

    async def count_open(self, user_id: str) -> int:
        query = select(func.count()).where(positions.c.user_id == user_id, positions.c.status == "open")
        return await self._connection.scalar(query) or 0

    async def page(
        self,
        user_id: str,
        *,
        limit: int,
        after: Place | None = None,
        status: Literal["open", "closed"] | None = None,
        symbol: str | None = None,
        account_id: str | None = None,
        strategy: str | None = None,
    ) -> list[Position]:
        """Up to ``limit`` positions, newest first, that follow ``after`` in that order."""
        query = select(*POSITION_COLUMNS).where(positions.c.user_id == user_id)
        wanted = {"status": status, "symbol": symbol, "account_id": account_id, "strategy": strategy}
        for column, value in wanted.items():
            if value is not None:
                query = query.where(positions.c[column] == value)
        if after is not None:
            query = query.where(precedes(after, positions.c.opened_at, positions.c.id))
        query = query.order_by(positions.c.opened_at.desc(), positions.c.id.desc()).limit(limit)
        read = position_reader()
        return [read(row) for row in await self._connection.execute(query)]

    async def open(
        self,
        *,
        user_id: str,
        account_id: str,
        instrument: Instrument,
        strategy: str,
        position_side: PositionSide,
        state: LedgerState,
        converted: Converted | None,
        at: datetime,
        now: datetime,
    ) -> Position:
        """Add a row. Raises StandingAlready, after which the transaction is void."""
        position = Position(
            position_id=str(uuid4()),
            user_id=user_id,
            account_id=account_id,
            instrument=instrument,
            state=state,
            converted=converted,
            position_side=position_side,
            strategy=strategy,
            status="closed" if state.is_flat else "open",
            opened_at=at,
            updated_at=now,
            closed_at=at if state.is_flat else None,
        )
        values = {
            "id": position.position_id,
            "user_id": user_id,
            "account_id": account_id,
            **instrument_values(instrument),
            "position_side": position_side,
            "strategy": strategy,
            **state_values(state),
            **converted_values(converted),
            "status": position.status,
            "opened_at": at,
            "updated_at": now,
            "closed_at": position.closed_at,
            "version": position.version,
        }
        await self._write(insert(positions).values(**values))
        return position

    async def move(
        self,
        position: Position,
        state: LedgerState,
        converted: Converted | None,
        *,
        at: datetime,
        now: datetime,
    ) -> Position:
        """Bring an open position to a new state; flat ends it. Raises PositionChanged."""
        moved = msgspec.structs.replace(
            position,
            state=state,
            converted=converted,
            status="closed" if state.is_flat else "open",
            updated_at=now,
            closed_at=at if state.is_flat else None,
            version=position.version + 1,
        )
        values = {
            **state_values(state),
            **converted_values(converted),
            "status": moved.status,
            "closed_at": moved.closed_at,
        }
        await self._update(position, values, now)
        return moved

    async def edit(self, position: Position, edit: PositionEdit, *, now: datetime) -> Position:
        """Change what is not the ledger's. Raises PositionChanged, StandingAlready."""
        values = msgspec.structs.asdict(edit)
        await self._update(position, values, now)
        return msgspec.structs.replace(position, **values, updated_at=now, version=position.version + 1)

    async def _update(self, position: Position, values: Mapping[str, Any], now: datetime) -> None:
        # The version and status in the condition hold even against a writer that forgot the user's lock.
        statement = (
            update(positions)
            .where(
                positions.c.id == position.position_id,
                positions.c.user_id == position.user_id,
                positions.c.version == position.version,
                positions.c.status == position.status,
            )
            .values(**values, updated_at=now, version=position.version + 1)
            .returning(positions.c.version)
        )
        if await self._write(statement) is None:
            raise PositionChanged(position.position_id)

    async def _write(self, statement: Any) -> Any:
        try:
            result = await self._connection.execute(statement)
        except IntegrityError as error:
            if violated(error) != "uq_positions_open":
                raise
            raise StandingAlready from error
        return result.scalar() if result.returns_rows else None
