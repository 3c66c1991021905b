"""When a minute begins, by the clock of the price flushes."""

MINUTE_MS = 60_000


class MinuteTurn:
    """Tells each beginning of a minute once. Minutes that nobody asked in are left out."""

    def __init__(self) -> None:
        self._minute: int | None = None

    def at(self, as_of_ms: int) -> int | None:
        """The beginning, in Unix milliseconds, of the minute that began since this was last asked, if one did."""
        minute = as_of_ms // MINUTE_MS
        known, self._minute = self._minute, max(minute, self._minute or 0)
        # What was so before the first question is not known to have been so at the minute's beginning.
        return minute * MINUTE_MS if known is not None and minute > known else None
