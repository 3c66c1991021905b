"""Where the stream asks for what it does not keep: sessions and tokens, past events."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.connection import BusUnavailable
from app.bus.sessions import SessionStore, session_token
from app.repositories.api_tokens import ApiTokenRepository
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.events import EventRepository
from app.websocket.admission import Identity, SessionsUnavailable
from app.websocket.events import EventNotice, EventsUnavailable

_LOOKED_UP_AT_ONCE = 20

_TOKEN_LASTS_MS = 365 * 24 * 3600 * 1000
"""What ``session_expires_ms`` says of a token, which ends only by being removed."""


class StoredSessions:
    """Sessions in Redis, API tokens in PostgreSQL."""

    def __init__(self, store: SessionStore, database: AsyncEngine) -> None:
        self._store = store
        self._database = database
        self._turns = asyncio.Semaphore(_LOOKED_UP_AT_ONCE)

    async def by_cookie(self, cookies: Mapping[str, str]) -> Identity | None:
        token = session_token(cookies)
        if token is None:
            return None
        try:
            # A crowd that comes back waits for its turn here: in Redis's queue its deadlines would pass.
            async with self._turns:
                session = await self._store.resolve(token)
        except BusUnavailable as error:
            raise SessionsUnavailable(str(error)) from error
        return None if session is None else Identity(session.user_id, session.session_id, session.expires_ms)

    async def by_token(self, token: str) -> Identity | None:
        try:
            async with transaction(self._database) as connection:
                owner = await ApiTokenRepository(connection).resolve(token)
        except DatabaseUnavailable as error:
            raise SessionsUnavailable(str(error)) from error
        if owner is None:
            return None
        expires_ms = time.time_ns() // 1_000_000 + _TOKEN_LASTS_MS
        return Identity(owner.user_id, owner.token_id, expires_ms, is_token=True, may_read="read" in owner.scopes)

    async def is_alive(self, identity: Identity) -> bool:
        try:
            if not identity.is_token:
                return await self._store.peek(identity.session_id) is not None
            async with transaction(self._database) as connection:
                tokens = await ApiTokenRepository(connection).of_user(identity.user_id)
        except (BusUnavailable, DatabaseUnavailable) as error:
            raise SessionsUnavailable(str(error)) from error
        return any(token.token_id == identity.session_id for token in tokens)


class StoredEvents:
    """The events table."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database

    async def since(self, user_id: str, seq: int, limit: int) -> Sequence[EventNotice] | None:
        try:
            async with transaction(self._database) as connection:
                events = await EventRepository(connection).since(user_id, seq, limit + 1)
        except DatabaseUnavailable as error:
            raise EventsUnavailable(str(error)) from error
        if len(events) > limit:
            return None
        return [EventNotice(user_id, event.seq, event.kind, event.at, event.data) for event in events]
