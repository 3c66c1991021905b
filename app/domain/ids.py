"""Ids in the order they were given: UUIDs of version 7 (RFC 9562).

Rows that are written by the million lie side by side in the index of such ids,
where random ones would each touch a page of their own; and two fills of one
moment keep their order.
"""

from typing import Final

_COUNTER_BITS: Final = 74
"""What a UUID of version 7 has besides its milliseconds, version and variant."""

_LOW_BITS: Final = 62


class OrderedIds:
    """Gives ids, each greater than the one before.

    ``at_ms`` is the time they carry, Unix milliseconds. ``entropy`` is 73 random
    bits to start from: they keep the ids of two processes apart.
    """

    def __init__(self, at_ms: int, entropy: int) -> None:
        self._head = (at_ms << 80) | (7 << 76) | (2 << 62)
        # One bit below the width leaves room to count up in.
        self._counter = entropy % (1 << (_COUNTER_BITS - 1))

    def next(self) -> str:
        """The next id, in its canonical form."""
        self._counter += 1
        high, low = divmod(self._counter, 1 << _LOW_BITS)
        digits = f"{self._head | high << 64 | low:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
