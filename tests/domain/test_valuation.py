"""Valuation: leaves rounded once, sums of leaves exact, unknown never a number."""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import to_units
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.positions import AccountBook, AssetBook, Position, Realized, realized_of
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.domain.valuation import fraction, value_position
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    account_books,
    account_of,
    instrument,
    plain_totals,
    plainly,
    position,
    positions,
    price,
    prices,
    user_book,
)

ONE = 10**18
PLACE = StreamPosition(7, 1041, 2)
SYMBOLS = [each.symbol for each in INSTRUMENTS]

some_positions = st.lists(positions("p", "u1"), max_size=12)
some_prices = st.dictionaries(st.sampled_from(SYMBOLS), prices).map(
    lambda known: {symbol: price(symbol, value) for symbol, value in known.items()}
)


def moment(known: Mapping[str, Price]) -> Prices:
    return Prices(known, RateBook(INSTRUMENTS), NOW_MS, STALE_AFTER_MS)


@given(positions("p", "u1"), prices)
def test_market_value_is_rounded_once_half_to_even(held: Position, at: Decimal) -> None:
    value = value_position(held, price(held.symbol, at), NOW_MS, STALE_AFTER_MS)

    quantity, of = Fraction(held.state.signed_qty), held.instrument
    if of.market == "inverse":
        exactly = -quantity * Fraction(of.multiplier) / Fraction(at)
        assert value.market_value is not None
        assert abs(Fraction(value.market_value, ONE) - exactly) <= Fraction(1, 2 * ONE) + Fraction(1, 10**36)
    else:
        assert value.market_value == round(quantity * Fraction(of.multiplier) * Fraction(at) * ONE)


@given(some_positions, some_prices)
def test_totals_are_the_exact_sums_of_their_reported_rows(held: list[Position], known: dict[str, Price]) -> None:
    valuation = plainly(user_book(*held), known)
    totals, rows = valuation.totals, [one.reported for one in valuation.positions]

    assert totals.realized_pnl == sum(row.realized.net for row in rows)
    assert totals.unrealized_pnl == sum(row.unrealized_pnl or 0 for row in rows)
    priced = [one for one in valuation.positions if one.reported.market_value is not None]
    exposures = [abs(one.reported.market_value or 0) * _sign(one.position.state.signed_qty) for one in priced]
    assert totals.net_exposure == sum(exposures)
    assert totals.gross_exposure == sum(map(abs, exposures))


def _sign(quantity: Decimal) -> int:
    return (quantity > 0) - (quantity < 0)


@given(some_positions, some_prices, st.data())
def test_any_partition_adds_up_to_the_whole(held: list[Position], known: dict[str, Price], data: st.DataObject) -> None:
    parts: list[list[Position]] = [[], [], []]
    for p in held:
        parts[data.draw(st.integers(0, 2))].append(p)

    whole, apart = (plain_totals(held, known), [plain_totals(part, known) for part in parts])

    for name in ("unrealized_pnl", "gross_exposure", "net_exposure"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in apart)
    assert whole.realized == sum((part.realized for part in apart), Realized())
    assert set(whole.unpriced) == {symbol for part in apart for symbol in part.unpriced}


@given(some_positions, some_prices)
def test_a_total_is_complete_only_when_nothing_is_left_out(held: list[Position], known: dict[str, Price]) -> None:
    totals = plain_totals(held, known)

    left_out = {p.symbol for p in held if p.symbol not in known or _lacks_a_rate(p.instrument.settle, known)}
    unknown = {p.instrument.settle for p in held if _lacks_a_rate(p.instrument.settle, known) and realized_of(p).net}
    assert left_out <= set(totals.unpriced) <= left_out | unknown
    are_known = all(p.converted is None or p.converted.is_complete for p in held)
    assert totals.is_complete == (not totals.unpriced and are_known)


def _lacks_a_rate(settle: str, known: Mapping[str, Price]) -> bool:
    return settle != "USDT" and RateBook(INSTRUMENTS).rate(settle, "USDT", known) is None


