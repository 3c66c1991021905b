"""Columns of amounts as text: the same text as one by one, whatever the amounts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import UNITS, format_units
from app.domain.valuation import fraction
from app.domain.wide import High, Low, add, join, negate, split
from app.domain.wide_text import format_fractions, format_wide

LONG = 200
"""More than the number from which digits are looked up for the whole column."""

small = st.integers(-1000, 1000)
money = st.integers(-(10**12) * UNITS, 10**12 * UNITS)
round_money = st.builds(lambda amount, digits: amount * 10**digits, st.integers(-(10**9), 10**9), st.integers(0, 27))
beside_a_power = st.builds(
    lambda sign, power, beside: sign * (10**power + beside),
    st.sampled_from([1, -1]),
    st.integers(0, 37),
    st.integers(-2, 2),
)
anything = st.integers(-(2**126), 2**126)
amounts = st.one_of(small, money, round_money, beside_a_power, anything)


def columns(values: list[int]) -> tuple[High, Low]:
    parts = [split(value) for value in values]
    return np.array([high for high, _ in parts], np.int64), np.array([low for _, low in parts], np.uint64)


def repeated(values: list[int], count: int) -> list[int]:
    return (values * (count // len(values) + 1))[:count]


@pytest.mark.parametrize("count", [1, LONG])
@given(values=st.lists(amounts, min_size=1, max_size=40))
def test_a_column_is_written_as_its_amounts_are_one_by_one(values: list[int], count: int) -> None:
    values = repeated(values, count)

    assert format_wide(*columns(values)) == [format_units(value) for value in values]


@pytest.mark.parametrize("count", [1, LONG])
@given(pairs=st.lists(st.tuples(amounts, amounts), min_size=1, max_size=40))
def test_fractions_are_written_as_one_by_one(pairs: list[tuple[int, int]], count: int) -> None:
    parts, wholes = repeated([part for part, _ in pairs], count), repeated([whole for _, whole in pairs], count)
    about = np.array([abs(float(whole)) for whole in wholes])

    written = format_fractions(*columns(parts), about, wholes.__getitem__)

    expected = [fraction(part, whole) for part, whole in zip(parts, wholes, strict=True)]
    assert written == ["null" if text is None else f'"{text}"' for text in expected]


@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_a_fraction_beside_the_half_is_rounded_by_its_exact_value(beside: int) -> None:
    """A float of a hundred digits' worth would be on the wrong side as often as not."""
    wholes = [10**21 + 7 * step for step in range(LONG)]
    parts = [(whole * (2 * step + 1) + beside) // 2_000_000 for step, whole in enumerate(wholes)]

    written = format_fractions(*columns(parts), np.array(wholes, float), wholes.__getitem__)

    assert written == [f'"{fraction(part, whole)}"' for part, whole in zip(parts, wholes, strict=True)]


@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=20))
def test_columns_are_added_and_negated_exactly(pairs: list[tuple[int, int]]) -> None:
    one, other = columns([a for a, _ in pairs]), columns([b for _, b in pairs])

    high, low = add(*one, *negate(*other))

    found = [join(*parts) for parts in zip(high.tolist(), low.tolist(), strict=True)]
    assert found == [a - b for a, b in pairs]


def test_an_empty_column_is_no_text() -> None:
    assert format_wide(*columns([])) == []
