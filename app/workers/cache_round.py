"""Whose cached P&L is written next: who is asked for, then watched users in turn, each at most once a second."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.slack_matrix import grown
from app.domain.wide import Floats, Indices, Mask

ASKED_FOR_S = 60.0
"""Who was asked for is kept ready so long: who asks again within it finds an answer of the last second."""

_APART_S = 1.0
_LEAST_ROWS = 300
_MOST_ROWS = 1000
_SHARE_OF_TTL = 0.8


def rows_at_once(watched_rows: int, ttl_s: float, every_s: float) -> int:
    """How many rows to write each time: as few as reach everybody before what was written last is over.

    A row takes some 6 µs, and publishing must not wait long for them; so no more
    than a bound, beyond which some answers are away between two rounds.
    """
    times = ttl_s * _SHARE_OF_TTL / every_s
    return min(max(_LEAST_ROWS, math.ceil(watched_rows / times)), _MOST_ROWS)


class CacheRound:
    """Remembers by user slot what changed and when it was last written. Reads no clock: ``now`` is monotonic, in s."""

    def __init__(self) -> None:
        self._due: Mask = np.zeros(64, np.bool_)
        self._written: Floats = np.zeros(64, np.float64)
        self._asked: dict[int, float] = {}
        """When somebody last asked for a user, those who were asked for last at the end."""

    def mark(self, slots: Indices | Sequence[int]) -> None:
        """The P&L of these users is not as it was last written."""
        if len(slots):
            self._due = grown(self._due, int(np.max(slots)) + 1)
            self._due[slots] = True

    def ask(self, slot: int, now: float) -> None:
        """Somebody wanted a user's P&L, and what was written was too old, or nothing was."""
        self._asked.pop(slot, None)
        self._asked[slot] = now
        self._due = grown(self._due, slot + 1)

    def is_asked(self, slot: int) -> bool:
        return slot in self._asked

    def next(self, now: float, most: int) -> list[int]:
        """The users to write now: those asked for first, then those who waited longest."""
        self._written = grown(self._written, len(self._due))
        self._forget(now)
        asked = np.fromiter(self._asked, np.int64)
        ripe_asked = self._longest(asked[self._written[asked] <= now - _APART_S], most)
        due = np.flatnonzero(self._due)
        ripe = self._longest(due[self._written[due] <= now - _APART_S], most)
        return list(dict.fromkeys([*ripe_asked, *ripe]))[:most]

    def note_written(self, slot: int, now: float) -> None:
        """A user was written, or need not be: nobody watches him any more."""
        self._due[slot] = False
        self._written[slot] = now

    def _longest(self, slots: NDArray[np.int64], most: int) -> list[int]:
        """Those of the slots that were not written for longest."""
        written = self._written[slots]
        if len(slots) > most:
            # Sorting everybody would cost more than writing some.
            slots = slots[written <= np.partition(written, most)[most]]
            written = self._written[slots]
        longest: list[int] = slots[np.argsort(written, kind="stable")[:most]].tolist()
        return longest

    def _forget(self, now: float) -> None:
        """Leave out who was asked for too long ago; those come first."""
        while self._asked:
            slot, at = next(iter(self._asked.items()))
            if at > now - ASKED_FOR_S:
                return
            del self._asked[slot]
