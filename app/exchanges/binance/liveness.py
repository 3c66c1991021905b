"""Whether a connection is alive, judged by what arrived and when.

"Connected" and "subscribed" say nothing: a connection is live only once data has
arrived, and only as long as it goes on arriving.
"""

from enum import Enum

from app.exchanges.binance.timing import Timing


class ConnectionState(Enum):
    """The life of a connection, in order; a stale one may turn live again."""

    CONNECTING = "connecting"
    OPEN = "open"
    ACKED = "acked"
    LIVE = "live"
    STALE = "stale"
    CLOSED = "closed"


class Liveness:
    """The clocks of one connection. Times are seconds of a monotonic clock."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._opened_at: float | None = None
        self._acked = False
        self._closed = False
        self._last_frame_at = 0.0
        self._last_data_at: float | None = None

    def opened(self, now: float) -> None:
        self._opened_at = self._last_frame_at = now

    def acked(self) -> None:
        self._acked = True

    def frame(self, now: float) -> None:
        """A frame of any kind arrived, a ping included."""
        self._last_frame_at = now

    def data(self, now: float) -> None:
        """Market data arrived."""
        self._last_data_at = now

    def closed(self) -> None:
        self._closed = True

    def state(self, now: float) -> ConnectionState:
        """Where in its life the connection is."""
        if self._closed:
            return ConnectionState.CLOSED
        if self._opened_at is None:
            return ConnectionState.CONNECTING
        if self._last_data_at is None:
            return ConnectionState.ACKED if self._acked else ConnectionState.OPEN
        if now - self._last_data_at > self._timing.stale_s:
            return ConnectionState.STALE
        return ConnectionState.LIVE

    def failure(self, now: float) -> str | None:
        """Why the connection must be given up, if it must."""
        return next((reason for at, reason in self._deadlines() if now >= at), None)

    def check_at(self, now: float) -> float:
        """The earliest moment at which :meth:`failure` may have something to say, whatever arrives until then."""
        return min(now + self._timing.data_age_s, *(at for at, _ in self._deadlines()))

    def _deadlines(self) -> list[tuple[float, str]]:
        opened_at = self._opened_at or 0.0
        silence = (self._last_frame_at + self._timing.silence_s, "no frame of any kind arrived")
        if self._last_data_at is None:
            return [(opened_at + self._timing.first_data_s, "no first data arrived"), silence]
        return [(self._last_data_at + self._timing.data_age_s, "data stopped arriving"), silence]
