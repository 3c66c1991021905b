"""Keeps the settled funding of every contract that somebody holds, whatever was missed meanwhile.

What is needed and what is stored are both read from the database, so a start
after a week catches up as a start after a minute does, and a position that was
entered with a date of last month is served as well. The stored stamps of a symbol
have no holes between the first and the last: the span only grows at its ends.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NoReturn, Protocol

import msgspec
import structlog

from app.domain.funding import FundingRate
from app.domain.instruments import Instrument, Market
from app.exchanges.binance.rest import RestUnavailable
from app.repositories.database import DatabaseUnavailable
from app.repositories.funding import FundingNeed

log = structlog.get_logger(__name__)

EVERY_S = 5.0
_HISTORY = timedelta(days=400)
"""How far back stamps are fetched."""
_SETTLES_WITHIN = timedelta(seconds=2)
"""The exchange lists a stamp that long after its time."""
_AWAITED_FOR = timedelta(minutes=15)
"""For so long a stamp that should be there is asked for in every round."""
_AT_LEAST_EVERY = timedelta(hours=1)
_SPAN_BACK = timedelta(days=2)
"""So short that an answer has the stamps of all of it, hourly ones too."""
_MOMENT = timedelta(milliseconds=1)
_STAMP_JITTER = timedelta(seconds=60)


class FundingSource(Protocol):
    """Who knows what one market settled. Raises RestUnavailable."""

    async def settled(self, instrument: Instrument, since: datetime, until: datetime) -> tuple[list[FundingRate], bool]:
        """The stamps of a span with both its ends, oldest first, and whether these are all."""


class FundingStore(Protocol):
    """Where stamps are kept. Raises DatabaseUnavailable."""

    async def needs(self, horizon: datetime) -> list[FundingNeed]: ...
    async def store(self, stamps: list[FundingRate]) -> int: ...


class _Asked(msgspec.Struct, frozen=True):
    """What was asked of a symbol last: from when on, when, and which stamp was to come next."""

    since: datetime
    at: datetime
    next_at: datetime | None


class FundingRecorder:
    """Asks each market for what its symbols lack.

    ``instrument`` gives what is listed under a symbol, ``next_funding_ms`` when the
    exchange will settle next, as far as it has said so.
    """

    def __init__(
        self,
        sources: Mapping[Market, FundingSource],
        store: FundingStore,
        *,
        instrument: Callable[[str], Instrument | None],
        next_funding_ms: Callable[[str], int | None],
        now_ms: Callable[[], int],
        every_s: float = EVERY_S,
    ) -> None:
        self._sources = sources
        self._store = store
        self._instrument = instrument
        self._next_funding_ms = next_funding_ms
        self._now_ms = now_ms
        self._every_s = every_s
        self._asked: dict[str, _Asked] = {}
        self._is_unavailable = False

    async def run(self) -> NoReturn:
        """Record until cancelled. Network errors are waited out."""
        while True:
            try:
                await self._round()
            except DatabaseUnavailable as error:
                self._note_database(str(error))
            else:
                self._note_database(None)
            await asyncio.sleep(self._every_s)

    async def _round(self) -> None:
        now = self._now()
        unavailable: set[Market] = set()
        for need in await self._store.needs(now - _HISTORY):
            instrument = self._instrument(need.symbol)
            if instrument is None or not instrument.is_perpetual or instrument.market in unavailable:
                continue
            if not self._is_due(need, now):
                continue
            try:
                await self._catch_up(need, instrument, now)
            except RestUnavailable as error:
                # The next symbol of this market would hardly fare better; the other market may.
                unavailable.add(instrument.market)
                log.warning("funding.unavailable", market=instrument.market, reason=str(error))

    def _is_due(self, need: FundingNeed, now: datetime) -> bool:
        asked = self._asked.get(need.symbol)
        if asked is None or need.since < asked.since or now - asked.at >= _AT_LEAST_EVERY:
            return True
        return asked.next_at is not None and now >= asked.next_at + _SETTLES_WITHIN

    async def _catch_up(self, need: FundingNeed, instrument: Instrument, now: datetime) -> None:
        source = self._sources.get(instrument.market)
        if source is None:
            return
        # Read before asking: a stamp that passes meanwhile must not be thought to be in the answer.
        next_at = self._next_at(need.symbol)
        since = await self._fill_earlier(source, need, instrument)
        later_from = need.since if need.last is None else need.last + _MOMENT
        stamps, is_all = await source.settled(instrument, later_from, now)
        await self._keep(need.symbol, stamps)
        if is_all:
            newest = max([stamp.at for stamp in stamps], default=need.last)
            self._asked[need.symbol] = _Asked(since, now, self._awaited(need.symbol, newest, next_at, now))

    async def _fill_earlier(self, source: FundingSource, need: FundingNeed, instrument: Instrument) -> datetime:
        """Go back by one span, if there is need; gives the moment from which on nothing is missing.

        A span that was not answered whole is not stored: it would leave a hole behind it.
        """
        if need.first is None:
            return need.since
        asked = self._asked.get(need.symbol)
        oldest = need.first if asked is None else min(need.first, asked.since)
        if need.since >= oldest:
            return oldest
        since = max(need.since, oldest - _SPAN_BACK)
        stamps, is_all = await source.settled(instrument, since, oldest - _MOMENT)
        if not is_all:
            return oldest
        await self._keep(need.symbol, stamps)
        return since

    async def _keep(self, symbol: str, stamps: list[FundingRate]) -> None:
        if new := await self._store.store(stamps):
            log.info("funding.stored", symbol=symbol, stamps=new)

    def _awaited(
        self, symbol: str, newest: datetime | None, next_at: datetime | None, now: datetime
    ) -> datetime | None:
        """The stamp to ask for next: the one that was due, until it has come or long enough has passed."""
        asked = self._asked.get(symbol)
        due = None if asked is None else asked.next_at
        if due is None or not due <= now < due + _AWAITED_FOR:
            return next_at
        has_come = newest is not None and newest >= due - _STAMP_JITTER
        return next_at if has_come else due

    def _next_at(self, symbol: str) -> datetime | None:
        next_ms = self._next_funding_ms(symbol)
        return None if next_ms is None else _moment(next_ms)

    def _now(self) -> datetime:
        return _moment(self._now_ms())

    def _note_database(self, reason: str | None) -> None:
        """Log that the database went or came back, once each."""
        if (reason is not None) == self._is_unavailable:
            return
        self._is_unavailable = reason is not None
        if reason is None:
            log.info("funding.database_back")
        else:
            log.warning("funding.database_away", reason=reason)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
