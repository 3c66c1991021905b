"""Samples that a correction of the ledger made wrong: which they are, what made them, and putting others there."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec
from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.candles import Figures
from app.domain.decimals import to_units
from app.domain.positions import AccountBook, AssetBook, Realized
from app.domain.prices import Basis
from app.domain.restatement import AccountPast, MoneyMoved, with_transfer
from app.domain.shards import EVERYBODY, Shard
from app.repositories.books import IN_SHARD
from app.repositories.database import snapshot, transaction
from app.repositories.figures import FIGURES, read_figures
from app.repositories.recorded_fills import TooManyFills, load_fills
from app.repositories.samples import SampleRepository

_ROWS_PER_WRITE: Final = 1000

# Accounts first: what all of a user's accounts are worth together is made of them.
_DUE: Final = """
    SELECT s.scope_id::text, s.user_id::text, s.account_id::text, s.restate_from, s.corrected_at, s.started_at
    FROM history_scopes s JOIN users u ON u.id = s.user_id
    WHERE s.restate_from IS NOT NULL AND s.corrected_at <= clock_timestamp() - :quiet_s * interval '1 second'
          {and_in_shard}
    ORDER BY (s.account_id IS NULL), s.restate_from LIMIT 1
    """

# A candle goes as a whole, so what is reckoned anew begins where the first one does that has anything of it.
_BEGIN: Final = text(
    """
    SELECT least(:since, min(opened_at)) FROM equity_candles WHERE scope_id = :scope AND at > :since
    """
)

_MARKS: Final = text(
    """
    SELECT at, array_agg(m.symbol), array_agg(m.price)
    FROM mark_minutes, unnest(symbols, prices) AS m (symbol, price)
    WHERE at >= :since AND at > :after AND at <= :until AND m.symbol = ANY(:names)
    GROUP BY at
    """
).bindparams(bindparam("names", type_=ARRAY(Text)))

_MARK_TIMES: Final = text(
    "SELECT DISTINCT at FROM mark_minutes WHERE at >= :since AND at > :after ORDER BY at LIMIT :limit"
)

_ACCOUNT: Final = text("SELECT id::text, name, valuation, currency FROM accounts WHERE id = :account")

_CLOSED: Final = text(
    """
    SELECT settle, sum(realized_pnl_gross), sum(fees_published), sum(funding_published),
           sum(coalesce(reported_gross, realized_pnl_gross)), sum(coalesce(reported_fees, fees_published)),
           sum(coalesce(reported_funding, funding_published)), bool_and(is_converted AND fees_unpriced = '{}'::jsonb)
    FROM positions
    WHERE user_id = :user AND account_id = :account AND status = 'closed' AND closed_at < :since GROUP BY settle
    """
)

_TRANSFERS: Final = text(
    """
    SELECT at, asset, amount, rate_to_reporting, kind = 'adjustment' FROM transfers
    WHERE account_id = :account ORDER BY at, id LIMIT :limit
    """
)

_STALE: Final = text("SELECT at FROM equity_minutes WHERE scope_id = :scope AND at >= :since AND is_stale")

_SAMPLES: Final = text(
    f"""
    SELECT at, {FIGURES} FROM (
        SELECT at, {FIGURES} FROM equity_minutes WHERE scope_id = :scope AND at >= :since
        UNION ALL (
            SELECT at, {FIGURES} FROM equity_minutes WHERE scope_id = :scope AND at < :since ORDER BY at DESC LIMIT 1
        )
        UNION ALL (
            SELECT at, {FIGURES} FROM equity_candles WHERE scope_id = :scope AND at < :since ORDER BY at DESC LIMIT 1
        )
    ) known ORDER BY at
    """  # noqa: S608 - The names of columns.
)

_LOCK: Final = text("SELECT corrected_at FROM history_scopes WHERE scope_id = :scope FOR UPDATE")
_CLEAR_MINUTES: Final = text("DELETE FROM equity_minutes WHERE scope_id = :scope AND at >= :begin AND at <= :last")
_CLEAR_CANDLES: Final = text("DELETE FROM equity_candles WHERE scope_id = :scope AND at >= :begin")
_DONE: Final = text(
    """
    UPDATE history_scopes
    SET hours_until = least(hours_until, :before), days_until = least(days_until, :before),
        restate_from = NULL
    WHERE scope_id = :scope
    """
)


class Due(msgspec.Struct, frozen=True):
    """A scope whose samples from ``since`` on are to be reckoned anew."""

    scope_id: str
    user_id: str
    account_id: str | None
    since: datetime
    corrected_at: datetime
    started_at: datetime


class RestatingRepository:
    """Of one shard, for the holder of its lease. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, samples: SampleRepository, shard: Shard = EVERYBODY) -> None:
        self._engine = engine
        self._samples = samples
        is_part = shard.shards > 1
        self._due = text(_DUE.format(and_in_shard=f"AND {IN_SHARD}" if is_part else ""))
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}

    async def next_due(self, quiet_s: float) -> Due | None:
        """One that is due and was not corrected in the last seconds, if there is any."""
        async with transaction(self._engine) as connection:
            row = (await connection.execute(self._due, {"quiet_s": quiet_s, **self._of_shard})).one_or_none()
        return None if row is None else Due(*row)

    async def begin_of(self, due: Due) -> datetime:
        """Where to begin: at or before ``due.since``."""
        async with transaction(self._engine) as connection:
            begin: datetime = await connection.scalar(_BEGIN, {"scope": due.scope_id, "since": due.since})
        return max(begin, due.started_at)

    async def past(self, due: Due, begin: datetime, most: int) -> AccountPast:
        """What made an account since a moment. Raises TooManyFills."""
        assert due.account_id is not None
        async with snapshot(self._engine) as connection:
            account_id, name, valuation, currency = (
                await connection.execute(_ACCOUNT, {"account": due.account_id})
            ).one()
            account = await _account_before(connection, due, name, valuation, begin)
            parameters = {"account": account_id, "limit": most + 1}
            moved = [
                MoneyMoved(at=at, asset=asset, amount=amount, rate=rate, is_adjustment=is_adjustment)
                for at, asset, amount, rate, is_adjustment in await connection.execute(_TRANSFERS, parameters)
            ]
            made = await load_fills(
                connection,
                due.user_id,
                [account_id],
                since=begin,
                until=datetime.max.replace(tzinfo=begin.tzinfo),
                most=most,
            )
        if len(moved) > most:
            raise TooManyFills(most)
        for transfer in moved:
            if transfer.at < begin:
                account = with_transfer(account, transfer)
        return AccountPast(
            since=begin,
            account=account,
            currency=currency,
            positions=made.positions,
            fills=made.fills,
            funding=made.funding,
            transfers=[transfer for transfer in moved if transfer.at >= begin],
        )

    async def marks(
        self, since: datetime, after: datetime, names: Sequence[str], limit: int
    ) -> list[tuple[datetime, Mapping[str, Decimal]]]:
        """Up to ``limit`` minutes from ``since`` on and after ``after``, with the marks of these names."""
        parameters = {"since": since, "after": after}
        async with transaction(self._engine) as connection:
            times = list(await connection.scalars(_MARK_TIMES, {**parameters, "limit": limit}))
            if not times:
                return []
            rows = await connection.execute(_MARKS, {**parameters, "until": times[-1], "names": list(names)})
            found = {at: dict(zip(symbols, prices, strict=True)) for at, symbols, prices in rows}
        return [(at, found.get(at, {})) for at in times]

    async def stale_minutes(self, due: Due, begin: datetime) -> set[datetime]:
        """The minutes whose samples were stale."""
        async with transaction(self._engine) as connection:
            return set(await connection.scalars(_STALE, {"scope": due.scope_id, "since": begin}))

    async def samples(self, scope_id: str, since: datetime) -> list[tuple[datetime, Figures]]:
        """What is kept of a scope by minutes since a moment, and the newest before it."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(_SAMPLES, {"scope": scope_id, "since": since})
            return [(row[0], read_figures(row[1:])) for row in rows]

    async def accounts_of(self, user_id: str) -> list[str]:
        """The accounts of a user that there is history of."""
        query = text("SELECT scope_id::text FROM history_scopes WHERE user_id = :user AND account_id IS NOT NULL")
        async with transaction(self._engine) as connection:
            return list(await connection.scalars(query, {"user": user_id}))

    async def replace(self, due: Due, begin: datetime, samples: Sequence[tuple[datetime, Figures]]) -> bool:
        """Put samples in the place of those since ``begin``; hours and days follow when they are summed up.

        False where another correction came meanwhile: then it is due again. Raises NotLeading.
        """
        last = samples[-1][0] if samples else begin
        scope = {"scope": due.scope_id}
        async with transaction(self._engine) as connection:
            await self._samples.require_lease(connection)
            if await connection.scalar(_LOCK, scope) != due.corrected_at:
                return False
            await connection.execute(_CLEAR_MINUTES, {**scope, "begin": begin, "last": last})
            await connection.execute(_CLEAR_CANDLES, {**scope, "begin": begin})
            for start in range(0, len(samples), _ROWS_PER_WRITE):
                await self._samples.restate(connection, due.scope_id, samples[start : start + _ROWS_PER_WRITE])
            before = begin - timedelta(microseconds=1)
            await connection.execute(_DONE, {**scope, "before": before})
        return True

    async def give_up(self, due: Due) -> None:
        """Leave samples as they are: what made them is too much to go through."""
        query = text("UPDATE history_scopes SET restate_from = NULL WHERE scope_id = :scope")
        async with transaction(self._engine) as connection:
            await connection.execute(query, {"scope": due.scope_id})


async def _account_before(
    connection: AsyncConnection, due: Due, name: str, valuation: Basis, since: datetime
) -> AccountBook:
    """An account with what had closed in it before a moment, without transfers."""
    assert due.account_id is not None
    books = []
    parameters = {"user": due.user_id, "account": due.account_id, "since": since}
    for asset, *sums, is_complete in await connection.execute(_CLOSED, parameters):
        gross, fees, funding, reported_gross, reported_fees, reported_funding = map(to_units, sums)
        books.append(
            AssetBook(
                asset=asset,
                realized=Realized(gross=gross, fees=fees, funding=funding),
                reported=Realized(gross=reported_gross, fees=reported_fees, funding=reported_funding),
                is_complete=is_complete,
            )
        )
    return AccountBook(account_id=due.account_id, name=name, valuation=valuation, assets=tuple(books))
