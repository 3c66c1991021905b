"""Percentiles of counts by millisecond."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil
from typing import Final

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def merged(histograms: Iterable[Sequence[int]]) -> list[int]:
    """The sum of several histograms."""
    return [sum(counts) for counts in zip(*histograms, strict=True)]


def quantiles(histogram: Sequence[int]) -> dict[str, float]:
    """Milliseconds by name of quantile; nothing for an empty histogram."""
    total = sum(histogram)
    if not total:
        return {}
    reached = list(accumulate(histogram))
    return {
        name: next(ms for ms, count in enumerate(reached) if count >= ceil(total * share))
        for name, share in QUANTILES.items()
    }


def quantiles_of(values: Sequence[float]) -> dict[str, float]:
    """The same of single values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {name: ordered[max(0, ceil(len(ordered) * share) - 1)] for name, share in QUANTILES.items()}
