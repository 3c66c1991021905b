"""How late the exchange's messages are, judged by its own time stamps.

The exchange's clock and ours differ by an unknown offset, so ``received − event``
alone says nothing. But its minimum over some time is the offset plus the
shortest way a message can take; what a message takes beyond that, it is late.
"""

from collections import deque

_IMPOSSIBLE_MS = 24 * 3600 * 1000
_NEVER = -(2**62)


class ClockOffset:
    """Estimates our clock minus the exchange's, as the least ``received − event`` of late.

    The window is made of the last ``buckets`` spans of ``bucket_ms`` in which
    anything arrived: during a silence nothing is forgotten, so what arrives late
    after a stall is seen to be late.

    The minimum alone cannot tell a delay that lasts from a clock that was set
    back. Asking the exchange for its time can: :meth:`bound` limits the estimate
    to what such an answer allows.
    """

    def __init__(self, *, bucket_ms: int = 3_000, buckets: int = 10, bounds_valid_ms: int = 60_000) -> None:
        self._bucket_ms = bucket_ms
        self._bounds_valid_ms = bounds_valid_ms
        self._past: deque[int] = deque(maxlen=buckets - 1)
        self._bucket_end = _NEVER
        self._bucket_least = -_NEVER
        self._least = -_NEVER
        self._low = _NEVER
        self._high = -_NEVER
        self._bounds_end = _NEVER

    def lateness_ms(self, event_ms: int, received_ms: int) -> int | None:
        """Learn from a message, and say how late it is; None if its time cannot be one."""
        sample = received_ms - event_ms
        if not -_IMPOSSIBLE_MS < sample < _IMPOSSIBLE_MS:
            return None
        if received_ms >= self._bucket_end:
            self._next_bucket(received_ms)
        if sample < self._bucket_least:
            self._bucket_least = sample
            self._least = min(self._least, sample)
        return max(0, sample - self.estimate_ms(received_ms))

    def bound(self, server_ms: int, asked_ms: int, answered_ms: int) -> None:
        """Learn from the exchange's answer to what time it is.

        It read its clock, in whole milliseconds, somewhere between question and answer.
        """
        self._low = asked_ms - server_ms - 1
        self._high = answered_ms - server_ms
        self._bounds_end = answered_ms + self._bounds_valid_ms

    def estimate_ms(self, now_ms: int) -> int:
        """Our clock minus the exchange's, in milliseconds. Meaningless before the first message."""
        if now_ms > self._bounds_end:
            return self._least
        return min(max(self._least, self._low), self._high)

    def _next_bucket(self, received_ms: int) -> None:
        if self._bucket_end != _NEVER:
            self._past.append(self._bucket_least)
        self._bucket_end = received_ms + self._bucket_ms
        self._bucket_least = -_NEVER
        self._least = min(self._past, default=-_NEVER)


class Lane:
    """How late one connection runs, for its messages that carry no time themselves.

    A connection delivers in order, so what arrives beside a late message is as
    late. Whoever drains prices counts the intervals; within one, the worst counts.
    """

    __slots__ = ("_interval", "_newest_ms", "_worst_ms")

    def __init__(self) -> None:
        self._interval = -1
        self._newest_ms = 0
        self._worst_ms = 0

    def note(self, late_ms: int, interval: int) -> None:
        """A message of this connection, in this interval, was so late."""
        if interval != self._interval:
            self._interval = interval
            self._worst_ms = late_ms
        elif late_ms > self._worst_ms:
            self._worst_ms = late_ms
        self._newest_ms = late_ms

    def late_ms(self, interval: int) -> int:
        """How late a message without a time, received in this interval, may be."""
        return self._worst_ms if interval == self._interval else self._newest_ms
