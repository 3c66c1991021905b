"""A clock for ages: it starts at the time of day and then only ever runs forward, evenly.

The time of day may be set; an age computed from it would jump. Time the machine
spends suspended counts, for a price does grow old then.
"""

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SteadyClock:
    """Unix milliseconds, as the system clock had them when this was made."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(_STEADY)

    def now_ms(self) -> int:
        """The milliseconds now."""
        return (time.clock_gettime_ns(_STEADY) + self._offset_ns) // 1_000_000
