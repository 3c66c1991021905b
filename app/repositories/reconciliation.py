"""What reconciliation reads and writes: users whole, with every fill and every row, and rows put right."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, Select, Uuid, bindparam, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.ledger import Funding
from app.domain.positions import Position, UserBook
from app.domain.reconciliation import Ledger, Pointer, Published, Repair, Row
from app.domain.shards import EVERYBODY, Shard
from app.domain.trades import Trade
from app.repositories.books import IN_SHARD, load_books
from app.repositories.database import snapshot, transaction
from app.repositories.rows import (
    POSITION_COLUMNS,
    converted_values,
    instrument_values,
    position_reader,
    state_values,
)
from app.repositories.tables import funding_payments, positions, trades
from app.repositories.trades import TRADE_COLUMNS, to_trade

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid(as_uuid=False)))

_PUBLISHED: Final = (
    positions.c.realized_pnl_gross,
    positions.c.fees_published,
    positions.c.funding_published,
    positions.c.reported_gross,
    positions.c.reported_fees,
    positions.c.reported_funding,
)

_NEXT_USERS: Final = """
    SELECT u.id::text, (SELECT count(*) FROM trades t WHERE t.user_id = u.id)
                     + (SELECT count(*) FROM positions p WHERE p.user_id = u.id)
    FROM users u WHERE u.id > CAST(:after AS uuid) {and_in_shard}
    ORDER BY u.id LIMIT :limit
    """

_LOCK: Final = text("SELECT ledger_seq FROM users WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE")

_ADVANCE: Final = text(
    """
    UPDATE users SET ledger_seq = greatest(ledger_seq, :past) + 1, ledger_changed_at = clock_timestamp()
    WHERE id = CAST(:id AS uuid) RETURNING ledger_seq
    """
)

_HOLDS: Final = text("SELECT EXISTS (SELECT FROM leases WHERE role = :role AND epoch = :epoch)")

_ROWS_AT_ONCE: Final = 250
"""Turning a row into a fill or a position takes some 10 µs, and the loop is wanted every few milliseconds."""


class Sized(msgspec.Struct, frozen=True):
    """A user, and how many fills and positions there are of him."""

    user_id: str
    rows: int


class ReconciliationRepository:
    """Reads users of everybody or of one shard. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, shard: Shard = EVERYBODY) -> None:
        self.engine = engine
        is_part = shard.shards > 1
        self._next_users = text(_NEXT_USERS.format(and_in_shard=f"AND {IN_SHARD}" if is_part else ""))
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}

    async def next_users(self, after: str, limit: int) -> list[Sized]:
        """Up to ``limit`` users whose ids follow ``after``, in that order."""
        async with transaction(self.engine) as connection:
            parameters = {"after": after, "limit": limit, **self._of_shard}
            return [Sized(*row) for row in await connection.execute(self._next_users, parameters)]

    async def read(self, user_ids: Sequence[str]) -> list[tuple[Ledger, UserBook]]:
        """Users as they are at one moment."""
        async with snapshot(self.engine) as connection:
            return await read_users(connection, user_ids)


async def read_users(connection: AsyncConnection, user_ids: Sequence[str]) -> list[tuple[Ledger, UserBook]]:
    """All that was recorded of users, and their books as the rows have them, within the caller's transaction.

    Gives way to other tasks every few milliseconds.
    """
    ids = list(user_ids)
    rows = await _rows(connection, ids)
    fills = await _fills(connection, ids)
    payments = await _payments(connection, ids)
    held = {user_id: _held(of_user) for user_id, of_user in rows.items()}
    return [
        (
            Ledger(
                user_id=book.user_id,
                currency=book.currency,
                ledger_seq=book.ledger_seq,
                rows=rows.get(book.user_id, {}),
                fills=fills.get(book.user_id, ()),
                payments=payments.get(book.user_id, {}),
            ),
            book,
        )
        for book in await load_books(connection, ids, held)
    ]


async def lock(connection: AsyncConnection, user_id: str) -> bool:
    """Wait for the user's other writers, and keep them out until the transaction ends. False: there is no such user."""
    return await connection.scalar(_LOCK, {"id": user_id}) is not None


async def advance(connection: AsyncConnection, user_id: str, past: int) -> int:
    """Take the user's next event number: one after ``past`` where a copy has somehow got ahead of the database."""
    seq: int = await connection.scalar(_ADVANCE, {"id": user_id, "past": past})
    return seq


async def is_of_epoch(connection: AsyncConnection, role: str, epoch: int) -> bool:
    """Whether nobody has taken a role since that epoch began."""
    return bool(await connection.scalar(_HOLDS, {"role": role, "epoch": epoch}))


