"""When a UTC day begins, by the clock of the price flushes."""

from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

DAY_MS = 86_400_000

LATE_START_MS = 5 * 60_000
"""A worker that starts so soon after midnight takes the bases that a fallen one could not."""


class Turn(NamedTuple):
    """A day that began. ``missing``: only for users whose base nobody took."""

    day: date
    whose: Literal["everybody", "missing"]


class DayTurn:
    """Tells each beginning of a day once."""

    def __init__(self) -> None:
        self._day: int | None = None

    def at(self, as_of_ms: int) -> Turn | None:
        """The day that began with this moment, if one did."""
        day = as_of_ms // DAY_MS
        known, self._day = self._day, max(day, self._day or 0)
        if known is None:
            return Turn(_date(day), "missing") if as_of_ms % DAY_MS <= LATE_START_MS else None
        return Turn(_date(day), "everybody") if day > known else None


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * 86_400, UTC).date()
