"""The ledger: what any list of fills must add up to, and the cases that others got wrong."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import exact, format_decimal, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import (
    FLAT,
    Fill,
    Funding,
    LedgerState,
    Side,
    apply_fill,
    apply_funding,
    closing_part,
    entry_price,
    replay,
    split_at_flat,
)
from tests.domain.books import decimals, instrument

D = Decimal
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

SPOT = instrument("BTCUSDT")
LINEAR = instrument("BTCPERP", "linear", multiplier=D("0.001"))
INVERSE = instrument("BTCUSD", "inverse", settle="BTC", multiplier=D(100))

TINY = D("1e-30")
"""Far below a published digit (1e-18), far above what a thousand quotients lose (1e-36 each)."""

sides = st.sampled_from(("buy", "sell"))
any_instrument = st.sampled_from((SPOT, LINEAR, INVERSE))
quantities = st.one_of(decimals(0, 3), decimals(5, 3), decimals(18, 18))
fill_prices = st.one_of(decimals(2, 5), decimals(8, 4), decimals(18, 3))
fees = st.one_of(st.just(D(0)), decimals(8, 2, signed=True))
fills = st.builds(Fill, side=sides, quantity=quantities, price=fill_prices, fee=fees)
base_fees = st.builds(
    lambda side, quantity, price, share: Fill(
        side=side, quantity=quantity, price=price, fee=quantity * D(share).scaleb(-4), fee_asset="BTC"
    ),
    sides,
    decimals(8, 3),
    decimals(8, 4),
    st.integers(0, 9000),
)


def buy(quantity: str, price: str, **more: object) -> Fill:
    return Fill(side="buy", quantity=D(quantity), price=D(price), **more)  # type: ignore[arg-type]


def sell(quantity: str, price: str, **more: object) -> Fill:
    return Fill(side="sell", quantity=D(quantity), price=D(price), **more)  # type: ignore[arg-type]


def after(of: Instrument, *booked: Fill, state: LedgerState = FLAT) -> LedgerState:
    for fill in booked:
        state = apply_fill(of, state, fill)
    return state


def total_pnl(of: Instrument, state: LedgerState, mark: Decimal) -> Decimal:
    """Net realised plus unrealised."""
    with exact():
        return state.realized_pnl + of.value(state.signed_qty, mark) - state.cost


def opposite(fill: Fill) -> Fill:
    side: Side = "sell" if fill.side == "buy" else "buy"
    return msgspec.structs.replace(fill, side=side)


# What holds for any fills


@given(any_instrument, st.lists(fills, max_size=30), fill_prices)
def test_total_pnl_is_what_was_paid_and_received_plus_what_is_held(
    of: Instrument, booked: list[Fill], mark: Decimal
) -> None:
    state = after(of, *booked)

    with exact():
        flows = -sum((of.value(f.signed_qty, f.price) + f.fee for f in booked), D(0))
        held = sum((f.signed_qty for f in booked), D(0))
        assert state.signed_qty == held
        assert total_pnl(of, state, mark) == flows + of.value(held, mark)


@given(st.lists(st.one_of(fills, base_fees), max_size=30), fill_prices)
def test_a_fee_taken_from_the_holding_costs_its_worth_at_the_fill_and_the_holding_shrinks(
    booked: list[Fill], mark: Decimal
) -> None:
    """The cash identity: a fee in base is no cash flow, but units fewer to be worth something."""
    state = after(SPOT, *booked)

    with exact():
        in_base = [f for f in booked if f.fee_asset == "BTC"]
        held = sum((f.signed_qty for f in booked), D(0)) - sum((f.fee for f in in_base), D(0))
        cash = -sum((f.signed_qty * f.price for f in booked), D(0))
        paid = sum((f.fee for f in booked if f.fee_asset is None), D(0))
        assert state.signed_qty == held
        assert total_pnl(SPOT, state, mark) == cash - paid + held * mark


@given(any_instrument, st.lists(fills, max_size=12), fills, st.integers(1, 7), fill_prices)
def test_a_fill_in_pieces_is_the_fill(
    of: Instrument, before: list[Fill], fill: Fill, pieces: int, mark: Decimal
) -> None:
    start = after(of, *before)
    with exact():
        part = msgspec.structs.replace(
            fill, quantity=(fill.quantity / (pieces + 1)).quantize(D("1e-18")), fee=fill.fee / D(2**pieces)
        )
        rest = msgspec.structs.replace(
            fill, quantity=fill.quantity - pieces * part.quantity, fee=fill.fee - pieces * part.fee
        )
    split = [part] * pieces if part.quantity else []

    whole = after(of, fill, state=start)
    in_pieces = after(of, *split, rest if split else fill, state=start)

    assert in_pieces.signed_qty == whole.signed_qty
    assert abs(in_pieces.cost - whole.cost) < TINY * (1 + abs(whole.cost))
    assert abs(total_pnl(of, in_pieces, mark) - total_pnl(of, whole, mark)) < TINY * (1 + abs(whole.cash))


@given(any_instrument, st.lists(fills, max_size=12), fills)
def test_a_fill_through_zero_is_a_close_and_an_open(of: Instrument, before: list[Fill], fill: Fill) -> None:
    start = after(of, *before)
    parts = [part for part in split_at_flat(start, fill) if part is not None]

    whole, split = after(of, fill, state=start), after(of, *parts, state=start)

    with exact():
        assert sum((part.quantity for part in parts), D(0)) == fill.quantity
        assert sum((part.fee for part in parts), D(0)) == fill.fee
    assert (split.signed_qty, split.fees) == (whole.signed_qty, whole.fees)
    assert abs(split.cost - whole.cost) < TINY * (1 + abs(whole.cost))
    assert abs(split.realized_pnl - whole.realized_pnl) < TINY * (1 + abs(whole.cash))


@given(any_instrument, st.lists(fills, max_size=30))
def test_swapping_buys_and_sells_negates_gross_profit(of: Instrument, booked: list[Fill]) -> None:
    straight, mirrored = after(of, *booked), after(of, *map(opposite, booked))

    with exact():
        assert mirrored.signed_qty == -straight.signed_qty
        assert mirrored.cost == -straight.cost
        assert mirrored.realized_pnl_gross == -straight.realized_pnl_gross
        assert mirrored.fees == straight.fees


@given(any_instrument, st.lists(fills, min_size=1, max_size=30))
def test_flat_means_no_entry_no_cost_and_all_of_it_realised(of: Instrument, booked: list[Fill]) -> None:
    state = after(of, *booked)
    held = state.signed_qty
    if held:
        state = apply_fill(of, state, Fill(side="sell" if held > 0 else "buy", quantity=held.copy_abs(), price=D(7)))

    assert state.is_flat
    assert (state.cost, entry_price(of, state)) == (0, None)
    assert state.realized_pnl_gross == state.cash


@given(any_instrument, fills, st.lists(st.integers(1, 99), min_size=1, max_size=8))
def test_reducing_never_moves_the_entry_price(of: Instrument, opening: Fill, percents: list[int]) -> None:
    state = after(of, opening)
    entry = entry_price(of, state)
    for percent in percents:
        with exact():
            quantity = (abs(state.signed_qty) * percent / 100).quantize(D("1e-18"))
        if not 0 < quantity < abs(state.signed_qty) or abs(state.cost) < D("1e-18"):
            return  # what is left costs too little for sixteen digits of a price
        state = apply_fill(of, state, msgspec.structs.replace(opposite(opening), quantity=quantity, fee=D(0)))
        after_it = entry_price(of, state)
        assert after_it is not None
        assert entry is not None
        assert abs(after_it - entry) <= entry * D("1e-15")


@given(any_instrument, st.lists(fills, min_size=1, max_size=12).map(lambda all_: [_buys(f) for f in all_]))
def test_entry_is_the_mean_of_what_was_paid_weighted_by_quantity_harmonic_where_inverse(
    of: Instrument, bought: list[Fill]
) -> None:
    entry = entry_price(of, after(of, *bought))

    quantity = sum(Fraction(f.quantity) for f in bought)
    if of.market == "inverse":
        mean = quantity / sum(Fraction(f.quantity) / Fraction(f.price) for f in bought)
    else:
        mean = sum(Fraction(f.quantity) * Fraction(f.price) for f in bought) / quantity
    assert entry is not None
    assert abs(Fraction(entry) - mean) <= mean * Fraction(1, 10**12)


def _buys(fill: Fill) -> Fill:
    return msgspec.structs.replace(fill, side="buy", quantity=max(fill.quantity, D("0.001")))


@given(any_instrument, st.lists(fills, max_size=20), st.data())
def test_strategies_kept_apart_add_up_to_the_whole(of: Instrument, booked: list[Fill], data: st.DataObject) -> None:
    mark = data.draw(fill_prices)
    tags = [data.draw(st.sampled_from("ab")) for _ in booked]
    apart = [after(of, *(f for f, tag in zip(booked, tags, strict=True) if tag == name)) for name in "ab"]

    whole = after(of, *booked)

    with exact():
        assert sum((state.signed_qty for state in apart), D(0)) == whole.signed_qty
        difference = sum((total_pnl(of, state, mark) for state in apart), D(0)) - total_pnl(of, whole, mark)
        assert abs(difference) < TINY * (1 + abs(whole.cash))


@given(st.lists(fills, max_size=20), fill_prices)
def test_total_profit_is_the_same_first_in_first_out(booked: list[Fill], mark: Decimal) -> None:
    """Which lot a sale closes decides what is realised when, never how much there is in all."""
    lots: list[list[Fraction]] = []
    realized = Fraction(0)
    for fill in booked:
        rest, price = Fraction(fill.signed_qty), Fraction(fill.price)
        while rest and lots and lots[0][0] * rest < 0:
            closed = min(abs(rest), abs(lots[0][0]))
            sign = 1 if lots[0][0] > 0 else -1
            realized += sign * closed * (price - lots[0][1])
            lots[0][0] -= sign * closed
            rest += sign * closed
            if not lots[0][0]:
                lots.pop(0)
        if rest:
            lots.append([rest, price])
    open_profit = sum(((Fraction(mark) - price) * quantity for quantity, price in lots), Fraction(0))

    state = after(SPOT, *(msgspec.structs.replace(fill, fee=D(0)) for fill in booked))

    assert Fraction(total_pnl(SPOT, state, mark)) == realized + open_profit


@given(any_instrument, st.lists(fills, max_size=20))
def test_the_state_survives_being_written_down(of: Instrument, booked: list[Fill]) -> None:
    state = after(of, *booked)
    encoded = msgspec.json.encode(state)

    assert msgspec.json.decode(encoded, type=LedgerState) == state


# Cases by name


@pytest.mark.parametrize(
    ("of", "first", "through", "gross", "entry"),
    [
        pytest.param(SPOT, buy("1", "100"), sell("3", "110"), "10", "110", id="long to short"),
        pytest.param(SPOT, sell("1", "100"), buy("1.5", "90"), "10", "90", id="short to long"),
        pytest.param(LINEAR, buy("1000", "100"), sell("3000", "110"), "10", "110", id="linear, contracts of 0.001"),
        pytest.param(INVERSE, buy("10", "100"), sell("20", "125"), "2", "125", id="inverse long to short"),
        pytest.param(INVERSE, sell("10", "125"), buy("20", "100"), "2", "100", id="inverse short to long"),
    ],
)
def test_a_flip_realises_the_old_quantity_and_opens_the_rest_at_the_fill(
    of: Instrument, first: Fill, through: Fill, gross: str, entry: str
) -> None:
    state = after(of, first, through)

    assert state.realized_pnl_gross == D(gross)
    assert entry_price(of, state) == D(entry)


def test_the_fee_of_a_flip_is_shared_by_quantity_and_adds_up() -> None:
    close, rest = split_at_flat(after(SPOT, buy("1", "100")), sell("3", "110", fee=D("0.01")))

    assert close is not None
    assert rest is not None
    assert (close.quantity, rest.quantity) == (1, 2)
    assert format_decimal(close.fee) == "0.003333333333333333333333333333333333"
    assert close.fee + rest.fee == D("0.01")


def test_a_flip_by_partial_fills_is_the_flip() -> None:
    partly = after(SPOT, buy("1", "100"), sell("0.4", "110"), sell("0.6", "110"), sell("0.5", "110"))
    at_once = after(SPOT, buy("1", "100"), sell("1.5", "110"))

    assert partly == at_once


def test_adding_after_reducing_weighs_only_what_is_left() -> None:
    state = after(SPOT, buy("2", "100"), sell("1", "120"), buy("1", "110"))

    assert entry_price(SPOT, state) == 105
    assert state.realized_pnl_gross == 20


def test_cycles_count_on_the_realised_profit_goes_on_and_the_entry_starts_anew() -> None:
    state = after(SPOT, buy("1", "100"), sell("1", "110"), buy("1", "100"), sell("1", "110"), buy("1", "300"))

    assert state.realized_pnl_gross == 20
    assert entry_price(SPOT, state) == 300


def test_twenty_tiny_closes_lose_nothing() -> None:
    """0.0045 rounded to cents twenty times is 0.00; it is 0.09."""
    state = after(SPOT, buy("20", "1"), *[sell("1", "1.0045")] * 20)

    assert (state.realized_pnl_gross, state.is_flat) == (D("0.09"), True)


def test_a_thousand_closes_of_a_third_leave_no_drift() -> None:
    state = after(SPOT, buy("333.333", "0.1"), buy("666.667", "0.3"), *[sell("0.999", "0.2")] * 1000)

    with exact():
        assert state.signed_qty == 1
        assert state.realized_pnl_gross - state.cost == -D("233.3334") + 999 * D("0.2")
    assert abs(state.cost - D("0.2333334")) < TINY


def test_one_tenth_and_two_tenths_less_three_tenths_is_flat() -> None:
    assert after(SPOT, buy("0.1", "5"), buy("0.2", "5"), sell("0.3", "5")).is_flat


def test_eight_decimal_prices_times_ten_million_units_are_exact() -> None:
    state = after(SPOT, buy("10000000", "0.00001234"), sell("3000000.00000001", "0.00001235"))

    assert state.realized_pnl_gross == D("0.0300000000000001")


def test_eighteen_digits_each_way_are_exact() -> None:
    most = "9" * 18 + "." + "9" * 18
    state = after(SPOT, buy(most, most), sell(most, most))

    assert (state.is_flat, state.realized_pnl_gross) == (True, 0)


def test_the_average_of_an_inverse_position_is_harmonic() -> None:
    """Bybit's example: 1,000 at 5,000 and 2,000 at 6,000 is 5,625, not 5,666.67."""
    unit = msgspec.structs.replace(INVERSE, multiplier=D(1))

    assert entry_price(unit, after(unit, buy("1000", "5000"), buy("2000", "6000"))) == 5625


