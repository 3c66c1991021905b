"""Whose cached P&L is written next: watched users in turn, each at most once a second."""

from collections.abc import Sequence

import numpy as np

from app.domain.slack_matrix import grown
from app.domain.wide import Floats, Indices, Mask

_APART_S = 1.0


class CacheRound:
    """Remembers by user slot what changed and when it was last written. Reads no clock."""

    def __init__(self) -> None:
        self._due: Mask = np.zeros(64, np.bool_)
        self._written: Floats = np.zeros(64, np.float64)

    def mark(self, slots: Indices | Sequence[int]) -> None:
        """The P&L of these users is not as it was last written."""
        if len(slots):
            self._due = grown(self._due, int(np.max(slots)) + 1)
            self._due[slots] = True

    def next(self, now: float, most: int) -> list[int]:
        """The users to write now, those who waited longest first (``now`` is monotonic, in seconds)."""
        self._written = grown(self._written, len(self._due))
        due = np.flatnonzero(self._due)
        last = self._written[due]
        ripe = due[last <= now - _APART_S]
        chosen: list[int] = ripe[np.argsort(self._written[ripe], kind="stable")[:most]].tolist()
        return chosen

    def note_written(self, slot: int, now: float) -> None:
        """A user was written, or need not be: nobody watches him any more."""
        self._due[slot] = False
        self._written[slot] = now
