"""Return and drawdown on the flow-adjusted curve."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.candles import Candle, Figures, combine, sample
from app.domain.decimals import UNITS
from app.domain.performance import Performance, performance
from app.domain.risk_ratios import calmar_ratio, daily_returns, sharpe_ratio, sortino_ratio, yearly_growth

START = datetime(2026, 3, 1, tzinfo=UTC)


def curve(*points: tuple[int, int]) -> list[Candle]:
    """Samples, a minute apart, of (P&L, net deposits) in units."""
    return [
        sample(START + timedelta(minutes=number), Figures(realized_pnl_gross=pnl, net_deposits=deposits))
        for number, (pnl, deposits) in enumerate(points)
    ]


def valued(*values: tuple[str, str]) -> list[Candle]:
    """Samples of a portfolio's (value, net deposits) as sources publish them."""
    points = []
    for value, deposits in values:
        deposited = int(Decimal(deposits) * UNITS)
        points.append((int(Decimal(value) * UNITS) - deposited, deposited))
    return curve(*points)


def judged(candles: list[Candle]) -> Performance:
    found = performance(candles)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "published"),
    [
        # Investopedia, "Time-Weighted Rate of Return": one deposit of 100,000 at 1,162,484.
        (
            [("1000000", "1000000"), ("1162484", "1000000"), ("1262484", "1100000"), ("1192328", "1100000")],
            "0.0979",
        ),
        # Cindicator, "My returns are wrong": 10 % and 5 % are 15.5 %, whether 2000 came or 100 went between.
        ([("1000", "1000"), ("1100", "1000"), ("3100", "3000"), ("3255", "3000")], "0.1550"),
        ([("1000", "1000"), ("1100", "1000"), ("1000", "900"), ("1050", "900")], "0.1550"),
        # Wikipedia, "Time-weighted return": the years of linked returns 4, 9, 5 and 11 %.
        ([("100", "100"), ("104", "100"), ("113.36", "100"), ("119.028", "100"), ("132.12108", "100")], "0.3212"),
        # Wikipedia, "Time-weighted return": 500 doubles, 1000 is added, and 1500 is left: 100 % and -25 %.
        ([("500", "500"), ("1000", "500"), ("2000", "1500"), ("1500", "1500")], "0.5000"),
    ],
)
def test_published_time_weighted_returns(values: list[tuple[str, str]], published: str) -> None:
    twr = judged(valued(*values)).twr

    assert twr is not None
    assert twr.quantize(Decimal("0.0001")) == Decimal(published)


@pytest.mark.parametrize(
    ("equity", "published"),
    [
        ([100, 110, 90, 95, 80, 100], "0.2727"),
        ([100_000, 95_000, 90_000, 110_000], "0.1000"),
        # CFA Institute and others: the largest fall is from a peak, not from the start.
        ([500_000, 750_000, 400_000, 600_000, 350_000, 800_000], "0.5333"),
    ],
)
def test_published_maximum_drawdowns(equity: list[int], published: str) -> None:
    drawdown = judged(curve(*((value - equity[0], equity[0]) for value in equity))).drawdown

    assert drawdown.maximum_pct is not None
    assert drawdown.maximum_pct.quantize(Decimal("0.0001")) == Decimal(published)


def test_the_first_loss_counts_for_the_initial_capital_is_the_first_high() -> None:
    found = judged(curve((0, 1000), (-100, 1000)))

    assert (found.drawdown.maximum, found.drawdown.maximum_pct) == (100, Decimal("0.1"))


def test_a_deposit_in_a_drawdown_does_not_heal_it() -> None:
    before = judged(curve((0, 1000), (-200, 1000)))
    after = judged(curve((0, 1000), (-200, 1000), (-200, 5000)))

    assert (after.twr, after.drawdown.current_pct) == (before.twr, before.drawdown.current_pct)
    assert (after.drawdown.current, after.drawdown.high_water_mark) == (200, 5000)


def test_withdrawing_everything_is_no_loss() -> None:
    found = judged(curve((0, 1000), (100, 1000), (100, -100), (100, -100), (100, 900), (200, 900)))

    assert (found.twr, found.chain_breaks) == (Decimal("0.21"), 0)
    assert found.drawdown.maximum_pct == 0


def test_losing_everything_breaks_the_chain_and_another_begins_with_new_equity() -> None:
    found = judged(curve((0, 1000), (-1000, 1000), (-1000, 2000), (-900, 2000)))

    assert (found.twr, found.chain_breaks) == (Decimal("0.1"), 1)
    assert found.chained_from == START + timedelta(minutes=2)
    assert found.drawdown.maximum_pct == 1


def test_without_equity_there_is_a_drawdown_in_money_and_no_return() -> None:
    found = judged(curve((0, 0), (-50, 0), (-20, 0)))

    assert (found.twr, found.drawdown.maximum, found.drawdown.maximum_pct) == (None, 50, None)


def test_time_under_water_runs_from_the_high_until_it_is_reached_again() -> None:
    found = judged(curve((0, 100), (10, 100), (5, 100), (7, 100), (10, 100), (9, 100), (8, 100)))

    assert found.drawdown.longest_under_water == timedelta(minutes=3)
    assert found.drawdown.under_water == timedelta(minutes=2)


moves = st.lists(st.tuples(st.integers(-400, 400), st.sampled_from([0, 0, 0, 0, 300, -200])), min_size=1, max_size=40)


def random_curve(steps: list[tuple[int, int]]) -> list[Candle]:
    points = [(0, 1000)]
    for move, flow in steps:
        pnl, deposits = points[-1]
        points.append((pnl + move, deposits + flow))
    return curve(*points)


