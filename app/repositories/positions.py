"""Positions: one row per cycle from flat to flat. Closing updates the row; it never makes one."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec
from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState, PositionSide
from app.domain.positions import Converted, Position
from app.domain.trades import ChainKey
from app.repositories.database import violated
from app.repositories.paging import Place, precedes
from app.repositories.rows import (
    POSITION_COLUMNS,
    any_of,
    converted_values,
    instrument_values,
    position_reader,
    state_values,
)
from app.repositories.tables import positions

_AT_ONCE: Final = 1000
"""Rows sent with one statement."""


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
        query = select(*POSITION_COLUMNS).where(positions.c.user_id == user_id, any_of(positions.c.id, position_ids))
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
        await self.add(position)
        return position

    async def add(self, position: Position) -> None:
        """Add a row as it is. Raises StandingAlready, after which the transaction is void."""
        await self._write(insert(positions).values(**_values(position)))

    async def add_many(self, added: Sequence[Position]) -> None:
        """Add rows as they are."""
        for start in range(0, len(added), _AT_ONCE):
            rows = [_values(position) for position in added[start : start + _AT_ONCE]]
            await self._connection.execute(insert(positions), rows)

    async def correct_many(self, changes: Sequence[tuple[Position, Position]]) -> None:
        """Bring rows, each from what it was read as, to what a replay makes of it. Raises PositionChanged."""
        for start in range(0, len(changes), _AT_ONCE):
            await self._correct_part(changes[start : start + _AT_ONCE])

    async def _correct_part(self, changes: Sequence[tuple[Position, Position]]) -> None:
        names = [*_ledger_values(changes[0][1]), "updated_at", "version"]
        statement = (
            update(positions)
            .where(
                positions.c.id == bindparam("was_id"),
                positions.c.version == bindparam("was_version"),
                positions.c.status == bindparam("was_status"),
            )
            .values({name: bindparam(f"new_{name}") for name in names})
        )
        rows = []
        for before, after in changes:
            values = {**_ledger_values(after), "updated_at": after.updated_at, "version": before.version + 1}
            was = {"was_id": before.position_id, "was_version": before.version, "was_status": before.status}
            rows.append({**was, **{f"new_{name}": value for name, value in values.items()}})
        await self._connection.execute(statement, rows)
        ids = [before.position_id for before, _ in changes]
        query = select(positions.c.id, positions.c.version).where(any_of(positions.c.id, ids))
        versions = {position_id: version for position_id, version in await self._connection.execute(query)}
        for before, _ in changes:
            # Many rows are written without an answer for each: a writer that forgot the lock is found here.
            if versions.get(before.position_id) != before.version + 1:
                raise PositionChanged(before.position_id)

    async def correct(self, before: Position, after: Position) -> None:
        """Bring a row to what the ledger makes of it. Raises PositionChanged, StandingAlready."""
        await self._update(before, _ledger_values(after), after.updated_at)

    async def retag(self, position: Position, strategy: str, now: datetime) -> Position:
        """Move a row to another strategy. Raises PositionChanged, StandingAlready."""
        await self._update(position, {"strategy": strategy}, now)
        return msgspec.structs.replace(position, strategy=strategy, updated_at=now, version=position.version + 1)

    async def is_held_between(self, key: ChainKey, since: datetime, until: datetime | None) -> bool:
        """Whether a chain held anything at or between two moments; without ``until``, at or after the first."""
        query = select(positions.c.id).where(
            positions.c.user_id == key.user_id,
            positions.c.account_id == key.account_id,
            positions.c.symbol == key.symbol,
            positions.c.position_side == key.position_side,
            positions.c.strategy == key.strategy,
            or_(positions.c.closed_at.is_(None), positions.c.closed_at >= since),
        )
        if until is not None:
            query = query.where(positions.c.opened_at <= until)
        return await self._connection.scalar(query.limit(1)) is not None

    async def remove(self, position_ids: list[str]) -> None:
        """Take away rows that no fill belongs to any more."""
        await self._connection.execute(delete(positions).where(any_of(positions.c.id, position_ids)))

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
        """Change what is not the ledger's; the strategy moves with the fills. Raises PositionChanged."""
        values = msgspec.structs.asdict(edit)
        del values["strategy"]
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


def _ledger_values(position: Position) -> dict[str, Any]:
    """The columns that follow from the fills."""
    return {
        **state_values(position.state),
        **converted_values(position.converted),
        "status": position.status,
        "opened_at": position.opened_at,
        "closed_at": position.closed_at,
    }


def _values(position: Position) -> dict[str, Any]:
    """All columns of a row."""
    return {
        "id": position.position_id,
        "user_id": position.user_id,
        "account_id": position.account_id,
        **instrument_values(position.instrument),
        "position_side": position.position_side,
        "strategy": position.strategy,
        "note": position.note,
        "take_profit": position.take_profit,
        "stop_loss": position.stop_loss,
        **_ledger_values(position),
        "updated_at": position.updated_at,
        "version": position.version,
    }
