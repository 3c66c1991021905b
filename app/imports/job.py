"""One import from its file to its end: read, check, order, book, tell.

All or nothing: every row is checked before anything is booked, and everything
is booked in one transaction, together with the end of the import itself. So a
crash at any moment leaves an import that is done or one that can be begun anew.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import structlog
from redis.asyncio import Redis
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.bus.connection import BusUnavailable
from app.bus.events import publish_event
from app.bus.messages import LedgerEvent
from app.bus.prices import read_instruments
from app.domain.cells import CellProblem
from app.domain.ids import OrderedIds
from app.domain.import_rows import ImportTerms, RowReader, read_table
from app.domain.import_symbols import SymbolBook
from app.domain.imports import Faults, Import, Progress, State, import_statement
from app.domain.text_tables import FileProblem
from app.imports.booking import Booking
from app.imports.spool import Spool
from app.repositories.accounts import Account, AccountRepository
from app.repositories.database import snapshot, transaction
from app.repositories.events import EventRepository
from app.repositories.fills import Holder
from app.repositories.imports import ImportRepository, NotHeld
from app.repositories.positions import PositionRepository
from app.repositories.revised_days import mark_days_revised
from app.repositories.tables import day_opens
from app.repositories.users import UserRepository

log = structlog.get_logger(__name__)

HOLD_S: Final = 15.0
"""How long an import stays with who took it, without a sign of life."""

_SIGN_EVERY_S: Final = 1.0
_LOOK_EVERY_ROWS: Final = 1000


class Unlisted(Exception):
    """What the exchange lists is not known yet."""


class _Refused(Exception):
    """Nothing is booked; why is among the faults."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where imports are worked on."""

    database: AsyncEngine
    redis: "Redis"
    redis_timeout_s: float
    holder: str
    max_open_positions: int
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass
class Outcome:
    """How an import ended."""

    state: State
    reason: str | None = None
    event: LedgerEvent | None = None


