"""The request weight that Binance allows an address, and what is left of it.

Counted per address in fixed minutes of the exchange's clock. Other programs may
share the address, so the exchange's own count, in a header of every answer, is
believed where it is higher. Nearly a third of the limit is left alone.
"""

_WINDOW_S = 60.0
_BAN_S = 120.0


class WeightBudget:
    """Says whether a call may be made now. Times are seconds of a Unix clock, for minutes to be the exchange's."""

    def __init__(self, limit: int = 6000, *, unused_share: float = 0.3) -> None:
        self._limit = limit
        self._unused_share = unused_share
        self._minute = -1
        self._used = 0
        self._closed_until = 0.0
        self._latest = 0.0

    def learn_limit(self, limit: int) -> None:
        """Take over the limit that the exchange states."""
        self._limit = limit

    def delay_s(self, weight: int, now: float) -> float:
        """How long a call of this weight must wait; 0 when it may be made now."""
        self._turn(now)
        if now < self._closed_until:
            return self._closed_until - now
        if self._used + weight > self._limit * (1 - self._unused_share):
            return self._minute_ends - now
        return 0.0

    def spend(self, weight: int, now: float) -> None:
        """Count a call as it is made."""
        self._turn(now)
        self._used += weight

    def observe(self, used: int, now: float) -> None:
        """Take over the exchange's count, if it is the higher one."""
        self._turn(now)
        self._used = max(self._used, used)

    def refused(self, status: int, retry_after_s: float | None, now: float) -> float:
        """Count a 429 or 418. Nothing may be asked for as long as it says; gives how long that is."""
        self._turn(now)
        if retry_after_s is None:
            retry_after_s = _BAN_S if status == 418 else self._minute_ends - now
        self._closed_until = max(self._closed_until, now + retry_after_s)
        return self._closed_until - now

    @property
    def _minute_ends(self) -> float:
        return (self._minute + 1) * _WINDOW_S

    def _turn(self, now: float) -> None:
        if now < self._latest:
            # The clock was set back: what is left to wait stays what it was.
            self._closed_until -= self._latest - now
        self._latest = now
        minute = int(now // _WINDOW_S)
        if minute != self._minute:
            self._minute = minute
            self._used = 0
