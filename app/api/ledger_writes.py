"""Changing a user's ledger: one transaction, one event, one answer, and the answer only after the commit."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import structlog
from fastapi import Depends, Header, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.answers import encode, json_answer
from app.api.authentication import Caller
from app.api.context import Web
from app.api.problems import Problem
from app.bus.connection import BusUnavailable
from app.bus.events import publish_event
from app.bus.messages import LedgerEvent
from app.domain.positions import Position
from app.repositories.database import transaction
from app.repositories.events import EventRepository, Kind
from app.repositories.idempotency import Answer, IdempotencyRepository
from app.repositories.users import UserRepository

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Change:
    """What a transaction did: the event to tell of it, and the answer to give.

    ``corrections`` are the contents of ``correction`` events that come before it:
    what else changed, which receivers read from the database.
    """

    kind: Kind
    positions: list[Position]
    data: Mapping[str, Any]
    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    corrections: Sequence[Mapping[str, Any]] = ()


class Unchanged(Exception):
    """Nothing is to be changed after all: the transaction is undone, and this is the answer."""

    def __init__(self, body: Mapping[str, Any] | bytes, status: int, headers: Mapping[str, str]) -> None:
        super().__init__("unchanged")
        self.answer = (body, status, headers)


@dataclass(frozen=True)
class Repeatable:
    """A request that may be sent again: its Idempotency-Key, and a hash of what it asks for."""

    key: str | None
    request_hash: str

    async def refuse_repetition(self, connection: AsyncConnection, user_id: str) -> None:
        """Raise Unchanged with the stored answer of an earlier request, or Problem if that was another request.

        The user's lock is held: of many repetitions at once one goes on, the rest find its answer.
        """
        if self.key is None:
            return
        known = await IdempotencyRepository(connection).find(user_id, self.key)
        if known is None:
            return
        if known.request_hash != self.request_hash:
            raise Problem("idempotency_conflict", "This Idempotency-Key was used for a different request.")
        raise Unchanged(known.body.encode(), known.status, {"Idempotency-Replayed": "true"})

    async def keep(self, connection: AsyncConnection, user_id: str, status: int, body: bytes) -> None:
        """Store the answer with the change it tells of."""
        if self.key is not None:
            answer = Answer(self.request_hash, status, body.decode())
            await IdempotencyRepository(connection).keep(user_id, self.key, answer)


async def _repeatable(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(pattern=r"^[\x21-\x7e]{1,255}$", description="Repeat a request with the same key to get its answer."),
    ] = None,
) -> Repeatable:
    body = json.dumps(await request.json(), sort_keys=True) if await request.body() else ""
    asked = f"{request.method} {request.url.path}\n{body}"
    return Repeatable(idempotency_key, hashlib.sha256(asked.encode()).hexdigest())


Repetition = Annotated[Repeatable, Depends(_repeatable)]
"""A parameter of an endpoint that takes an Idempotency-Key."""

Work = Callable[[AsyncConnection], Awaitable[Change]]


async def change_ledger(web: Web, caller: Caller, work: Work, repeatable: Repeatable | None = None) -> Response:
    """Do ``work`` for a user in one transaction, tell of it, and answer.

    The user's row is locked first, so that of two changes one sees the other.
    What ``work`` raises undoes everything, the event number too.
    """
    events: list[LedgerEvent] = []
    try:
        async with web.turns.turn(caller.user_id), transaction(web.database) as connection:
            seq = await UserRepository(connection).advance(caller.user_id)
            if repeatable is not None:
                await repeatable.refuse_repetition(connection, caller.user_id)
            change = await work(connection)
            at = web.now()
            for data in change.corrections:
                events.append(
                    await _record(connection, LedgerEvent(caller.user_id, seq, "correction", at, [], dict(data)))
                )
                seq = await UserRepository(connection).advance(caller.user_id)
            event = LedgerEvent(caller.user_id, seq, change.kind, at, change.positions, dict(change.data))
            events.append(await _record(connection, event))
            body = encode(change.body)
            if repeatable is not None:
                await repeatable.keep(connection, caller.user_id, change.status, body)
    except Unchanged as unchanged:
        return json_answer(*unchanged.answer)
    for event in events:
        await _announce(web, event)
    return json_answer(body, change.status, change.headers)


async def _record(connection: AsyncConnection, event: LedgerEvent) -> LedgerEvent:
    await EventRepository(connection).add(event.user_id, event.seq, event.kind, event.at, event.data)
    return event


async def _announce(web: Web, event: LedgerEvent) -> None:
    try:
        await publish_event(web.redis, event, web.policy.redis_timeout_s)
    except BusUnavailable as error:
        # The change stands. Receivers find the hole in the numbers, or the poll of changed users does.
        log.warning("event.unpublished", reason=str(error))
