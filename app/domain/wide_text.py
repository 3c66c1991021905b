"""Amounts and fractions of many at once as text: what :mod:`app.domain.decimals` writes one by one.

A frame holds two dozen of them and there are tens of thousands of frames a
second, so digits are looked up in groups of three and four for a whole column.
Few columns are worth that; short ones go through the plain functions.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.domain.decimals import SCALE, UNITS, format_units
from app.domain.valuation import fraction
from app.domain.wide import Floats, High, Low, Mask, join, negate

_WORTHWHILE: Final = 128
"""Columns shorter than this are not worth the fixed cost of some forty array operations."""

_WORD: Final = float(2**64)
_MOST_WHOLE: Final = 1e15
"""Above this many whole units a float no longer tells them to within a few."""

# The text of a number: room for the sign, sixteen digits, a point, eighteen digits, one byte unused.
_WHOLE_AT: Final = 4
_POINT_AT: Final = _WHOLE_AT + 16
_WIDTH: Final = _POINT_AT + 1 + SCALE + 1
_COLUMNS: Final = _WIDTH // 4
_MINUS: Final = ord("-")
_ZERO: Final = ord("0")
_QUOTE: Final = ord('"')

_POWERS: Final = np.array([10**n for n in range(1, 16)], np.uint64)
_MILLION: Final = 1_000_000
_FRACTION_PLACES: Final = 6


def _groups(texts: Sequence[str]) -> NDArray[np.uint32]:
    return np.frombuffer("".join(texts).encode(), np.uint32)


_FOUR: Final = _groups([f"{n:04d}" for n in range(10_000)])
_POINT_THREE: Final = _groups([f".{n:03d}" for n in range(1000)])
_THREE: Final = _groups([f"{n:03d}\0" for n in range(1000)])
_THREE_QUOTE: Final = _groups([f'{n:03d}"' for n in range(1000)])


def magnitudes(high: High, low: Low) -> tuple[Mask, High, Low]:
    """Which are negative, and the column without signs."""
    negative = high < 0
    opposite_high, opposite_low = negate(high, low)
    return negative, np.where(negative, opposite_high, high), np.where(negative, opposite_low, low)


def format_wide(high: High, low: Low) -> list[str]:
    """A column in units of 1e-18 as plain decimals, each as :func:`format_units` writes it."""
    if len(high) < _WORTHWHILE:
        return [format_units(join(*parts)) for parts in zip(high.tolist(), low.tolist(), strict=True)]
    negative, magnitude_high, magnitude_low = magnitudes(high, low)
    whole, rest, too_large = _split_units(magnitude_high, magnitude_low)
    texts = _written(whole, rest, negative)
    for index in np.flatnonzero(too_large).tolist():
        texts[index] = format_units(join(int(high[index]), int(low[index])))
    return texts


def format_fractions(high: High, low: Low, wholes: Floats, exact_whole: Callable[[int], int]) -> list[str]:
    """What the column is of ``wholes`` (absolute, about): what :func:`fraction` writes as JSON, ``null`` or quoted.

    Where a float does not tell how to round, ``exact_whole`` is asked for the one at an index.
    """
    if len(high) < _WORTHWHILE:
        return [
            _quoted(fraction(join(*parts), exact_whole(index)))
            for index, parts in enumerate(zip(high.tolist(), low.tolist(), strict=True))
        ]
    negative, magnitude_high, magnitude_low = magnitudes(high, low)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (magnitude_high * _WORD + magnitude_low) / wholes * _MILLION + 0.5
        floor = np.floor(scaled)
        above = scaled - floor
    # Half a dozen roundings of 2^-53 each lie behind it: less than this share of the value.
    margin = scaled * 2e-15
    is_certain = (above > margin) & (above < 1 - margin) & (scaled < _MOST_WHOLE)
    millionths = np.where(is_certain, floor, 0).astype(np.int64)
    texts = _written_fractions(millionths, negative & (millionths > 0))
    for index in np.flatnonzero(~is_certain).tolist():
        texts[index] = _quoted(fraction(join(int(high[index]), int(low[index])), exact_whole(index)))
    return texts


def _quoted(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'


def _split_units(high: High, low: Low) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Mask]:
    """Whole units and the rest in 1e-18 of columns that are not negative, and which are too large for that."""
    about = (high * _WORD + low) / UNITS
    too_large = about >= _MOST_WHOLE
    whole = np.where(too_large, 0, about).astype(np.uint64)
    # The float is at most one or two off, and the rest, known modulo 2^64, tells by how much.
    rest = (low - whole * np.uint64(UNITS)).view(np.int64)
    off = np.where(too_large, 0, rest // UNITS)
    rest = np.where(too_large, 0, rest - off * UNITS)
    return whole + off.view(np.uint64), rest.view(np.uint64), too_large


def _written(whole: NDArray[np.uint64], rest: NDArray[np.uint64], negative: Mask) -> list[str]:
    count = len(whole)
    groups = np.empty((count, _COLUMNS), np.uint32)
    _write_whole(groups, whole)
    _write_rest(groups, rest)
    digits = groups.view(np.uint8)
    start = _POINT_AT - 1 - np.searchsorted(_POWERS, whole, side="right")
    last = np.argmax(digits[:, _WIDTH - 2 : _POINT_AT : -1] != _ZERO, axis=1)
    end = np.where(rest == 0, _POINT_AT, _WIDTH - 1 - last)
    at = np.arange(0, count * _WIDTH, _WIDTH)
    start += at
    start -= negative
    digits.reshape(-1)[start[negative]] = _MINUS
    return _cut(digits, start, end + at)


def _write_whole(groups: NDArray[np.uint32], whole: NDArray[np.uint64]) -> None:
    upper = whole // 100_000_000
    lower = (whole - upper * 100_000_000).astype(np.uint32)
    thousands = lower // 10_000
    groups[:, 3] = _FOUR[thousands]
    groups[:, 4] = _FOUR[lower - thousands * 10_000]
    if not upper.any():
        groups[:, 1:3] = _FOUR[0]
        return
    small = upper.astype(np.uint32)
    thousands = small // 10_000
    groups[:, 1] = _FOUR[thousands]
    groups[:, 2] = _FOUR[small - thousands * 10_000]


def _write_rest(groups: NDArray[np.uint32], rest: NDArray[np.uint64]) -> None:
    first = rest // 10**15
    rest = rest - first * 10**15
    eight = rest // 10**7
    middle = eight.astype(np.uint32)
    final = (rest - eight * 10**7).astype(np.uint32)
    groups[:, 5] = _POINT_THREE[first]
    upper = middle // 10_000
    groups[:, 6] = _FOUR[upper]
    groups[:, 7] = _FOUR[middle - upper * 10_000]
    upper = final // 1000
    groups[:, 8] = _FOUR[upper]
    groups[:, 9] = _THREE[final - upper * 1000]


def _written_fractions(millionths: NDArray[np.int64], negative: Mask) -> list[str]:
    """Quoted: the sign and the quotes take the room before the digits, and the place after the last one."""
    count = len(millionths)
    whole = millionths // _MILLION
    rest = (millionths - whole * _MILLION).astype(np.uint32)
    groups = np.empty((count, 7), np.uint32)
    upper = (whole // 10_000).astype(np.uint32)
    groups[:, 1] = _FOUR[upper // 10_000 % 10_000]
    groups[:, 2] = _FOUR[upper % 10_000]
    groups[:, 3] = _FOUR[whole % 10_000]
    thousands = rest // 1000
    groups[:, 4] = _POINT_THREE[thousands]
    groups[:, 5] = _THREE_QUOTE[rest - thousands * 1000]
    characters = groups.view(np.uint8).reshape(-1)
    width = groups.shape[1] * 4
    at = np.arange(0, count * width, width)
    start = at + 15 - np.searchsorted(_POWERS, whole.view(np.uint64), side="right") - 1
    start -= negative
    characters[start[negative] + 1] = _MINUS
    characters[start] = _QUOTE
    return _cut(characters, start, at + 24)


def _cut(characters: NDArray[np.uint8], start: NDArray[np.intp], end: NDArray[np.intp]) -> list[str]:
    text = characters.tobytes().decode("latin-1")
    return [text[one:two] for one, two in zip(start.tolist(), end.tolist(), strict=True)]
