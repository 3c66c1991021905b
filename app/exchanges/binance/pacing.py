"""At most so many in any span of so long: for control messages and for connects."""

from collections import deque


class RollingLimit:
    """At most ``limit`` events in any rolling ``window_s``. Times are the caller's monotonic clock."""

    def __init__(self, limit: int, window_s: float) -> None:
        self._window_s = window_s
        self._recent: deque[float] = deque(maxlen=limit)

    def delay_s(self, now: float) -> float:
        """How long to wait until one more is allowed; 0 when it is now."""
        if len(self._recent) < (self._recent.maxlen or 0):
            return 0.0
        return max(0.0, self._recent[0] + self._window_s - now)

    def spend(self, now: float) -> None:
        """Count one. What could not wait (a pong) is counted late rather than not at all."""
        self._recent.append(now)