@given(moves, st.integers(2, 7), st.integers(2, 5))
def test_no_level_of_candles_loses_a_drawdown_or_a_return(
    steps: list[tuple[int, int]], minutes: int, hours: int
) -> None:
    fine = random_curve(steps)
    coarse = combine(fine, lambda at: (at - START) // timedelta(minutes=minutes))
    coarser = combine(coarse, lambda at: (at - START) // timedelta(minutes=minutes) // hours)

    of_fine = judged(fine)
    for candles in (coarse, coarser):
        found = judged(candles)
        assert (found.drawdown.maximum, found.drawdown.current) == (
            of_fine.drawdown.maximum,
            of_fine.drawdown.current,
        )
        if of_fine.chain_breaks:
            continue
        assert close(found.twr, of_fine.twr)
        assert close(found.drawdown.maximum_pct, of_fine.drawdown.maximum_pct, Decimal("1e-11"))


def close(one: Decimal | None, other: Decimal | None, within: Decimal = Decimal("1e-30")) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= within


@given(moves, st.integers(1, 10_000))
@example(steps=[(-1, 300)], amount=2)
def test_a_deposit_by_itself_changes_equity_and_neither_return_nor_drawdown(
    steps: list[tuple[int, int]], amount: int
) -> None:
    before = random_curve(steps)
    last = before[-1].close
    deposited = Figures(realized_pnl_gross=last.realized_pnl_gross, net_deposits=last.net_deposits + amount)
    after = [*before, sample(before[-1].at + timedelta(minutes=1), deposited)]

    was, now = judged(before), judged(after)
    assert now.drawdown.maximum == was.drawdown.maximum
    assert now.drawdown.current == was.drawdown.current
    if was.twr is not None:
        assert close(now.twr, was.twr)
        assert close(now.drawdown.maximum_pct, was.drawdown.maximum_pct)


@given(moves)
def test_the_plain_definition_of_drawdown_agrees(steps: list[tuple[int, int]]) -> None:
    candles = random_curve(steps)
    pnls = [candle.close.pnl or 0 for candle in candles]

    largest = max(max(pnls[: place + 1]) - pnl for place, pnl in enumerate(pnls))
    assert judged(candles).drawdown.maximum == largest


def days(returns: list[str]) -> list[Decimal]:
    return [Decimal(one) for one in returns]


def test_the_return_of_a_day_is_that_of_the_index_between_its_midnights() -> None:
    candles = [
        sample(START + timedelta(hours=12 * number), Figures(realized_pnl_gross=pnl, net_deposits=1000))
        for number, pnl in enumerate([0, 50, 100, 100, 45])
    ]
    midnights = [START + timedelta(days=number) for number in range(3)]

    found = daily_returns(judged(candles).index, midnights)

    assert found == [Decimal("0.1"), Decimal("-0.05")]


def test_ratios_need_thirty_returns() -> None:
    returns = days(["0.01", "-0.005"] * 15)

    assert sharpe_ratio(returns[:-1]) is None
    assert sortino_ratio(returns[:-1]) is None
    assert sharpe_ratio(returns) is not None


def test_ratios_by_their_definitions() -> None:
    returns = days(["0.01", "-0.005"] * 15)
    # mean 0.0025; deviations ±0.0075, so the sample variance is 30·0.0075²/29; half of the squares are 0.005².
    sharpe, sortino = sharpe_ratio(returns), sortino_ratio(returns)

    assert sharpe is not None
    assert sortino is not None
    assert abs(float(sharpe) - 0.0025 / (0.0075 * (30 / 29) ** 0.5) * 365**0.5) < 1e-12
    assert abs(float(sortino) - 0.0025 / (0.005 * 0.5**0.5) * 365**0.5) < 1e-12


def test_a_published_sortino_ratio() -> None:
    # Red Rock Capital, "Sortino: A 'Sharper' Ratio": 17, 15, 23, -5, 12, 9, 13, -4 % a year give 4.417.
    returns = days(["0.17", "0.15", "0.23", "-0.05", "0.12", "0.09", "0.13", "-0.04"] * 4)

    found = sortino_ratio(returns, periods_per_year=1)
    assert found is not None
    assert found.quantize(Decimal("0.001")) == Decimal("4.417")


def test_no_deviation_gives_no_ratio() -> None:
    assert sharpe_ratio(days(["0.01"] * 30)) is None
    assert sortino_ratio(days(["0.01"] * 30)) is None


def test_calmar_is_yearly_growth_over_the_largest_drawdown() -> None:
    assert calmar_ratio(Decimal("0.3"), timedelta(days=365), Decimal("0.15")) == 2
    assert calmar_ratio(Decimal("0.3"), timedelta(days=29), Decimal("0.15")) is None
    assert calmar_ratio(Decimal("0.3"), timedelta(days=365), Decimal(0)) is None
    growth = yearly_growth(Decimal("0.21"), timedelta(days=730))
    assert growth is not None
    assert abs(growth - Decimal("0.1")) < Decimal("1e-40")


def test_what_is_not_known_is_left_out_of_the_curve() -> None:
    known = curve((0, 100), (10, 100))
    unknown = sample(known[-1].at + timedelta(minutes=1), Figures(unrealized_pnl=None, is_complete=False))

    assert performance([unknown]) is None
    assert judged([*known, unknown]).twr == judged(known).twr


def test_candles_of_a_bucket_follow_each_other_without_overlap() -> None:
    candles = combine(curve((0, 100), (5, 100), (5, 300), (2, 300), (2, 100)), lambda _: 0)

    assert [candle.net_deposits for candle in candles] == [100, 300, 100]
    assert all(before.at < after.opened_at for before, after in pairwise(candles))
    assert [(candle.open, candle.high, candle.low, candle.fall) for candle in candles] == [
        (0, 5, 0, 0),
        (5, 5, 2, 3),
        (2, 2, 2, 0),
    ]
