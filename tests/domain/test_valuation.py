"""Valuation: leaves rounded once, sums of leaves exact, unknown never a number."""

from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import to_units
from app.domain.pnl_snapshot import pnl_snapshot
from app.domain.positions import ClosedFigures, Position
from app.domain.prices import StreamPosition
from app.domain.valuation import Totals, fraction, total, value_position
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    instrument,
    plain_totals,
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
def test_totals_are_the_exact_sums_of_their_rows(held: list[Position], known: dict[str, object]) -> None:
    rows = [(p, value_position(p, known.get(p.symbol), NOW_MS, STALE_AFTER_MS)) for p in held]  # type: ignore[arg-type]

    totals = total(rows, "USDT", None)

    mine = [value for p, value in rows if p.instrument.settle == "USDT"]
    assert totals.realized_pnl == sum(value.realized_pnl for value in mine)
    assert totals.unrealized_pnl == sum(value.unrealized_pnl or 0 for value in mine)
    priced = [value for value in mine if value.market_value is not None]
    assert totals.net_exposure == sum(value.market_value or 0 for value in priced)
    assert totals.gross_exposure == sum(abs(value.market_value or 0) for value in priced)


@given(some_positions, some_prices, st.data())
def test_any_partition_adds_up_to_the_whole(
    held: list[Position], known: dict[str, object], data: st.DataObject
) -> None:
    parts: list[list[Position]] = [[], [], []]
    for p in held:
        parts[data.draw(st.integers(0, 2))].append(p)

    whole, apart = (plain_totals(held, known), [plain_totals(part, known) for part in parts])  # type: ignore[arg-type]

    for name in ("unrealized_pnl", "realized_pnl_gross", "fees", "funding", "gross_exposure", "net_exposure"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in apart)
    assert set(whole.unpriced) == {symbol for part in apart for symbol in part.unpriced}


@given(some_positions, some_prices)
def test_a_total_is_complete_only_when_nothing_is_left_out(held: list[Position], known: dict[str, object]) -> None:
    totals = plain_totals(held, known)  # type: ignore[arg-type]

    left_out = {p.symbol for p in held if p.instrument.settle != "USDT" or p.symbol not in known}
    assert set(totals.unpriced) == left_out
    assert totals.is_complete == (not left_out)


def test_without_a_price_every_figure_that_needs_one_is_unknown() -> None:
    value = value_position(position(cost="100"), None, NOW_MS, STALE_AFTER_MS)

    assert (value.market_value, value.unrealized_pnl, value.total_pnl, value.unrealized_pnl_pct) == (None,) * 4
    assert (value.mark, value.mark_age_ms, value.is_stale) == (None, None, False)
    assert value.cost_basis == 100 * ONE


def test_a_worthless_profit_of_zero_is_zero_and_not_unknown() -> None:
    value = value_position(position(cost="100"), price("BTCUSDT", "100"), NOW_MS, STALE_AFTER_MS)

    assert (value.unrealized_pnl, value.unrealized_pnl_pct) == (0, "0.000000")


def test_a_flat_position_is_worth_nothing_without_any_price() -> None:
    flat = position(qty="0", cost="0", cash=Decimal(5))
    value = value_position(flat, None, NOW_MS, STALE_AFTER_MS)

    assert (value.market_value, value.unrealized_pnl, value.realized_pnl, value.is_stale) == (0, 0, 5 * ONE, False)


@pytest.mark.parametrize(
    ("age_ms", "is_stale"), [(0, False), (STALE_AFTER_MS, False), (STALE_AFTER_MS + 1, True), (-50, False)]
)
def test_a_price_is_stale_once_it_is_older_than_allowed(age_ms: int, *, is_stale: bool) -> None:
    mark = price("BTCUSDT", "1", fresh_ms=NOW_MS - age_ms)
    value = value_position(position(), mark, NOW_MS, STALE_AFTER_MS)

    assert value.is_stale is is_stale
    assert value.mark_age_ms == max(age_ms, 0)


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
    rows = [(position(cost="100"), value_position(position(cost="100"), price("BTCUSDT", "130"), NOW_MS, 1))]

    assert total(rows, "USDT", 12 * ONE).day_pnl == 18 * ONE
    assert total(rows, "USDT", None).day_pnl is None


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
    closed = ClosedFigures(realized_pnl_gross=7 * ONE, fees=2 * ONE, funding=ONE, foreign_symbols=("ETHBTC",))
    book = user_book(position(cost="100"), closed=closed, day_base=10 * ONE, ledger_seq=4)

    body = pnl_snapshot(
        book, {"BTCUSDT": price("BTCUSDT", "130")}, PLACE, as_of_ms=NOW_MS, stale_after_ms=STALE_AFTER_MS
    )

    totals = body["totals"]
    assert (body["epoch"], body["seq"], body["ledger_seq"], body["as_of_ms"]) == (7, 104_102, 4, NOW_MS)
    assert (totals["realized_pnl"], totals["unrealized_pnl"], totals["total_pnl"]) == ("6", "30", "36")
    assert (totals["day_pnl"], totals["equity"]) == ("26", "36")
    assert (totals["unpriced"], totals["is_complete"]) == (["ETHBTC"], False)
    assert [row["unrealized_pnl"] for row in body["positions"]] == ["30"]
    assert body["accounts"] == [{"account_id": book.account_id, "totals": totals}]


@given(some_positions, some_prices)
def test_the_snapshot_s_rows_add_up_to_its_totals_in_decimals(held: list[Position], known: dict[str, object]) -> None:
    body = pnl_snapshot(
        user_book(*held),
        known,  # type: ignore[arg-type]
        PLACE,
        as_of_ms=NOW_MS,
        stale_after_ms=STALE_AFTER_MS,
    )

    rows = [row for row in body["positions"] if row["settle_asset"] == "USDT"]
    plenty = Context(prec=200, rounding=ROUND_HALF_EVEN)
    for name in ("unrealized_pnl", "realized_pnl", "realized_pnl_gross", "fees", "funding"):
        summed = Decimal(0)
        for row in rows:
            summed = plenty.add(summed, Decimal(row[name] or 0))
        assert to_units(summed) == to_units(Decimal(body["totals"][name]))


def test_totals_of_nobody_are_zero_and_complete() -> None:
    empty: Totals = total([], "USDT", 0)

    assert (empty.total_pnl, empty.day_pnl, empty.is_complete, empty.oldest_price_age_ms) == (0, 0, True, None)
