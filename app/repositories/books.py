"""What a P&L needs of a user, read whole: for the P&L worker's start and for single users after it."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import ARRAY, Date, Numeric, Uuid, bindparam, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.decimals import from_units, to_units
from app.domain.pnl_tree import ClosedLeaf
from app.domain.positions import AccountBook, AssetBook, Position, Realized, UserBook
from app.domain.shards import EVERYBODY, Shard
from app.repositories.database import snapshot, transaction
from app.repositories.rows import POSITION_COLUMNS, position_reader
from app.repositories.tables import day_marks, day_opens, positions

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid(as_uuid=False)))

IN_SHARD: Final = "('x' || right(u.id::text, 8))::bit(32)::bigint % :shards = :shard"
"""Which users belong to a shard, as :func:`app.domain.shards.shard_of` has it."""

# A user without a fill or an adjustment before midnight had no profit at midnight, whether or not anybody wrote that
# down.
_USERS: Final = text(
    """
    SELECT u.id::text, u.ledger_seq, coalesce(d.total_pnl, CASE WHEN f.at IS NULL AND j.at IS NULL THEN 0 END),
           today.day
    FROM users u
    CROSS JOIN (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS day) today
    LEFT JOIN day_opens d ON d.user_id = u.id AND d.day = today.day
    LEFT JOIN LATERAL (
        SELECT executed_at AS at FROM trades
        WHERE user_id = u.id AND executed_at < (today.day::timestamp AT TIME ZONE 'UTC') LIMIT 1
    ) f ON true
    LEFT JOIN LATERAL (
        SELECT at FROM transfers
        WHERE user_id = u.id AND kind = 'adjustment' AND at < (today.day::timestamp AT TIME ZONE 'UTC') LIMIT 1
    ) j ON true
    WHERE u.id = ANY(:ids)
    """
).bindparams(_IDS)

_ACCOUNTS: Final = text(
    """
    SELECT user_id::text, id::text, name, currency, valuation FROM accounts
    WHERE user_id = ANY(:ids) ORDER BY user_id, created_at, id
    """
).bindparams(_IDS)

_CLOSED: Final = text(
    """
    SELECT account_id::text, settle, sum(realized_pnl_gross), sum(fees_published), sum(funding_published),
           sum(coalesce(reported_gross, realized_pnl_gross)), sum(coalesce(reported_fees, fees_published)),
           sum(coalesce(reported_funding, funding_published)), bool_and(is_converted AND fees_unpriced = '{}'::jsonb)
    FROM positions
    WHERE user_id = ANY(:ids) AND status = 'closed'
    GROUP BY account_id, settle
    """
).bindparams(_IDS)

_CLOSED_LEAVES: Final = text(
    """
    SELECT account_id::text, strategy, symbol, sum(coalesce(reported_gross, realized_pnl_gross)),
           sum(coalesce(reported_fees, fees_published)), sum(coalesce(reported_funding, funding_published)),
           bool_and(is_converted AND fees_unpriced = '{}'::jsonb)
    FROM positions
    WHERE user_id = CAST(:id AS uuid) AND status = 'closed'
    GROUP BY account_id, strategy, symbol LIMIT :limit
    """
)

# What was not known in the reporting currency is in the balance alone: equity is right, and nothing says complete.
_TRANSFERS: Final = text(
    """
    SELECT account_id::text, asset,
           coalesce(sum(amount) FILTER (WHERE kind = 'adjustment'), 0),
           coalesce(sum(reported) FILTER (WHERE kind = 'adjustment'), 0),
           coalesce(sum(amount) FILTER (WHERE kind <> 'adjustment'), 0),
           coalesce(sum(reported) FILTER (WHERE kind <> 'adjustment'), 0),
           bool_and(reported IS NOT NULL)
    FROM transfers
    WHERE user_id = ANY(:ids)
    GROUP BY account_id, asset
    """
).bindparams(_IDS)

_NEXT_HOLDERS: Final = """
    SELECT id::text FROM users u
    WHERE id > CAST(:after AS uuid) AND (
        EXISTS (SELECT FROM positions p WHERE p.user_id = u.id)
        OR EXISTS (SELECT FROM transfers t WHERE t.user_id = u.id)
    ) {and_in_shard}
    ORDER BY id LIMIT :limit
    """

_HEADS: Final = """
    SELECT id::text, ledger_seq FROM users u
    WHERE ledger_seq > 0 {and_in_shard}
    """

_TODAY: Final = text("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")

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

BEFORE_ALL: Final = "00000000-0000-0000-0000-000000000000"
"""An id that is less than that of any user."""

_DAY_BASES_PER_STATEMENT: Final = 5000

MAX_LEAVES: Final = 20_000
"""The most pairs of symbol and strategy in the accounts of a user that are told apart."""


class TooManyLeaves(Exception):
    """A user traded in more symbols and strategies than a tree may have."""


class Heads(NamedTuple):
    """The number of the newest event of each user who has one, and the UTC day of the database's clock."""

    seqs: dict[str, int]
    day: date


class DayBase(NamedTuple):
    """Total P&L at 00:00 UTC of a day in units of 1e-18, None if unknown."""

    user_id: str
    total: int | None
    day: date


