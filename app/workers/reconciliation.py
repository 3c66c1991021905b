"""Holding what was derived against what was recorded, and putting it right.

The truth is the ledger: fills, funding payments, transfers. Position rows follow
from it, the P&L worker's book from the rows, the cached answer from the book.
Everybody is compared in small parts, and only what looks different is looked at
again, this time under the user's lock: there nothing can be on its way, and a
change that came meanwhile is part of the truth.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol

import msgspec
import structlog
from redis.asyncio import Redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.bus.connection import BusUnavailable
from app.bus.events import publish_event
from app.bus.messages import LedgerEvent
from app.bus.pnl import drop_cached_pnl, read_cached_pnls
from app.bus.prices import read_instruments
from app.domain.book import Book
from app.domain.cycles import TooLarge
from app.domain.drift import CachedPnl, Drift, compare_books, compare_cache, unreadable_cache
from app.domain.instruments import Instrument
from app.domain.ledger import ContradictoryFill
from app.domain.positions import Position, UserBook
from app.domain.reconciliation import (
    Due,
    Ledger,
    Pointer,
    Repair,
    UnknownInstrument,
    compare_pointers,
    compare_rows,
    correction,
    each_its_row,
    known_instruments,
    pointer_drift,
    replay_chain,
)
from app.repositories.books import load_books
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.events import EventRepository
from app.repositories.reconciliation import (
    ReconciliationRepository,
    advance,
    is_of_epoch,
    lock,
    put_right,
    read_users,
    renew,
)
from app.workers.book_keeper import BookKeeper
from app.workers.cache_round import CacheRound
from app.workers.reconciliation_report import Counts, Report

log = structlog.get_logger(__name__)

_BEFORE_ALL: Final = "00000000-0000-0000-0000-000000000000"
_USERS_PER_PAGE: Final = 500
_USERS_AT_ONCE: Final = 50
_ROWS_AT_ONCE: Final = 2000
_SHORT_CHAIN: Final = 200
"""Fills that are replayed in a few milliseconds; longer chains are replayed in a thread."""
_REST: Final = 2.0
"""A third of a core is then the most that a run takes."""
_GRACE_S: Final = 1.0
"""News of a commit is here within this: what is behind for longer has lost it."""
_JITTER: Final = 0.1
_RETRY_S: Final = 30.0
_SAID_MOST: Final = 1000


class HeldBooks(Protocol):
    """The book in this process's memory."""

    def find(self, user_id: str) -> UserBook | None: ...
    def take_again(self, user_id: str) -> None: ...


class WorkerBooks:
    """The book of a P&L worker, as reconciliation sees it."""

    def __init__(self, book: Book, keeper: BookKeeper, cache: CacheRound) -> None:
        self._book = book
        self._keeper = keeper
        self._cache = cache

    def find(self, user_id: str) -> UserBook | None:
        holder = self._book.find(user_id)
        return None if holder is None else self._book.user_book(holder.slot)

    def take_again(self, user_id: str) -> None:
        """Have a user read from the database, and his answer cached anew."""
        self._keeper.reload([user_id])
        holder = self._book.find(user_id)
        if holder is not None:
            self._cache.mark([holder.slot])