def test_fills_of_one_order_are_weighted_by_their_quantity() -> None:
    """100 at 10 and 300 at 20 is 17.5; a mean without weights says 15."""
    assert entry_price(SPOT, after(SPOT, buy("100", "10"), buy("300", "20"))) == D("17.5")


@pytest.mark.parametrize(
    ("of", "quantity", "entry", "mark", "unrealized"),
    [
        pytest.param(instrument("ADAUSDT", "linear"), "30", "0.385", "0.41047590", "0.764277", id="ADA long"),
        pytest.param(instrument("COMPUSDT", "linear"), "-1", "70.92841", "49.72023376", "21.20817624", id="COMP short"),
    ],
)
def test_unrealised_profit_is_what_binance_printed(
    of: Instrument, quantity: str, entry: str, mark: str, unrealized: str
) -> None:
    opening = buy(quantity, entry) if D(quantity) > 0 else sell(quantity.lstrip("-"), entry)

    assert total_pnl(of, after(of, opening), D(mark)) == D(unrealized)


# Fees and funding


@pytest.mark.parametrize(
    ("fee", "asset", "rate", "realized", "unpriced"),
    [
        pytest.param("0.5", None, None, "-0.5", {}, id="settle asset"),
        pytest.param("0.5", "USDT", None, "-0.5", {}, id="settle asset by name"),
        pytest.param("-0.5", None, None, "0.5", {}, id="rebate"),
        pytest.param("0.002", "BNB", "600", "-1.2", {}, id="third asset at its rate"),
        pytest.param("0.002", "BNB", None, "0", {"BNB": D("0.002")}, id="third asset without a rate"),
        pytest.param("0", None, None, "0", {}, id="none"),
        pytest.param("500", None, None, "-500", {}, id="more than the proceeds"),
    ],
)
def test_a_fee_is_booked_when_it_is_charged_and_leaves_the_entry_alone(
    fee: str, asset: str | None, rate: str | None, realized: str, unpriced: dict[str, Decimal]
) -> None:
    state = after(SPOT, buy("1", "100", fee=D(fee), fee_asset=asset, fee_rate=None if rate is None else D(rate)))

    assert state.realized_pnl == D(realized)
    assert state.fees_unpriced == unpriced
    assert (entry_price(SPOT, state), state.realized_pnl_gross) == (100, 0)


