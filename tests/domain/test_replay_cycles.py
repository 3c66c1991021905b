"""Replaying a chain gives, cycle by cycle, what booking its fills as they came has stored."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.cycles import Cycle, TooLarge, book_fill, replay_cycles
from app.domain.decimals import exact
from app.domain.instruments import Instrument, Market
from app.domain.ledger import Fill, Funding, LedgerState, apply_funding, replay
from app.domain.trades import Trade

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
D = Decimal


def listed(market: Market = "linear") -> Instrument:
    return Instrument(
        symbol="BTCUSDT",
        market=market,
        base="BTC",
        quote="USDT",
        settle="BTC" if market == "inverse" else "USDT",
        tick_size=D("0.01"),
        step_size=D("0.00001"),
        multiplier=D(100) if market == "inverse" else D(1),
    )


def trade(number: int, fill: Fill, hours: float | None = None, *, created: float = 0) -> Trade:
    executed_at = MONDAY + timedelta(hours=number if hours is None else hours)
    return Trade(
        fill_id=f"{number:08}",
        user_id="u",
        account_id="a",
        symbol="BTCUSDT",
        position_id="",
        opened_position_id=None,
        fill=msgspec.structs.replace(fill, executed_at=executed_at),
        source="api",
        executed_at=executed_at,
        created_at=MONDAY + timedelta(hours=created),
    )


def buy(quantity: str, price: str = "100") -> Fill:
    return Fill(side="buy", quantity=D(quantity), price=D(price))


def sell(quantity: str, price: str = "100") -> Fill:
    return Fill(side="sell", quantity=D(quantity), price=D(price))


def stamp(hours: float, rate: str = "0.001", mark: str = "100") -> Funding:
    return Funding(at=MONDAY + timedelta(hours=hours), mark=D(mark), rate=D(rate))


def booked_one_by_one(instrument: Instrument, trades: list[Trade]) -> list[tuple[list[str], LedgerState]]:
    """The rows that live booking leaves: the ids and the state of each."""
    rows: list[tuple[list[str], LedgerState]] = []
    for each in trades:
        standing = rows[-1][1] if rows and not rows[-1][1].is_flat else None
        booked = book_fill(instrument, standing, each.fill)
        if booked.standing is not None:
            rows[-1] = ([*rows[-1][0], each.fill_id], booked.standing)
        if booked.opened is not None:
            rows.append(([each.fill_id], booked.opened))
    return rows


@st.composite
def chains(draw: st.DrawFn) -> tuple[Instrument, list[Trade]]:
    instrument = listed(draw(st.sampled_from(["spot", "linear", "inverse"])))
    trades = []
    hours = 0
    for number in range(draw(st.integers(1, 14))):
        quantity = draw(st.sampled_from([D(1), D(2), D("0.7"), D("1.000000000000000001")]))
        asset = draw(st.sampled_from([None, "BTC", "BNB"]))
        fill = Fill(
            side=draw(st.sampled_from(["buy", "sell"])),
            quantity=quantity,
            price=draw(st.sampled_from([D(100), D("33.333333333333333333"), D("0.000000007")])),
            fee=draw(st.sampled_from([D(0), quantity / 1000, -quantity / 5000, quantity])),
            fee_asset=asset,
        )
        hours += draw(st.integers(0, 2))
        trades.append(trade(number, fill, hours, created=number))
    return instrument, trades


@given(chains(), st.randoms())
def test_in_any_order_the_fills_give_the_rows_that_booking_them_in_order_left(
    chain: tuple[Instrument, list[Trade]], shuffler: random.Random
) -> None:
    instrument, trades = chain
    shuffled = list(trades)
    shuffler.shuffle(shuffled)

    cycles = replay_cycles(instrument, shuffled)

    assert [(list(cycle.fill_ids), cycle.state) for cycle in cycles] == booked_one_by_one(instrument, trades)
    for cycle in cycles:
        assert (cycle.closed_at is not None) == cycle.state.is_flat


@given(chains(), st.lists(st.integers(-1, 30), max_size=6, unique=True))
def test_the_payments_of_the_cycles_are_the_funding_of_the_ledger(
    chain: tuple[Instrument, list[Trade]], hours: list[int]
) -> None:
    instrument, trades = chain
    stamps = [stamp(hour) for hour in hours]

    cycles = replay_cycles(instrument, trades, stamps)

    whole = replay(instrument, [each.fill for each in trades], stamps)[-1]
    with exact():
        assert sum((cycle.state.funding for cycle in cycles), D(0)) == whole.funding
        for cycle in cycles:
            assert sum((payment.amount for payment in cycle.payments), D(0)) == cycle.state.funding
    for cycle in cycles:
        assert all(_held(cycle, payment.at) for payment in cycle.payments)


def _held(cycle: Cycle, at: datetime) -> bool:
    return cycle.opened_at <= at and (cycle.closed_at is None or at < cycle.closed_at)


@given(chains(), st.integers(0, 28))
def test_it_matters_nothing_for_the_rows_when_a_stamp_is_applied(
    chain: tuple[Instrument, list[Trade]], hour: int
) -> None:
    """A payment depends on the quantity at its stamp alone, so that it can be booked late."""
    instrument, trades = chain
    plain = replay_cycles(instrument, trades)

    for before, after in zip(plain, replay_cycles(instrument, trades, [stamp(hour)]), strict=True):
        [*paid] = after.payments
        state = before.state
        for payment in paid:
            held = msgspec.structs.replace(state, signed_qty=payment.signed_qty)
            state = msgspec.structs.replace(
                state, funding=apply_funding(instrument, held, payment.mark, payment.rate).funding
            )
        assert after.state == state


def test_a_fill_through_zero_is_the_last_of_one_cycle_and_the_first_of_the_next() -> None:
    first, second = replay_cycles(listed(), [trade(0, buy("1")), trade(1, sell("3", "110"))])

    assert (first.fill_ids, first.state.signed_qty, first.closed_at) == (
        ("00000000", "00000001"),
        0,
        MONDAY + timedelta(hours=1),
    )
    assert (second.fill_ids, second.state.signed_qty, second.closed_at) == (("00000001",), -2, None)
    assert (first.is_opened_by_rest, second.is_opened_by_rest) == (False, True)


def test_a_stamp_at_the_moment_of_a_fill_comes_after_it() -> None:
    [held] = replay_cycles(listed(), [trade(8, buy("1"))], [stamp(8)])
    [closed] = replay_cycles(listed(), [trade(0, buy("1")), trade(8, sell("1"))], [stamp(8)])

    assert held.state.funding == D("-0.1")
    assert closed.payments == ()


def test_fills_of_one_moment_follow_in_the_order_in_which_they_were_recorded() -> None:
    at_once = [trade(1, sell("1"), 0, created=2), trade(2, buy("2"), 0, created=1)]

    [cycle] = replay_cycles(listed(), at_once)

    assert cycle.fill_ids == ("00000002", "00000001")


def test_what_booking_would_refuse_as_too_large_is_refused() -> None:
    huge = Fill(side="buy", quantity=D(10) ** 9, price=D(10) ** 7)
    with pytest.raises(TooLarge):
        replay_cycles(listed(), [trade(0, huge), trade(1, sell("1"))])
