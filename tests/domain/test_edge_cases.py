"""The thirty cases in which users of other systems report wrong P&L, by number.

``docs/accounting.md`` has the table of them, with what else covers each.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.domain.book import Book
from app.domain.conflation import Conflator, Quote
from app.domain.cycles import Cycle, book_fill, replay_cycles
from app.domain.day_bases import at_midnights, base_change
from app.domain.decimals import exact, format_decimal, format_units, parse_positive, parse_signed, to_units
from app.domain.instruments import Instrument
from app.domain.lateness import Lane
from app.domain.ledger import (
    FLAT,
    ContradictoryFill,
    Fill,
    Funding,
    LedgerState,
    apply_fill,
    apply_funding,
    entry_price,
    replay,
    unrealized_pnl,
)
from app.domain.positions import AccountBook, AssetBook, Converted, Realized
from app.domain.rates import RateBook
from app.domain.statements import position_statement
from app.domain.trades import Trade as Recorded
from app.domain.valuation import fraction
from app.workers.day_turn import DayTurn
from tests.domain.books import NOW_MS, account_of, instrument, plainly, position, price, quoted, user_book
from tests.domain.fills import INVERSE, LINEAR, SPOT, a_fill

D = Decimal
ONE = 10**18
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def after(*fills: Fill, of: Instrument = LINEAR) -> LedgerState:
    state = FLAT
    for fill in fills:
        state = apply_fill(of, state, fill)
    return state


def at(hours: float) -> datetime:
    return MONDAY + timedelta(hours=hours)


def recorded(number: int, fill: Fill, *, created: float | None = None) -> Recorded:
    assert fill.executed_at is not None
    return Recorded(
        fill_id=str(number),
        user_id="u",
        account_id="a",
        symbol="BTCUSD",
        position_id="",
        opened_position_id=None,
        fill=fill,
        source="api",
        executed_at=fill.executed_at,
        created_at=at(number if created is None else created),
    )


def cycles(*fills: Fill, stamps: tuple[Funding, ...] = (), of: Instrument = LINEAR) -> list[Cycle]:
    return replay_cycles(of, [recorded(number, fill) for number, fill in enumerate(fills)], stamps)


# Fills


@pytest.mark.parametrize(("of", "gross"), [(LINEAR, D(200)), (INVERSE, D(2) * 100 * (1 / D(100) - 1 / D(200)))])
@pytest.mark.parametrize("sides", [("buy", "sell"), ("sell", "buy")])
def test_01_a_flip_in_one_fill_realises_what_was_held_opens_the_rest_and_splits_its_fee(
    of: Instrument, gross: Decimal, sides: tuple[str, str]
) -> None:
    first, second = cycles(
        a_fill(sides[0], 2, 100, executed_at=at(0)), a_fill(sides[1], 5, 200, fee=D(5), executed_at=at(1)), of=of
    )

    sign = 1 if sides[0] == "buy" else -1
    assert (first.state.signed_qty, second.state.signed_qty) == (0, -3 * sign)
    assert first.state.realized_pnl_gross == sign * gross
    assert (first.state.fees, second.state.fees) == (2, 3)
    assert entry_price(of, second.state) == 200
    assert second.state.realized_pnl_gross == 0


def test_02_a_flip_by_partial_fills_is_the_flip() -> None:
    at_once = after(a_fill("buy", 2, 100), a_fill("sell", 5, 130))
    in_parts = after(a_fill("buy", 2, 100), *(a_fill("sell", part, 130) for part in ("0.5", "1.5", "2.5", "0.5")))

    assert in_parts == at_once


def test_03_reducing_then_adding_weighs_only_what_is_left() -> None:
    state = after(a_fill("buy", 4, 100), a_fill("sell", 3, 150), a_fill("buy", 1, 200))

    assert entry_price(LINEAR, state) == 150
    assert state.realized_pnl_gross == 150


def test_04_two_cycles_of_equal_profit_are_two() -> None:
    trip = (a_fill("buy", 1, 100), a_fill("sell", 1, 110))
    fills = [msgspec.structs.replace(fill, executed_at=at(n)) for n, fill in enumerate(trip + trip)]

    found = cycles(*fills)

    assert [cycle.state.realized_pnl_gross for cycle in found] == [10, 10]
    assert replay(LINEAR, fills)[-1].realized_pnl_gross == 20


def test_05_many_tiny_closes_lose_nothing() -> None:
    state = after(a_fill("buy", 1, "0.333333333333333333"), *(a_fill("sell", "0.001", "0.7") for _ in range(1000)))

    assert state.is_flat
    assert (state.cost, state.realized_pnl_gross) == (0, D("0.7") - D("0.333333333333333333"))


def test_06_fills_of_one_order_at_one_instant_all_count_by_their_quantity() -> None:
    fills = [a_fill("buy", 100, 10, executed_at=at(0)), a_fill("buy", 300, 20, executed_at=at(0))]

    assert replay(LINEAR, fills)[-1].entry_price == D("17.5")
    assert [cycle.fill_ids for cycle in cycles(*fills)] == [("0", "1")]


def test_07_a_fill_given_again_counts_once_also_after_it_was_split_by_a_flip() -> None:
    opening, flip = a_fill("buy", 1, 100, trade_id="a"), a_fill("sell", 3, 120, fee=D(3), trade_id="b")

    once, again = replay(LINEAR, [opening, flip]), replay(LINEAR, [opening, flip, opening, flip])

    assert [msgspec.structs.replace(state, index=0) for state in again[1:]] == [
        msgspec.structs.replace(once[-1], index=0)
    ] * 3
    with pytest.raises(ContradictoryFill):
        replay(LINEAR, [opening, msgspec.structs.replace(opening, quantity=D(2))])


def test_08_a_late_fill_takes_its_place_and_changes_yesterday_too() -> None:
    bought, sold = a_fill("buy", 2, 100, executed_at=at(1)), a_fill("sell", 1, 150, executed_at=at(30))
    late = a_fill("sell", 1, 120, executed_at=at(2))
    in_order = cycles(bought, late, sold)
    given_late = replay_cycles(
        LINEAR, [recorded(0, bought), recorded(1, sold, created=1), recorded(2, late, created=2)]
    )

    assert [cycle.state for cycle in given_late] == [cycle.state for cycle in in_order]
    midnight = [date(2026, 3, 3)]
    known, corrected = (
        at_midnights(LINEAR, [recorded(n, fill) for n, fill in enumerate(fills)], [], midnight, currency="USD")[0]
        for fills in ((bought, sold), (bought, late, sold))
    )
    # At a mark of 130 yesterday ended with 60; with one sold at 120 before, with 20 + 30.
    assert base_change(LINEAR, known, corrected, D(130), currency="USD") == -10 * ONE


def test_09_without_a_deleted_fill_and_with_an_edited_one_the_ledger_is_as_if_it_had_always_been_so() -> None:
    fills = [a_fill("buy", 2, 100, executed_at=at(0)), a_fill("buy", 1, 400, executed_at=at(1))]
    closing = a_fill("sell", 2, 150, executed_at=at(2))

    deleted = cycles(fills[0], closing)
    edited = cycles(fills[0], msgspec.structs.replace(fills[1], price=D(100)), closing)

    assert [cycle.closed_at for cycle in deleted] == [at(2)]
    assert deleted[0].state.realized_pnl_gross == edited[0].state.realized_pnl_gross == 100


@pytest.mark.parametrize("text", ["0", "-1", "NaN", "Infinity", "1e5", "1" * 19, "0." + "1" * 19, "", " 1", "٣"])
def test_10_what_is_no_plain_positive_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"plain|greater than zero"):
        parse_positive(text)


def test_11_eight_decimal_prices_times_ten_million_units_are_exact() -> None:
    state = after(a_fill("buy", 10_000_000, "0.00001234"), a_fill("sell", 10_000_000, "0.00001235"))

    assert state.realized_pnl_gross == D("0.1")


def test_12_the_dust_that_a_fee_in_base_leaves_can_be_sold_to_the_last_unit() -> None:
    bought = after(a_fill("buy", 1, 100, fee=D("0.001"), fee_asset="BTC"), of=SPOT)
    sold = apply_fill(SPOT, bought, a_fill("sell", "0.999", 100))

    assert (bought.signed_qty, bought.fees) == (D("0.999"), D("0.1"))
    assert sold.is_flat
    assert sold.realized_pnl == D("-0.1")


def test_13_selling_more_than_is_held_on_a_spot_market_opens_a_short() -> None:
    closed, short = cycles(a_fill("buy", 1, 100, executed_at=at(0)), a_fill("sell", 3, 90, executed_at=at(1)), of=SPOT)

    assert closed.state.realized_pnl_gross == -10
    assert (short.state.signed_qty, entry_price(SPOT, short.state)) == (-2, 90)


# Fees and funding


@pytest.mark.parametrize(
    ("fee", "fees", "unpriced"),
    [
        ({}, 0, {}),
        ({"fee": D("0.25")}, D("0.25"), {}),
        ({"fee": D("-0.25")}, D("-0.25"), {}),
        ({"fee": D("0.01"), "fee_asset": "BNB", "fee_rate": D(600)}, 6, {}),
        ({"fee": D("0.01"), "fee_asset": "BNB"}, 0, {"BNB": D("0.01")}),
        ({"fee": D(500)}, 500, {}),
        ({"fee": D("0.5"), "fee_asset": "BTC"}, 50, {}),
    ],
    ids=["none", "settle", "rebate", "third asset", "no rate", "more than the proceeds", "base"],
)
def test_14_every_fee_is_booked_when_it_is_charged_or_named_as_unpriced(
    fee: dict[str, Any], fees: Decimal, unpriced: dict[str, Decimal]
) -> None:
    state = after(a_fill("buy", 2, 100), a_fill("sell", 1, 100, **fee), of=SPOT)

    assert (state.fees, state.fees_unpriced) == (fees, unpriced)
    assert state.realized_pnl == -fees
    assert entry_price(SPOT, state) == 100


def test_15_a_pair_whose_base_is_the_fee_asset_needs_no_rate() -> None:
    bnb = msgspec.structs.replace(SPOT, symbol="BNBUSD", base="BNB")
    state = after(a_fill("buy", 1, 600, fee=D("0.00075"), fee_asset="BNB"), of=bnb)

    assert (state.signed_qty, state.fees, state.fees_unpriced) == (D("0.99925"), D("0.45"), {})


def test_16_funding_follows_what_is_held_at_each_stamp() -> None:
    fills = [
        a_fill("buy", 2, 100, executed_at=at(0)),
        a_fill("sell", 1, 100, executed_at=at(8)),  # at the very time of a stamp: the stamp comes after it
        a_fill("sell", 1, 100, executed_at=at(17)),
        a_fill("sell", 3, 100, executed_at=at(30)),
    ]
    stamps = tuple(Funding(at=at(hours), mark=D(100), rate=D("0.001")) for hours in (4, 8, 16, 24, 32))

    long, short = cycles(*fills, stamps=stamps)

    assert [payment.amount for payment in long.payments] == [D("-0.2"), D("-0.1"), D("-0.1")]
    assert [payment.amount for payment in short.payments] == [D("0.3")]
    assert (long.state.funding, short.state.funding) == (D("-0.4"), D("0.3"))
    assert apply_funding(LINEAR, FLAT, D(100), D("0.001")) == FLAT
    assert apply_funding(LINEAR, after(a_fill("buy", 1, 100)), D(100), D("-0.001")).funding == D("0.1")


def test_17_a_fee_is_paid_where_it_is_positive_and_received_where_it_is_negative() -> None:
    assert after(a_fill("buy", 1, 100, fee=D(1))).realized_pnl == -1
    assert after(a_fill("buy", 1, 100, fee=D(-1))).realized_pnl == 1


# Prices


def test_18_without_a_price_nothing_is_assumed_an_old_one_is_stale_and_an_impossible_one_is_refused() -> None:
    held = position(cost=90)
    [unpriced] = plainly(user_book(held), {}).positions
    [stale] = plainly(user_book(held), {"BTCUSDT": price("BTCUSDT", "100", fresh_ms=NOW_MS - 60_000)}).positions
    ticks, lane = Conflator(stale_after_ms=5000), Lane()
    for sequence, (bid, ask) in enumerate([("100", "101"), ("0", "101"), ("102", "101")], start=1):
        ticks.quote(Quote("BTCUSDT", bid, ask, sequence), NOW_MS, lane)

    assert unpriced.value.unrealized_pnl is None
    assert plainly(user_book(held), {}).totals.unpriced == ("BTCUSDT",)
    assert (stale.value.unrealized_pnl, stale.is_stale) == (10 * ONE, True)
    assert [tick.price for tick in ticks.drain().prices] == [D("100.5")]
    assert ticks.rejected.keys() == {"not_positive", "crossed"}


def test_19_a_perpetual_is_valued_at_its_mark_whatever_traded_last() -> None:
    contract = instrument("BTCPERP", "linear")
    said = msgspec.structs.replace(quoted("BTCPERP", D(110), D(99), D(101), D(95), D(110)), source="mark")
    book = user_book(position(of=contract))

    [auto] = plainly(book, {"BTCPERP": said}).positions
    chosen = (AccountBook(account_id=account_of("u1"), valuation="last"),)
    [last] = plainly(msgspec.structs.replace(book, accounts=chosen), {"BTCPERP": said}).positions

    assert (auto.value.unrealized_pnl, auto.value.mark and auto.value.mark.source) == (10 * ONE, "mark")
    assert (last.value.unrealized_pnl, last.value.mark and last.value.mark.source) == (-5 * ONE, "last")


def test_20_each_leg_of_a_hedge_is_valued_at_what_closing_it_would_meet() -> None:
    long, short = position("p1", qty=1, cost=100), position("p2", qty=-1, cost=-100)
    legs = [msgspec.structs.replace(leg, position_side=side) for leg, side in ((long, "long"), (short, "short"))]
    account = AccountBook(account_id=account_of("u1"), valuation="exit")
    said = quoted("BTCUSDT", D(100), D(99), D(102), None, None)

    valued = plainly(user_book(*legs, accounts=[account]), {"BTCUSDT": said})

    assert [one.value.unrealized_pnl for one in valued.positions] == [-1 * ONE, -2 * ONE]
    assert valued.totals.unrealized_pnl == -3 * ONE


def test_21_every_figure_of_a_row_is_of_the_mark_that_stands_beside_it() -> None:
    [one] = plainly(user_book(position(qty="1.5", cost=90)), {"BTCUSDT": price("BTCUSDT", "77.7")}).positions
    row = position_statement(one)

    assert D(row["market_value"]) == D(row["signed_qty"]) * D(row["mark_price"])
    assert D(row["unrealized_pnl"]) == D(row["market_value"]) - D(row["cost_basis"])
    assert D(row["total_pnl"]) == D(row["unrealized_pnl"]) + D(row["realized_pnl"])


# Currency


def test_22_rates_go_direct_or_inverse_or_over_a_hub_and_are_as_old_as_their_oldest_price_or_unknown() -> None:
    pairs = [("BTCUSDT", "BTC", "USDT"), ("EURUSDT", "EUR", "USDT")]
    rates = RateBook(
        msgspec.structs.replace(instrument(symbol), base=base, quote=quote, settle=quote)
        for symbol, base, quote in pairs
    )
    known = {"BTCUSDT": price("BTCUSDT", "50000"), "EURUSDT": price("EURUSDT", "1.25", fresh_ms=NOW_MS - 60_000)}

    def rate(asset: str, currency: str) -> Any:
        return rates.rate(asset, currency, known)

    assert rate("BTC", "USDT").value == 50_000
    assert rate("USDT", "EUR").value == D("0.8")
    hop = rate("BTC", "EUR")
    assert (hop.value, hop.path, hop.fresh_ms) == (40_000, ("BTCUSDT", "EURUSDT"), NOW_MS - 60_000)
    assert rate("TRY", "USDT") is None
    assert rates.rate("BTC", "EUR", {"BTCUSDT": known["BTCUSDT"]}) is None


def test_23_a_dollar_coin_is_not_another_and_not_the_dollar() -> None:
    rates = RateBook([instrument("BTCUSDT")])

    assert rates.rate("USDC", "USDT", {}) is None
    assert rates.rate("USD", "USDT", {}) is None
    foreign = position(of=instrument("BTCUSDC", settle="USDC"), converted=Converted())
    totals = plainly(user_book(foreign), {"BTCUSDC": price("BTCUSDC", "110")}, rates).totals
    assert (totals.unrealized_pnl, totals.unpriced, totals.is_complete) == (0, ("BTCUSDC",), False)


# Time


def test_24_a_day_begins_at_midnight_utc_once_and_without_a_base_its_profit_is_unknown() -> None:
    midnight = int(datetime(2026, 3, 29, tzinfo=UTC).timestamp() * 1000)  # clocks go forward in Europe this day
    days = DayTurn()
    assert days.at(midnight - 1000) is None  # started in the middle of a day
    assert days.at(midnight - 1) is None
    turned = days.at(midnight)
    assert turned is not None
    assert (turned.day, turned.whose) == (date(2026, 3, 29), "everybody")
    assert days.at(midnight + 1) is None
    hours = [hour for hour in range(1, 49) if days.at(midnight + hour * 3_600_000)]
    assert hours == [24, 48]  # no day of 23 or 25 hours
    restarted = DayTurn().at(midnight + 1000)
    assert restarted is not None
    assert restarted.whose == "missing"

    book = user_book(position(cost=90), day_base=4 * ONE)
    known = {"BTCUSDT": price("BTCUSDT", "100")}
    assert plainly(book, known).totals.day_pnl == 6 * ONE
    assert plainly(msgspec.structs.replace(book, day_base=None), known).totals.day_pnl is None


# Numbers


def test_25_zero_has_no_sign_ties_go_to_even_zero_is_not_unknown_and_flat_has_no_entry() -> None:
    assert (format_decimal(D("-0.00")), format_units(0), str(parse_signed("-0"))) == ("0", "0", "0")
    assert [to_units(D(f"{tie}e-18")) for tie in ("0.5", "1.5", "-0.5", "2.5")] == [0, 2, 0, 2]
    [even] = plainly(user_book(position(cost=100)), {"BTCUSDT": price("BTCUSDT", "100")}).positions
    row = position_statement(even)
    assert (row["unrealized_pnl"], row["unrealized_pnl_pct"]) == ("0", "0.000000")
    flat = after(a_fill("buy", 1, 100), a_fill("sell", 1, 100))
    assert (entry_price(LINEAR, flat), unrealized_pnl(LINEAR, flat, D(50))) == (None, 0)


def test_26_a_ratio_to_nothing_is_unknown() -> None:
    assert fraction(ONE, 0) is None
    [gift] = plainly(user_book(position(cost=0)), {"BTCUSDT": price("BTCUSDT", "100")}).positions
    assert gift.value.unrealized_pnl_pct is None


# Accounts


@pytest.mark.parametrize("amount", [1000, -400], ids=["deposit", "withdrawal"])
def test_27_money_that_comes_or_goes_is_no_profit(amount: int) -> None:
    def totals(deposited: int) -> Any:
        left = AssetBook(asset="USDT", deposited=deposited * ONE, deposited_reported=deposited * ONE)
        account = AccountBook(account_id=account_of("u1"), assets=(left,))
        return plainly(user_book(position(cost=90), accounts=[account]), {"BTCUSDT": price("BTCUSDT", "100")}).totals

    assert totals(amount).total_pnl == totals(0).total_pnl
    assert totals(amount).equity - totals(0).equity == amount * ONE


def test_28_a_deposit_while_there_is_a_loss_leaves_the_loss_as_it_is() -> None:
    book = Book(5000)
    book.set_prices([price("BTCUSDT", "60")])
    held = position(cost=100)
    book.upsert_user(user_book(held))
    book.revalue(NOW_MS)
    left = AssetBook(asset="USDT", deposited=50 * ONE, deposited_reported=50 * ONE)
    richer = (AccountBook(account_id=account_of("u1"), assets=(left,)),)

    book.upsert_user(user_book(held, ledger_seq=2, accounts=richer))
    book.revalue(NOW_MS)

    totals = plainly(book.user_book(0), {"BTCUSDT": price("BTCUSDT", "60")}).totals
    assert (book.unrealized(0), totals.total_pnl, totals.equity) == (-40 * ONE, -40 * ONE, 10 * ONE)


def test_29_a_difference_to_the_exchange_is_an_entry_of_its_own_that_counts_as_profit_or_loss() -> None:
    adjusted = Realized(gross=-3 * ONE)
    totals = plainly(user_book(realized=adjusted), {}).totals

    assert (totals.realized_pnl, totals.net_deposits, totals.equity) == (-3 * ONE, 0, -3 * ONE)


def test_30_a_holding_brought_in_at_the_entry_price_of_the_exchange_begins_with_nothing_realised() -> None:
    booked = book_fill(LINEAR, None, a_fill("buy", "1.7", "31234.5678"))

    assert booked.opened is not None
    assert entry_price(LINEAR, booked.opened) == D("31234.5678")
    assert booked.opened.realized_pnl == 0
    with exact():
        assert booked.opened.cost == D("1.7") * D("31234.5678")
