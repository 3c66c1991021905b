"""Realised profit by first in first out, last in first out, and average."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import exact
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, Funding, replay
from app.domain.lots import Disposal, LotBook, LotReport, Method, realized_by_lots
from tests.domain.fills import INVERSE, LINEAR, SPOT, a_fill, fill_lists, instruments

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_METHODS: tuple[Method, ...] = ("average", "fifo", "lifo")

methods = st.sampled_from(_METHODS)


def on(day: int, fill: Fill) -> Fill:
    return msgspec.structs.replace(fill, executed_at=_MONDAY + timedelta(days=day))


@given(instruments, fill_lists, st.decimals("0.01", "100000", places=2))
def test_no_method_changes_the_total(instrument: Instrument, fills: list[Fill], mark: Decimal) -> None:
    (*_, last) = replay(instrument, fills, marks=[mark])
    with exact():
        total = last.realized_pnl + last.unrealized_pnl[0]

    for method in _METHODS:
        state = booked(LotBook(instrument, method), fills).describe(0, [mark])
        with exact():
            assert state.realized_pnl + state.unrealized_pnl[0] == total


@given(instruments, fill_lists)
def test_at_average_cost_lots_are_the_ledger(instrument: Instrument, fills: list[Fill]) -> None:
    states = replay(instrument, fills, marks=[Decimal(100)])
    book = LotBook(instrument, "average")

    for state, fill in zip(states, fills, strict=True):
        book.book(fill)
        assert book.describe(state.index, [Decimal(100)]) == state


@given(instruments, fill_lists, methods)
def test_what_the_lots_realised_and_what_they_hold_add_up(
    instrument: Instrument, fills: list[Fill], method: Method
) -> None:
    report = realized_by_lots(instrument, fills, method)

    last = booked(LotBook(instrument, method), fills).describe(0)
    lots = report.open_lots.get("net", ())
    with exact():
        assert sum((lot.signed_qty for lot in lots), Decimal(0)) == last.signed_qty
        assert sum((lot.cost for lot in lots), Decimal(0)) == last.cost_basis
    assert report.realized_pnl_gross == last.realized_pnl_gross
    assert report.realized_pnl == last.realized_pnl
    assert report.fees == last.fees


@given(fill_lists, methods, st.integers(0, 12), st.integers(0, 12))
def test_periods_side_by_side_add_up(fills: list[Fill], method: Method, first: int, second: int) -> None:
    timed = [on(day, fill) for day, fill in enumerate(fills)]
    cut, end = (_MONDAY + timedelta(days=day) for day in sorted((first, second)))

    parts = [
        realized_by_lots(LINEAR, timed, method, until=cut),
        realized_by_lots(LINEAR, timed, method, since=cut, until=end),
        realized_by_lots(LINEAR, timed, method, since=end),
    ]

    whole = realized_by_lots(LINEAR, timed, method)
    assert whole.disposals == tuple(disposal for part in parts for disposal in part.disposals)
    with exact():
        assert whole.realized_pnl == sum((part.realized_pnl for part in parts), Decimal(0))


class TestLotsConsumed:
    @pytest.mark.parametrize(
        ("method", "gains"),
        [
            ("fifo", [("a", 1, 20), ("b", "0.5", 5)]),
            ("lifo", [("b", "1.5", 15)]),
            ("average", [("a", "1.5", "22.5")]),
        ],
    )
    def test_the_method_chooses_them(self, method: Method, gains: list[tuple[str, Any, Any]]) -> None:
        fills = [
            a_fill("buy", 1, 100, trade_id="a"),
            a_fill("buy", 2, 110, trade_id="b"),
            a_fill("sell", "1.5", 120, trade_id="c"),
        ]
        if method == "average":
            fills[1] = a_fill("buy", 2, "107.5", trade_id="b")

        report = realized_by_lots(SPOT, fills, method)

        assert summary(report) == [(lot, Decimal(quantity), Decimal(gain)) for lot, quantity, gain in gains]
        assert {disposal.closed_by for disposal in report.disposals} == {"c"}

    def test_a_fill_through_zero_closes_every_lot_and_opens_one(self) -> None:
        fills = [a_fill("sell", 1, 100, trade_id="a"), a_fill("sell", 1, 120), a_fill("buy", 5, 90, trade_id="c")]

        report = realized_by_lots(LINEAR, fills, "fifo")

        assert [(gain.signed_qty, gain.realized_pnl_gross) for gain in report.disposals] == [(-1, 10), (-1, 30)]
        assert [(lot.opened_by, lot.signed_qty, lot.cost) for lot in report.open_lots["net"]] == [("c", 3, 270)]

    def test_a_fee_in_base_consumes_a_lot_too(self) -> None:
        fills = [a_fill("buy", 1, 100), a_fill("buy", 1, 200, fee=Decimal("0.1"), fee_asset="BTC")]

        report = realized_by_lots(SPOT, fills, "fifo")

        (disposal,) = report.disposals
        assert (disposal.is_fee, disposal.signed_qty, disposal.realized_pnl_gross) == (True, Decimal("0.1"), 10)
        assert (report.realized_pnl_gross, report.fees, report.realized_pnl) == (10, 20, -10)

    def test_legs_do_not_share_lots(self) -> None:
        fills = [
            msgspec.structs.replace(a_fill(side, 1, price), position_side=position_side)
            for side, price, position_side in [("buy", 100, "long"), ("sell", 130, "short"), ("sell", 140, "long")]
        ]

        report = realized_by_lots(LINEAR, fills, "fifo")

        assert [(gain.position_side, gain.realized_pnl_gross) for gain in report.disposals] == [("long", 40)]
        assert list(report.open_lots) == ["short"]

    def test_parts_of_a_close_add_up_to_the_close_although_each_quotient_ends(self) -> None:
        fills = [*(a_fill("buy", 1, price) for price in (7, 11, 13)), a_fill("sell", 3, 17)]

        report = realized_by_lots(INVERSE, fills, "lifo")

        with exact():
            proceeds = sum((disposal.proceeds for disposal in report.disposals), Decimal(0))
            assert proceeds == INVERSE.value(Decimal(3), Decimal(17))


class TestPeriod:
    def test_lots_opened_before_it_are_known(self) -> None:
        fills = [on(0, a_fill("buy", 1, 100)), on(40, a_fill("sell", 1, 130, fee=Decimal(2)))]

        report = realized_by_lots(SPOT, fills, "fifo", since=_MONDAY + timedelta(days=31))

        assert (report.realized_pnl_gross, report.fees, report.realized_pnl) == (30, 2, 28)
        assert report.disposals[0].opened_at == _MONDAY

    def test_it_begins_with_its_first_instant_and_ends_before_its_last(self) -> None:
        fills = [on(0, a_fill("buy", 9, 100)), *(on(day, a_fill("sell", 1, 100 + day)) for day in (1, 2, 3))]

        report = realized_by_lots(
            SPOT, fills, "fifo", since=_MONDAY + timedelta(days=1), until=_MONDAY + timedelta(days=3)
        )

        assert [disposal.realized_pnl_gross for disposal in report.disposals] == [1, 2]
        assert [lot.signed_qty for lot in report.open_lots["net"]] == [7]

    def test_only_its_fees_and_funding_count(self) -> None:
        fills = [on(0, a_fill("buy", 1, 100, fee=Decimal(1))), on(9, a_fill("sell", 1, 100, fee=Decimal(2)))]
        stamps = [
            Funding(at=_MONDAY + timedelta(days=day), mark=Decimal(100), rate=Decimal("0.01")) for day in (1, 5, 9)
        ]

        report = realized_by_lots(LINEAR, fills, "lifo", stamps, since=_MONDAY + timedelta(days=2))

        assert (report.fees, report.funding, report.realized_pnl) == (2, -1, -3)

    def test_fees_without_a_rate_are_named(self) -> None:
        fills = [on(day, a_fill("buy", 1, 100, fee=Decimal(1), fee_asset="BNB")) for day in (0, 1, 2)]

        report = realized_by_lots(SPOT, fills, "fifo", since=_MONDAY + timedelta(days=1))

        assert (report.fees, report.fees_unpriced) == (0, {"BNB": 2})

    def test_without_the_time_of_a_fill_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="executed_at"):
            realized_by_lots(SPOT, [a_fill("buy", 1, 100)], "fifo", since=_MONDAY)


def test_late_and_repeated_fills_are_put_right() -> None:
    first, second, sale = (
        on(0, a_fill("buy", 1, 100, trade_id="1")),
        on(1, a_fill("buy", 1, 200, trade_id="2")),
        on(2, a_fill("sell", 1, 300, trade_id="3")),
    )

    report = realized_by_lots(SPOT, [sale, second, first, sale], "fifo")

    assert summary(report) == [("1", 1, 200)]


def booked(book: LotBook, fills: list[Fill]) -> LotBook:
    for fill in fills:
        book.book(fill)
    return book


def summary(report: LotReport) -> list[tuple[str | None, Decimal, Decimal]]:
    return [_gain(disposal) for disposal in report.disposals]


def _gain(disposal: Disposal) -> tuple[str | None, Decimal, Decimal]:
    return disposal.opened_by, disposal.signed_qty, disposal.realized_pnl_gross
