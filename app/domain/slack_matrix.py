"""A sparse matrix whose rows change in place.

Compressed sparse rows multiply fastest and cannot be edited. Here each row has
room to spare, filled with zeros that add nothing: an entry comes and goes
without touching any other row. A row that is full moves to a roomier place at
the end, and leaves its old place to another.

Each quantity is kept twice: as an integer modulo 2^64 and as a float
(:mod:`app.domain.wide` says why).
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from app.domain.wide import Floats, Indices, Low

_Scalar = TypeVar("_Scalar", bound=np.generic)

_NOWHERE = -1
_SMALLEST_ROOM = 4


class SlackMatrix:
    """Rows × columns of quantities. An entry is known by the number of its owner."""

    def __init__(self) -> None:
        # By entry.
        self._columns: Indices = np.zeros(64, np.int32)
        self._low: Low = np.zeros(64, np.uint64)
        self._floats: Floats = np.zeros(64, np.float64)
        self._owners: Indices = np.zeros(64, np.int32)
        # By place; a place is a row of the underlying matrix. Place 0 has no room.
        self._starts: Indices = np.zeros(64, np.int32)
        self._places = 1
        self._vacant: dict[int, list[int]] = {}
        # By row and by owner.
        self._place_of: Indices = np.zeros(64, np.int32)
        self._used: Indices = np.zeros(64, np.int32)
        self._rows = 0
        self._entry_of: Indices = np.full(64, _NOWHERE, np.int32)
        self._matrices: dict[str, tuple[Any, tuple[int, ...], tuple[NDArray[Any], ...]]] = {}

    def add_row(self) -> int:
        """The number of a new, empty row; rows count up from 0."""
        row = self._rows
        self._place_of = grown(self._place_of, row + 1)
        self._used = grown(self._used, row + 1)
        self._rows += 1
        return row

    def used(self, row: int) -> int:
        """How many entries a row has."""
        return int(self._used[row])

    def insert(
        self,
        row: int,
        owners: Indices,
        columns: Indices,
        lows: Low,
        floats: Floats,
    ) -> None:
        """Put entries into a row. Several may be in one column."""
        count = len(owners)
        used = int(self._used[row])
        self._make_room(row, used + count)
        start = int(self._starts[self._place_of[row]]) + used
        end = start + count
        self._columns[start:end] = columns
        self._low[start:end] = lows
        self._floats[start:end] = floats
        self._owners[start:end] = owners
        self._used[row] = used + count
        self._entry_of = grown(self._entry_of, int(owners.max()) + 1, fill=_NOWHERE)
        self._entry_of[owners] = np.arange(start, end, dtype=np.int32)

    def remove(self, row: int, owner: int) -> None:
        """Take an owner's entry out of its row; the row's last entry fills the hole."""
        entry = int(self._entry_of[owner])
        last = int(self._starts[self._place_of[row]]) + int(self._used[row]) - 1
        if entry != last:
            for array in (self._columns, self._low, self._floats, self._owners):
                array[entry] = array[last]
            self._entry_of[self._owners[entry]] = entry
        self._clear(last, last + 1)
        self._entry_of[owner] = _NOWHERE
        self._used[row] -= 1

    def multiply(self, low: Low, floats: Floats) -> tuple[Low, Floats]:
        """Each row times a vector over the columns: modulo 2^64, and as floats."""
        places = self._place_of[: self._rows]
        return (
            self._product(self._low, low)[places],
            self._product(self._floats, floats)[places],
        )

    def _product(self, data: NDArray[_Scalar], vector: NDArray[_Scalar]) -> NDArray[_Scalar]:
        product: NDArray[_Scalar] = self._matrix(data, len(vector)) @ vector
        return product

    def _matrix(self, data: NDArray[Any], width: int) -> Any:
        """The entries as scipy multiplies them: the arrays themselves, so that it is made anew only for other ones.

        Making it looks at every entry.
        """
        end = int(self._starts[self._places])
        parts = (data, self._columns, self._starts)
        made_of = (end, self._places, width, *map(id, parts))
        matrix, known, _ = self._matrices.get(data.dtype.kind, (None, (), ()))
        if known != made_of:
            entries = (data[:end], self._columns[:end], self._starts[: self._places + 1])
            matrix = csr_array(entries, shape=(self._places, width), copy=False)
            # Where much room is to spare scipy copies all the same.
            matrix.data, matrix.indices, matrix.indptr = entries
            # The arrays are kept with it: a number of one that is gone may be given to another.
            self._matrices[data.dtype.kind] = (matrix, made_of, parts)
        return matrix

    def _make_room(self, row: int, needed: int) -> None:
        old = int(self._place_of[row])
        start = int(self._starts[old])
        room = int(self._starts[old + 1]) - start
        if needed <= room:
            return
        new = self._take_place(_room_for(needed))
        self._place_of[row] = new
        if room:
            self._move(start, int(self._starts[new]), int(self._used[row]))
            self._vacant.setdefault(room, []).append(old)

    def _take_place(self, room: int) -> int:
        vacant = self._vacant.get(room)
        if vacant:
            return vacant.pop()
        place = self._places
        end = int(self._starts[place]) + room
        self._starts = grown(self._starts, place + 2)
        self._starts[place + 1] = end
        self._places += 1
        self._columns = grown(self._columns, end)
        self._low = grown(self._low, end)
        self._floats = grown(self._floats, end)
        self._owners = grown(self._owners, end)
        return place

    def _move(self, source: int, target: int, count: int) -> None:
        for array in (self._columns, self._low, self._floats, self._owners):
            array[target : target + count] = array[source : source + count]
        self._entry_of[self._owners[target : target + count]] = np.arange(target, target + count, dtype=np.int32)
        self._clear(source, source + count)

    def _clear(self, start: int, end: int) -> None:
        for array in (self._columns, self._low, self._floats, self._owners):
            array[start:end] = 0


def grown(array: NDArray[_Scalar], needed: int, fill: int = 0) -> NDArray[_Scalar]:
    """The array itself, or a copy with at least half as much again where it is too short."""
    if needed <= len(array):
        return array
    larger: NDArray[_Scalar] = np.full(max(needed, len(array) * 3 // 2), fill, array.dtype)
    larger[: len(array)] = array
    return larger


def _room_for(entries: int) -> int:
    """The room of a place: few sizes (2^k and 1.5·2^k), so that a vacant one fits the next row."""
    room = _SMALLEST_ROOM
    while room <= entries:
        if room + room // 2 > entries:
            return room + room // 2
        room *= 2
    return room