def test_fees_without_a_rate_add_up_by_asset() -> None:
    state = after(SPOT, *[buy("1", "100", fee=D("0.002"), fee_asset="BNB")] * 3)

    assert state.fees_unpriced == {"BNB": D("0.006")}


def test_a_fee_in_base_makes_the_holding_smaller_and_keeps_its_entry() -> None:
    state = after(SPOT, buy("1", "100", fee=D("0.001"), fee_asset="BTC"))

    assert (state.signed_qty, state.fees, state.realized_pnl_gross) == (D("0.999"), D("0.1"), 0)
    assert entry_price(SPOT, state) == 100


def test_a_fee_in_base_of_a_later_buy_disposes_of_units_at_the_average() -> None:
    state = after(SPOT, buy("1", "100"), buy("1", "200", fee=D("0.002"), fee_asset="BTC"))

    assert (state.signed_qty, entry_price(SPOT, state)) == (D("1.998"), 150)
    assert (state.fees, state.realized_pnl_gross) == (D("0.4"), D("0.1"))


def test_dust_of_a_fee_in_base_can_be_sold_to_the_last_unit() -> None:
    state = after(SPOT, buy("1", "100", fee=D("0.001"), fee_asset="BTC"), sell("0.999", "100"))

    assert state.is_flat
    assert state.realized_pnl == D("-0.1")