class Fence(msgspec.Struct, frozen=True):
    """The role and epoch in which repairs are allowed. ``is_certain`` says that nobody else can have the role now."""

    role: str
    epoch: int
    is_certain: Callable[[], bool]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run leaves alone.

    ``most_repairs`` users are put right in one run: more drift than that is no
    drift, but a lost ledger or an error of ours, and a person should look. A user
    with more fills and positions than ``most_rows`` needs more memory than a
    worker should take at once (a kilobyte each).
    """

    most_repairs: int = 1000
    most_rows: int = 100_000


class Fenced(Exception):
    """Another worker has the role now: nothing may be put right from here."""


class _Examined(msgspec.Struct, frozen=True):
    """What one look at a user found in the rows, or that his fills cannot be booked."""

    repairs: Sequence[Repair] = ()
    pointers: Sequence[Pointer] = ()

    @property
    def has_found(self) -> bool:
        return bool(self.repairs or self.pointers)


class Reconciliation:
    """Compares and repairs users, of everybody or of one shard.

    Without ``held`` there is no book to compare; a ``fence`` guards repairs. A dry
    run only reports. It rests ``rest`` times as long as it works.
    """

    def __init__(
        self,
        repository: ReconciliationRepository,
        redis: "Redis",
        *,
        redis_timeout_s: float,
        held: HeldBooks | None = None,
        fence: Fence | None = None,
        limits: Limits | None = None,
        grace_s: float = _GRACE_S,
        rest: float = _REST,
        is_dry_run: bool = False,
    ) -> None:
        self._repository = repository
        self._redis = redis
        self._redis_timeout_s = redis_timeout_s
        self._held = held
        self._fence = fence
        self._limits = limits or Limits()
        self._grace_s = grace_s
        self._rest = rest
        self._is_dry_run = is_dry_run
        self._one_at_a_time = asyncio.Lock()
        self._listed: Mapping[str, Instrument] = {}
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.counts = Counts()

    async def keep(self, every_s: float) -> NoReturn:
        """Run now and every so often, for ever; soon again where a run failed."""
        while True:
            delay_s = every_s
            try:
                await self.run()
            except (DatabaseUnavailable, Fenced) as error:
                self.counts.failed_runs += 1
                delay_s = min(every_s, _RETRY_S)
                log.warning("reconciliation.failed", reason=str(error))
            await asyncio.sleep(delay_s * random.uniform(1 - _JITTER, 1 + _JITTER))

    async def run(self, only: Sequence[str] | None = None) -> Report:
        """Compare everybody, or some users. Raises DatabaseUnavailable, Fenced."""
        async with self._one_at_a_time:
            began = time.monotonic()
            report = Report()
            self._listed = await self._read_listed()
            try:
                async for users in self._parts(only, report):
                    part_began = time.monotonic()
                    await self._examine(users, report)
                    await asyncio.sleep(self._rest * (time.monotonic() - part_began))
            finally:
                report.seconds = time.monotonic() - began
                self.counts.add(report)
                report.log_summary()
            return report

    async def _parts(self, only: Sequence[str] | None, report: Report) -> AsyncIterator[list[str]]:
        """Users in parts that are small in numbers and in rows."""
        if only is not None:
            for user_id in only:
                yield [user_id]
            return
        after = _BEFORE_ALL
        while page := await self._repository.next_users(after, _USERS_PER_PAGE):
            after = page[-1].user_id
            part: list[str] = []
            rows = 0
            for user in page:
                if user.rows > self._limits.most_rows:
                    report.users_skipped += 1
                    self._say_once("reconciliation.too_long", user.user_id, rows=user.rows)
                    continue
                if part and (rows + user.rows > _ROWS_AT_ONCE or len(part) >= _USERS_AT_ONCE):
                    yield part
                    part, rows = [], 0
                part.append(user.user_id)
                rows += user.rows
            if part:
                yield part

    async def _examine(self, user_ids: Sequence[str], report: Report) -> None:
        """Compare users as they are at one moment, and settle what looks different."""
        users = await self._repository.read(user_ids)
        bodies = await self._read_cache(user_ids)
        suspects: dict[str, int] = {}
        may_be_on_its_way = False
        for ledger, truth in users:
            report.users += 1
            report.rows += len(ledger.rows) + len(ledger.fills)
            examined = await self._examine_rows(ledger)
            if examined is None:
                report.users_skipped += 1
            elif examined.has_found:
                suspects[truth.user_id] = truth.ledger_seq
            elif self._compare_copies(truth, bodies.get(truth.user_id), truth.ledger_seq):
                suspects[truth.user_id] = truth.ledger_seq
                may_be_on_its_way = True
            await asyncio.sleep(0)
        if may_be_on_its_way:
            await asyncio.sleep(self._grace_s)
        for user_id, seen_seq in suspects.items():
            await self._settle_or_leave(user_id, seen_seq, report)

    async def _examine_rows(self, ledger: Ledger) -> _Examined | None:
        """What the rows of a user have wrong; None where his fills cannot be booked."""
        due: list[Due] = []
        try:
            instruments = known_instruments(ledger, self._listed)
            for chain, fills in ledger.chains.items():
                instrument = instruments[chain.symbol]
                if len(fills) > _SHORT_CHAIN:
                    due += await asyncio.to_thread(replay_chain, ledger, chain, fills, instrument)
                else:
                    due += replay_chain(ledger, chain, fills, instrument)
                    await asyncio.sleep(0)
        except (TooLarge, ContradictoryFill, UnknownInstrument) as error:
            self._say_once("reconciliation.cannot_replay", ledger.user_id, reason=str(error))
            return None
        due = each_its_row(ledger, due)
        return _Examined(compare_rows(ledger, due), compare_pointers(ledger, due))

    def _compare_copies(self, truth: UserBook, body: bytes | None, seen_seq: int) -> list[Drift]:
        """What the copies have wrong. ``seen_seq`` is an event that must long have reached them."""
        return [*self._compare_book(truth, seen_seq), *_compare_body(truth, body)]

    def _compare_book(self, truth: UserBook, seen_seq: int) -> list[Drift]:
        if self._held is None:
            return []
        held = self._held.find(truth.user_id)
        if held is None:
            if not truth.positions and not any(account.assets for account in truth.accounts):
                return []
            held = msgspec.structs.replace(truth, ledger_seq=0, positions=())
        if held.ledger_seq < truth.ledger_seq and held.ledger_seq >= seen_seq:
            return []
        return compare_books(truth, held)

    async def _settle_or_leave(self, user_id: str, seen_seq: int, report: Report) -> None:
        if self._is_dry_run:
            await self._look_again(user_id, seen_seq, report)
            return
        if report.users_repaired >= self._limits.most_repairs:
            report.users_left += 1
            return
        try:
            await self._settle(user_id, seen_seq, report)
        except (DatabaseUnavailable, DBAPIError) as error:
            report.users_left += 1
            self._say_once("reconciliation.not_repaired", user_id, reason=type(error).__name__)

    async def _look_again(self, user_id: str, seen_seq: int, report: Report) -> None:
        """Find what a repair would put right. Copies of rows that are wrong are not looked at: they follow."""
        for ledger, truth in await self._repository.read([user_id]):
            examined = await self._examine_rows(ledger)
            if examined is not None and examined.has_found:
                report.note(user_id, _drifts_of(examined, ledger), is_repaired=False)
            elif examined is not None:
                body = (await self._read_cache([user_id])).get(user_id)
                report.note(user_id, self._compare_copies(truth, body, seen_seq), is_repaired=False)

    async def _settle(self, user_id: str, seen_seq: int, report: Report) -> None:
        """Look again under the user's lock, put right what is wrong still, and tell of it. Raises Fenced."""
        async with transaction(self._repository.engine) as connection:
            if not await lock(connection, user_id):
                return
            await self._refuse_if_over(connection)
            found = await read_users(connection, [user_id])
            if not found:
                return
            ((ledger, truth),) = found
            examined = await self._examine_rows(ledger)
            if examined is None:
                return
            now = datetime.now(UTC)
            written = await put_right(connection, examined.repairs, examined.pointers, now)
            if written:
                truth = await _truth_of(connection, ledger, truth, examined.repairs)
            body = (await self._read_cache([user_id])).get(user_id)
            copies = self._compare_copies(truth, body, seen_seq)
            drifts = [*_drifts_of(examined, ledger), *copies]
            if not drifts:
                return
            written = await renew(connection, written, _to_renew(ledger, written, copies), now)
            seq = await advance(connection, user_id, self._known_seq(user_id))
            data = correction(drifts)
            await EventRepository(connection).add(user_id, seq, "correction", now, data)
        report.note(user_id, drifts, is_repaired=True)
        await self._announce(LedgerEvent(user_id, seq, "correction", now, written, data))

    async def _refuse_if_over(self, connection: AsyncConnection) -> None:
        fence = self._fence
        if fence is None:
            return
        if not fence.is_certain() or not await is_of_epoch(connection, fence.role, fence.epoch):
            raise Fenced(f"{fence.role}: epoch {fence.epoch} may be over")

    async def _announce(self, event: LedgerEvent) -> None:
        """Have every copy take the user anew. Where Redis is away, the poll of changed users does."""
        try:
            await publish_event(self._redis, event, self._redis_timeout_s)
            await drop_cached_pnl(self._redis, event.user_id, self._redis_timeout_s)
        except BusUnavailable as error:
            log.warning("reconciliation.unpublished", reason=str(error))
        if self._held is not None:
            self._held.take_again(event.user_id)

    def _known_seq(self, user_id: str) -> int:
        """The last event that the book claims to know: what follows must be news to it."""
        held = None if self._held is None else self._held.find(user_id)
        return 0 if held is None else held.ledger_seq

    def _say_once(self, event: str, user_id: str, **values: Any) -> None:
        """Log what every run would find again, the first time."""
        if (event, user_id) not in self._said:
            log.warning(event, user_id=user_id, **values)
        self._said[event, user_id] = None
        if len(self._said) > _SAID_MOST:
            self._said.popitem(last=False)

    async def _read_listed(self) -> Mapping[str, Instrument]:
        try:
            return await read_instruments(self._redis, self._redis_timeout_s)
        except BusUnavailable:
            return self._listed

    async def _read_cache(self, user_ids: Sequence[str]) -> Mapping[str, bytes]:
        """The cached answers; none where Redis is away: they are compared the next time."""
        try:
            return await read_cached_pnls(self._redis, user_ids, self._redis_timeout_s)
        except BusUnavailable:
            return {}


