"""API tokens for programs: kept as hashes, shown to their owner once."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.tables import api_tokens, users

_PREFIX: Final = "tm_"
_COLUMNS: Final = (api_tokens.c.id, api_tokens.c.name, api_tokens.c.scopes, api_tokens.c.created_at)


class ApiToken(msgspec.Struct, frozen=True):
    """A token as its owner sees it afterwards."""

    token_id: str
    name: str
    scopes: list[str]
    created_at: datetime


class TokenOwner(msgspec.Struct, frozen=True):
    """On whose behalf a token speaks, and what it may do."""

    token_id: str
    user_id: str
    username: str
    scopes: frozenset[str]


def new_token() -> str:
    """256 random bits, recognisable as ours by those who scan for leaked secrets."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """A token has 256 bits of its own, so a plain hash is enough: there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


class ApiTokenRepository:
    """Reads and writes tokens within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, user_id: str, name: str, scopes: Sequence[str], token: str, now: datetime) -> ApiToken:
        token_id = str(uuid4())
        await self._connection.execute(
            insert(api_tokens).values(
                id=token_id,
                user_id=user_id,
                name=name,
                scopes=list(scopes),
                token_hash=hash_token(token),
                created_at=now,
            )
        )
        return ApiToken(token_id, name, list(scopes), now)

    async def of_user(self, user_id: str) -> list[ApiToken]:
        query = select(*_COLUMNS).where(api_tokens.c.user_id == user_id).order_by(api_tokens.c.created_at)
        return [ApiToken(*row) for row in await self._connection.execute(query)]

    async def count(self, user_id: str) -> int:
        return await self._connection.scalar(select(func.count()).where(api_tokens.c.user_id == user_id)) or 0

    async def remove(self, user_id: str, token_id: str) -> bool:
        """Whether there was such a token of this user."""
        statement = (
            delete(api_tokens)
            .where(api_tokens.c.id == token_id, api_tokens.c.user_id == user_id)
            .returning(api_tokens.c.id)
        )
        return await self._connection.scalar(statement) is not None

    async def resolve(self, token: str) -> TokenOwner | None:
        """Whose token this is; None for one that is unknown, removed, or of a user who is not active."""
        return (await self.resolve_all([token])).get(token)

    async def resolve_all(self, tokens: Sequence[str]) -> dict[str, TokenOwner]:
        """The same for many tokens, by one query; without those that are not valid."""
        by_hash = {hash_token(token): token for token in tokens}
        query = (
            select(api_tokens.c.token_hash, api_tokens.c.id, users.c.id, users.c.username, api_tokens.c.scopes)
            .join(users, users.c.id == api_tokens.c.user_id)
            .where(api_tokens.c.token_hash.in_(by_hash), users.c.is_active)
        )
        rows = await self._connection.execute(query)
        return {by_hash[row[0]]: TokenOwner(row[1], row[2], row[3], frozenset(row[4])) for row in rows}

    async def existing(self, token_ids: Sequence[str]) -> set[str]:
        """Those of the tokens that have not been removed."""
        query = select(api_tokens.c.id).where(api_tokens.c.id.in_(token_ids))
        return set(await self._connection.scalars(query))
