"""Funding: sees settled stamps arrive and has every user of the shard paid, each in a transaction of his own.

Nothing here is needed for exactness: what is unpaid is what the database says,
and a turn that ends anywhere is taken again.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn, Protocol

import structlog
from redis.asyncio import Redis

from app.bus.connection import BusUnavailable
from app.bus.events import publish_event
from app.bus.messages import LedgerEvent
from app.domain.cycles import TooLarge
from app.domain.ledger import ContradictoryFill
from app.repositories.chains import ChainTooLong
from app.repositories.database import DatabaseUnavailable
from app.repositories.funding_turns import FundingBooked, RateOf, Stamp
from app.repositories.positions import PositionChanged

log = structlog.get_logger(__name__)

_LOOK_EVERY_S: Final = 5.0
_LOOK_BACK: Final = timedelta(minutes=10)
"""A stamp is stored at most so long after the time that its row gives, and clocks differ by less."""
_FIRST_LOOK_BACK: Final = timedelta(days=31)
_LOOK_AGAIN: Final = timedelta(seconds=60)
"""A fill of before a stamp that was being recorded as the stamp was paid is committed by then."""
_USERS_AT_ONCE: Final = 200
_TRANSACTIONS_AT_ONCE: Final = 4


class FundingTurns(Protocol):
    """What is unpaid, and its payment. Every method raises DatabaseUnavailable."""

    async def looked_until(self) -> datetime | None: ...
    async def note(self, stored_at: datetime) -> None: ...
    async def stamps_stored_since(self, moment: datetime) -> list[Stamp]: ...
    async def unpaid(self, stamp: Stamp, limit: int) -> list[str]: ...
    async def pay(self, user_id: str, since: datetime, rate_of: RateOf, now: datetime) -> FundingBooked | None: ...


class FundingTurn:
    """Pays what is unpaid of one shard. ``rate_of`` gives current exchange rates."""

    def __init__(
        self,
        turns: FundingTurns,
        redis: "Redis",
        redis_timeout_s: float,
        rate_of: RateOf,
        *,
        is_active: Callable[[], bool] = lambda: True,
    ) -> None:
        self._turns = turns
        self._redis = redis
        self._redis_timeout_s = redis_timeout_s
        self._rate_of = rate_of
        self._is_active = is_active
        self._first_seen: dict[Stamp, datetime] = {}
        self._settled: set[Stamp] = set()
        self.paid_users = 0

    async def run(self) -> NoReturn:
        """Look for stamps until cancelled."""
        while True:
            if self._is_active():
                try:
                    await self.take()
                except DatabaseUnavailable as error:
                    log.warning("funding.turn_failed", reason=str(error))
            await asyncio.sleep(_LOOK_EVERY_S)

    async def take(self) -> None:
        """Pay all stamps that were stored and not looked at twice. Raises DatabaseUnavailable."""
        now = datetime.now(UTC)
        since = (await self._turns.looked_until() or now - _FIRST_LOOK_BACK) - _LOOK_BACK
        stamps = await self._turns.stamps_stored_since(since)
        for stamp in stamps:
            if stamp in self._settled:
                continue
            seen = self._first_seen.setdefault(stamp, now)
            if seen == now or now - seen >= _LOOK_AGAIN:
                await self._pay(stamp, since)
            if now - seen >= _LOOK_AGAIN:
                self._settled.add(stamp)
                del self._first_seen[stamp]
        self._settled.intersection_update(stamps)
        if not self._first_seen:
            await self._turns.note(now)

    async def _pay(self, stamp: Stamp, since: datetime) -> None:
        passed_over: set[str] = set()
        while True:
            users = await self._turns.unpaid(stamp, _USERS_AT_ONCE + len(passed_over))
            left = [user for user in users if user not in passed_over]
            if not left:
                return
            passed_over.update(await self._pay_users(left, since))

    async def _pay_users(self, users: Sequence[str], since: datetime) -> list[str]:
        """Pay users, some at once; those who were not paid."""
        unpaid: list[str] = []
        waiting = iter(users)

        async def pay_next() -> None:
            for user_id in waiting:
                if not await self._pay_user(user_id, since):
                    unpaid.append(user_id)

        lost: BaseExceptionGroup[DatabaseUnavailable] | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(_TRANSACTIONS_AT_ONCE):
                    tasks.create_task(pay_next(), name="funding.pay")
        except* DatabaseUnavailable as errors:
            # Raised in here, it would come out as a group on some releases of Python.
            lost = errors
        if lost is not None:
            raise DatabaseUnavailable(str(lost.exceptions[0])) from lost
        return unpaid

    async def _pay_user(self, user_id: str, since: datetime) -> bool:
        try:
            booked = await self._turns.pay(user_id, since, self._rate_of, datetime.now(UTC))
        except (TooLarge, ContradictoryFill, ChainTooLong, PositionChanged) as error:
            log.warning("funding.refused", user_id=user_id, reason=type(error).__name__)
            return False
        if booked is None:
            return False
        self.paid_users += 1
        await self._announce(booked)
        return True

    async def _announce(self, booked: FundingBooked) -> None:
        event = LedgerEvent(booked.user_id, booked.seq, "account", booked.at, [], booked.data)
        try:
            await publish_event(self._redis, event, self._redis_timeout_s)
        except BusUnavailable as error:
            # The payment stands. Receivers find the hole in the numbers, or the poll of changed users does.
            log.warning("event.unpublished", reason=str(error))