def test_without_a_price_every_figure_that_needs_one_is_unknown() -> None:
    value = value_position(position(cost="100"), None, NOW_MS, STALE_AFTER_MS)

    assert (value.market_value, value.unrealized_pnl, value.total_pnl, value.unrealized_pnl_pct) == (None,) * 4
    assert (value.mark, value.is_stale) == (None, False)
    assert value.cost_basis == 100 * ONE


def test_a_worthless_profit_of_zero_is_zero_and_not_unknown() -> None:
    value = value_position(position(cost="100"), price("BTCUSDT", "100"), NOW_MS, STALE_AFTER_MS)

    assert (value.unrealized_pnl, value.unrealized_pnl_pct) == (0, "0.000000")


def test_a_flat_position_is_worth_nothing_without_any_price() -> None:
    flat = position(qty="0", cost="0", cash=Decimal(5))
    value = value_position(flat, None, NOW_MS, STALE_AFTER_MS)

    assert (value.market_value, value.unrealized_pnl, value.realized.net, value.is_stale) == (0, 0, 5 * ONE, False)


@pytest.mark.parametrize(
    ("age_ms", "is_stale"), [(0, False), (STALE_AFTER_MS, False), (STALE_AFTER_MS + 1, True), (-50, False)]
)
def test_a_price_is_stale_once_it_is_older_than_allowed(age_ms: int, *, is_stale: bool) -> None:
    mark = price("BTCUSDT", "1", fresh_ms=NOW_MS - age_ms)
    value = value_position(position(), mark, NOW_MS, STALE_AFTER_MS)

    assert value.mark is not None
    assert (value.is_stale, value.mark.age_ms) == (is_stale, max(age_ms, 0))


def test_one_stale_price_makes_the_total_stale_and_the_oldest_says_how_old() -> None:
    known = {
        "BTCUSDT": price("BTCUSDT", "1"),
        "ETHUSDT": price("ETHUSDT", "1", fresh_ms=NOW_MS - 9000),
        "PEPEUSDT": price("PEPEUSDT", "1", fresh_ms=NOW_MS - 99_000),
    }

    totals = plain_totals([position("p1"), position("p2", instrument("ETHUSDT"))], known)

    assert (totals.is_stale, totals.oldest_price_age_ms) == (True, 9000)


def test_a_fee_without_a_rate_makes_the_total_incomplete() -> None:
    state = msgspec.structs.replace(position().state, fees_unpriced={"BNB": Decimal("0.1")})
    held = msgspec.structs.replace(position(), state=state)

    totals = plain_totals([held], {"BTCUSDT": price("BTCUSDT", "1")})

    assert (totals.unpriced, totals.is_complete) == ((), False)


def test_day_profit_is_the_change_of_total_since_the_base_or_unknown_without_one() -> None:
    known = {"BTCUSDT": price("BTCUSDT", "130")}

    assert plainly(user_book(position(cost="100"), day_base=12 * ONE), known).totals.day_pnl == 18 * ONE
    assert plainly(user_book(position(cost="100"), day_base=None), known).totals.day_pnl is None


def test_a_hedge_of_two_legs_is_worth_what_the_net_position_is() -> None:
    known = {"BTCUSDT": price("BTCUSDT", "107.3")}
    legs = [position("long", qty="3", cost="300"), position("short", qty="-1", cost="-110")]

    assert (
        plain_totals(legs, known).unrealized_pnl == plain_totals([position(qty="2", cost="190")], known).unrealized_pnl
    )


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_a_fraction_has_six_places_and_the_sign_of_its_part(part: int, whole: int) -> None:
    text = fraction(part, whole)

    if not whole:
        assert text is None
        return
    assert text is not None
    assert abs(Fraction(text) - Fraction(part, abs(whole))) <= Fraction(1, 2_000_000)
    assert len(text.partition(".")[2]) == 6
    assert not text.startswith("-0.000000")


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "0.333333"), (-1, 3, "-0.333333"), (1, -4, "0.250000"), (1, 2_000_000, "0.000001"), (5, 0, None)],
)
def test_fractions_by_example(part: int, whole: int, text: str | None) -> None:
    assert fraction(part, whole) == text


