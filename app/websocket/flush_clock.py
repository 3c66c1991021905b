"""When a flush was sent, by the clock of this process.

A process that is too busy reads late what arrived in time, and what it shows
then is older than the flush says. The two clocks differ by an unknown amount;
the shortest way that a flush of the same price worker ever took stands for it.
A worker's clock is steady (:mod:`app.workers.steady_clock`), so one that took
much longer waited somewhere.
"""

_DRIFT_S = 1e-5
"""How much the two clocks may drift apart between two flushes: 100 parts per million at ten a second."""


class FlushClock:
    """Follows one price worker after another. ``now`` is always the monotonic clock in seconds."""

    def __init__(self) -> None:
        self._epoch = 0
        self._shortest = 0.0

    def sent_at(self, epoch: int, as_of_ms: int, now: float) -> float:
        """The moment at which a flush was sent, at the latest ``now``."""
        way = now - as_of_ms / 1000
        if epoch != self._epoch:
            self._epoch, self._shortest = epoch, way
        self._shortest = min(self._shortest + _DRIFT_S, way)
        return now - (way - self._shortest)
