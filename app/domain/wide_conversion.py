"""Many amounts at a rate, each rounded once: :func:`app.domain.decimals.convert_units` for arrays.

An amount is multiplied by the rate as a fixed-point number of 124 fractional
bits, in limbs of 31 bits whose products add up within 64. That tells the
integer part, and the fraction to within 2^-28. A fraction so near to a half that
this does not tell how to round is left to Python's integers, and so is an amount
too large for the limbs.
"""

from decimal import Decimal
from typing import Final

import numpy as np

from app.domain.decimals import convert_units
from app.domain.wide import High, Low, Mask, join, negate, split

LARGEST: Final = 10**28 * 5 // 4
"""The largest amount, in units, that the limbs carry: ten thousand millions in money, and some room."""

RATE_LIMIT: Final = 2**28
"""Rates are below it: thirty of the largest amounts still add up in 128 bits."""

_LARGEST_HIGH: Final = LARGEST >> 64
_BITS: Final = np.uint64(31)
_MASK: Final = np.uint64(2**31 - 1)
_FRACTION_BITS: Final = 124
_RATE_LIMBS: Final = 5
_HALF: Final = 2**30
_DOUBT: Final = 16
"""How near to a half the first 31 bits of a fraction may be. They are wrong by less than 8."""
_BLOCK: Final = 8192
"""As many at once as stay in the cache of a core over all the steps."""


def convert(high: High, low: Low, rate: Decimal) -> tuple[High, Low]:
    """Amounts in units of 1e-18 at a rate (positive, below :data:`RATE_LIMIT`), each rounded half to even."""
    numerator, denominator = rate.as_integer_ratio()
    fixed = (numerator << _FRACTION_BITS) // denominator
    limbs = [np.uint64((fixed >> 31 * n) & (2**31 - 1)) for n in range(_RATE_LIMBS)]
    to_high, to_low = np.empty_like(high), np.empty_like(low)
    for start in range(0, len(high), _BLOCK):
        block = slice(start, start + _BLOCK)
        to_high[block], to_low[block] = _convert_block(high[block], low[block], limbs, rate)
    return to_high, to_low


def _convert_block(high: High, low: Low, rate_limbs: list[np.uint64], rate: Decimal) -> tuple[High, Low]:
    is_negative = high < 0
    other_high, other_low = negate(high, low)
    magnitude_high = np.where(is_negative, other_high, high)
    magnitude_low = np.where(is_negative, other_low, low)
    to_high, to_low, is_doubtful = _multiply(magnitude_high.astype(np.uint64), magnitude_low, rate_limbs)
    is_doubtful |= magnitude_high > _LARGEST_HIGH
    other_high, other_low = negate(to_high, to_low)
    to_high, to_low = np.where(is_negative, other_high, to_high), np.where(is_negative, other_low, to_low)
    doubtful = np.flatnonzero(is_doubtful)
    if len(doubtful):
        to_high[doubtful], to_low[doubtful] = _convert_plainly(high[doubtful], low[doubtful], rate)
    return to_high, to_low


def _multiply(high: Low, low: Low, rate: list[np.uint64]) -> tuple[High, Low, Mask]:
    """Magnitudes times a fixed-point rate, and where the rounding is in doubt."""
    first: Low = low & _MASK
    second: Low = (low >> _BITS) & _MASK
    third: Low = (low >> np.uint64(62)) | (high << np.uint64(2))
    # Places 0 and 1 of the product are left out: below 2^-29 of a unit.
    place: Low = (first * rate[2] + second * rate[1] + third * rate[0]) >> _BITS
    place += first * rate[3] + second * rate[2] + third * rate[1]
    fraction = (place & _MASK).astype(np.int64)
    place = (place >> _BITS) + first * rate[4]
    place += second * rate[3] + third * rate[2]
    units: Low = place & _MASK
    place = (place >> _BITS) + second * rate[4] + third * rate[3]
    units |= (place & _MASK) << _BITS
    place = (place >> _BITS) + third * rate[4]
    to_low: Low = units | (place << np.uint64(62))
    to_high = (place >> np.uint64(2)).astype(np.int64)
    is_above: Mask = fraction >= _HALF
    to_low += is_above.astype(np.uint64)
    to_high += is_above & (to_low == 0)
    return to_high, to_low, np.abs(fraction - _HALF) <= _DOUBT


def _convert_plainly(high: High, low: Low, rate: Decimal) -> tuple[High, Low]:
    converted = [
        split(convert_units(join(high_part, low_part), rate))
        for high_part, low_part in zip(high.tolist(), low.tolist(), strict=True)
    ]
    return (
        np.array([part for part, _ in converted], np.int64),
        np.array([part for _, part in converted], np.uint64),
    )
