"""Integers wider than 64 bits in numpy: ``high``·2^64 + ``low``, ``high`` signed, ``low`` not.

Addition and multiplication modulo 2^64 give ``low`` exactly, whatever overflows.
A float of the same value then only has to tell which multiple of 2^64 it is: it
may be wrong by almost 2^63, which is 9.2 in money at units of 1e-18.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Low: TypeAlias = NDArray[np.uint64]
High: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]

_WORD = 64
_MODULUS = float(2**_WORD)
_LOW_BITS = (1 << _WORD) - 1
_LARGEST = (1 << 127) - 1


def low_part(value: int) -> int:
    """A Python integer modulo 2^64."""
    return value & _LOW_BITS


def split(value: int) -> tuple[int, int]:
    """``(high, low)`` of a Python integer.

    What is too large for 128 bits (1.7e20 in money) becomes the largest that is
    not: nobody's real profit, and no reason for everybody else's to stop.
    """
    held = max(-_LARGEST, min(value, _LARGEST))
    return held >> _WORD, held & _LOW_BITS


def join(high: int, low: int) -> int:
    """The Python integer that ``(high, low)`` stands for."""
    return (high << _WORD) + low


def find_high(low: Low, about: Floats) -> High:
    """The high part of values known exactly modulo 2^64 and about (within 2^63) as floats."""
    return np.rint((about - low) / _MODULUS).astype(np.int64)