def test_a_fee_in_base_on_covering_a_short_leaves_it_larger() -> None:
    state = after(SPOT, sell("1", "100"), buy("1", "90", fee=D("0.01"), fee_asset="BTC"))

    assert (state.signed_qty, entry_price(SPOT, state)) == (D("-0.01"), 90)
    assert (state.realized_pnl_gross, state.fees) == (10, D("0.9"))


def test_a_pair_whose_base_is_the_fee_asset_needs_no_rate() -> None:
    bnb = msgspec.structs.replace(SPOT, symbol="BNBUSDT", base="BNB")
    state = after(bnb, buy("10", "600", fee=D("0.0075"), fee_asset="BNB"))

    assert (state.signed_qty, state.fees, state.fees_unpriced) == (D("9.9925"), D("4.5"), {})


@pytest.mark.parametrize(
    ("of", "fill", "mark", "rate", "funding"),
    [
        pytest.param(LINEAR, buy("1000", "100"), "110", "0.0001", "-0.011", id="long pays"),
        pytest.param(LINEAR, sell("1000", "100"), "110", "0.0001", "0.011", id="short receives"),
        pytest.param(LINEAR, buy("1000", "100"), "110", "-0.0001", "0.011", id="negative rate turns it round"),
        pytest.param(INVERSE, buy("10", "100"), "125", "0.001", "-0.008", id="inverse long pays in coin"),
        pytest.param(INVERSE, sell("10", "100"), "125", "0.001", "0.008", id="inverse short receives"),
    ],
)
def test_funding_by_market_side_and_sign(of: Instrument, fill: Fill, mark: str, rate: str, funding: str) -> None:
    state = apply_funding(of, after(of, fill), D(mark), D(rate))

    assert state.funding == state.realized_pnl == D(funding)