def test_inverse_profit_is_what_binance_computes() -> None:
    """A COIN-M sample of 1 contract of 100 dollars: 0.0000586634… of the coin, shown by the exchange as 0.00005866."""
    of = instrument("BTCUSD", "inverse", settle="BTC", multiplier=Decimal(100))
    entry, mark = Decimal("40000"), Decimal("40940.4")
    held = position(of=of, qty=1, cost=of.value(Decimal(1), entry))

    value = value_position(held, price("BTCUSD", mark), NOW_MS, STALE_AFTER_MS)

    exactly = 100 * (1 / Fraction(entry) - 1 / Fraction(mark))
    assert value.unrealized_pnl is not None
    assert abs(Fraction(value.unrealized_pnl, ONE) - exactly) <= Fraction(1, ONE)


# The body of GET /pnl


def test_the_snapshot_counts_what_closed_positions_left_behind() -> None:
    left = Realized(gross=7 * ONE, fees=2 * ONE, funding=ONE)
    book = user_book(position(cost="100"), realized=left, day_base=10 * ONE, ledger_seq=4)

    body = pnl_snapshot(book, moment({"BTCUSDT": price("BTCUSDT", "130")}), PLACE)

    totals = body["totals"]
    assert (body["epoch"], body["seq"], body["ledger_seq"], body["as_of_ms"]) == (7, 104_102, 4, NOW_MS)
    assert (totals["realized_pnl"], totals["unrealized_pnl"], totals["total_pnl"]) == ("6", "30", "36")
    assert (totals["day_pnl"], totals["equity"]) == ("26", "36")
    assert [row["unrealized_pnl"] for row in body["positions"]] == ["30"]
    assert body["accounts"] == [{"account_id": account_of("u1"), "name": "", "totals": totals}]


@given(some_positions, some_prices)
def test_the_snapshot_s_rows_add_up_to_its_totals_in_decimals(held: list[Position], known: dict[str, Price]) -> None:
    body = pnl_snapshot(user_book(*held), moment(known), PLACE)

    plenty = Context(prec=200, rounding=ROUND_HALF_EVEN)
    for name in ("unrealized_pnl", "realized_pnl"):
        summed = Decimal(0)
        for row in body["positions"]:
            summed = plenty.add(summed, Decimal(row[f"{name}_reported"] or 0))
        assert to_units(summed) == to_units(Decimal(body["totals"][name]))


@given(account_books("u1"), some_positions, some_prices)
def test_equity_is_what_deposits_profit_and_rates_made_of_it(
    accounts: tuple[AccountBook, ...], held: list[Position], known: dict[str, Price]
) -> None:
    totals = plainly(user_book(*held, accounts=accounts), known).totals

    assert totals.equity == totals.net_deposits + totals.total_pnl + totals.fx_pnl


def test_the_currency_effect_is_what_the_rate_did_to_a_balance_since_it_arose() -> None:
    deposit = AssetBook(asset="BTC", deposited=2 * ONE, deposited_reported=200 * ONE)
    book = user_book(accounts=[AccountBook(account_id=account_of("u1"), assets=(deposit,))])

    totals = plainly(book, {"BTCUSDT": price("BTCUSDT", "130")}).totals

    assert (totals.net_deposits, totals.total_pnl, totals.fx_pnl) == (200 * ONE, 0, 60 * ONE)
    assert totals.equity == 260 * ONE
    assert plainly(book, {}).totals.unpriced == ("BTC",)


def test_totals_of_nobody_are_zero_and_complete() -> None:
    empty = plainly(user_book(day_base=0), {}).totals

    assert (empty.total_pnl, empty.day_pnl, empty.is_complete, empty.oldest_price_age_ms) == (0, 0, True, None)
