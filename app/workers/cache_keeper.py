"""Answers of ``GET /pnl`` kept ready: which are written now, and what they say."""

from app.domain.book import Book
from app.domain.pnl_bodies import PnlBodies
from app.domain.pnl_snapshot import Prices
from app.domain.prices import StreamPosition
from app.workers.cache_round import CacheRound, rows_at_once

CACHE_EVERY_S = 0.1
"""About so often prices are flushed, and behind each flush answers are written."""

_USERS_AT_ONCE = 100


class CacheKeeper:
    """Of one book. Waits for nothing, reads no clock: ``now`` is monotonic, in seconds."""

    def __init__(self, book: Book, due: CacheRound, *, ttl_s: float, stale_after_ms: int) -> None:
        self.bodies = PnlBodies(book)
        self._book = book
        self._due = due
        self._ttl_s = ttl_s
        self._stale_after_ms = stale_after_ms

    def ask(self, user_id: str, now: float) -> None:
        """Keep ready what somebody asked for. Who is not in the book is not of this shard, or has nothing."""
        holder = self._book.find(user_id)
        if holder is not None:
            self._due.ask(holder.slot, now)

    def next_bodies(self, now: float, as_of_ms: int, place: StreamPosition, *, silent: bool) -> dict[str, bytes]:
        """What to write now by user id, as much as does not disturb the stream. ``silent`` says that the feed is."""
        # While the feed is silent no price is fresh, however young.
        stale_after_ms = -1 if silent else self._stale_after_ms
        prices = Prices(self._book.prices.known, self._book.rates.book, as_of_ms, stale_after_ms)
        return self.bodies.write(self._choose(now), prices, place)

    def _choose(self, now: float) -> list[int]:
        most_rows = rows_at_once(self._book.watched_row_count, self._ttl_s, CACHE_EVERY_S)
        chosen: list[int] = []
        rows = 0
        for slot in self._due.next(now, _USERS_AT_ONCE):
            rows += self.bodies.weight(slot)
            if chosen and rows > most_rows:
                break
            self._due.note_written(slot, now)
            if self._book.is_watched(slot) or self._due.is_asked(slot):
                chosen.append(slot)
        return chosen