def test_funding_while_flat_is_nothing() -> None:
    assert apply_funding(LINEAR, FLAT, D(100), D("0.01")).funding == 0


def test_each_stamp_finds_the_quantity_of_its_time() -> None:
    """A stamp at the very moment of a fill comes after it; partial exits charge nothing again."""
    hours = [NOON + timedelta(hours=n) for n in range(6)]
    booked = [
        buy("1000", "100", executed_at=hours[0]),
        buy("1000", "100", executed_at=hours[2]),
        sell("1500", "100", executed_at=hours[4]),
        sell("500", "100", executed_at=hours[5]),
    ]
    stamps = [Funding(at=at, mark=D(100), rate=D("0.01")) for at in hours]

    funding = [state.funding for state in replay(LINEAR, booked, stamps)]

    assert funding == [-2, -6, D("-6.5"), D("-6.5")]


@given(any_instrument, st.lists(fills, max_size=15), st.lists(fill_prices, max_size=2))
def test_replaying_the_ledger_gives_the_live_state(of: Instrument, booked: list[Fill], marks: list[Decimal]) -> None:
    timed = [msgspec.structs.replace(fill, executed_at=NOON + timedelta(seconds=n)) for n, fill in enumerate(booked)]
    live: list[LedgerState] = []
    for fill in timed:
        live.append(apply_fill(of, live[-1] if live else FLAT, fill))

    replayed = replay(of, timed, marks=marks)

    for state, described in zip(live, replayed, strict=True):
        assert (described.signed_qty, described.fees) == (state.signed_qty, state.fees)
        assert described.entry_price == entry_price(of, state)
        assert abs(described.realized_pnl - state.realized_pnl) < TINY * (1 + abs(state.cash))
    with exact():
        for state, described in zip(live, replayed, strict=True):
            for mark, unrealized in zip(marks, described.unrealized_pnl, strict=True):
                assert abs(unrealized - of.value(state.signed_qty, mark) + state.cost) < TINY * (1 + abs(state.cost))


