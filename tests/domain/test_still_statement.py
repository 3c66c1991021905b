"""The unmoving part of a statement: the same fields, names and digits as the statement itself."""

from datetime import timedelta, timezone
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import SCALE, format_units, published, published_units, to_units
from app.domain.positions import Converted, Position
from app.domain.statements import position_statement, timestamp
from app.domain.still_statement import MOVING, still_statement
from app.domain.valuation import Valued, report, value_position
from tests.domain.books import START, instrument, position

amounts = st.decimals(-(10**12), 10**12, allow_nan=False, allow_infinity=False, places=24) | st.decimals(
    -(10**6), 10**6, allow_nan=False, allow_infinity=False, places=3
)


def statement_text(held: Position) -> str:
    """By way of the whole statement."""
    valued = Valued(held, value := value_position(held, None, 0, 0), report(held, value, None), None, is_stale=False)
    whole = position_statement(valued)
    return msgspec.json.encode({name: field for name, field in whole.items() if name not in MOVING}).decode()[:-1]


def is_the_same(held: Position) -> bool:
    still, value = still_statement(held), value_position(held, None, 0, 0)
    return (still.text, still.cost_basis, still.realized_pnl) == (
        statement_text(held),
        value.cost_basis,
        value.realized.net,
    )


@given(qty=amounts, cost=amounts, cash=amounts, fees=amounts, funding=amounts)
def test_every_digit_is_that_of_the_statement(
    qty: Decimal, cost: Decimal, cash: Decimal, fees: Decimal, funding: Decimal
) -> None:
    assert is_the_same(position(qty=qty, cost=cost, cash=cash, fees=fees, funding=funding))


@given(amounts, amounts, amounts)
def test_what_was_converted_is_reported_at_the_rates_of_its_times(
    gross: Decimal, fees: Decimal, funding: Decimal
) -> None:
    of = instrument("ETHBTC", settle="BTC")
    assert is_the_same(position(of=of, converted=Converted(gross=gross, fees=fees, funding=funding), fees=fees))


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": 'a "quoted" \\ name', "note": "ünï\ncode \u2028", "take_profit": Decimal("1E+3")},
        {"stop_loss": Decimal("0.10"), "position_side": "short", "version": 2**40},
        {"status": "closed", "closed_at": START + timedelta(microseconds=123_456)},
        {"updated_at": START + timedelta(milliseconds=5)},
        {"position_id": 'odd"id', "account_id": "ключ"},
    ],
)
def test_every_field_is_there_as_in_the_statement(changes: dict[str, object]) -> None:
    held = msgspec.structs.replace(position(), **changes)
    assert is_the_same(held)


@pytest.mark.parametrize(
    "of", [instrument("１２３４５６"), instrument('A"B'), instrument("BTCUSD_PERP", "inverse", "BTC")]
)
def test_names_are_written_as_json(of: object) -> None:
    assert is_the_same(position(of=of, qty="-3", cost="-0.0001"))  # type: ignore[arg-type]


def test_fees_without_a_price_are_named() -> None:
    held = position()
    state = msgspec.structs.replace(held.state, fees_unpriced={"BNB": Decimal("0.0010"), '"': Decimal(0)})
    assert is_the_same(msgspec.structs.replace(held, state=state))


def test_a_flat_position_has_no_entry_price() -> None:
    assert '"entry_price":null' in still_statement(position(qty=Decimal("-0"), cost=Decimal("-0.0"))).text


@given(amounts)
def test_a_published_leaf_is_rounded_once_and_can_be_read_again(value: Decimal) -> None:
    text = published(value)
    assert text == format_units(to_units(value))
    assert published_units(text) == to_units(value)


def test_a_half_is_rounded_to_even() -> None:
    half = Decimal(5).scaleb(-SCALE - 1)
    assert (published(half), published(3 * half), published(-half)) == ("0", "0.000000000000000002", "0")


@given(st.integers(-(10**15), 10**16))
def test_a_moment_is_written_in_utc_to_the_millisecond(microseconds: int) -> None:
    moment = START + timedelta(microseconds=microseconds)
    text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert timestamp(moment) == text
    assert timestamp(moment.astimezone(timezone(timedelta(hours=5.5)))) == text
