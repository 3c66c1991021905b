"""Decimals: what is read, what is refused, and how a number is written."""

from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import (
    UNITS,
    exact,
    format_decimal,
    format_units,
    from_units,
    parse_plain,
    parse_positive,
    parse_signed,
    quantize_state,
    to_units,
)

units = st.integers(-(10**40), 10**40)
finite = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)


@pytest.mark.parametrize(
    "text",
    ["0", "1", "0.5", "007", "123456789012345678", "0.000000000000000001", "999999999999999999.999999999999999999"],
)
def test_a_plain_decimal_is_read_to_its_last_digit(text: str) -> None:
    assert parse_plain(text) == Decimal(text)
    assert parse_signed("-" + text) == Decimal(text).copy_negate()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(" 1", id="space"),
        pytest.param("1\n", id="newline"),
        pytest.param("+1", id="plus"),
        pytest.param("-1", id="minus"),
        pytest.param("1e5", id="exponent"),
        pytest.param("1E+999999", id="huge exponent"),
        pytest.param("NaN", id="NaN"),
        pytest.param("Infinity", id="Infinity"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,000", id="comma"),
        pytest.param(".5", id="no whole part"),
        pytest.param("5.", id="no fraction"),
        pytest.param("0x10", id="hexadecimal"),
        pytest.param("１２３", id="full-width digits"),
        pytest.param("١٢٣", id="Arabic-Indic digits"),
        pytest.param("1" * 19, id="19 digits before the point"),
        pytest.param("0." + "1" * 19, id="19 digits after the point"),
    ],
)
def test_anything_but_a_plain_decimal_is_refused(text: str) -> None:
    for parse in (parse_plain, parse_positive):
        with pytest.raises(ValueError, match="plain decimal"):
            parse(text)


@pytest.mark.parametrize("text", ["--1", "-", "- 1", "-1e2", "-NaN", "-１", "+1"])
def test_a_signed_decimal_is_as_plain(text: str) -> None:
    with pytest.raises(ValueError, match="plain decimal"):
        parse_signed(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0.000000000000000000"])
def test_zero_is_not_positive(text: str) -> None:
    with pytest.raises(ValueError, match="greater than zero"):
        parse_positive(text)


@pytest.mark.parametrize("text", ["-0", "-0.000"])
def test_minus_zero_is_zero(text: str) -> None:
    assert str(parse_signed(text)) == "0"


@given(units)
def test_units_stand_for_one_decimal_and_back(value: int) -> None:
    assert to_units(from_units(value)) == value


@given(units)
def test_written_units_are_plain_and_read_back_the_same(value: int) -> None:
    text = format_units(value)

    assert not set(text) - set("-0123456789.")
    assert to_units(Decimal(text)) == value
    assert text == format_decimal(Decimal(text))


@given(finite)
def test_a_written_decimal_has_no_exponent_and_no_superfluous_zero(value: Decimal) -> None:
    text = format_decimal(value)

    assert not set(text) - set("-0123456789.")
    assert Decimal(text) == value
    assert "." not in text or text[-1] not in "0."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "-0.000000000000000001"),
        (UNITS, "1"),
        (-15 * UNITS // 10, "-1.5"),
        (10**20 * UNITS, "1" + "0" * 20),
    ],
)
def test_units_are_written_as_people_write(value: int, text: str) -> None:
    assert format_units(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0E+3", "0"),
        ("-0.00", "0"),
        ("1E+3", "1000"),
        ("1.500", "1.5"),
        ("100", "100"),
        ("1E-18", "0." + "0" * 17 + "1"),
    ],
)
def test_decimals_are_written_as_people_write(value: str, text: str) -> None:
    assert format_decimal(Decimal(value)) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.0000000000000000005", 0),
        ("0.0000000000000000015", 2),
        ("0.0000000000000000025", 2),
        ("-0.0000000000000000015", -2),
        ("0.00000000000000000050001", 1),
    ],
)
def test_units_round_a_tie_to_even(value: str, expected: int) -> None:
    assert to_units(Decimal(value)) == expected


def test_exact_arithmetic_loses_no_digit_of_a_product_of_products() -> None:
    most = Decimal("9" * 36 + "." + "9" * 36)
    with exact():
        product = most * most

    assert int(str(product).replace(".", "")) == int("9" * 72) ** 2


def test_exact_arithmetic_ends_with_its_block_whatever_happens_in_it() -> None:
    before = getcontext().prec
    with pytest.raises(ZeroDivisionError), exact(), exact():
        Decimal(1) / 0

    assert getcontext().prec == before


def test_a_quotient_ends_at_the_resolution_of_ledger_state() -> None:
    with exact():
        third = quantize_state(Decimal(2) / 3)

    assert str(third) == "0." + "6" * 35 + "7"
