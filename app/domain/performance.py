"""Return and drawdown on the curve that deposits and withdrawals do not move.

The *index* starts at 1 and grows by what a unit of money there would have
earned (the time-weighted return of the GIPS standards: the returns between
flows, chained). Between two samples with a flow, a deposit counts as made
before the move and a withdrawal after it.

A return needs something that earns it: where equity is not positive, or all of
it is lost, the chain breaks, and another begins when there is equity again.
What is said of the index then is said of the newest chain; the largest drawdown
is the largest of all.

The absolute drawdown is that of total P&L, which needs no chain.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

import msgspec

from app.domain.candles import PPT, Candle

DIGITS = Context(prec=50, rounding=ROUND_HALF_EVEN)
"""Enough for the product of a century of minutes to be right to thirty digits."""

_ONE = Decimal(1)
_ZERO = Decimal(0)


class IndexPoint(NamedTuple):
    """The index at a moment. Only points of one chain can be compared."""

    at: datetime
    chain: int
    value: Decimal


class Drawdown(msgspec.Struct, frozen=True, kw_only=True):
    """How far below its highest the curve is and was.

    Amounts are in units of 1e-18 and not negative, fractions are of the highest
    equity. ``high_water_mark`` is the equity above which there is a new high, at
    the net deposits of the end. Times are as fine as the candles.
    """

    current: int
    current_pct: Decimal | None
    maximum: int
    maximum_pct: Decimal | None
    high_water_mark: int
    high_water_mark_at: datetime
    under_water: timedelta
    longest_under_water: timedelta


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Return and drawdown of a curve. ``chained_from`` is where the newest chain begins, if there is one."""

    twr: Decimal | None
    chained_from: datetime | None
    chain_breaks: int
    drawdown: Drawdown
    index: Sequence[IndexPoint]


def performance(candles: Iterable[Candle]) -> Performance | None:
    """Walk candles in order of time; None where no sample among them is known.

    The first one's opening value is the initial capital, and so the first high.
    """
    known = [candle for candle in candles if candle.open is not None]
    if not known:
        return None
    walk = _Walk(known[0])
    water = _Water(known[0])
    for candle in known:
        walk.take(candle)
        water.take(candle)
    return Performance(
        twr=None if walk.index is None else DIGITS.subtract(walk.index, _ONE),
        chained_from=walk.chained_from,
        chain_breaks=walk.breaks,
        drawdown=Drawdown(
            current=water.peak - water.pnl,
            current_pct=walk.fall_now(),
            maximum=water.fall,
            maximum_pct=walk.fall,
            high_water_mark=water.peak + known[-1].net_deposits,
            high_water_mark_at=water.peak_at,
            under_water=water.under_water(known[-1].at),
            longest_under_water=max(water.longest, water.under_water(known[-1].at)),
        ),
        index=walk.points,
    )


class _Walk:
    """The index, chained from candle to candle."""

    def __init__(self, first: Candle) -> None:
        assert first.open is not None
        self.index: Decimal | None = None
        self.chained_from: datetime | None = None
        self.breaks = 0
        self.fall: Decimal | None = None
        self.points: list[IndexPoint] = []
        self._high = _ONE
        self._chain = 0
        self._pnl = first.open
        self._net_deposits = first.net_deposits

    def take(self, candle: Candle) -> None:
        assert candle.open is not None
        close = candle.close.pnl
        assert close is not None
        self._come_to(candle.open, candle.net_deposits)
        if self.index is None:
            self._begin(candle)
        self._pass_through(candle, close)
        self._pnl, self._net_deposits = close, candle.net_deposits
        if self.index is not None:
            self.points.append(IndexPoint(candle.at, self._chain, self.index))

    def fall_now(self) -> Decimal | None:
        """How far the index is below its high, as a fraction."""
        return None if self.index is None else _fraction_below(self._high, self.index)

    def _come_to(self, pnl: int, net_deposits: int) -> None:
        """From the sample before to the first of a candle."""
        if self.index is None:
            return
        base = self._net_deposits + self._pnl + max(0, net_deposits - self._net_deposits)
        self._move(base, base + pnl - self._pnl)

    def _pass_through(self, candle: Candle, close: int) -> None:
        """From the first sample of a candle to its last: equity is P&L plus the same deposits all the way."""
        if self.index is None:
            return
        assert candle.open is not None
        assert candle.high is not None
        assert candle.low is not None
        equity = candle.net_deposits + candle.open
        if equity <= 0:
            # All was withdrawn: what does not move has no return, and what moves has no base.
            if close != candle.open or candle.high != candle.low:
                self._break()
            return
        lowest = candle.net_deposits + candle.low
        if lowest <= 0:
            self._lose_all()
            return
        self._note_fall(DIGITS.divide(DIGITS.multiply(self.index, Decimal(lowest)), Decimal(equity)))
        if candle.fall_ppt is not None:
            self.fall = max(self.fall or _ZERO, DIGITS.divide(Decimal(candle.fall_ppt), Decimal(PPT)))
        highest = DIGITS.divide(
            DIGITS.multiply(self.index, Decimal(candle.net_deposits + candle.high)), Decimal(equity)
        )
        self._high = max(self._high, highest)
        self._move(equity, candle.net_deposits + close)

    def _move(self, base: int, to: int) -> None:
        """The index goes as equity goes from ``base`` to ``to``."""
        assert self.index is not None
        if base == to:
            return
        if base <= 0:
            self._break()
        elif to <= 0:
            self._lose_all()
        else:
            self.index = DIGITS.divide(DIGITS.multiply(self.index, Decimal(to)), Decimal(base))
            self._note_fall(self.index)
            self._high = max(self._high, self.index)

    def _note_fall(self, index: Decimal) -> None:
        self.fall = max(self.fall or _ZERO, _fraction_below(self._high, index))

    def _lose_all(self) -> None:
        self.fall = _ONE
        self._break()

    def _break(self) -> None:
        self.index = self.chained_from = None
        self.breaks += 1

    def _begin(self, candle: Candle) -> None:
        """Begin a chain where there is equity."""
        assert candle.open is not None
        if candle.net_deposits + candle.open > 0:
            self.index = self._high = _ONE
            self.chained_from = candle.opened_at
            self.fall = self.fall or _ZERO
            self._chain += 1


class _Water:
    """The high-water mark of total P&L, and the time below it."""

    def __init__(self, first: Candle) -> None:
        assert first.open is not None
        self.peak = self.pnl = first.open
        self.peak_at = first.opened_at
        self.fall = 0
        self.longest = timedelta()

    def take(self, candle: Candle) -> None:
        assert candle.high is not None
        assert candle.low is not None
        close = candle.close.pnl
        assert close is not None
        self.fall = max(self.fall, candle.fall, self.peak - candle.low)
        if candle.high >= self.peak:
            if self.pnl < self.peak:
                self.longest = max(self.longest, candle.at - self.peak_at)
            self.peak, self.peak_at = candle.high, candle.at
        self.pnl = close

    def under_water(self, end: datetime) -> timedelta:
        """Since when the curve is below its high, at the end."""
        return end - self.peak_at if self.pnl < self.peak else timedelta()


def _fraction_below(high: Decimal, value: Decimal) -> Decimal:
    return max(_ZERO, DIGITS.divide(DIGITS.subtract(high, value), high))
