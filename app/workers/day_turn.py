"""When a UTC day begins, by the clock of the price flushes, and how its bases get into the book."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

from app.domain.book import Book

DAY_MS = 86_400_000

LATE_START_MS = 5 * 60_000
"""A worker that starts so soon after midnight takes the bases that a fallen one could not."""


USERS_AT_ONCE = 2000
"""Some 15 ms of work, most of it telling them."""


class Turn(NamedTuple):
    """A day that began. ``missing``: only for users whose base nobody took."""

    day: date
    whose: Literal["everybody", "missing"]


class DayTurn:
    """Tells each beginning of a day once."""

    def __init__(self) -> None:
        self._day: int | None = None

    def at(self, as_of_ms: int) -> Turn | None:
        """The day that began with this moment, if one did."""
        day = as_of_ms // DAY_MS
        known, self._day = self._day, max(day, self._day or 0)
        if known is None:
            return Turn(_date(day), "missing") if as_of_ms % DAY_MS <= LATE_START_MS else None
        return Turn(_date(day), "everybody") if day > known else None


class DayStart:
    """Gives users the base of a day that began, some with each flush.

    All are of the same prices; but to set and tell 25,000 at once would hold
    up the stream for half a second.
    """

    def __init__(self, book: Book, users_at_once: int = USERS_AT_ONCE) -> None:
        self._book = book
        self._users_at_once = users_at_once
        self._turn: Turn | None = None
        self._bases: dict[int, int] = {}
        self._next = self._end = 0

    def begin(self, turn: Turn) -> Mapping[int, int]:
        """Take the bases of now, by user slot. They are set by :meth:`step`."""
        bases = self._book.day_bases()
        if turn.whose == "missing":
            bases = {slot: base for slot, base in bases.items() if self._book.holder(slot).day_base is None}
        self._turn, self._bases = turn, dict(bases)
        self._next, self._end = 0, len(self._book)
        return bases

    def forget(self, user_id: str, day: date) -> None:
        """A correction left a user's total at the beginning of a day unknown."""
        self._book.forget_base(user_id, day)
        holder = self._book.find(user_id)
        if holder is not None and self._turn is not None and self._turn.day == day:
            self._bases.pop(holder.slot, None)

    def step(self) -> None:
        """Set the bases of some more users."""
        turn = self._turn
        if turn is None:
            return
        some = range(self._next, min(self._next + self._users_at_once, self._end))
        bases = {slot: self._bases[slot] for slot in some if slot in self._bases}
        if turn.whose == "everybody":
            self._book.start_day(bases, turn.day, slice(some.start, some.stop))
        else:
            self._book.fill_day(bases)
        self._next = some.stop
        if self._next >= self._end:
            self._turn, self._bases = None, {}


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * 86_400, UTC).date()