def test_published_leaves_keep_eighteen_places_of_the_state() -> None:
    state = after(SPOT, buy("3", "1"), sell("1", "2"))
    third = after(SPOT, buy("1", "1"), buy("2", "2"), sell("1", "3"))

    assert to_units(state.cost) == 2 * 10**18
    assert to_units(third.cost) == 3_333_333_333_333_333_333
    assert to_units(third.realized_pnl_gross) == 1_333_333_333_333_333_333


def test_quantities_of_36_digits_close_to_the_last_one() -> None:
    """Outside of exact arithmetic, even abs() and minus round to 28 digits."""
    most = "123456789012345678.123456789012345678"
    long = after(SPOT, buy(most, "1"))

    assert Fraction(sell(most, "1").signed_qty) == -Fraction(most)
    assert closing_part(long, sell(most, "2")) == D(most)
    assert after(SPOT, sell(most, "2"), state=long).is_flat


def test_what_a_fill_closes_is_never_more_than_is_held() -> None:
    long = after(SPOT, buy("2", "1"))

    assert [closing_part(long, fill) for fill in (sell("1", "1"), sell("5", "1"), buy("1", "1"))] == [1, 2, 0]


def test_a_speck_of_an_inverse_position_without_a_cost_has_no_entry() -> None:
    speck = LedgerState(signed_qty=D("1e-18"), cost=D(0))

    assert entry_price(INVERSE, speck) is None
