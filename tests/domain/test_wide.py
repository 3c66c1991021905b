"""Amounts in two words: sums, differences and conversions are those of Python's integers."""

from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import convert_units
from app.domain.wide import High, Low, add, join, negate, split, subtract, sum_by
from app.domain.wide_conversion import LARGEST, RATE_LIMIT, convert

amounts = st.one_of(
    st.integers(-LARGEST, LARGEST),
    st.integers(-(2**65), 2**65),
    st.sampled_from([0, 1, -1, 2**62, 2**64, -(2**64), LARGEST, -LARGEST]),
)
pairs = st.lists(st.tuples(amounts, amounts), min_size=1, max_size=30)


def wide(values: list[int]) -> tuple[High, Low]:
    parts = [split(value) for value in values]
    return np.array([high for high, _ in parts], np.int64), np.array([low for _, low in parts], np.uint64)


def plain(values: tuple[High, Low]) -> list[int]:
    return [join(high, low) for high, low in zip(values[0].tolist(), values[1].tolist(), strict=True)]


@given(pairs)
def test_columns_add_subtract_and_change_sign_like_integers(both: list[tuple[int, int]]) -> None:
    one, two = wide([a for a, _ in both]), wide([b for _, b in both])

    assert plain(add(*one, *two)) == [a + b for a, b in both]
    assert plain(subtract(*one, *two)) == [a - b for a, b in both]
    assert plain(negate(*one)) == [-a for a, _ in both]


@given(st.lists(st.tuples(st.integers(0, 4), amounts), min_size=1, max_size=60))
def test_sums_by_group_are_exact(grouped: list[tuple[int, int]]) -> None:
    groups = np.array([group for group, _ in grouped])

    sums = plain(sum_by(groups, *wide([amount for _, amount in grouped]), 5))

    assert sums == [sum(amount for of, amount in grouped if of == group) for group in range(5)]


rates = st.one_of(
    st.integers(1, RATE_LIMIT * 10**24 - 1).map(lambda n: Decimal(n).scaleb(-24)),
    st.integers(1, 10**12).map(lambda n: Decimal(n).scaleb(-8)),
    st.sampled_from([Decimal(1), Decimal("0.5"), Decimal("0.25"), Decimal("1e-24"), Decimal(RATE_LIMIT - 1)]),
)


@given(st.lists(amounts, min_size=1, max_size=50), rates)
def test_amounts_convert_like_integers(values: list[int], rate: Decimal) -> None:
    assert plain(convert(*wide(values), rate)) == [convert_units(value, rate) for value in values]


def test_a_tie_goes_to_the_even_unit_and_what_only_looks_like_one_does_not() -> None:
    values = [1, 3, -1, -3, 5 * 10**27 + 1]

    assert plain(convert(*wide(values), Decimal("0.5"))) == [0, 2, 0, -2, 25 * 10**26]
    assert plain(convert(*wide([1, -1]), Decimal("0.500000000000000000000001"))) == [1, -1]
    assert plain(convert(*wide([1, -1]), Decimal("0.499999999999999999999999"))) == [0, 0]


def test_many_blocks_are_as_right_as_one() -> None:
    values = [(n * 7_919_999_999_999_999_989) * (-1) ** n for n in range(20_000)]

    converted = plain(convert(*wide(values), Decimal("67000.123456789")))

    assert converted == [convert_units(value, Decimal("67000.123456789")) for value in values]
