"""Which cycles a fill touches: one ends exactly flat, and nothing is lost between it and the next."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.cycles import MAX_VALUE, TooLarge, book_fill
from app.domain.decimals import exact
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, Side, apply_fill

BTCUSDT = Instrument(
    symbol="BTCUSDT",
    market="spot",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=Decimal("0.01"),
    step_size=Decimal("0.00001"),
)

amounts = st.decimals("0.0001", "1000", places=4)


@st.composite
def fills(draw: st.DrawFn) -> Fill:
    quantity = draw(amounts)
    side: Side = draw(st.sampled_from(["buy", "sell"]))
    asset = draw(st.sampled_from([None, "USDT", "BTC"]))
    share = draw(st.sampled_from([Decimal(0), Decimal("0.001"), Decimal("-0.0005")]))
    return Fill(side=side, quantity=quantity, price=draw(amounts), fee=quantity * share, fee_asset=asset)


@given(st.lists(fills(), min_size=1, max_size=12))
def test_cycles_add_up_to_the_ledger_and_each_that_ended_is_flat(sequence: list[Fill]) -> None:
    whole, standing, ended = FLAT, None, []
    for fill in sequence:
        whole = apply_fill(BTCUSDT, whole, fill)
        booked = book_fill(BTCUSDT, standing, fill)
        if booked.opened is not None and booked.standing is not None:
            assert booked.standing.is_flat
        for state in (booked.standing, booked.opened):
            if state is not None and state.is_flat:
                ended.append(state)
        standing = booked.opened or booked.standing
        standing = None if standing is None or standing.is_flat else standing

    cycles = [*ended, *([] if standing is None else [standing])]
    with exact():
        assert sum(cycle.signed_qty for cycle in cycles) == whole.signed_qty
        assert sum(cycle.cash for cycle in cycles) == whole.cash
        assert sum(cycle.fees for cycle in cycles) == whole.fees


def test_selling_all_with_a_fee_in_the_base_asset_leaves_the_fee_owed() -> None:
    held = apply_fill(BTCUSDT, FLAT, Fill(side="buy", quantity=Decimal(1), price=Decimal(100)))

    booked = book_fill(
        BTCUSDT,
        held,
        Fill(side="sell", quantity=Decimal(1), price=Decimal(110), fee=Decimal("0.001"), fee_asset="BTC"),
    )

    assert booked.standing is not None
    assert booked.opened is not None
    assert (booked.standing.is_flat, booked.standing.realized_pnl_gross) == (True, 10)
    assert (booked.opened.signed_qty, booked.opened.fees) == (Decimal("-0.001"), Decimal("0.11"))


@pytest.mark.parametrize(("opening", "closing", "sign"), [("buy", "sell", 1), ("sell", "buy", -1)])
def test_a_fill_that_only_its_fee_carries_through_zero_ends_the_cycle_exactly_flat(
    opening: Side, closing: Side, sign: int
) -> None:
    held = apply_fill(BTCUSDT, FLAT, Fill(side=opening, quantity=Decimal(1), price=Decimal(100)))
    fee = sign * Decimal("0.001")

    booked = book_fill(
        BTCUSDT,
        held,
        Fill(side=closing, quantity=Decimal("0.9995"), price=Decimal(110), fee=fee, fee_asset="BTC"),
    )

    assert booked.standing is not None
    assert booked.opened is not None
    assert (booked.standing.is_flat, booked.standing.realized_pnl_gross) == (True, sign * 10)
    assert booked.standing.fees == sign * Decimal("0.055")
    assert (booked.opened.signed_qty, booked.opened.fees) == (sign * Decimal("-0.0005"), sign * Decimal("0.055"))


def test_what_could_not_be_summed_up_is_refused() -> None:
    with pytest.raises(TooLarge):
        book_fill(BTCUSDT, None, Fill(side="buy", quantity=MAX_VALUE, price=Decimal("1.01")))
