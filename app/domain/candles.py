"""What an account was worth over time: samples, and candles that sum up runs of them.

Kept is total P&L (realised, unrealised and currency effect together), which no
deposit moves; equity is that plus net deposits. A candle spans samples with the
*same* net deposits, so an hour with a deposit has two. Within a candle equity is
then P&L plus a constant, and the largest fall inside it, absolute and relative,
can be kept and combined without loss: a drawdown read from days is the drawdown
of the minutes.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime
from itertools import groupby

import msgspec

PPT = 10**12
"""Relative falls are counted in parts of a million million, cut off."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What an account is worth at a moment, in units of 1e-18 of its currency; None is unknown.

    ``is_stale``: a price in it was older than the limit. ``is_complete``: nothing
    is left out for want of a price, a rate or a fee's rate.
    """

    realized_pnl_gross: int = 0
    fees: int = 0
    funding: int = 0
    unrealized_pnl: int | None = 0
    fx_pnl: int | None = 0
    net_deposits: int = 0
    is_complete: bool = True
    is_stale: bool = False

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees + self.funding

    @property
    def pnl(self) -> int | None:
        """Total P&L with the currency effect."""
        if self.unrealized_pnl is None or self.fx_pnl is None:
            return None
        return self.realized_pnl + self.unrealized_pnl + self.fx_pnl

    @property
    def equity(self) -> int | None:
        pnl = self.pnl
        return None if pnl is None else self.net_deposits + pnl

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            realized_pnl_gross=self.realized_pnl_gross + other.realized_pnl_gross,
            fees=self.fees + other.fees,
            funding=self.funding + other.funding,
            unrealized_pnl=_sum(self.unrealized_pnl, other.unrealized_pnl),
            fx_pnl=_sum(self.fx_pnl, other.fx_pnl),
            net_deposits=self.net_deposits + other.net_deposits,
            is_complete=self.is_complete and other.is_complete,
            is_stale=self.is_stale or other.is_stale,
        )


NOTHING = Figures()


class Candle(msgspec.Struct, frozen=True, kw_only=True):
    """Samples from ``opened_at`` to ``at``, both included, with the same net deposits.

    ``open``, ``high`` and ``low`` are of total P&L with the currency effect, None
    where no sample knew it. ``fall`` is the largest drop from one sample to a
    later one, ``fall_ppt`` the largest in relation to the equity it fell from
    (None where that was never positive). ``close`` is the last sample that is
    known, else the last; its flags are those of all samples together.
    """

    opened_at: datetime
    at: datetime
    open: int | None
    high: int | None
    low: int | None
    fall: int
    fall_ppt: int | None
    close: Figures

    @property
    def net_deposits(self) -> int:
        return self.close.net_deposits


def sample(at: datetime, figures: Figures) -> Candle:
    """The candle of one sample."""
    pnl, equity = figures.pnl, figures.equity
    is_positive = equity is not None and equity > 0
    return Candle(
        opened_at=at,
        at=at,
        open=pnl,
        high=pnl,
        low=pnl,
        fall=0,
        fall_ppt=0 if is_positive else None,
        close=figures,
    )


def combine(candles: Iterable[Candle], bucket_of: Callable[[datetime], Hashable]) -> list[Candle]:
    """One candle per bucket and run of equal net deposits, from finer ones in order of time."""
    return [
        _join(list(run))
        for _, bucket in groupby(candles, key=lambda candle: bucket_of(candle.at))
        for _, run in groupby(bucket, key=lambda candle: candle.net_deposits)
    ]


def _join(candles: Sequence[Candle]) -> Candle:
    known = [candle for candle in candles if candle.high is not None]
    fall, fall_ppt = _largest_fall(known)
    last = (known or candles)[-1].close
    close = msgspec.structs.replace(
        last,
        is_complete=all(candle.close.is_complete for candle in candles),
        is_stale=any(candle.close.is_stale for candle in candles),
    )
    return Candle(
        opened_at=candles[0].opened_at,
        at=candles[-1].at,
        open=known[0].open if known else None,
        high=max((candle.high for candle in known if candle.high is not None), default=None),
        low=min((candle.low for candle in known if candle.low is not None), default=None),
        fall=fall,
        fall_ppt=fall_ppt,
        close=close,
    )


def _largest_fall(candles: Sequence[Candle]) -> tuple[int, int | None]:
    """The largest fall inside any candle, or from the peak of earlier ones to the low of a later one."""
    fall = 0
    fall_ppt: int | None = None
    peak: int | None = None
    for candle in candles:
        assert candle.high is not None
        assert candle.low is not None
        fall, fall_ppt = max(fall, candle.fall), _larger(fall_ppt, candle.fall_ppt)
        if peak is not None:
            fall = max(fall, peak - candle.low)
            fall_ppt = _larger(fall_ppt, relative_fall(peak, candle.low, candle.net_deposits))
        peak = candle.high if peak is None else max(peak, candle.high)
    return fall, fall_ppt


def relative_fall(peak: int, low: int, net_deposits: int) -> int | None:
    """A fall of P&L in parts of the equity at its peak; None where that is not positive."""
    equity = peak + net_deposits
    return max(0, peak - low) * PPT // equity if equity > 0 else None


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
