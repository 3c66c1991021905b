"""Each user's numbered events: what happened, in order, without a hole."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.tables import events

Kind = Literal["fill", "position", "alert", "correction", "account"]


class Event(msgspec.Struct, frozen=True):
    """One event, as clients get it."""

    seq: int
    kind: Kind
    at: datetime
    data: dict[str, Any]


class EventRepository:
    """Reads and writes events within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, user_id: str, seq: int, kind: Kind, at: datetime, data: Mapping[str, Any]) -> None:
        """Record the event whose number came from ``UserRepository.advance`` in this transaction."""
        await self._connection.execute(
            insert(events).values(user_id=user_id, seq=seq, kind=kind, at=at, data=dict(data))
        )

    async def since(self, user_id: str, seq: int, limit: int) -> list[Event]:
        """Up to ``limit`` events after a number, oldest first."""
        query = (
            select(events.c.seq, events.c.kind, events.c.at, events.c.data)
            .where(events.c.user_id == user_id, events.c.seq > seq)
            .order_by(events.c.seq)
            .limit(limit)
        )
        return [Event(*row) for row in await self._connection.execute(query)]
