"""Writing what accounts are worth minute by minute, and the marks of those minutes.

Written once, whoever writes and however often: a scope and a minute are the key,
and of two workers the one with the newer lease wins. A worker that lost its lease
writes nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import ARRAY, Boolean, DateTime, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.book_samples import Sample
from app.domain.candles import Figures
from app.domain.excursions import Excursion
from app.repositories.database import transaction
from app.repositories.figures import units_text

_IDS: Final = [bindparam(name, type_=ARRAY(Uuid(as_uuid=False))) for name in ("scopes", "users", "accounts")]
_FLAGS: Final = [bindparam(name, type_=ARRAY(Boolean)) for name in ("is_complete", "is_stale")]
_AMOUNTS: Final = [
    bindparam(name, type_=ARRAY(Text)) for name in ("gross", "fees", "funding", "unrealized", "fx", "deposits")
]

_IS_LEADER: Final = text("SELECT EXISTS (SELECT FROM leases WHERE role = :role AND epoch = :epoch)")

# Whose first sample it is. The minute before is where summing up begins.
_ADD_SCOPES: Final = text(
    """
    INSERT INTO history_scopes (scope_id, user_id, account_id, started_at, hours_until, days_until)
    SELECT scope_id, user_id, account_id, :at, :before, :before
    FROM unnest(:scopes, :users, :accounts) AS given (scope_id, user_id, account_id)
    ON CONFLICT (scope_id) DO NOTHING
    """
).bindparams(*_IDS)

_WRITE: Final = text(
    """
    INSERT INTO equity_minutes AS known (
        scope_id, at, realized_pnl_gross, fees, funding, unrealized_pnl, fx_pnl, net_deposits, is_complete, is_stale,
        epoch
    )
    SELECT scope_id, :at, gross::numeric, fees::numeric, funding::numeric, unrealized::numeric, fx::numeric,
           deposits::numeric, is_complete, is_stale, :epoch
    FROM unnest(:scopes, :gross, :fees, :funding, :unrealized, :fx, :deposits, :is_complete, :is_stale)
        AS given (scope_id, gross, fees, funding, unrealized, fx, deposits, is_complete, is_stale)
    ON CONFLICT (scope_id, at) DO UPDATE SET
        realized_pnl_gross = excluded.realized_pnl_gross, fees = excluded.fees, funding = excluded.funding,
        unrealized_pnl = excluded.unrealized_pnl, fx_pnl = excluded.fx_pnl, net_deposits = excluded.net_deposits,
        is_complete = excluded.is_complete, is_stale = excluded.is_stale, epoch = excluded.epoch
    WHERE known.epoch < excluded.epoch
    """
).bindparams(_IDS[0], *_AMOUNTS, *_FLAGS)

_RESTATE: Final = text(
    """
    INSERT INTO equity_minutes (
        scope_id, at, realized_pnl_gross, fees, funding, unrealized_pnl, fx_pnl, net_deposits, is_complete, is_stale,
        epoch
    )
    SELECT :scope, at, gross::numeric, fees::numeric, funding::numeric, unrealized::numeric, fx::numeric,
           deposits::numeric, is_complete, is_stale, :epoch
    FROM unnest(:moments, :gross, :fees, :funding, :unrealized, :fx, :deposits, :is_complete, :is_stale)
        AS given (at, gross, fees, funding, unrealized, fx, deposits, is_complete, is_stale)
    ON CONFLICT (scope_id, at) DO NOTHING
    """
).bindparams(bindparam("moments", type_=ARRAY(DateTime(timezone=True))), *_AMOUNTS, *_FLAGS)

_WRITE_MARKS: Final = text(
    """
    INSERT INTO mark_minutes (at, role, symbols, prices) VALUES (:at, :role, :symbols, CAST(:prices AS numeric[]))
    ON CONFLICT (at, role) DO NOTHING
    """
).bindparams(bindparam("symbols", type_=ARRAY(Text)), bindparam("prices", type_=ARRAY(Text)))

_WRITE_EXCURSIONS: Final = text(
    """
    INSERT INTO excursions AS known (position_id, worst, best)
    SELECT position_id, worst::numeric, best::numeric
    FROM unnest(:positions, :worst, :best) AS given (position_id, worst, best)
    ON CONFLICT (position_id) DO UPDATE
        SET worst = least(known.worst, excluded.worst), best = greatest(known.best, excluded.best)
        WHERE excluded.worst < known.worst OR excluded.best > known.best
    """
).bindparams(
    bindparam("positions", type_=ARRAY(Uuid(as_uuid=False))),
    *(bindparam(name, type_=ARRAY(Text)) for name in ("worst", "best")),
)


class NotLeading(Exception):
    """Another worker has the lease: what this one knows is not to be written."""


class SampleRepository:
    """Writes for the holder of a lease. Every method is one transaction; it raises NotLeading, DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, role: str, epoch: int) -> None:
        self._engine = engine
        self._lease = {"role": role, "epoch": epoch}

    async def write(self, at: datetime, before: datetime, samples: Sequence[Sample], *, has_new: bool) -> None:
        """Keep samples of one minute. ``has_new``: some of them may be the first of their scope.

        ``before`` is a moment before ``at`` with no sample in between.
        """
        scopes = {"scopes": [one.scope_id for one in samples]}
        async with transaction(self._engine) as connection:
            await self.require_lease(connection)
            if has_new:
                whose = {"users": [one.user_id for one in samples], "accounts": [one.account_id for one in samples]}
                await connection.execute(_ADD_SCOPES, {"at": at, "before": before, **scopes, **whose})
            parameters = {
                "at": at,
                "epoch": self._lease["epoch"],
                **scopes,
                **_columns([one.figures for one in samples]),
            }
            await connection.execute(_WRITE, parameters)

    async def write_marks(self, at: datetime, marks: Mapping[str, Decimal]) -> None:
        """Keep the prices that the samples of a minute were valued at."""
        prices = [f"{price:f}" for price in marks.values()]
        async with transaction(self._engine) as connection:
            await self.require_lease(connection)
            parameters = {"at": at, "role": self._lease["role"], "symbols": list(marks), "prices": prices}
            await connection.execute(_WRITE_MARKS, parameters)

    async def write_excursions(self, excursions: Sequence[Excursion]) -> None:
        """Widen what is kept of positions."""
        parameters = {
            "positions": [one.position_id for one in excursions],
            "worst": [units_text(one.worst) for one in excursions],
            "best": [units_text(one.best) for one in excursions],
        }
        async with transaction(self._engine) as connection:
            await self.require_lease(connection)
            await connection.execute(_WRITE_EXCURSIONS, parameters)

    async def restate(
        self, connection: AsyncConnection, scope_id: str, samples: Sequence[tuple[datetime, Figures]]
    ) -> None:
        """Put samples of one scope where none are, within the caller's transaction."""
        parameters = {
            "scope": scope_id,
            "epoch": self._lease["epoch"],
            "moments": [at for at, _ in samples],
            **_columns([figures for _, figures in samples]),
        }
        await connection.execute(_RESTATE, parameters)

    async def require_lease(self, connection: AsyncConnection) -> None:
        if not await connection.scalar(_IS_LEADER, self._lease):
            raise NotLeading(self._lease["role"])


def _columns(figures: Sequence[Figures]) -> dict[str, list[str | None] | list[bool]]:
    return {
        "gross": [units_text(one.realized_pnl_gross) for one in figures],
        "fees": [units_text(one.fees) for one in figures],
        "funding": [units_text(one.funding) for one in figures],
        "unrealized": [units_text(one.unrealized_pnl) for one in figures],
        "fx": [units_text(one.fx_pnl) for one in figures],
        "deposits": [units_text(one.net_deposits) for one in figures],
        "is_complete": [one.is_complete for one in figures],
        "is_stale": [one.is_stale for one in figures],
    }
