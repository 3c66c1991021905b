"""Valuing any list of fills: order, legs, repeats, funding, break-even."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.cycles import book_fill
from app.domain.decimals import exact
from app.domain.instruments import Instrument, Market
from app.domain.ledger import (
    FLAT,
    ContradictoryFill,
    Fill,
    Funding,
    LedgerState,
    PositionSide,
    apply_fill,
    break_even_price,
    replay,
)
from tests.domain.fills import INVERSE, LINEAR, SPOT, a_fill, fill_lists, instruments

_NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


def at(hours: float, fill: Fill) -> Fill:
    return msgspec.structs.replace(fill, executed_at=_NOON + timedelta(hours=hours))


def stamp(hours: float, mark: str = "100", rate: str = "0.01") -> Funding:
    return Funding(at=_NOON + timedelta(hours=hours), mark=Decimal(mark), rate=Decimal(rate))


@given(instruments, fill_lists, st.decimals("0.01", "100000", places=2))
def test_realised_plus_unrealised_is_the_cash_the_fees_and_what_is_held(
    instrument: Instrument, fills: list[Fill], mark: Decimal
) -> None:
    (*_, last) = replay(instrument, fills, marks=[mark])

    with exact():
        cash = sum((-instrument.value(fill.signed_qty, fill.price) for fill in fills), Decimal(0))
        held = sum((fill.signed_qty for fill in fills), Decimal(0))
        expected = cash - last.fees + instrument.value(held, mark)
        difference = last.realized_pnl + last.unrealized_pnl[0] - expected
    # A quotient (inverse value) ends at 1e-36, once for each part of a fill.
    assert abs(difference) <= (0 if instrument.market != "inverse" else Decimal("1e-36") * 2 * len(fills))


@given(instruments, fill_lists)
def test_each_state_is_that_of_the_fills_so_far(instrument: Instrument, fills: list[Fill]) -> None:
    states = replay(instrument, fills, marks=[Decimal(100)])

    assert [state.index for state in states] == list(range(len(fills)))
    assert states[-1] == replay(instrument, fills, marks=[Decimal(100)])[-1]
    assert states[len(fills) // 2] == replay(instrument, fills[: len(fills) // 2 + 1], marks=[Decimal(100)])[-1]


@given(instruments, fill_lists)
def test_the_cycles_of_the_database_add_up_to_the_replay(instrument: Instrument, fills: list[Fill]) -> None:
    standing: LedgerState | None = None
    ended: list[LedgerState] = []
    for fill in fills:
        booked = book_fill(instrument, standing, fill)
        if booked.standing is not None:
            ended = [*ended, booked.standing] if booked.opened or booked.standing.is_flat else ended
            standing = booked.standing
        standing = booked.opened or (None if standing is None or standing.is_flat else standing)

    last = replay(instrument, fills)[-1]

    cycles = [*ended, *([standing] if standing else [])]
    with exact():
        assert last.realized_pnl == sum((cycle.realized_pnl for cycle in cycles), Decimal(0))
        assert last.cost_basis == (standing.cost if standing else 0)
        assert last.break_even_price == (break_even_price(instrument, standing) if standing else None)


@given(fill_lists, st.randoms())
def test_late_fills_are_put_in_their_place(fills: list[Fill], order: object) -> None:
    timed = [at(place, fill) for place, fill in enumerate(fills)]
    arrived = list(timed)
    order.shuffle(arrived)  # type: ignore[attr-defined]

    states = replay(LINEAR, arrived)

    assert [arrived[state.index] for state in states] == timed
    in_order = replay(LINEAR, timed)
    assert [msgspec.structs.replace(state, index=place) for place, state in enumerate(states)] == in_order


def test_fills_of_one_instant_stay_as_given() -> None:
    fills = [at(0, a_fill("buy", 1, 100)), at(0, a_fill("sell", 1, 110)), at(-1, a_fill("buy", 1, 90))]

    assert [state.index for state in replay(SPOT, fills)] == [2, 0, 1]


def test_a_fill_without_a_time_follows_the_one_given_before_it() -> None:
    fills = [at(5, a_fill("buy", 1, 100)), a_fill("buy", 2, 100), at(1, a_fill("buy", 3, 100))]

    assert [state.index for state in replay(SPOT, fills)] == [2, 0, 1]


def test_a_fill_given_twice_counts_once() -> None:
    buy, sell = a_fill("buy", 1, 100, trade_id="7"), a_fill("sell", 3, 110, trade_id="8")

    states = replay(LINEAR, [buy, sell, sell, buy], marks=[Decimal(100)])

    assert len(states) == 4
    assert [state.signed_qty for state in states] == [1, -2, -2, -2]
    assert [state.realized_pnl for state in states] == [0, 10, 10, 10]


def test_one_trade_id_for_two_fills_is_refused() -> None:
    with pytest.raises(ContradictoryFill, match="trade_id 7"):
        replay(LINEAR, [a_fill("buy", 1, 100, trade_id="7"), a_fill("buy", 2, 100, trade_id="7")])


class TestHedgeLegs:
    def test_each_leg_is_a_position_of_its_own(self) -> None:
        states = replay(
            LINEAR,
            [leg("long", "buy", 2, 100), leg("short", "sell", 1, 120), leg("long", "sell", 1, 130)],
            marks=[Decimal(110)],
        )

        assert [state.position_side for state in states] == ["long", "short", "long"]
        assert [state.signed_qty for state in states] == [2, -1, 1]
        assert [state.entry_price for state in states] == [100, 120, 100]
        assert [state.unrealized_pnl for state in states] == [(20,), (10,), (10,)]
        assert states[2].realized_pnl == 30

    @given(fill_lists)
    def test_both_legs_together_make_what_one_way_mode_makes(self, fills: list[Fill]) -> None:
        """Buys open the long leg and sells the short one, so nothing is ever closed."""
        hedged = [
            msgspec.structs.replace(fill, position_side="long" if fill.side == "buy" else "short") for fill in fills
        ]

        states = replay(LINEAR, hedged, marks=[Decimal(321)])

        (*_, net) = replay(LINEAR, fills, marks=[Decimal(321)])
        last = {state.position_side: state for state in states}
        with exact():
            total = sum((state.realized_pnl + state.unrealized_pnl[0] for state in last.values()), Decimal(0))
            assert total == net.realized_pnl + net.unrealized_pnl[0]

    @pytest.mark.parametrize(("side", "position_side"), [("sell", "long"), ("buy", "short")])
    def test_a_leg_cannot_hold_the_other_side(self, side: str, position_side: PositionSide) -> None:
        with pytest.raises(ContradictoryFill, match=position_side):
            replay(LINEAR, [leg(position_side, side, 1, 100)])

    def test_funding_goes_to_both_legs(self) -> None:
        fills = [at(0, leg("long", "buy", 2, 100)), at(1, leg("short", "sell", 1, 100))]

        states = replay(LINEAR, fills, [stamp(0.5), stamp(2)])

        assert [(state.position_side, state.funding) for state in states] == [("long", -4), ("short", 1)]


class TestFunding:
    def test_it_follows_what_is_held_at_each_stamp(self) -> None:
        fills = [at(0, a_fill("buy", 3, 100)), at(2, a_fill("sell", 1, 100)), at(4, a_fill("sell", 5, 100))]

        states = replay(LINEAR, fills, [stamp(5), stamp(1), stamp(3)])

        assert [state.funding for state in states] == [-3, -5, -2]

    def test_at_the_instant_of_a_fill_it_comes_after_the_fill(self) -> None:
        fills = [at(0, a_fill("buy", 1, 100)), at(8, a_fill("buy", 1, 100)), at(8, a_fill("buy", 1, 100))]

        states = replay(LINEAR, fills, [stamp(8)])

        assert [state.funding for state in states] == [0, 0, -3]

    def test_before_the_first_fill_and_while_flat_it_is_nothing(self) -> None:
        fills = [at(0, a_fill("buy", 1, 100)), at(1, a_fill("sell", 1, 100)), at(3, a_fill("buy", 1, 100))]

        states = replay(LINEAR, fills, [stamp(-1), stamp(2)])

        assert [state.funding for state in states] == [0, 0, 0]

    def test_an_inverse_contract_pays_in_coins_of_the_mark(self) -> None:
        (state,) = replay(INVERSE, [at(0, a_fill("buy", 100, 10_000))], [stamp(1, mark="12500", rate="0.0001")])

        assert state.funding == Decimal("-0.00008")

    def test_without_the_time_of_a_fill_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="executed_at"):
            replay(LINEAR, [a_fill("buy", 1, 100)], [stamp(0)])


class TestBreakEven:
    @given(instruments, fill_lists)
    def test_closing_there_leaves_the_cycle_with_nothing(self, instrument: Instrument, fills: list[Fill]) -> None:
        state = FLAT
        for fill in fills:
            booked = book_fill(instrument, state, fill)
            state = booked.opened or booked.standing or state
        price = break_even_price(instrument, state)
        if price is None:
            return

        closed = apply_fill(
            instrument, state, a_fill("sell" if state.signed_qty > 0 else "buy", abs(state.signed_qty), price)
        )

        scale = abs(instrument.value(state.signed_qty, price))
        assert abs(closed.realized_pnl) <= scale * Decimal("1e-14")

    def test_it_counts_the_fee_of_the_close(self) -> None:
        state = apply_fill(LINEAR, FLAT, a_fill("buy", 1, 999, fee=Decimal("0.999")))

        assert break_even_price(LINEAR, state, exit_fee_rate=Decimal("0.001")) == 1001

    @pytest.mark.parametrize("market", ["linear", "inverse"])
    def test_there_is_none_where_no_price_can_lose(self, market: Market) -> None:
        instrument = LINEAR if market == "linear" else INVERSE
        rebate = a_fill("buy" if market == "linear" else "sell", 1, 100, fee=Decimal(-1000))

        assert break_even_price(instrument, apply_fill(instrument, FLAT, rebate)) is None

    def test_earlier_cycles_do_not_move_it(self) -> None:
        fills = [a_fill("buy", 1, 100), a_fill("sell", 2, 150, fee=Decimal(2)), a_fill("sell", 1, 160)]

        states = replay(LINEAR, fills)

        assert [state.break_even_price for state in states] == [100, 149, Decimal("154.5")]


def leg(position_side: PositionSide, side: str, quantity: int, price: int) -> Fill:
    return msgspec.structs.replace(a_fill(side, quantity, price), position_side=position_side)