class ImportJob:
    """The work on an import that this process holds. ``progress`` and ``faults`` can be looked at meanwhile."""

    def __init__(self, desk: Desk, one: Import, path: Path, spool_path: Path | None = None) -> None:
        self._desk = desk
        self.one = one
        self._path = path
        self._spool_path = spool_path
        self._stop = threading.Event()
        self._is_ending = False
        self.progress = Progress(format=one.terms.format)
        self.faults = Faults()

    @property
    def import_id(self) -> str:
        return self.one.import_id

    async def run(self) -> Outcome:
        """Do it to its end.

        Raises NotHeld where it was cancelled or taken over; DatabaseUnavailable,
        BusUnavailable, Unlisted where it can be tried again.
        """
        try:
            async with self._held():
                outcome = await self._work_or_refuse()
        except ExceptionGroup as group:
            lost = group.subgroup(NotHeld)
            raise _first(lost or group) from group
        if outcome.event is not None:
            await self._tell(outcome.event)
        return outcome

    async def _work_or_refuse(self) -> Outcome:
        try:
            return await self._work()
        except _Refused as refused:
            return await self._finish_alone("refused", str(refused))

    async def _work(self) -> Outcome:
        account, symbols = await self._account(), await self._symbols()
        with Spool(self._spool_path) as spool:
            await self._read_beside(spool, symbols, account)
            if self.faults.count and not self.one.terms.skip_errors:
                raise _Refused(_nothing_booked(self.faults.count))
            return await self._book(spool, account)

    # Reading

    async def _read_beside(self, spool: Spool, symbols: SymbolBook, account: Account) -> None:
        """Read in a thread of its own, for it takes long. Cancelled, it waits for the thread, which uses the spool."""
        reading = asyncio.ensure_future(asyncio.to_thread(self._read, spool, symbols, account))
        try:
            await asyncio.shield(reading)
        except asyncio.CancelledError:
            self._stop.set()
            await asyncio.wait({reading})
            reading.exception()
            raise

    def _read(self, spool: Spool, symbols: SymbolBook, account: Account) -> None:
        """Read the file into the spool."""
        try:
            with self._path.open("rb") as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
                self._read_rows(file, raw, spool, symbols, account)
        except UnicodeDecodeError:
            self._refuse_file("the file is not UTF-8 text")
        except FileProblem as problem:
            self._refuse_file(str(problem))

    def _read_rows(
        self, file: TextIOWrapper, raw: BinaryIO, spool: Spool, symbols: SymbolBook, account: Account
    ) -> None:
        progress = self.progress
        found, rows = read_table(file, self.one.terms.format)
        progress.format = found.name
        reader = RowReader(found, symbols, self._terms(account))
        for row in rows:
            try:
                spool.add(reader.read(row))
            except CellProblem as problem:
                self.faults.add(row.number, problem.column, problem.detail)
            progress.rows_read += 1
            if progress.rows_read % _LOOK_EVERY_ROWS == 0:
                if self._stop.is_set():
                    return
                progress.bytes_read = raw.tell()
        progress.rows_total = progress.rows_read
        progress.bytes_read = self.one.size_bytes
        progress.repeated_in_file = spool.repeats

    def _terms(self, account: Account) -> ImportTerms:
        terms = self.one.terms
        return ImportTerms(
            currency=account.currency,
            hedge=account.position_mode == "hedge",
            strategy=terms.strategy,
            zone=timezone(timedelta(minutes=terms.utc_offset_minutes)),
            paid_is_negative=terms.paid_is_negative,
            now=self._desk.now(),
        )

    def _refuse_file(self, reason: str) -> NoReturn:
        self.faults.add(None, None, reason)
        raise _Refused(reason)

    # Booking

    async def _book(self, spool: Spool, account: Account) -> Outcome:
        one, desk = self.one, self._desk
        open_transaction = snapshot if one.is_dry_run else transaction
        async with open_transaction(desk.database) as connection:
            # The lock is taken last of all that takes long, and held until the commit.
            seq = 0 if one.is_dry_run else await UserRepository(connection).advance(one.user_id)
            now = desk.now()
            booking = Booking(
                connection,
                Holder(one.user_id, account.account_id, account.currency),
                ids=OrderedIds(int(now.timestamp() * 1000), secrets.randbits(73)),
                now=now,
                is_dry=one.is_dry_run,
                progress=self.progress,
                faults=self.faults,
            )
            await booking.run(spool)
            await self._judge(connection, booking)
            if not one.is_dry_run:
                return await self._end_booked(connection, booking, seq, now)
        return await self._finish_alone("done", None)

    async def _judge(self, connection: AsyncConnection, booking: Booking) -> None:
        """Refuse what could not be booked, and more open positions than are allowed."""
        is_tolerated = self.one.terms.skip_errors and not booking.has_failed
        open_now = await PositionRepository(connection).count_open(self.one.user_id)
        if self.one.is_dry_run:
            open_now += booking.opened
        if booking.opened > 0 and open_now > self._desk.max_open_positions:
            self.faults.add(None, None, f"{open_now} positions would be open; {self._desk.max_open_positions} may be")
            is_tolerated = False
        if self.faults.count and not is_tolerated:
            raise _Refused(_nothing_booked(self.faults.count))

    async def _end_booked(self, connection: AsyncConnection, booking: Booking, seq: int, now: datetime) -> Outcome:
        """Make the end of the import part of the transaction that books it, with the event that tells of it."""
        one = self.one
        await _forget_day_bases(connection, one.user_id, booking.first_at)
        if booking.first_at is not None:
            await mark_days_revised(connection, one.account_id, booking.first_at)
        repository = ImportRepository(connection)
        await repository.keep_errors(one.import_id, self.faults.kept)
        self.progress.errors = self.faults.count
        self._is_ending = True
        await repository.finish(one.import_id, self._desk.holder, "done", self.progress, reason=None, now=now)
        ended = await repository.find(one.import_id)
        assert ended is not None
        data = {"import": import_statement(ended)}
        await EventRepository(connection).add(one.user_id, seq, "account", now, data)
        return Outcome("done", event=LedgerEvent(one.user_id, seq, "account", now, [], data))

    async def _finish_alone(self, state: State, reason: str | None) -> Outcome:
        """End an import that changes nothing."""
        one = self.one
        self.progress.errors = self.faults.count
        self._is_ending = True
        async with transaction(self._desk.database) as connection:
            repository = ImportRepository(connection)
            await repository.keep_errors(one.import_id, self.faults.kept)
            await repository.finish(
                one.import_id, self._desk.holder, state, self.progress, reason=reason, now=self._desk.now()
            )
        return Outcome(state, reason)

    # Around it

    async def _account(self) -> Account:
        async with transaction(self._desk.database) as connection:
            accounts = await AccountRepository(connection).of_user(self.one.user_id)
        return next(account for account in accounts if account.account_id == self.one.account_id)

    async def _symbols(self) -> SymbolBook:
        listed = await read_instruments(self._desk.redis, self._desk.redis_timeout_s)
        if not listed:
            raise Unlisted("what the exchange lists is not known yet: start the price worker")
        return SymbolBook(listed.values())

    async def _tell(self, event: LedgerEvent) -> None:
        try:
            await publish_event(self._desk.redis, event, self._desk.redis_timeout_s)
        except BusUnavailable as error:
            # The change stands. Receivers find the hole in the numbers, or the poll of changed users does.
            log.warning("event.unpublished", reason=str(error))

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Give signs of life for as long as the block runs; it is cancelled when the import is lost."""
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
            holding = tasks.create_task(self._hold(), name="import.hold")
            stack.callback(holding.cancel)
            yield

    async def _hold(self) -> None:
        desk = self._desk
        while not self._is_ending:
            await asyncio.sleep(_SIGN_EVERY_S)
            self.progress.errors = self.faults.count
            try:
                async with transaction(desk.database) as connection:
                    await ImportRepository(connection).hold(self.one.import_id, desk.holder, HOLD_S, self.progress)
            except NotHeld:
                # Ended meanwhile by this job itself: there is nothing to hold any more.
                if not self._is_ending:
                    raise


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _nothing_booked(errors: int) -> str:
    return f"{errors} {'error' if errors == 1 else 'errors'}: nothing was booked"


async def _forget_day_bases(connection: AsyncConnection, user_id: str, first_at: datetime | None) -> None:
    """Profits at the beginning of days that were written down before these fills were known: they are not known now."""
    if first_at is not None:
        later = day_opens.c.day > first_at.astimezone(UTC).date()
        await connection.execute(delete(day_opens).where(day_opens.c.user_id == user_id, later))
