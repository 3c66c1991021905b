"""When the P&L worker speaks, and at which place in the stream. Reads no clock.

With every price flush; a quarter of a second after something else changed when
no flush came; and once a second in any case, for silence means trouble.
"""

from typing import Literal

from app.domain.prices import REVISIONS_PER_FLUSH, StreamPosition

SILENT_AFTER_S = 3.0
"""After so long without a price flush, no price is fresh whatever its age."""

_NEWS_WAIT_S = 0.25
_HEARTBEAT_S = 1.0


class PnlPace:
    """``now`` is always the monotonic clock in seconds, ``now_ms`` Unix milliseconds."""

    def __init__(self, now: float) -> None:
        self.place = StreamPosition(0, 0)
        self.is_silent = False
        self._as_of_ms = 0
        self._flushed_at = now
        self._spoke_at = now
        self._is_new_flush = False
        self._has_turned_silent = False

    def flushed(self, epoch: int, flush: int, as_of_ms: int, now: float) -> None:
        """Prices moved on to another flush."""
        self.place = StreamPosition(epoch, flush)
        self.is_silent = False
        self._has_turned_silent = False
        self._as_of_ms = as_of_ms
        self._flushed_at = now
        self._is_new_flush = True

    def as_of_ms(self, now: float, now_ms: int) -> int:
        """The moment of what is said now, by the price worker's clock (ours until it first spoke)."""
        if not self._as_of_ms:
            return now_ms
        if self._is_new_flush:
            return self._as_of_ms
        return self._as_of_ms + int((now - self._flushed_at) * 1000)

    def due(self, now: float, *, has_news: bool) -> Literal["flush", "revision", "heartbeat"] | None:
        """What to say now: prices moved on; something else changed; that this worker lives."""
        if self._is_new_flush:
            return "flush"
        if not self.is_silent and now - self._flushed_at > SILENT_AFTER_S:
            self.is_silent = True
            self._has_turned_silent = True
        waited = now - self._spoke_at
        is_news = self._has_turned_silent or (has_news and waited >= _NEWS_WAIT_S)
        if is_news and self.place.revision + 1 < REVISIONS_PER_FLUSH:
            return "revision"
        return "heartbeat" if waited >= _HEARTBEAT_S else None

    def spoke(self, said: Literal["flush", "revision", "heartbeat"], now: float) -> None:
        """It was said."""
        self._spoke_at = now
        self._is_new_flush = False
        if said == "revision":
            self._has_turned_silent = False

    def revise(self) -> None:
        """Move to the next place for a change that is not one of prices."""
        here = self.place
        self.place = StreamPosition(here.epoch, here.flush, here.revision + 1)
