"""Keeping history: a sample of everybody each minute, hours and days from them, and nothing for longer than it is for.

The P&L worker says when a minute begins; everything else happens beside it, in
steps of some milliseconds. A database that is away costs the minutes that pass
meanwhile: they are gaps, not late samples.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from app.domain.book import Book
from app.domain.book_samples import BookSampler, FrozenPrices, Sample
from app.domain.candles import Figures
from app.domain.excursions import Excursion
from app.repositories.database import DatabaseUnavailable
from app.repositories.restating import RestatingRepository
from app.repositories.roll_up import RollUpRepository
from app.repositories.samples import NotLeading, SampleRepository
from app.workers.history_restater import HistoryRestater
from app.workers.minute_turn import MINUTE_MS, MinuteTurn

log = structlog.get_logger(__name__)

ALWAYS_EVERY_MS = 15 * MINUTE_MS
"""Every quarter of an hour everybody is written, changed or not: midnights of all time zones are on one."""

_ROWS_PER_WRITE = 500
_RETRY_S = 1.0
_ROUND_EVERY_S = 20.0
_PAUSE_S = 0.2
_SCOPES_PER_STEP = 200
_MARKS_PER_STEP = 500
_STEPS_PER_ROUND = 500
_MOST_UNSAVED = 50_000
_MINUTE = timedelta(minutes=1)
_GRACE = timedelta(minutes=2)
"""What is summed up is that much over, so that the samples of its last minute are there."""


class HistoryKeeper:
    """Of one book, for the holder of its lease."""

    def __init__(
        self,
        book: Book,
        samples: SampleRepository,
        roll_up: RollUpRepository,
        restating: RestatingRepository,
        *,
        stale_after_ms: int,
    ) -> None:
        self._book = book
        self._sampler = BookSampler(book)
        self._samples = samples
        self._roll_up = roll_up
        self._restater = HistoryRestater(restating, lambda: book.rates.book)
        self._stale_after_ms = stale_after_ms
        self._minute = MinuteTurn()
        self._frozen: FrozenPrices | None = None
        self._has_frozen = asyncio.Event()
        self._written: dict[str, Figures] = {}
        self._excursions: list[Excursion] = []

    def tick(self, as_of_ms: int, *, silent: bool) -> None:
        """The time of prices moved on to this, and the book has them. Takes less than a millisecond."""
        at_ms = self._minute.at(as_of_ms)
        if at_ms is None:
            return
        if self._frozen is not None:
            log.warning("history.minute_left_out", at_ms=self._frozen.at_ms)
        self._frozen = self._sampler.freeze(at_ms, as_of_ms, self._stale_after_ms, silent=silent)
        self._has_frozen.set()

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sample(), name="pnl.history.sample")
            tasks.create_task(self._sum_up(), name="pnl.history.sum_up")
        raise AssertionError("none of the tasks returns")

    async def _sample(self) -> NoReturn:
        while True:
            await self._has_frozen.wait()
            frozen, self._frozen = self._frozen, None
            self._has_frozen.clear()
            assert frozen is not None
            try:
                await self._write_minute(frozen)
            except NotLeading:
                # Whoever renews the lease will find that out, and end this worker.
                log.warning("history.not_leading")

    async def _write_minute(self, frozen: FrozenPrices) -> None:
        at = datetime.fromtimestamp(frozen.at_ms // 1000, UTC)
        waiting: list[Sample] = []
        slot = 0
        while slot < len(self._book):
            part = self._sampler.sample(frozen, slot)
            slot = part.next_slot
            waiting += self._news(part.samples, frozen)
            self._keep_excursions(part.ended)
            # Ledger events and flushes come first.
            await asyncio.sleep(0)
            while len(waiting) >= _ROWS_PER_WRITE:
                if not await self._write_rows(at, waiting[:_ROWS_PER_WRITE]):
                    return
                del waiting[:_ROWS_PER_WRITE]
        self._keep_excursions(self._sampler.excursions.ended())
        if waiting and not await self._write_rows(at, waiting):
            return
        if frozen.marks and not await self._persist(lambda: self._samples.write_marks(at, frozen.marks)):
            return
        await self._write_excursions(is_hour=at.minute == 0)

    def _news(self, samples: Sequence[Sample], frozen: FrozenPrices) -> Sequence[Sample]:
        """Those to write: what is as it was is written only now and then."""
        if frozen.at_ms % ALWAYS_EVERY_MS == 0:
            return samples
        return [sample for sample in samples if self._written.get(sample.scope_id) != sample.figures]

    async def _write_rows(self, at: datetime, rows: Sequence[Sample]) -> bool:
        has_new = any(row.scope_id not in self._written for row in rows)
        if not await self._persist(lambda: self._samples.write(at, at - _MINUTE, rows, has_new=has_new)):
            return False
        self._written.update((row.scope_id, row.figures) for row in rows)
        return True

    async def _write_excursions(self, *, is_hour: bool) -> None:
        """Save those of positions that ended; on the hour those of open ones too, which a crash would lose."""
        while True:
            if is_hour and not self._excursions:
                self._keep_excursions(self._sampler.excursions.unsaved(_ROWS_PER_WRITE))
            rows = self._excursions[:_ROWS_PER_WRITE]
            if not rows or not await self._persist(lambda rows=rows: self._samples.write_excursions(rows)):  # type: ignore[misc]
                return
            del self._excursions[: len(rows)]
            await asyncio.sleep(0)

    def _keep_excursions(self, excursions: Sequence[Excursion]) -> None:
        self._excursions += excursions
        if len(self._excursions) > _MOST_UNSAVED:
            log.warning("history.excursions_lost", positions=len(self._excursions) - _MOST_UNSAVED)
            del self._excursions[:-_MOST_UNSAVED]

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> bool:
        """Write, again and again until the next minute waits. Raises NotLeading."""
        while True:
            try:
                await write()
            except DatabaseUnavailable as error:
                log.warning("history.not_written", reason=str(error))
                if self._frozen is not None:
                    return False
                await asyncio.sleep(_RETRY_S)
            else:
                return True

    async def _sum_up(self) -> NoReturn:
        while True:
            try:
                await self._round(datetime.now(UTC))
            except (DatabaseUnavailable, NotLeading) as error:
                log.warning("history.not_summed_up", reason=str(error))
            await asyncio.sleep(_ROUND_EVERY_S)

    async def _round(self, now: datetime) -> None:
        # First, for what is due to it is not summed up before.
        await self._restater.round()
        over = now - _GRACE
        await _while_full(lambda: self._roll_up.sum_up_hours(over, _SCOPES_PER_STEP), _SCOPES_PER_STEP)
        await _while_full(lambda: self._roll_up.sum_up_days(over, _SCOPES_PER_STEP), _SCOPES_PER_STEP)
        await _while_full(lambda: self._roll_up.forget_marks(now, _MARKS_PER_STEP), _MARKS_PER_STEP)


async def _while_full(step: Callable[[], Awaitable[int]], full: int) -> None:
    """Take step after step while each has all it may do, with room between them for others."""
    for _ in range(_STEPS_PER_ROUND):
        if await step() < full:
            return
        await asyncio.sleep(_PAUSE_S)
