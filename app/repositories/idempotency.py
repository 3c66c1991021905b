"""Answers kept by Idempotency-Key, in the transaction of the change they tell of."""

from typing import Final

import msgspec
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.tables import idempotency_keys as keys

_KEPT: Final = text("interval '24 hours'")


class Answer(msgspec.Struct, frozen=True):
    """A stored answer, and the hash of the request it answers."""

    request_hash: str
    status: int
    body: str


class IdempotencyRepository:
    """Reads and writes kept answers. The caller holds the user's lock, so a key is never raced for."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, user_id: str, key: str) -> Answer | None:
        query = select(keys.c.request_hash, keys.c.status, keys.c.body).where(
            keys.c.user_id == user_id, keys.c.key == key, keys.c.created_at > func.now() - _KEPT
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else Answer(*row)

    async def keep(self, user_id: str, key: str, answer: Answer) -> None:
        """Keep an answer for a day, and forget the user's older ones."""
        await self._connection.execute(
            delete(keys).where(keys.c.user_id == user_id, keys.c.created_at <= func.now() - _KEPT)
        )
        await self._connection.execute(
            insert(keys).values(
                user_id=user_id, key=key, request_hash=answer.request_hash, status=answer.status, body=answer.body
            )
        )
