"""Where the stream asks for what it does not keep: sessions and tokens, past events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.connection import BusUnavailable
from app.bus.sessions import SessionStore, session_token
from app.repositories.api_tokens import ApiTokenRepository, TokenOwner
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.events import EventRepository
from app.websocket.admission import Identity, SessionsUnavailable
from app.websocket.events import EventNotice, EventsUnavailable
from app.websocket.lookups import Lookups, Overrun

Key = TypeVar("Key")
Answer = TypeVar("Answer")
Question: TypeAlias = Callable[[Sequence[Key]], Awaitable[Sequence[Answer | Exception]]]

_WITHIN_S = 8.0
"""How long a handshake may wait for an answer: browsers and proxies give up soon after."""

_PAUSE_S = 0.1
"""Before a question that was not answered in time is asked again: in a storm everything takes long."""

_TOKEN_LASTS_MS = 365 * 24 * 3600 * 1000
"""What ``session_expires_ms`` says of a token, which ends only by being removed."""

_LONGEST_TOKEN = 100


class StoredSessions:
    """Sessions in Redis, API tokens in PostgreSQL. Who asks at the same time is answered by the same question."""

    def __init__(self, store: SessionStore, database: AsyncEngine) -> None:
        self._database = database
        self._by_cookie = Lookups(_persistent(store.resolve_all), within_s=_WITHIN_S)
        self._by_token = Lookups(_persistent(self._owners), within_s=_WITHIN_S)
        self._by_id = Lookups(store.peek_all, within_s=_WITHIN_S)
        self._alive_tokens = Lookups(self._existing, within_s=_WITHIN_S)

    async def by_cookie(self, cookies: Mapping[str, str]) -> Identity | None:
        token = session_token(cookies)
        if token is None:
            return None
        session = await _answer(self._by_cookie.find(token))
        return None if session is None else Identity(session.user_id, session.session_id, session.expires_ms)

    async def by_token(self, token: str) -> Identity | None:
        if not token.isascii() or len(token) > _LONGEST_TOKEN:
            return None
        owner = await _answer(self._by_token.find(token))
        if owner is None:
            return None
        expires_ms = time.time_ns() // 1_000_000 + _TOKEN_LASTS_MS
        return Identity(owner.user_id, owner.token_id, expires_ms, is_token=True, may_read="read" in owner.scopes)

    async def is_alive(self, identity: Identity) -> bool:
        if identity.is_token:
            return await _answer(self._alive_tokens.find(identity.session_id))
        return await _answer(self._by_id.find(identity.session_id)) is not None

    async def _owners(self, tokens: Sequence[str]) -> list[TokenOwner | Exception | None]:
        async with transaction(self._database) as connection:
            found = await ApiTokenRepository(connection).resolve_all(tokens)
        return [found.get(token) for token in tokens]

    async def _existing(self, token_ids: Sequence[str]) -> list[bool | Exception]:
        async with transaction(self._database) as connection:
            found = await ApiTokenRepository(connection).existing(token_ids)
        return [token_id in found for token_id in token_ids]


def _persistent(ask: Question[Key, Answer]) -> Question[Key, Answer]:
    """Ask until there is an answer. Who waits for it bounds that."""

    async def ask_again(keys: Sequence[Key]) -> Sequence[Answer | Exception]:
        while True:
            with suppress(BusUnavailable, DatabaseUnavailable):
                return await ask(keys)
            await asyncio.sleep(_PAUSE_S)

    return ask_again


async def _answer(lookup: Awaitable[Answer]) -> Answer:
    try:
        return await lookup
    except (BusUnavailable, DatabaseUnavailable, Overrun) as error:
        raise SessionsUnavailable(str(error)) from error


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
