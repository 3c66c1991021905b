"""Return against risk, from the returns of days. Markets here never close, so a year has 365 of them.

* Sharpe: mean over standard deviation (of a sample: n - 1), times the root of
  the periods in a year; the risk-free rate is zero.
* Sortino: the same over the downside deviation, the root of the mean square of
  the losing returns over *all* returns.
* Calmar: the yearly growth rate over the largest drawdown.

None where there are too few returns, or nothing to divide by.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from app.domain.performance import DIGITS, IndexPoint

PERIODS_PER_YEAR = 365
FEWEST_RETURNS = 30
"""Below this a ratio says more of chance than of the trader."""

_SHORTEST_FOR_GROWTH = timedelta(days=30)
_ONE = Decimal(1)
_ZERO = Decimal(0)


def daily_returns(points: Sequence[IndexPoint], midnights: Sequence[datetime]) -> list[Decimal]:
    """The return of each day between two midnights that the index spans without a break."""
    moments = [point.at for point in points]
    at_midnight = [_newest(points, moments, midnight) for midnight in midnights]
    returns: list[Decimal] = []
    for before, after in pairwise(at_midnight):
        if before is not None and after is not None and before.chain == after.chain:
            returns.append(DIGITS.subtract(DIGITS.divide(after.value, before.value), _ONE))
    return returns


def sharpe_ratio(returns: Sequence[Decimal], periods_per_year: int = PERIODS_PER_YEAR) -> Decimal | None:
    """Annualised Sharpe ratio."""
    if len(returns) < FEWEST_RETURNS:
        return None
    average = mean(returns)
    squares = _squares([DIGITS.subtract(one, average) for one in returns])
    return _annualised(average, DIGITS.divide(squares, Decimal(len(returns) - 1)), periods_per_year)


def sortino_ratio(returns: Sequence[Decimal], periods_per_year: int = PERIODS_PER_YEAR) -> Decimal | None:
    """Annualised Sortino ratio against a target of zero."""
    if len(returns) < FEWEST_RETURNS:
        return None
    squares = _squares([min(one, _ZERO) for one in returns])
    return _annualised(mean(returns), DIGITS.divide(squares, Decimal(len(returns))), periods_per_year)


def yearly_growth(twr: Decimal, duration: timedelta) -> Decimal | None:
    """The yearly rate that compounds to a return; None for less than thirty days."""
    if duration < _SHORTEST_FOR_GROWTH:
        return None
    years = DIGITS.divide(Decimal(duration // timedelta(seconds=1)), Decimal(PERIODS_PER_YEAR * 86_400))
    return DIGITS.subtract(DIGITS.power(DIGITS.add(_ONE, twr), DIGITS.divide(_ONE, years)), _ONE)


def calmar_ratio(twr: Decimal, duration: timedelta, max_drawdown: Decimal | None) -> Decimal | None:
    """Yearly growth over the largest drawdown (a positive fraction)."""
    growth = yearly_growth(twr, duration)
    return DIGITS.divide(growth, max_drawdown) if growth is not None and max_drawdown else None


def mean(values: Sequence[Decimal]) -> Decimal:
    """The mean of at least one value."""
    total = _ZERO
    for value in values:
        total = DIGITS.add(total, value)
    return DIGITS.divide(total, Decimal(len(values)))


def _annualised(average: Decimal, variance: Decimal, periods_per_year: int) -> Decimal | None:
    if not variance:
        return None
    ratio = DIGITS.divide(average, DIGITS.sqrt(variance))
    return DIGITS.multiply(ratio, DIGITS.sqrt(Decimal(periods_per_year)))


def _squares(values: Sequence[Decimal]) -> Decimal:
    total = _ZERO
    for value in values:
        total = DIGITS.add(total, DIGITS.multiply(value, value))
    return total


def _newest(points: Sequence[IndexPoint], moments: Sequence[datetime], moment: datetime) -> IndexPoint | None:
    place = bisect_right(moments, moment)
    return points[place - 1] if place else None
