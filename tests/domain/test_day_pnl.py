"""Profit and loss by day."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from app.domain.candles import Figures
from app.domain.day_boundaries import days_until
from app.domain.day_pnl import Change, DayPnl, Known, change_between, day_pnls

NOW = datetime(2026, 3, 10, 15, 30, tzinfo=UTC)
DAYS = days_until(NOW, UTC, 5)


def known(at: datetime, figures: Figures, *, late: timedelta = timedelta()) -> Known:
    return Known(at - late, figures)


def changed(row: DayPnl) -> Change:
    assert row.change is not None
    return row.change


def test_a_day_is_the_change_between_its_midnights_in_parts() -> None:
    before = Figures(realized_pnl_gross=100, fees=10, funding=1, unrealized_pnl=50, net_deposits=1000)
    after = Figures(realized_pnl_gross=180, fees=14, funding=-2, unrealized_pnl=20, fx_pnl=7, net_deposits=1500)

    change = change_between(NOW, NOW, Known(NOW, before), Known(NOW, after))

    assert change is not None
    assert (change.realized_pnl, change.unrealized_change, change.fees, change.funding) == (73, -30, 4, -3)
    assert (change.pnl, change.fx_pnl, change.flows) == (43, 7, 500)
    assert change.pct == "0.030469"  # 50 over 1141 and the 500 that came


def test_a_deposit_is_no_profit_and_a_withdrawal_no_loss() -> None:
    for flow in (500, -500):
        change = change_between(
            NOW, NOW, Known(NOW, Figures(net_deposits=1000)), Known(NOW, Figures(net_deposits=1000 + flow))
        )
        assert change is not None
        assert (change.pnl, change.flows, change.pct) == (0, flow, "0.000000")


def test_without_equity_there_is_no_fraction() -> None:
    change = change_between(NOW, NOW, Known(NOW, Figures()), Known(NOW, Figures(unrealized_pnl=5)))

    assert change is not None
    assert (change.pnl, change.pct) == (5, None)


def test_the_day_of_now_ends_now() -> None:
    figures = {DAYS[-1].start: known(DAYS[-1].start, Figures()), NOW: known(NOW, Figures(unrealized_pnl=9))}

    today = day_pnls(DAYS, figures, NOW)[-1]

    assert (changed(today).pnl, changed(today).end) == (9, NOW)


def test_a_day_with_an_end_that_nobody_knows_is_unknown() -> None:
    figures = {
        DAYS[0].start: known(DAYS[0].start, Figures()),
        DAYS[1].start: known(DAYS[1].start, Figures(unrealized_pnl=None)),
        DAYS[3].start: known(DAYS[3].start, Figures()),
    }

    assert [row.change for row in day_pnls(DAYS[:4], figures, NOW)] == [None, None, None, None]


def test_a_missing_midnight_is_told_by_the_time_used_and_by_being_incomplete() -> None:
    start, end = DAYS[0].start, DAYS[0].end
    figures = {
        start: known(start, Figures(), late=timedelta(minutes=15)),
        end: known(end, Figures(unrealized_pnl=4), late=timedelta(hours=2)),
    }

    change = changed(day_pnls(DAYS[:1], figures, NOW)[0])

    assert (change.pnl, change.end, change.is_complete) == (4, end - timedelta(hours=2), False)


def test_a_correction_raises_the_revision_of_the_days_from_it_on() -> None:
    revisions = [(DAYS[1].start + timedelta(hours=3), 2), (DAYS[3].start, 1)]

    assert [row.revision for row in day_pnls(DAYS, {}, NOW, revisions)] == [1, 3, 3, 4, 4]


amounts = st.integers(-(10**24), 10**24)
figures = st.builds(
    Figures,
    realized_pnl_gross=amounts,
    fees=amounts,
    funding=amounts,
    unrealized_pnl=amounts,
    fx_pnl=amounts,
    net_deposits=amounts,
)


@given(st.lists(figures, min_size=6, max_size=6), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]))
def test_days_add_up_to_the_change_of_the_whole(values: list[Figures], name: str) -> None:
    # Berlin turns its clocks among these days.
    now = datetime(2026, 3, 31, 15, tzinfo=UTC)
    days = days_until(now, ZoneInfo(name), 5)
    moments = [*(day.start for day in days), now]
    at = {moment: Known(moment, value) for moment, value in zip(moments, values, strict=True)}

    rows = [changed(row) for row in day_pnls(days, at, now)]

    first, last = values[0], values[-1]
    assert first.pnl is not None
    assert last.pnl is not None
    assert sum(row.pnl + row.fx_pnl for row in rows) == last.pnl - first.pnl
    assert sum(row.flows for row in rows) == last.net_deposits - first.net_deposits
    assert all(row.pnl == row.realized_pnl + row.unrealized_change for row in rows)


@given(st.lists(figures, min_size=2, max_size=2), st.lists(figures, min_size=2, max_size=2))
def test_accounts_add_up_to_their_user(one: list[Figures], other: list[Figures]) -> None:
    def change(before: Figures, after: Figures) -> Change:
        found = change_between(NOW, NOW, Known(NOW, before), Known(NOW, after))
        assert found is not None
        return found

    parts = [change(*one), change(*other)]
    whole = change(one[0] + other[0], one[1] + other[1])

    for name in ("pnl", "realized_pnl", "unrealized_change", "fees", "funding", "fx_pnl", "flows"):
        assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
