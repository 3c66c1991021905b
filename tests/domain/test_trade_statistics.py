"""What closed cycles add up to."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.domain.trade_statistics import ClosedCycle, trade_statistics

START = datetime(2026, 3, 1, tzinfo=UTC)


def cycles(*nets: int) -> list[ClosedCycle]:
    """Cycles of one hour each that close a day apart."""
    return [
        ClosedCycle(
            net=net,
            opened_at=START + timedelta(days=number),
            closed_at=START + timedelta(days=number, hours=1),
        )
        for number, net in enumerate(nets)
    ]


def test_no_cycles_have_no_ratios() -> None:
    found = trade_statistics([])

    assert (found.cycles, found.net, found.longest_winning_streak, found.current_streak) == (0, 0, 0, 0)
    assert found.win_rate is found.profit_factor is found.expectancy is found.average_hold is None


def test_a_cycle_of_zero_is_neither_won_nor_lost_and_counts_among_all() -> None:
    found = trade_statistics(cycles(10, 0, -5, 0))

    assert (found.wins, found.losses, found.breakevens) == (1, 1, 2)
    assert (found.win_rate, found.expectancy) == (Fraction(1, 4), 1)  # 1.25, rounded half to even
    assert found.profit_factor == 2


def test_without_a_loss_there_is_no_profit_factor() -> None:
    assert trade_statistics(cycles(10, 5)).profit_factor is None
    assert trade_statistics(cycles(-10, -5)).profit_factor == 0


def test_expectancy_is_win_rate_times_average_win_less_loss_rate_times_average_loss() -> None:
    # freqtrade's documentation: 0.7 · 200 - 0.3 · 100 = 110... as seven wins of 200 and three losses of 100.
    found = trade_statistics(cycles(*[200] * 7, *[-100] * 3))

    assert (found.expectancy, found.average_win, found.average_loss) == (110, 200, -100)
    assert found.win_rate == Fraction(7, 10)


def test_streaks_are_in_the_order_of_closing() -> None:
    found = trade_statistics(reversed(cycles(1, 2, -1, -1, -1, 0, -1, 4, 4)))

    assert (found.longest_winning_streak, found.longest_losing_streak, found.current_streak) == (2, 3, 2)


def test_excursions_are_of_the_cycles_that_a_sample_saw() -> None:
    seen, unseen = cycles(10, 20)
    seen = ClosedCycle(net=10, opened_at=seen.opened_at, closed_at=seen.closed_at, worst=-7, best=30)

    found = trade_statistics([seen, unseen])

    assert (found.average_worst, found.worst, found.average_best, found.best) == (-7, -7, 30, 30)
    assert found.average_hold == timedelta(hours=1)


@given(st.lists(st.integers(-(10**24), 10**24), max_size=30))
def test_counts_and_sums_agree_with_each_other(nets: list[int]) -> None:
    found = trade_statistics(cycles(*nets))

    assert found.wins + found.losses + found.breakevens == found.cycles == len(nets)
    assert found.gross_win + found.gross_loss == found.net == sum(nets)
    assert found.longest_winning_streak <= found.wins
    assert found.longest_losing_streak <= found.losses