class BookRepository:
    """Reads books, of everybody or of one shard. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, shard: Shard = EVERYBODY) -> None:
        self._engine = engine
        self._shard = shard
        is_part = shard.shards > 1
        and_in_shard = f"AND {IN_SHARD}" if is_part else ""
        self._next_holders = text(_NEXT_HOLDERS.format(and_in_shard=and_in_shard))
        self._heads = text(_HEADS.format(and_in_shard=and_in_shard))
        self._changed_heads = text(_CHANGED_HEADS.format(and_in_shard=and_in_shard))
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}

    async def load(self, user_ids: Sequence[str]) -> list[UserBook]:
        """The books of these users, all at one moment. Users that do not exist (or not in the shard) are left out."""
        async with snapshot(self._engine) as connection:
            return await load_books(connection, [user_id for user_id in user_ids if self._shard.has(user_id)])

    async def load_with_closed(self, user_id: str) -> tuple[UserBook, list[ClosedLeaf]] | None:
        """A user's book and what his closed positions realised by symbol, at one moment. None: there is no such user.

        Raises also TooManyLeaves.
        """
        async with snapshot(self._engine) as connection:
            books = await load_books(connection, [user_id])
            rows = (await connection.execute(_CLOSED_LEAVES, {"id": user_id, "limit": MAX_LEAVES + 1})).all()
        if len(rows) > MAX_LEAVES:
            raise TooManyLeaves
        leaves = [
            ClosedLeaf(
                account_id=account_id,
                strategy=strategy,
                symbol=symbol,
                reported=Realized(gross=to_units(gross), fees=to_units(fees), funding=to_units(funding)),
                is_complete=is_complete,
            )
            for account_id, strategy, symbol, gross, fees, funding, is_complete in rows
        ]
        return (books[0], leaves) if books else None

    async def stream(self, after: str = BEFORE_ALL, batch_size: int = 2000) -> AsyncGenerator[list[UserBook]]:
        """Every user with any position or transfer and an id past one, in batches; ids grow from batch to batch.

        Each batch is at one moment of its own.
        """
        while True:
            async with snapshot(self._engine) as connection:
                found = await connection.scalars(
                    self._next_holders, {"after": after, "limit": batch_size, **self._of_shard}
                )
                ids = list(found)
                books = await load_books(connection, ids) if ids else []
            if books:
                yield books
            if len(ids) < batch_size:
                return
            after = ids[-1]

    async def heads(self) -> Heads:
        """The newest event of everybody, all at one moment."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(self._heads, self._of_shard)
            seqs = {user_id: seq for user_id, seq in rows}
            day: date = (await connection.execute(_TODAY)).scalar_one()
        return Heads(seqs, day)

    async def day_bases(self, user_ids: Sequence[str]) -> list[DayBase]:
        """The bases that :meth:`load` would give these users now."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(_USERS, {"ids": list(user_ids)})
            return [
                DayBase(user_id, None if total is None else to_units(total), day) for user_id, _, total, day in rows
            ]

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

    async def record_day_marks(self, day: date, marks: Mapping[str, Decimal]) -> None:
        """Keep the price of each symbol at the start of a day; what was kept before stays."""
        items = sorted(marks.items())
        for start in range(0, len(items), _DAY_BASES_PER_STATEMENT):
            rows = [
                {"day": day, "symbol": symbol, "price": price}
                for symbol, price in items[start : start + _DAY_BASES_PER_STATEMENT]
            ]
            async with transaction(self._engine) as connection:
                await connection.execute(insert(day_marks).on_conflict_do_nothing(), rows)

    async def delete_day_bases_before(self, day: date) -> None:
        """Forget old days."""
        async with transaction(self._engine) as connection:
            await connection.execute(day_opens.delete().where(day_opens.c.day < day))


async def load_books(
    connection: AsyncConnection, ids: list[str], held: Mapping[str, Sequence[Position]] | None = None
) -> list[UserBook]:
    """The books of users within the caller's transaction; ``held`` are their open positions where they are known."""
    if held is None:
        held = await _open_positions(connection, ids)
    assets = await _assets(connection, ids)
    accounts: defaultdict[str, list[AccountBook]] = defaultdict(list)
    currencies: dict[str, str] = {}
    for user_id, account_id, name, currency, valuation in await connection.execute(_ACCOUNTS, {"ids": ids}):
        currencies[user_id] = currency
        own = tuple(book for _, book in sorted(assets.get(account_id, {}).items()))
        accounts[user_id].append(AccountBook(account_id=account_id, name=name, valuation=valuation, assets=own))
    return [
        UserBook(
            user_id=user_id,
            ledger_seq=ledger_seq,
            currency=currencies[user_id],
            accounts=tuple(accounts[user_id]),
            positions=tuple(held.get(user_id, ())),
            day_base=None if day_base is None else to_units(day_base),
            base_day=day,
        )
        for user_id, ledger_seq, day_base, day in await connection.execute(_USERS, {"ids": ids})
        if user_id in currencies
    ]


async def _assets(connection: AsyncConnection, ids: list[str]) -> dict[str, dict[str, AssetBook]]:
    """By account and asset: what closed positions and transfers left."""
    books: defaultdict[str, dict[str, AssetBook]] = defaultdict(dict)
    for account_id, asset, *sums, is_complete in await connection.execute(_CLOSED, {"ids": ids}):
        gross, fees, funding, reported_gross, reported_fees, reported_funding = map(to_units, sums)
        books[account_id][asset] = AssetBook(
            asset=asset,
            realized=Realized(gross=gross, fees=fees, funding=funding),
            reported=Realized(gross=reported_gross, fees=reported_fees, funding=reported_funding),
            is_complete=is_complete,
        )
    for account_id, asset, *sums, is_complete in await connection.execute(_TRANSFERS, {"ids": ids}):
        adjusted, adjusted_reported, deposited, deposited_reported = map(to_units, sums)
        book = books[account_id].get(asset, AssetBook(asset=asset))
        books[account_id][asset] = msgspec.structs.replace(
            book,
            realized=book.realized + Realized(gross=adjusted),
            reported=book.reported + Realized(gross=adjusted_reported),
            deposited=deposited,
            deposited_reported=deposited_reported,
            is_complete=book.is_complete and is_complete,
        )
    return books


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
