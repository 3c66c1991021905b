"""Events: numbered per user, without a hole, in order.

The bus may lose an event, the database does not. A number that skips holds the
later ones back until the missing ones have been read; what cannot be read ends
the connections concerned, which resume. Nothing is ever skipped silently.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NoReturn, Protocol

import msgspec
import structlog

from app.domain.protocol import EVENTS_EPOCH, Event, EventKind, encode

log = structlog.get_logger(__name__)

MOST_REPLAYED = 1000
"""Events given to one ``resume`` or read for one hole; more than that is a resync."""

_READ_TIMEOUT_S = 3.0
_RETRY_S = 0.5
_MOST_HELD = 1000


class EventNotice(msgspec.Struct, frozen=True):
    """The part of a :class:`app.bus.messages.LedgerEvent` that a client is told."""

    user_id: str
    seq: int
    kind: EventKind
    at: datetime
    data: dict[str, Any]


class EventsUnavailable(Exception):
    """The database cannot be asked at the moment."""


class EventSource(Protocol):
    """Where past events are kept."""

    async def since(self, user_id: str, seq: int, limit: int) -> Sequence[EventNotice] | None:
        """The events after ``seq``, oldest first; None where they are not kept or are more than ``limit``.

        Raises EventsUnavailable.
        """


decode_notice = msgspec.msgpack.Decoder(EventNotice).decode


def event_text(notice: EventNotice) -> str:
    """The ``event`` frame."""
    at_ms = int(notice.at.timestamp() * 1000)
    frame = Event(epoch=EVENTS_EPOCH, seq=notice.seq, kind=notice.kind, at_ms=at_ms, data=notice.data)
    return encode(frame).decode()


async def read_since(source: EventSource, user_id: str, seq: int) -> Sequence[EventNotice] | None:
    """Ask the source under a deadline. Raises EventsUnavailable."""
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            return await source.since(user_id, seq, MOST_REPLAYED)
    except TimeoutError:
        raise EventsUnavailable("no answer in time") from None


class _Feed:
    """One user's events as they pass: the last one passed on, and those that came too early."""

    __slots__ = ("held", "last", "suspect")

    def __init__(self, last: int | None) -> None:
        self.last = last
        self.held: dict[int, EventNotice] = {}
        self.suspect: int | None = None


class EventRelay:
    """Puts the events of connected users in order and fills holes.

    ``deliver`` gets each event once, in order. ``give_up`` gets a user whose
    events cannot be completed.
    """

    def __init__(
        self, source: EventSource, deliver: Callable[[EventNotice], None], give_up: Callable[[str], None]
    ) -> None:
        self._source = source
        self._deliver = deliver
        self._give_up = give_up
        self._feeds: dict[str, _Feed] = {}
        self._incomplete: dict[str, None] = {}
        self._wake = asyncio.Event()
        self.holes = 0

    def open(self, user_id: str, known: int | None) -> None:
        """Follow a user. ``known`` is the last event that is part of the state he is shown, if that is known."""
        feed = self._feeds.setdefault(user_id, _Feed(known))
        if feed.last is None:
            feed.last = known

    def close(self, user_id: str) -> None:
        """Nobody listens to this user's events any more."""
        self._feeds.pop(user_id, None)
        self._incomplete.pop(user_id, None)

    def last(self, user_id: str) -> int | None:
        """The last event passed on, or the one after which following began."""
        feed = self._feeds.get(user_id)
        return None if feed is None else feed.last

    def offer(self, notice: EventNotice) -> None:
        """Pass an event on if it is the next, hold it back if it came too early, drop it if it is known."""
        feed = self._feeds.get(notice.user_id)
        if feed is None or (feed.last is not None and notice.seq <= feed.last):
            return
        if feed.last is None:
            feed.last = notice.seq - 1
        feed.held[notice.seq] = notice
        self._pass_on(feed)
        if not feed.held:
            return
        if len(feed.held) > _MOST_HELD:
            self._give_up(notice.user_id)
            return
        self.suspect_hole(notice.user_id)

    def check(self, shown: Callable[[str], int | None]) -> None:
        """Compare with the last event contained in the state shown to a user; call twice a second or so.

        State that stays ahead of the events from one call to the next means that an event was lost.
        """
        for user_id, feed in self._feeds.items():
            seq = shown(user_id)
            if seq is None:
                continue
            if feed.last is None:
                feed.last = seq
            elif seq > feed.last:
                if feed.suspect is not None and feed.last < feed.suspect:
                    self.suspect_hole(user_id)
                feed.suspect = seq

    def suspect_all(self) -> None:
        """The bus was interrupted: anybody may have missed something."""
        for user_id, feed in self._feeds.items():
            if feed.last is not None:
                self._incomplete[user_id] = None
        self._wake.set()

    def suspect_hole(self, user_id: str) -> None:
        """Read what this user's feed misses."""
        if user_id not in self._incomplete:
            self.holes += 1
            self._incomplete[user_id] = None
            self._wake.set()

    async def run(self) -> NoReturn:
        """Fill holes, one user at a time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._incomplete:
                user_id = next(iter(self._incomplete))
                if not await self._fill(user_id):
                    await asyncio.sleep(_RETRY_S)

    async def _fill(self, user_id: str) -> bool:
        """Read what one feed misses. False to try again."""
        feed = self._feeds.get(user_id)
        if feed is None or feed.last is None:
            self._incomplete.pop(user_id, None)
            return True
        try:
            missed = await read_since(self._source, user_id, feed.last)
        except EventsUnavailable:
            log.warning("stream.events_unavailable")
            return False
        self._incomplete.pop(user_id, None)
        if missed is None:
            self._give_up(user_id)
            return True
        feed.held.update((notice.seq, notice) for notice in missed if notice.seq > feed.last)
        self._pass_on(feed)
        if feed.held:
            # The database numbers without a hole, so what is missing has not been committed there yet.
            self._incomplete[user_id] = None
            return False
        return True

    def _pass_on(self, feed: _Feed) -> None:
        assert feed.last is not None
        while (notice := feed.held.pop(feed.last + 1, None)) is not None:
            feed.last += 1
            self._deliver(notice)
