"""A set of numbers, each with a column, that answers "which are in these columns" at once."""

import numpy as np
from numpy.typing import NDArray

from app.domain.slack_matrix import grown
from app.domain.wide import Indices, Mask

_ABSENT = -1


class Selection:
    """Dense and unordered. Adding and removing one takes no time that grows with the set."""

    def __init__(self) -> None:
        self._members: Indices = np.zeros(64, np.int32)
        # As wide as numpy indexes by: else it would convert them all each time.
        self._columns: NDArray[np.intp] = np.zeros(64, np.intp)
        self._place_of: Indices = np.full(64, _ABSENT, np.int32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, member: int, column: int) -> None:
        """Take a member in; one that is in already changes nothing."""
        self._place_of = grown(self._place_of, member + 1, fill=_ABSENT)
        if self._place_of[member] != _ABSENT:
            return
        place = self._count
        self._members = grown(self._members, place + 1)
        self._columns = grown(self._columns, place + 1)
        self._members[place], self._columns[place] = member, column
        self._place_of[member] = place
        self._count += 1

    def discard(self, member: int) -> None:
        """Leave a member out; one that is not in changes nothing."""
        if member >= len(self._place_of) or self._place_of[member] == _ABSENT:
            return
        place, last = int(self._place_of[member]), self._count - 1
        self._members[place], self._columns[place] = self._members[last], self._columns[last]
        self._place_of[self._members[place]] = place
        self._place_of[member] = _ABSENT
        self._count = last

    def holds(self, members: Indices) -> Mask:
        """Which of these are in."""
        known = np.minimum(members, len(self._place_of) - 1)
        mask: Mask = (self._place_of[known] != _ABSENT) & (known == members)
        return mask

    def within(self, columns: Mask) -> Indices:
        """The members whose column is set in a mask."""
        chosen = columns.take(self._columns[: self._count])
        return self._members[: self._count].compress(chosen)
