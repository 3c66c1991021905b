"""Profit and loss by day: the change between two midnights, so that days add up to the whole.

A change is taken between the newest known figures at both ends. Deposits and
withdrawals are flows, no profit: ``equity at the end - equity at the start =
pnl + fx_pnl + flows``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from app.domain.candles import Figures
from app.domain.day_boundaries import LocalDay
from app.domain.valuation import fraction

LONGEST_GAP = timedelta(minutes=16)
"""Every quarter of an hour is sampled, changed or not; a minute more for the writing. Older is not of the moment."""


class Known(msgspec.Struct, frozen=True):
    """The newest figures that are known at a moment, and when they were sampled."""

    at: datetime
    figures: Figures


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What changed between two moments, in units of 1e-18.

    ``pnl`` is the change of realised and unrealised together, ``fees`` what was
    charged; ``pct`` is ``pnl + fx_pnl`` over the equity at the start and what
    was deposited since. ``is_complete``: the figures are, and were sampled at the
    moments asked for.
    """

    start: datetime
    end: datetime
    pnl: int
    realized_pnl: int
    unrealized_change: int
    fees: int
    funding: int
    fx_pnl: int
    flows: int
    pct: str | None
    is_complete: bool


class DayPnl(msgspec.Struct, frozen=True, kw_only=True):
    """A day's change, None where one end is not known. ``revision`` grows when the ledger corrects what is past."""

    day: LocalDay
    change: Change | None
    revision: int


def change_between(start: datetime, end: datetime, before: Known | None, after: Known | None) -> Change | None:
    """The change between two moments, or None where figures of either are not known."""
    if before is None or after is None:
        return None
    old, new = before.figures, after.figures
    if old.unrealized_pnl is None or new.unrealized_pnl is None or old.fx_pnl is None or new.fx_pnl is None:
        return None
    realized = new.realized_pnl - old.realized_pnl
    unrealized = new.unrealized_pnl - old.unrealized_pnl
    fx_pnl = new.fx_pnl - old.fx_pnl
    flows = new.net_deposits - old.net_deposits
    base = (old.equity or 0) + max(0, flows)
    return Change(
        start=before.at,
        end=after.at,
        pnl=realized + unrealized,
        realized_pnl=realized,
        unrealized_change=unrealized,
        fees=new.fees - old.fees,
        funding=new.funding - old.funding,
        fx_pnl=fx_pnl,
        flows=flows,
        pct=fraction(realized + unrealized + fx_pnl, base) if base > 0 else None,
        is_complete=(old.is_complete and new.is_complete and is_timely(before.at, start) and is_timely(after.at, end)),
    )


def day_pnls(
    days: Sequence[LocalDay],
    known: Mapping[datetime, Known],
    now: datetime,
    revisions: Sequence[tuple[datetime, int]] = (),
) -> list[DayPnl]:
    """A row per day; the day of ``now`` ends there. ``revisions`` are ``(since, how often)``."""
    return [
        DayPnl(
            day=day,
            change=change_between(day.start, min(day.end, now), known.get(day.start), known.get(min(day.end, now))),
            revision=1 + sum(count for since, count in revisions if since < day.end),
        )
        for day in days
    ]


def is_timely(sampled: datetime, moment: datetime) -> bool:
    """Whether figures were sampled so shortly before a moment that they stand for it."""
    return moment - sampled <= LONGEST_GAP
