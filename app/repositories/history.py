"""Reading what accounts were worth, within the caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

import msgspec
from sqlalchemy import ARRAY, DateTime, Text, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.candles import Candle
from app.domain.day_pnl import Known
from app.domain.decimals import to_units
from app.domain.trade_statistics import ClosedCycle
from app.repositories.figures import CANDLE, FIGURES, read_candle, read_figures, read_minute
from app.repositories.paging import Place

Resolution = Literal["minute", "hour", "day"]

_MOMENTS: Final = bindparam("moments", type_=ARRAY(DateTime(timezone=True)))
_ACCOUNTS: Final = bindparam("accounts", type_=ARRAY(Uuid(as_uuid=False)))

_SCOPES: Final = text(
    """
    SELECT scope_id::text, account_id::text, started_at, hours_until, days_until FROM history_scopes
    WHERE user_id = :user_id ORDER BY started_at, scope_id
    """
)

_MINUTES: Final = text(
    f"""
    SELECT at, {FIGURES} FROM equity_minutes
    WHERE scope_id = :scope AND at > :after AND at <= :until ORDER BY at LIMIT :limit
    """  # noqa: S608 - The names of columns.
)

_CANDLES: Final = text(
    f"""
    SELECT {CANDLE} FROM equity_candles
    WHERE scope_id = :scope AND resolution = :resolution AND at > :after AND at <= :until ORDER BY at LIMIT :limit
    """  # noqa: S608 - The names of columns.
)


def _newest(table: str, condition: str) -> str:
    return (
        f"(SELECT at, {FIGURES} FROM {table} WHERE scope_id = :scope AND at <= wanted.moment"  # noqa: S608 - As below.
        f" AND unrealized_pnl IS NOT NULL AND fx_pnl IS NOT NULL {condition} ORDER BY at DESC LIMIT 1)"
    )


_KNOWN_AT: Final = text(
    f"""
    SELECT wanted.moment, known.* FROM unnest(:moments) AS wanted (moment)
    JOIN LATERAL (
        {_newest("equity_minutes", "")}
        UNION ALL {_newest("equity_candles", "AND resolution = 'hour'")}
        UNION ALL {_newest("equity_candles", "AND resolution = 'day'")}
        ORDER BY at DESC LIMIT 1
    ) known ON true
    """  # noqa: S608 - The names of tables and columns.
).bindparams(_MOMENTS)

_MARKS: Final = text(
    """
    SELECT m.symbol, m.price
    FROM mark_minutes, unnest(symbols, prices) AS m (symbol, price)
    WHERE at = :at AND m.symbol = ANY(:symbols)
    """
).bindparams(bindparam("symbols", type_=ARRAY(Text)))

_MARK_TIME: Final = text("SELECT max(at) FROM mark_minutes WHERE at <= :moment")

_REVISIONS: Final = text("SELECT since, revisions FROM history_revisions WHERE account_id = ANY(:accounts)").bindparams(
    _ACCOUNTS
)

# How far a cycle went is known in its settle asset.
_CYCLES: Final = text(
    """
    SELECT p.id::text, p.account_id::text, p.symbol,
           coalesce(p.reported_gross - p.reported_fees + p.reported_funding,
                    p.realized_pnl_gross - p.fees_published + p.funding_published),
           p.opened_at, p.closed_at,
           CASE WHEN p.reported_gross IS NULL THEN e.worst END, CASE WHEN p.reported_gross IS NULL THEN e.best END
    FROM positions p LEFT JOIN excursions e ON e.position_id = p.id
    WHERE p.user_id = :user_id AND p.account_id = ANY(:accounts) AND p.status = 'closed'
      AND p.closed_at >= :since AND (p.closed_at, p.id) < (:until, CAST(:before AS uuid))
    ORDER BY p.closed_at DESC, p.id DESC LIMIT :limit
    """
).bindparams(_ACCOUNTS)

_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"

_FIRST_EVENT: Final = text(
    """
    SELECT a.id::text, least(
        (
            SELECT opened_at FROM positions p WHERE p.user_id = a.user_id AND p.account_id = a.id
            ORDER BY opened_at LIMIT 1
        ),
        (SELECT min(at) FROM transfers t WHERE t.account_id = a.id)
    )
    FROM accounts a WHERE a.id = ANY(:accounts)
    """
).bindparams(_ACCOUNTS)


class Scope(msgspec.Struct, frozen=True):
    """What there is history of: an account, or (``account_id`` None) all accounts of a user who has several.

    Minutes are summed up in hours until ``hours_until``, hours in days until ``days_until``.
    """

    scope_id: str
    account_id: str | None
    started_at: datetime
    hours_until: datetime
    days_until: datetime


class HistoryRepository:
    """Reads history. Callers have found the scopes to be their user's."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def scopes(self, user_id: str) -> list[Scope]:
        """What there is history of, the oldest first."""
        return [Scope(*row) for row in await self._connection.execute(_SCOPES, {"user_id": user_id})]

    async def candles(
        self, scope_id: str, resolution: Resolution, *, after: datetime, until: datetime, limit: int
    ) -> list[Candle]:
        """Up to ``limit`` stored samples or candles that end in ``(after, until]``, the oldest first."""
        parameters = {"scope": scope_id, "after": after, "until": until, "limit": limit}
        if resolution == "minute":
            return [read_minute(row) for row in await self._connection.execute(_MINUTES, parameters)]
        rows = await self._connection.execute(_CANDLES, {**parameters, "resolution": resolution})
        return [read_candle(row) for row in rows]

    async def known_at(self, scope_id: str, moments: Sequence[datetime]) -> dict[datetime, Known]:
        """The newest known figures at or before each moment; moments before all of them are left out."""
        rows = await self._connection.execute(_KNOWN_AT, {"scope": scope_id, "moments": list(moments)})
        return {row[0]: Known(row[1], read_figures(row[2:])) for row in rows}

    async def mark_time(self, moment: datetime) -> datetime | None:
        """The newest moment at or before another of which marks are kept."""
        at: datetime | None = await self._connection.scalar(_MARK_TIME, {"moment": moment})
        return at

    async def marks(self, at: datetime, names: Sequence[str]) -> dict[str, Decimal]:
        """The marks of a moment, by name, of those that were kept."""
        rows = await self._connection.execute(_MARKS, {"at": at, "symbols": list(names)})
        return {name: price for name, price in rows}

    async def revisions(self, account_ids: Sequence[str]) -> list[tuple[datetime, int]]:
        """``(since, how often)``: corrections of the past of accounts."""
        rows = await self._connection.execute(_REVISIONS, {"accounts": list(account_ids)})
        return [(since, revisions) for since, revisions in rows]

    async def closed_cycles(
        self,
        user_id: str,
        account_ids: Sequence[str],
        *,
        since: datetime,
        until: datetime,
        limit: int,
        after: Place | None = None,
    ) -> list[ClosedCycle]:
        """Up to ``limit`` cycles that closed in ``[since, until)``, the newest first, that follow ``after`` so."""
        before = Place(until, _FIRST_ID) if after is None else after
        parameters = {
            "user_id": user_id,
            "accounts": list(account_ids),
            "since": since,
            "until": before.at,
            "before": before.id,
            "limit": limit,
        }
        return [
            ClosedCycle(
                position_id=position_id,
                account_id=account_id,
                symbol=symbol,
                net=to_units(net),
                opened_at=opened_at,
                closed_at=closed_at,
                worst=None if worst is None else to_units(worst),
                best=None if best is None else to_units(best),
            )
            for position_id, account_id, symbol, net, opened_at, closed_at, worst, best in (
                await self._connection.execute(_CYCLES, parameters)
            )
        ]

    async def first_events(self, account_ids: Sequence[str]) -> Mapping[str, datetime | None]:
        """When each account had its first fill or transfer; None: it had none."""
        rows = await self._connection.execute(_FIRST_EVENT, {"accounts": list(account_ids)})
        return {account_id: at for account_id, at in rows}
