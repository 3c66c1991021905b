"""What closed cycles add up to: how often, how much, how long.

A cycle runs from flat to flat, or to a fill through zero. It is won or lost by
its net profit (gross less fees plus funding); one of exactly zero is neither,
and counts among all.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction

import msgspec


class ClosedCycle(msgspec.Struct, frozen=True, kw_only=True):
    """A closed cycle; amounts in units of 1e-18 of the reporting currency.

    ``worst`` and ``best`` are the lowest and highest unrealised profit that a
    minute's sample saw (MAE and MFE), None where none saw it.
    """

    position_id: str = ""
    account_id: str = ""
    symbol: str = ""
    net: int
    opened_at: datetime
    closed_at: datetime
    worst: int | None = None
    best: int | None = None


class TradeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Means are rounded once, half to even, to 1e-18. None: there is nothing to divide by."""

    cycles: int
    wins: int
    losses: int
    breakevens: int
    net: int
    gross_win: int
    gross_loss: int
    win_rate: Fraction | None
    profit_factor: Fraction | None
    expectancy: int | None
    average_win: int | None
    average_loss: int | None
    largest_win: int | None
    largest_loss: int | None
    average_hold: timedelta | None
    longest_winning_streak: int
    longest_losing_streak: int
    current_streak: int
    average_worst: int | None
    average_best: int | None
    worst: int | None
    best: int | None


def trade_statistics(cycles: Iterable[ClosedCycle]) -> TradeStatistics:
    """Statistics over cycles in the order in which they closed.

    ``gross_loss`` and ``average_loss`` are negative. ``current_streak`` counts
    wins as positive and losses as negative; a cycle of zero ends a streak.
    """
    ordered = sorted(cycles, key=lambda cycle: (cycle.closed_at, cycle.opened_at))
    nets = [cycle.net for cycle in ordered]
    won, lost = [net for net in nets if net > 0], [net for net in nets if net < 0]
    worst = [cycle.worst for cycle in ordered if cycle.worst is not None]
    best = [cycle.best for cycle in ordered if cycle.best is not None]
    streaks = _streaks(nets)
    return TradeStatistics(
        cycles=len(nets),
        wins=len(won),
        losses=len(lost),
        breakevens=len(nets) - len(won) - len(lost),
        net=sum(nets),
        gross_win=sum(won),
        gross_loss=sum(lost),
        win_rate=Fraction(len(won), len(nets)) if nets else None,
        profit_factor=Fraction(sum(won), -sum(lost)) if lost else None,
        expectancy=_mean(nets),
        average_win=_mean(won),
        average_loss=_mean(lost),
        largest_win=max(won, default=None),
        largest_loss=min(lost, default=None),
        average_hold=_mean_hold(ordered),
        longest_winning_streak=max([0, *streaks]),
        longest_losing_streak=-min([0, *streaks]),
        current_streak=streaks[-1] if streaks else 0,
        average_worst=_mean(worst),
        average_best=_mean(best),
        worst=min(worst, default=None),
        best=max(best, default=None),
    )


def _streaks(nets: Sequence[int]) -> list[int]:
    """The length of the streak at each cycle, negative for losses."""
    found: list[int] = []
    streak = 0
    for net in nets:
        sign = (net > 0) - (net < 0)
        streak = streak + sign if streak * sign > 0 else sign
        found.append(streak)
    return found


def _mean(values: Sequence[int]) -> int | None:
    return round(Fraction(sum(values), len(values))) if values else None


def _mean_hold(cycles: Sequence[ClosedCycle]) -> timedelta | None:
    if not cycles:
        return None
    return sum((cycle.closed_at - cycle.opened_at for cycle in cycles), timedelta()) / len(cycles)