async def put_right(
    connection: AsyncConnection, repairs: Sequence[Repair], pointers: Sequence[Pointer], now: datetime
) -> list[Position]:
    """Write what rows must say. Those that end come first: two of a chain must never be open at once."""
    written = []
    for repair in sorted(repairs, key=lambda repair: repair.right.status):
        right = msgspec.structs.replace(repair.right, updated_at=now)
        values = {
            "account_id": right.account_id,
            **instrument_values(right.instrument),
            "position_side": right.position_side,
            "strategy": right.strategy,
            **state_values(right.state),
            **_unconverted(),
            **converted_values(right.converted),
            "status": right.status,
            "opened_at": right.opened_at,
            "updated_at": now,
            "closed_at": right.closed_at,
            "version": right.version,
        }
        version = await connection.scalar(_write(right, values, is_new=repair.is_new))
        written.append(msgspec.structs.replace(right, version=version))
    for pointer in pointers:
        values = {"position_id": pointer.position_id, "opened_position_id": pointer.opened_position_id}
        await connection.execute(update(trades).where(trades.c.id == pointer.fill_id).values(**values))
    return written


async def renew(
    connection: AsyncConnection, written: Sequence[Position], rows: Sequence[Position], now: datetime
) -> list[Position]:
    """Give rows their new version, so that every copy of them is taken anew; the result is all that was written."""
    for row in rows:
        await connection.execute(
            update(positions).where(positions.c.id == row.position_id).values(version=row.version, updated_at=now)
        )
    ids = {row.position_id for row in rows}
    kept = [row for row in written if row.position_id not in ids]
    return kept + [msgspec.structs.replace(row, updated_at=now) for row in rows]


def _write(right: Position, values: dict[str, Any], *, is_new: bool) -> Any:
    if not is_new:
        return (
            update(positions).where(positions.c.id == right.position_id).values(**values).returning(positions.c.version)
        )
    adding = insert(positions).values(id=right.position_id, user_id=right.user_id, **values)
    # A row that was lost may stand somewhere as another user's.
    values = {**values, "user_id": right.user_id, "version": positions.c.version + 1}
    return adding.on_conflict_do_update(index_elements=[positions.c.id], set_=values).returning(positions.c.version)


def _unconverted() -> dict[str, Any]:
    """The columns of a conversion, empty."""
    names = ("converted_gross", "converted_fees", "converted_funding")
    reported = ("reported_gross", "reported_fees", "reported_funding")
    return {**dict.fromkeys((*names, *reported)), "is_converted": True}


def _held(rows: Mapping[str, Row]) -> list[Position]:
    return [row.position for row in rows.values() if row.position.status == "open"]


async def _rows(connection: AsyncConnection, ids: list[str]) -> dict[str, dict[str, Row]]:
    read = position_reader()
    count = len(POSITION_COLUMNS)
    found: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    async for row in _stream(connection, select(*POSITION_COLUMNS, *_PUBLISHED).where(_of(positions.c.user_id)), ids):
        position = read(row[:count])
        gross, fees, funding, *reported = row[count:]
        published = Published(
            realized_pnl_gross=gross,
            fees=fees,
            funding=funding,
            reported_gross=reported[0],
            reported_fees=reported[1],
            reported_funding=reported[2],
        )
        found[position.user_id][position.position_id] = Row(position, published)
    return found


async def _fills(connection: AsyncConnection, ids: list[str]) -> dict[str, list[Trade]]:
    found: defaultdict[str, list[Trade]] = defaultdict(list)
    async for row in _stream(connection, select(*TRADE_COLUMNS).where(_of(trades.c.user_id)), ids):
        fill = to_trade(row)
        found[fill.user_id].append(fill)
    return found


async def _payments(connection: AsyncConnection, ids: list[str]) -> dict[str, dict[str, list[Funding]]]:
    table = funding_payments.c
    query = select(table.user_id, table.position_id, table.at, table.mark, table.rate, table.rate_to_reporting).where(
        _of(table.user_id)
    )
    found: defaultdict[str, dict[str, list[Funding]]] = defaultdict(dict)
    async for user_id, position_id, at, mark, rate, rate_to_reporting in _stream(connection, query, ids):
        stamp = Funding(at=at, mark=mark, rate=rate, rate_to_reporting=rate_to_reporting)
        found[user_id].setdefault(position_id, []).append(stamp)
    return found


def _of(column: Any) -> Any:
    return column == _IDS.any_()


async def _stream(connection: AsyncConnection, query: Select[Any], ids: list[str]) -> AsyncIterator[Any]:
    """Rows of a query, few at a time."""
    result = await connection.stream(query, {"ids": ids}, execution_options={"yield_per": _ROWS_AT_ONCE})
    async for part in result.partitions():
        for row in part:
            yield row
        await asyncio.sleep(0)
