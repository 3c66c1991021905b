"""Summing up minutes in hours and hours in days, and forgetting what was summed up long ago.

A scope is taken when an hour or a day of its user's time zone is over, so midnights
there are always the end of a candle. Each step is one statement over a bounded
number of scopes: what it sums up, forgets and notes as done stand or fall together.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.shards import EVERYBODY, Shard
from app.repositories.books import IN_SHARD
from app.repositories.database import transaction
from app.repositories.figures import CANDLE, FIGURES

# A sample on the hour closes the hour before. What net deposits have in common is one run: see app.domain.candles.
_STEP: Final = """
    WITH due AS (
        SELECT s.scope_id, u.time_zone, s.{done} AS since,
               date_trunc('{unit}', least({available}), u.time_zone) AS until
        FROM history_scopes s JOIN users u ON u.id = s.user_id
        WHERE s.{done} < date_trunc('{unit}', least({available}), u.time_zone) AND s.restate_from IS NULL {and_in_shard}
        ORDER BY s.{done}
        LIMIT :limit
        FOR UPDATE OF s SKIP LOCKED
    ), fine AS (
        SELECT due.scope_id, date_trunc('{unit}', f.at - interval '1 microsecond', due.time_zone) AS bucket, f.*
        FROM due JOIN ({finer}) f ON f.scope = due.scope_id AND f.at > due.since AND f.at <= due.until
    ), turns AS (
        SELECT *, (net_deposits IS DISTINCT FROM lag(net_deposits) OVER bucketed)::int AS is_turn
        FROM fine WINDOW bucketed AS (PARTITION BY scope_id, bucket ORDER BY at)
    ), runs AS (
        SELECT *, sum(is_turn) OVER (PARTITION BY scope_id, bucket ORDER BY at) AS run FROM turns
    ), peaks AS (
        SELECT *, max(high) OVER (
            PARTITION BY scope_id, bucket, run ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS peak
        FROM runs
    ), summed AS (
        INSERT INTO equity_candles (scope_id, resolution, {candle})
        SELECT scope_id, '{unit}', min(opened_at), max(at),
               (array_agg(open ORDER BY at) FILTER (WHERE open IS NOT NULL))[1], max(high), min(low),
               max(greatest(fall, peak - low, 0)),
               max(greatest(
                   fall_ppt,
                   CASE WHEN peak + net_deposits > 0
                        THEN div(greatest(peak - low, 0) * 1000000000000, peak + net_deposits) END
               )),
               {last}, bool_and(is_complete), bool_or(is_stale)
        FROM peaks
        GROUP BY scope_id, bucket, run
        ON CONFLICT (scope_id, resolution, at) DO NOTHING
    ), forgotten AS (
        DELETE FROM {finer_table} old USING due
        WHERE old.scope_id = due.scope_id AND old.at <= least(due.until, :forget_before) {of_finer}
    ), done AS (
        UPDATE history_scopes s SET {done} = due.until FROM due WHERE s.scope_id = due.scope_id
    )
    SELECT count(*) FROM due
    """

_LAST: Final = ", ".join(
    f"(array_agg({name} ORDER BY (high IS NULL), at DESC))[1]"
    for name in ("realized_pnl_gross", "fees", "funding", "unrealized_pnl", "fx_pnl", "net_deposits")
)

_MINUTES: Final = f"""
    SELECT scope_id AS scope, at AS opened_at, at, pnl AS open, pnl AS high, pnl AS low, 0::numeric AS fall,
           CASE WHEN pnl + net_deposits > 0 THEN 0::numeric END AS fall_ppt, {FIGURES}
    FROM (
        SELECT *, realized_pnl_gross - fees + funding + unrealized_pnl + fx_pnl AS pnl FROM equity_minutes
    ) minutes
    """  # noqa: S608 - The names of columns.
_HOURS: Final = f"SELECT scope_id AS scope, {CANDLE} FROM equity_candles WHERE resolution = 'hour'"  # noqa: S608 - As above.

_FORGET_MARKS: Final = text(
    """
    DELETE FROM mark_minutes WHERE (at, role) IN (
        SELECT at, role FROM mark_minutes
        WHERE at < :minutes_before AND extract(minute FROM at)::int % 15 <> 0
           OR at < :hours_before AND at <> date_trunc('day', at, 'UTC')
        LIMIT :limit
    )
    """
)


class RollUpRepository:
    """Works on the scopes of one shard. Every method is one transaction and raises DatabaseUnavailable.

    ``minutes_for`` and ``hours_for`` say how long what is summed up is kept.
    """

    def __init__(
        self, engine: AsyncEngine, shard: Shard = EVERYBODY, *, minutes_for: timedelta, hours_for: timedelta
    ) -> None:
        self._engine = engine
        self._minutes_for = minutes_for
        self._hours_for = hours_for
        is_part = shard.shards > 1
        shared = {"candle": CANDLE, "last": _LAST, "and_in_shard": f"AND {IN_SHARD}" if is_part else ""}
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}
        self._hours = text(
            _STEP.format(
                unit="hour",
                done="hours_until",
                available="CAST(:over AS timestamptz)",
                finer=_MINUTES,
                finer_table="equity_minutes",
                of_finer="",
                **shared,
            )
        )
        self._days = text(
            _STEP.format(
                unit="day",
                done="days_until",
                available="CAST(:over AS timestamptz), s.hours_until",
                finer=_HOURS,
                finer_table="equity_candles",
                of_finer="AND old.resolution = 'hour'",
                **shared,
            )
        )

    async def sum_up_hours(self, over: datetime, limit: int) -> int:
        """Sum up the minutes of hours that ended before ``over``, of up to ``limit`` scopes: how many there were."""
        return await self._step(self._hours, over, over - self._minutes_for, limit)

    async def sum_up_days(self, over: datetime, limit: int) -> int:
        """Sum up the hours of days that ended before ``over``, of up to ``limit`` scopes: how many there were."""
        return await self._step(self._days, over, over - self._hours_for, limit)

    async def forget_marks(self, now: datetime, limit: int) -> int:
        """Forget marks: of old minutes all but each quarter of an hour, of old hours all but midnights (UTC)."""
        parameters = {
            "minutes_before": now - self._minutes_for,
            "hours_before": now - self._hours_for,
            "limit": limit,
        }
        async with transaction(self._engine) as connection:
            return (await connection.execute(_FORGET_MARKS, parameters)).rowcount

    async def _step(self, statement: object, over: datetime, forget_before: datetime, limit: int) -> int:
        parameters = {"over": over, "forget_before": forget_before, "limit": limit, **self._of_shard}
        async with transaction(self._engine) as connection:
            return int(await connection.scalar(statement, parameters) or 0)  # type: ignore[call-overload]
