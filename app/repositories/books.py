"""What a P&L needs of a user, read whole: for the P&L worker's start and for single users after it."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ARRAY, Date, Numeric, Uuid, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.decimals import from_units, to_units
from app.domain.positions import ClosedFigures, Position, UserBook
from app.domain.shards import EVERYBODY, Shard
from app.repositories.database import snapshot, transaction
from app.repositories.rows import POSITION_COLUMNS, position_reader
from app.repositories.tables import day_opens, positions

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid(as_uuid=False)))

_IN_SHARD: Final = "('x' || right(u.id::text, 8))::bit(32)::bigint % :shards = :shard"
"""Which users belong to a shard, as :func:`app.domain.shards.shard_of` has it."""

# A user without a fill before midnight had no profit at midnight, whether or not anybody wrote that down.
_USERS: Final = text(
    """
    SELECT u.id::text, u.ledger_seq, a.id::text, a.currency,
           coalesce(d.total_pnl, CASE WHEN f.executed_at IS NULL THEN 0 END)
    FROM users u
    CROSS JOIN (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS day) today
    JOIN LATERAL (SELECT id, currency FROM accounts WHERE user_id = u.id ORDER BY created_at, id LIMIT 1) a ON true
    LEFT JOIN day_opens d ON d.user_id = u.id AND d.day = today.day
    LEFT JOIN LATERAL (
        SELECT executed_at FROM trades
        WHERE user_id = u.id AND executed_at < (today.day::timestamp AT TIME ZONE 'UTC') LIMIT 1
    ) f ON true
    WHERE u.id = ANY(:ids)
    """
).bindparams(_IDS)

_CLOSED: Final = text(
    """
    SELECT user_id::text, settle, sum(realized_pnl_gross), sum(fees_published), sum(funding_published),
           bool_and(fees_unpriced = '{}'::jsonb), array_agg(DISTINCT symbol)
    FROM positions
    WHERE user_id = ANY(:ids) AND status = 'closed'
    GROUP BY user_id, settle
    """
).bindparams(_IDS)

_NEXT_HOLDERS: Final = """
    SELECT id::text FROM users u
    WHERE id > CAST(:after AS uuid) AND EXISTS (SELECT FROM positions p WHERE p.user_id = u.id) {and_in_shard}
    ORDER BY id LIMIT :limit
    """

_CHANGED_HEADS: Final = """
    SELECT id::text, ledger_seq FROM users u
    WHERE ledger_changed_at >= :moment {and_in_shard}
    """

_RECORD_DAY_BASES: Final = text(
    """
    INSERT INTO day_opens (user_id, day, total_pnl)
    SELECT user_id, :day, total_pnl FROM unnest(:ids, :totals) AS base (user_id, total_pnl)
    WHERE EXISTS (SELECT FROM users WHERE id = user_id)
    ON CONFLICT (user_id, day) DO NOTHING
    """
).bindparams(_IDS, bindparam("totals", type_=ARRAY(Numeric)), bindparam("day", type_=Date))

_BEFORE_ALL: Final = "00000000-0000-0000-0000-000000000000"
_DAY_BASES_PER_STATEMENT: Final = 5000


class BookRepository:
    """Reads books, of everybody or of one shard. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, shard: Shard = EVERYBODY) -> None:
        self._engine = engine
        self._shard = shard
        is_part = shard.shards > 1
        and_in_shard = f"AND {_IN_SHARD}" if is_part else ""
        self._next_holders = text(_NEXT_HOLDERS.format(and_in_shard=and_in_shard))
        self._changed_heads = text(_CHANGED_HEADS.format(and_in_shard=and_in_shard))
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}

    async def load(self, user_ids: Sequence[str]) -> list[UserBook]:
        """The books of these users, all at one moment. Users that do not exist (or not in the shard) are left out."""
        async with snapshot(self._engine) as connection:
            return await _load(connection, [user_id for user_id in user_ids if self._shard.has(user_id)])

    async def stream(self, batch_size: int = 2000) -> AsyncGenerator[list[UserBook]]:
        """Every user with any position, in batches; each batch is at one moment of its own."""
        after = _BEFORE_ALL
        while True:
            async with snapshot(self._engine) as connection:
                found = await connection.scalars(
                    self._next_holders, {"after": after, "limit": batch_size, **self._of_shard}
                )
                ids = list(found)
                books = await _load(connection, ids) if ids else []
            if books:
                yield books
            if len(ids) < batch_size:
                return
            after = ids[-1]

    async def heads_changed_since(self, moment: datetime) -> list[tuple[str, int]]:
        """``(user_id, ledger_seq)`` of users that changed at or after a moment.

        The moment of a change is taken before its commit: ask some seconds back.
        """
        async with transaction(self._engine) as connection:
            changed = await connection.execute(self._changed_heads, {"moment": moment, **self._of_shard})
            return [(user_id, seq) for user_id, seq in changed]

    async def record_day_bases(self, day: date, bases: Mapping[str, int]) -> None:
        """Keep each user's total P&L (units of 1e-18) at the start of a day; what was kept before stays."""
        items = list(bases.items())
        for start in range(0, len(items), _DAY_BASES_PER_STATEMENT):
            part = items[start : start + _DAY_BASES_PER_STATEMENT]
            parameters = {
                "day": day,
                "ids": [user_id for user_id, _ in part],
                "totals": [from_units(total) for _, total in part],
            }
            async with transaction(self._engine) as connection:
                await connection.execute(_RECORD_DAY_BASES, parameters)

    async def delete_day_bases_before(self, day: date) -> None:
        """Forget old days."""
        async with transaction(self._engine) as connection:
            await connection.execute(day_opens.delete().where(day_opens.c.day < day))


async def _load(connection: AsyncConnection, ids: list[str]) -> list[UserBook]:
    held = await _open_positions(connection, ids)
    closed: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)
    for row in await connection.execute(_CLOSED, {"ids": ids}):
        closed[row[0]].append(row)
    return [
        UserBook(
            user_id=user_id,
            account_id=account_id,
            ledger_seq=ledger_seq,
            currency=currency,
            positions=tuple(held.get(user_id, ())),
            closed=_closed_figures(closed.get(user_id, []), currency),
            day_base=None if day_base is None else to_units(day_base),
        )
        for user_id, ledger_seq, account_id, currency, day_base in await connection.execute(_USERS, {"ids": ids})
    ]


async def _open_positions(connection: AsyncConnection, ids: list[str]) -> dict[str, list[Position]]:
    read = position_reader()
    held: defaultdict[str, list[Position]] = defaultdict(list)
    query = (
        select(*POSITION_COLUMNS)
        .where(positions.c.user_id == _IDS.any_(), positions.c.status == "open")
        .order_by(positions.c.opened_at.desc(), positions.c.id)
    )
    for row in await connection.execute(query, {"ids": ids}):
        position = read(row)
        held[position.user_id].append(position)
    return held


def _closed_figures(rows: list[Sequence[Any]], currency: str) -> ClosedFigures:
    gross = fees = funding = Decimal(0)
    complete = True
    foreign: set[str] = set()
    for _, settle, row_gross, row_fees, row_funding, row_complete, symbols in rows:
        if settle == currency:
            gross, fees, funding, complete = row_gross, row_fees, row_funding, row_complete
        else:
            foreign.update(symbols)
    return ClosedFigures(
        realized_pnl_gross=to_units(gross),
        fees=to_units(fees),
        funding=to_units(funding),
        fees_are_complete=complete,
        foreign_symbols=tuple(sorted(foreign)),
    )
