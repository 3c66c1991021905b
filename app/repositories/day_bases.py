"""Total P&L at the beginnings of days, and what corrections do to it."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.day_bases import midnight
from app.domain.decimals import from_units, to_units
from app.repositories.tables import day_marks, day_opens

_HAD_HISTORY: Final = text(
    """
    SELECT EXISTS (SELECT FROM trades WHERE user_id = CAST(:user AS uuid) AND executed_at < :moment)
        OR EXISTS (SELECT FROM transfers WHERE user_id = CAST(:user AS uuid) AND kind = 'adjustment' AND at < :moment)
    """
).bindparams(bindparam("moment"))


class BaseCorrection(msgspec.Struct, frozen=True):
    """Total P&L at the beginning of a day in units of 1e-18, before and after a correction; None is unknown."""

    day: date
    before: int | None
    after: int | None


class DayBaseRepository:
    """Reads and writes bases of one user within the caller's transaction."""

    def __init__(self, connection: AsyncConnection, user_id: str) -> None:
        self._connection = connection
        self._user_id = user_id

    async def known_after(self, day: date, today: date) -> dict[date, int | None]:
        """The bases of the days after one, those of today always among them.

        Where nobody wrote today's down it is zero for who had nothing before today, else unknown.
        """
        query = (
            select(day_opens.c.day, day_opens.c.total_pnl)
            .where(day_opens.c.user_id == self._user_id, day_opens.c.day > day)
            .order_by(day_opens.c.day)
        )
        rows = await self._connection.execute(query)
        known: dict[date, int | None] = {found: to_units(total) for found, total in rows}
        if day < today and today not in known:
            parameters = {"user": self._user_id, "moment": midnight(today)}
            known[today] = None if await self._connection.scalar(_HAD_HISTORY, parameters) else 0
        return dict(sorted(known.items()))

    async def marks(self, symbol: str, days: Sequence[date]) -> dict[date, Decimal]:
        """The price of a symbol at the beginning of days, where it was written down."""
        query = select(day_marks.c.day, day_marks.c.price).where(
            day_marks.c.symbol == symbol, day_marks.c.day.in_(days)
        )
        return {day: price for day, price in await self._connection.execute(query)}

    async def correct(self, corrections: Sequence[BaseCorrection]) -> None:
        """Write what the bases are after a correction; one that is unknown is forgotten."""
        unknown = [one.day for one in corrections if one.after is None]
        if unknown:
            gone = delete(day_opens).where(day_opens.c.user_id == self._user_id, day_opens.c.day.in_(unknown))
            await self._connection.execute(gone)
        values = [
            {"user_id": self._user_id, "day": one.day, "total_pnl": from_units(one.after)}
            for one in corrections
            if one.after is not None
        ]
        if values:
            statement = insert(day_opens)
            await self._connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["user_id", "day"], set_={"total_pnl": statement.excluded.total_pnl}
                ),
                values,
            )


def corrected(known: Mapping[date, int | None], changes: Mapping[date, int | None]) -> list[BaseCorrection]:
    """The bases that change: by how much, or into unknown."""
    found = []
    for day, before in known.items():
        change = changes[day]
        after = None if before is None or change is None else before + change
        if after != before:
            found.append(BaseCorrection(day, before, after))
    return found


def unknown_days(data: Mapping[str, Any]) -> list[date]:
    """The days whose base is unknown after the correction that an event tells of."""
    return [date.fromisoformat(one["day"]) for one in data.get("day_bases", ()) if one["after"] is None]


def base_statement(correction: BaseCorrection) -> dict[str, Any]:
    """A corrected base as an event tells it: the day and the totals, null where unknown."""
    totals = [None if one is None else f"{from_units(one):f}" for one in (correction.before, correction.after)]
    return {"day": correction.day.isoformat(), "before": totals[0], "after": totals[1]}
