"""Settled funding: which stamps are needed, and which are stored."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.funding import FundingRate
from app.repositories.database import transaction
from app.repositories.tables import funding_rates, positions


class FundingNeed(msgspec.Struct, frozen=True):
    """A symbol that somebody holds or held, since when, and the span of its stamps that are stored."""

    symbol: str
    since: datetime
    first: datetime | None
    last: datetime | None


class FundingRepository:
    """Each method is one committed transaction and raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def needs(self, horizon: datetime) -> list[FundingNeed]:
        """Every contract with a position that is open, or was after the horizon. Older stamps are not needed."""
        since = func.greatest(func.min(positions.c.opened_at), literal(horizon))
        held = (
            select(positions.c.symbol, since.label("since"))
            .where(positions.c.market != "spot", or_(positions.c.closed_at.is_(None), positions.c.closed_at > horizon))
            .group_by(positions.c.symbol)
            .subquery()
        )
        stored = (
            select(func.min(funding_rates.c.at).label("first"), func.max(funding_rates.c.at).label("last"))
            .where(funding_rates.c.symbol == held.c.symbol)
            .lateral()
        )
        query = select(held.c.symbol, held.c.since, stored.c.first, stored.c.last).select_from(
            held.join(stored, literal(True))
        )
        async with transaction(self._engine) as connection:
            return [FundingNeed(*row) for row in await connection.execute(query)]

    async def store(self, stamps: Sequence[FundingRate]) -> int:
        """Keep stamps; one that is stored stays as it is. Gives how many are new."""
        if not stamps:
            return 0
        rows = [{"symbol": one.symbol, "at": one.at, "rate": one.rate, "mark": one.mark} for one in stamps]
        statement = insert(funding_rates).values(rows).on_conflict_do_nothing().returning(funding_rates.c.at)
        async with transaction(self._engine) as connection:
            return len((await connection.execute(statement)).all())

    async def between(self, symbol: str, since: datetime, until: datetime) -> list[FundingRate]:
        """The stored stamps of a symbol after ``since`` and up to ``until``, oldest first."""
        query = (
            select(funding_rates.c.symbol, funding_rates.c.at, funding_rates.c.rate, funding_rates.c.mark)
            .where(funding_rates.c.symbol == symbol, funding_rates.c.at > since, funding_rates.c.at <= until)
            .order_by(funding_rates.c.at)
        )
        async with transaction(self._engine) as connection:
            return [FundingRate(*row) for row in await connection.execute(query)]
