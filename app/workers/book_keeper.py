"""Keeping the book as PostgreSQL has it: the load at the start, reloads, and the search for lost events.

A database that cannot be reached at the start ends the worker, as any bug does;
later it is waited out, and figures go on from what is known.

A book that a standby kept may be taken over: then whoever has another newest
event in the database is read again. That suffices because whatever changes what
a book says of a user counts ``ledger_seq`` up in the same transaction; but for
the day's base, which is written down beside it and so is looked at apart.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NoReturn, Protocol

import structlog

from app.bus.messages import LedgerEvent
from app.domain.book import Book
from app.domain.positions import UserBook
from app.repositories.books import BEFORE_ALL, DayBase, Heads
from app.repositories.database import DatabaseUnavailable

log = structlog.get_logger(__name__)

_POLL_EVERY_S = 2.0
_LOOK_BACK = timedelta(seconds=30)
"""Between taking the moment of a change and its commit, and between two clocks, lies less than this."""
_EVENT_GRACE_S = 0.5
_USERS_PER_LOAD = 500
_BASES_PER_LOOK = 5000
_FIRST_RETRY_S = 0.25
_LONGEST_RETRY_S = 5.0
_ASK_AGAIN_S = 5.0


class LedgerWentBack(Exception):
    """The database knows fewer events than a book that was kept: it is not the one that the book came from."""


class Books(Protocol):
    """The books in the database. Every method raises DatabaseUnavailable."""

    async def load(self, user_ids: Sequence[str]) -> list[UserBook]: ...
    def stream(self, after: str = ..., batch_size: int = ...) -> AsyncGenerator[list[UserBook]]: ...
    async def heads(self) -> Heads: ...
    async def day_bases(self, user_ids: Sequence[str]) -> list[DayBase]: ...
    async def heads_changed_since(self, moment: datetime) -> list[tuple[str, int]]: ...
    async def record_day_bases(self, day: date, bases: Mapping[str, int]) -> None: ...
    async def record_day_marks(self, day: date, marks: Mapping[str, Decimal]) -> None: ...


class BookKeeper:
    """Brings users from the database into the book.

    ``currency`` is that of a user whom the database knows nothing of, ``loaded_to``
    says how far the book was loaded already: all users with ids up to it. In a
    standby nobody values the book, so of the day's bases the database knows all.
    """

    def __init__(
        self,
        books: Books,
        book: Book,
        currency: str,
        *,
        loaded_to: str = BEFORE_ALL,
        is_standby: bool = False,
    ) -> None:
        self.loaded_to = loaded_to
        self._books = books
        self._book = book
        self._is_standby = is_standby
        self._currency = currency
        self._wanted: dict[str, None] = {}
        self._has_wanted = asyncio.Event()
        self._asked_at: dict[str, float] = {}
        self._polled_at = datetime.now(UTC)
        self._poll_now = asyncio.Event()
        self._bases: tuple[date, Mapping[str, int], Mapping[str, Decimal]] | None = None
        self._has_bases = asyncio.Event()

    async def load_all(self) -> None:
        """Load everybody who holds or held anything, or what is missing of that. Raises DatabaseUnavailable.

        Raises also LedgerWentBack; the book is then of no use.
        """
        is_warm = self.loaded_to != BEFORE_ALL
        self._polled_at = datetime.now(UTC)
        users = positions = 0
        async with aclosing(self._books.stream(self.loaded_to)) as batches:
            async for batch in batches:
                for book in batch:
                    self._enter(book)
                    positions += len(book.positions)
                    # A batch takes tens of milliseconds: let messages and the lease come through.
                    await asyncio.sleep(0)
                users += len(batch)
                self.loaded_to = max(book.user_id for book in batch)
                log.info("pnl_worker.loading", users=users, positions=positions)
        if is_warm:
            await self._catch_up()
        log.info("pnl_worker.loaded", users=users, positions=positions)

    async def _catch_up(self) -> None:
        """Read again whoever is not as the database has him at this moment."""
        heads = await self._books.heads()
        behind = [user_id for user_id, seq in heads.seqs.items() if self._is_behind(user_id, seq)]
        # Into the book of a standby, events that are newer than the heads may have come meanwhile.
        if not self._is_standby and any(self._is_ahead(user_id, seq) for user_id, seq in heads.seqs.items()):
            raise LedgerWentBack("a user's newest event is older than the one that is known")
        for start in range(0, len(behind), _USERS_PER_LOAD):
            for book in await self._books.load(behind[start : start + _USERS_PER_LOAD]):
                self._enter(book)
        baseless = self._book.without_base_of(heads.day)
        for start in range(0, len(baseless), _BASES_PER_LOOK):
            for base in await self._books.day_bases(baseless[start : start + _BASES_PER_LOOK]):
                self._book.take_base(*base)
        log.info("pnl_worker.caught_up", users=len(self._book), behind=len(behind), bases=len(baseless))

    def _enter(self, book: UserBook) -> None:
        """Take over a user of whom nothing is known that the database does not know."""
        if self._book.upsert_user(book) == "applied":
            self._book.take_base(book.user_id, book.day_base, book.base_day)

    def take(self, event: LedgerEvent) -> None:
        """Take over what happened to a user of the book; but for bases of days that it left unknown."""
        # Accounts and corrections change what no position tells: sums, balances, what values an account.
        if (
            event.kind in {"account", "correction"}
            or self._book.apply_positions(event.user_id, event.seq, event.positions) == "gap"
        ):
            self.reload([event.user_id])

    def reload(self, user_ids: Iterable[str]) -> None:
        """Have users read again."""
        for user_id in user_ids:
            self._wanted[user_id] = None
        if self._wanted:
            self._has_wanted.set()

    def fetch(self, user_ids: Iterable[str]) -> None:
        """Have users read that the book does not have; who was just asked for is not asked for again."""
        now = time.monotonic()
        self._asked_at = {user_id: at for user_id, at in self._asked_at.items() if now - at < _ASK_AGAIN_S}
        fresh = [user_id for user_id in user_ids if user_id not in self._asked_at]
        self._asked_at.update(dict.fromkeys(fresh, now))
        self.reload(fresh)

    def poll_soon(self) -> None:
        """Look for lost events now."""
        self._poll_now.set()

    def record_day(self, day: date, bases: Mapping[str, int], marks: Mapping[str, Decimal]) -> None:
        """Have totals at the beginning of a day written down, by user id, and the prices behind them, by symbol."""
        self._bases = (day, bases, marks)
        self._has_bases.set()

    async def run(self) -> NoReturn:
        """Serve the requests, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reload_wanted(), name="pnl.reload")
            tasks.create_task(self._poll(), name="pnl.poll")
            tasks.create_task(self._record_days(), name="pnl.days")
        raise AssertionError("none of the tasks returns")

    async def _reload_wanted(self) -> NoReturn:
        delay_s = _FIRST_RETRY_S
        while True:
            await self._has_wanted.wait()
            # Taken out before they are read: who is asked for again meanwhile is read again.
            users = list(self._wanted)[:_USERS_PER_LOAD]
            for user_id in users:
                del self._wanted[user_id]
            if not self._wanted:
                self._has_wanted.clear()
            try:
                self._take(users, await self._books.load(users))
            except DatabaseUnavailable as error:
                log.warning("pnl_worker.reload_failed", users=len(users), reason=str(error))
                self.reload(users)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, _LONGEST_RETRY_S)
            else:
                delay_s = _FIRST_RETRY_S

    def _take(self, users: Iterable[str], books: Iterable[UserBook]) -> None:
        unknown = set(users)
        for book in books:
            unknown.discard(book.user_id)
            if self._is_standby:
                self._enter(book)
            else:
                self._book.upsert_user(book)
        for user_id in unknown:
            if self._book.find(user_id) is None:
                self._book.upsert_user(_empty(user_id, self._currency))

    async def _poll(self) -> NoReturn:
        """Find users whose newest event is not here: its message was lost."""
        while True:
            try:
                async with asyncio.timeout(_POLL_EVERY_S):
                    await self._poll_now.wait()
            except TimeoutError:
                pass
            self._poll_now.clear()
            try:
                await self._poll_once()
            except DatabaseUnavailable as error:
                log.warning("pnl_worker.poll_failed", reason=str(error))

    async def _poll_once(self) -> None:
        polled_at = datetime.now(UTC)
        heads = await self._books.heads_changed_since(self._polled_at - _LOOK_BACK)
        if any(self._is_behind(user_id, seq) for user_id, seq in heads):
            # The message of a commit comes a moment after it; only what stays away is lost.
            await asyncio.sleep(_EVENT_GRACE_S)
        lost = [user_id for user_id, seq in heads if self._is_behind(user_id, seq)]
        if lost:
            log.info("pnl_worker.lost_events", users=len(lost))
            self.reload(lost)
        self._polled_at = polled_at

    def _is_behind(self, user_id: str, seq: int) -> bool:
        holder = self._book.find(user_id)
        return seq > 0 if holder is None else holder.ledger_seq < seq

    def _is_ahead(self, user_id: str, seq: int) -> bool:
        holder = self._book.find(user_id)
        return holder is not None and holder.ledger_seq > seq

    async def _record_days(self) -> NoReturn:
        while True:
            await self._has_bases.wait()
            self._has_bases.clear()
            assert self._bases is not None
            day, bases, marks = self._bases
            try:
                await self._books.record_day_marks(day, marks)
                await self._books.record_day_bases(day, bases)
            except DatabaseUnavailable as error:
                log.warning("pnl_worker.day_not_recorded", day=day.isoformat(), reason=str(error))
                self._has_bases.set()
                await asyncio.sleep(_LONGEST_RETRY_S)
            else:
                log.info("pnl_worker.day_recorded", day=day.isoformat(), users=len(bases))


def _empty(user_id: str, currency: str) -> UserBook:
    return UserBook(
        user_id=user_id,
        ledger_seq=0,
        currency=currency,
        accounts=(),
        positions=(),
        day_base=0,
    )
