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
_HALF_WORD = np.uint64(2**32 - 1)
_SHIFT = np.uint64(32)
_MOST_TERMS = 2**21


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


def add(high: High, low: Low, more_high: High, more_low: Low) -> tuple[High, Low]:
    """The sums of two values each."""
    total = low + more_low
    return high + more_high + (total < low), total


def subtract(high: High, low: Low, less_high: High, less_low: Low) -> tuple[High, Low]:
    """The differences of two values each."""
    return high - less_high - (low < less_low), low - less_low


def negate(high: High, low: Low) -> tuple[High, Low]:
    """Values with the other sign."""
    return ~high + (low == 0), ~low + np.uint64(1)


def sum_by(groups: NDArray[np.intp], high: High, low: Low, count: int) -> tuple[High, Low]:
    """The sums of values by group, modulo 2^128.

    By parts of 32 bits: so many of them add up exactly in a float as there are
    terms below 2^21, and what is more is added up piece by piece.
    """
    total_high, total_low = np.zeros(count, np.int64), np.zeros(count, np.uint64)
    for start in range(0, len(groups), _MOST_TERMS):
        piece = slice(start, start + _MOST_TERMS)
        parts = (low[piece] & _HALF_WORD, low[piece] >> _SHIFT, high[piece] & np.int64(_HALF_WORD), high[piece] >> 32)
        sums = [np.bincount(groups[piece], part, count).astype(np.int64) for part in parts]
        middle = sums[1].astype(np.uint64)
        total_high, total_low = add(total_high, total_low, sums[2] + (sums[3] << 32), sums[0].astype(np.uint64))
        total_high, total_low = add(total_high, total_low, (middle >> _SHIFT).astype(np.int64), middle << _SHIFT)
    return total_high, total_low