def _compare_body(truth: UserBook, body: bytes | None) -> list[Drift]:
    """What a cached answer has wrong. One that knows less than the truth is served to nobody and is no drift."""
    if body is None:
        return []
    cached = _decode(body)
    if cached is None:
        return [unreadable_cache()]
    if cached.ledger_seq < truth.ledger_seq:
        return []
    return compare_cache(truth, cached)


def _decode(body: bytes) -> CachedPnl | None:
    try:
        return msgspec.json.decode(body, type=CachedPnl)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _drifts_of(examined: _Examined, ledger: Ledger) -> list[Drift]:
    drifts = [repair.drift for repair in examined.repairs]
    return [*drifts, pointer_drift(ledger, examined.pointers)] if examined.pointers else drifts


def _to_renew(ledger: Ledger, written: Iterable[Position], copies: Iterable[Drift]) -> list[Position]:
    """The rows of which a copy is wrong, each in a version that is news to the copy too."""
    rows = {position_id: row.position for position_id, row in ledger.rows.items()}
    new = {position.position_id: position for position in written}
    due: dict[str, Position] = {}
    for drift in copies:
        position_id = drift.position_id or ""
        row = due.get(position_id) or new.get(position_id) or rows.get(position_id)
        claimed = drift.version_said if drift.place == "book" else 0
        if row is not None and (claimed >= row.version or position_id not in {*new, *due}):
            due[position_id] = msgspec.structs.replace(row, version=max(row.version, claimed) + 1)
    return list(due.values())


async def _truth_of(connection: AsyncConnection, ledger: Ledger, book: UserBook, repairs: Sequence[Repair]) -> UserBook:
    """A user's book after his rows were put right, each in the version that a faultless copy has: the one before."""
    rights = {repair.right.position_id: repair.right for repair in repairs}
    before = {
        position_id: msgspec.structs.replace(right, version=right.version - 1) if position_id in ledger.rows else right
        for position_id, right in rights.items()
    }
    known = {**{position_id: row.position for position_id, row in ledger.rows.items()}, **before}
    standing = [position for position in known.values() if position.status == "open"]
    (truth,) = await load_books(connection, [book.user_id], {book.user_id: standing})
    return truth
