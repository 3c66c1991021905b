"""How well the stream is: who is silent, and what clients are told of it."""

import msgspec

from app.bus.prices import NO_FEED
from app.domain.prices import Feed

DEGRADED_AFTER_S = 1.0
"""Without P&L for this long, clients are told."""

SILENT_AFTER_S = 3.0
"""Without prices (or P&L) for this long, what is shown of them is marked stale."""


class StreamHealth:
    """When the sources of the stream were last heard. ``now`` is always the monotonic clock in seconds.

    ``version`` grows when clients must be told something new.
    """

    def __init__(self) -> None:
        self.version = 0
        # Silent until the first flush: what is found in the hash at the start may be hours old.
        self.prices_are_silent = True
        self.pnl_is_late = False
        """Whether P&L of any shard with users here is."""
        self._feed = NO_FEED
        self._prices_at = float("-inf")
        self._bus_is_down = False

    def heard_prices(self, now: float) -> None:
        self._prices_at = now

    def note_feed(self, feed: Feed) -> None:
        """What the price worker says of its exchange connection."""
        said, self._feed = self._feed, feed
        if msgspec.structs.replace(said, age_ms=None) != msgspec.structs.replace(feed, age_ms=None):
            self.version += 1

    def note_bus(self, *, is_down: bool) -> None:
        """Whether Redis can be used."""
        if is_down != self._bus_is_down:
            self._bus_is_down = is_down
            self.version += 1

    def check(self, now: float) -> bool:
        """Compare what was heard of prices with the clock. True if the answer changed."""
        were_silent = self.prices_are_silent
        self.prices_are_silent = now - self._prices_at > SILENT_AFTER_S
        self.version += self.prices_are_silent != were_silent
        return self.prices_are_silent != were_silent

    def note_pnl(self, *, is_late: bool) -> None:
        """Whether P&L that somebody here is to see does not come."""
        if is_late != self.pnl_is_late:
            self.pnl_is_late = is_late
            self.version += 1

    def feed(self) -> Feed:
        """The exchange connection as clients see it: without price flushes it is down, whatever was said last."""
        if not self.prices_are_silent:
            return self._feed
        return Feed(state="down", source=self._feed.source, age_ms=None, simulated=self._feed.simulated)

    @property
    def degraded(self) -> list[str]:
        """What the server does without at the moment."""
        parts = (("redis", self._bus_is_down), ("prices", self.prices_are_silent), ("pnl", self.pnl_is_late))
        return [name for name, is_missing in parts if is_missing]
