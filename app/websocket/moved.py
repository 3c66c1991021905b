"""What prices moved, written for many connections at once: rows and totals of users.

A row or a total by itself costs a dozen calls; a few hundred connections
together cost the same array operations as one, and what is left for each row is
joining its text. "Since" is the ordinal of the last commit a connection has seen.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.decimals import format_units
from app.domain.wide import High, Mask
from app.domain.wide_text import add, format_fractions, format_wide, negate
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.lane import Lane
from app.websocket.mirror import Row, UserView, after_fraction

_STALE: Final = after_fraction(is_stale=True)
_VAST: Final = 2**61
"""High parts from here on (2^125 units, 4e19 in money) may not be added in 128 bits."""


class Seen(NamedTuple):
    """A user, and the last commit that a connection of his has seen."""

    view: UserView
    since: int


Seats: TypeAlias = NDArray[np.intp]


def moved_rows(lane: Lane, asked: Sequence[Seen]) -> list[list[str]]:
    """For each user the open rows whose figure, or what is said about it, changed: in short, as JSON."""
    if not asked:
        return []
    figures = lane.mirror.row_unrealized
    seats = [view.seats_in(figures) for view, _ in asked]
    ends = np.cumsum([len(each) for each in seats])
    all_seats = np.concatenate(seats)
    moved = np.flatnonzero(_has_moved(lane, asked, all_seats, ends))
    if not len(moved):
        return [[] for _ in asked]
    all_rows = list(chain.from_iterable(view.ordered_rows for view, _ in asked))
    texts = _write_rows(lane, [all_rows[index] for index in moved.tolist()], all_seats[moved])
    bounds = [0, *np.searchsorted(moved, ends).tolist()]
    return [texts[first:end] for first, end in pairwise(bounds)]


def moved_of(lane: Lane, view: UserView, since: int) -> list[bool]:
    """Whether each open row, in order, has moved."""
    seats = view.seats_in(lane.mirror.row_unrealized)
    moved: list[bool] = _has_moved(lane, [Seen(view, since)], seats, np.array([len(seats)])).tolist()
    return moved


def _has_moved(lane: Lane, asked: Sequence[Seen], seats: Seats, ends: Seats) -> Mask:
    changed = lane.mirror.row_unrealized.changed
    since = np.repeat([one.since for one in asked], np.diff(ends, prepend=0))
    moved: Mask = changed[seats] > since
    oldest = min(one.since for one in asked)
    if lane.silenced > oldest:
        moved |= lane.silenced > since
    if lane.mirror.flagged > oldest:
        flagged = [row.mark.flagged for view, _ in asked for row in view.ordered_rows]
        moved |= np.array(flagged, np.int64) > since
    return moved


def _write_rows(lane: Lane, rows: list[Row], seats: Seats) -> list[str]:
    figures = lane.mirror.row_unrealized
    high, low = figures.high[seats], figures.low[seats]
    values: list[str | None] = [*format_wide(high, low)]
    shares = format_fractions(high, low, figures.cost[seats], lambda index: rows[index].cost_basis)
    for index in np.flatnonzero(figures.changed[seats] == 0).tolist():
        values[index] = None
    is_silent = lane.is_silent
    return [
        f'{row.head}{mark.before}{value}","unrealized_pnl_pct":{share}{_STALE if is_silent else mark.after}{row.end}'
        if value is not None and mark.price is not None
        else _unvalued(row)
        for row, value, share in zip(rows, values, shares, strict=True)
        for mark in (row.mark,)
    ]


def _unvalued(row: Row) -> str:
    """A row whose symbol has no price, or whose figure has not come."""
    return (
        f'{row.head}"mark_price":null,"unrealized_pnl":null,"unrealized_pnl_pct":null,"is_stale":false,'
        f'"version":{row.end}'
    )


def moved_totals(lane: Lane, asked: Sequence[Seen]) -> list[str | None]:
    """For each user the ``PnlUpdate``, as JSON, or None where nothing in it changed."""
    if not asked:
        return []
    seats = np.array([view.seat for view, _ in asked], np.intp)
    due = _is_due(lane, asked, seats)
    texts: list[str | None] = [None] * len(asked)
    figures = lane.mirror.user_unrealized
    is_plain = due & ((figures.changed[seats] == 0) | _is_vast(figures.high[seats]))
    is_plain |= due & (_is_vast(figures.realized_high[seats]) | _is_vast(figures.base_high[seats]))
    for index in np.flatnonzero(is_plain).tolist():
        texts[index] = _plain_totals(lane, asked[index].view)
    chosen = np.flatnonzero(due & ~is_plain)
    if len(chosen):
        indexes = chosen.tolist()
        written = _write_totals(lane, [asked[index].view for index in indexes], seats[chosen])
        for index, text in zip(indexes, written, strict=True):
            texts[index] = text
    return texts


def _is_due(lane: Lane, asked: Sequence[Seen], seats: Seats) -> Mask:
    since = np.array([one.since for one in asked])
    due: Mask = lane.mirror.user_unrealized.changed[seats] > since
    due |= np.array([view.changed for view, _ in asked]) > since
    due |= lane.silenced > since
    oldest = int(since.min())
    if lane.mirror.flagged > oldest:
        due |= [any(mark.flagged > last for mark in view.marks) for view, last in asked]
    return due


def _is_vast(high: High) -> Mask:
    return (high ^ (high >> 63)) >= _VAST


def _write_totals(lane: Lane, views: list[UserView], seats: Seats) -> list[str]:
    figures = lane.mirror.user_unrealized
    unrealized = figures.high[seats], figures.low[seats]
    total = add(*unrealized, figures.realized_high[seats], figures.realized_low[seats])
    day = add(*total, *negate(figures.base_high[seats], figures.base_low[seats]))
    highs, lows = zip(unrealized, total, day, strict=True)
    written = format_wide(np.concatenate(highs), np.concatenate(lows))
    count = len(views)
    return [
        f'{{"unrealized_pnl":"{of_rows}","realized_pnl":"{view.realized_text}","total_pnl":"{of_all}",'
        f'"day_pnl":{quoted(None if view.day_base is None else of_day)},"equity":"{of_all}",{remarks(lane, view)}'
        for view, of_rows, of_all, of_day in zip(
            views, written[:count], written[count : 2 * count], written[2 * count :], strict=True
        )
    ]


def _plain_totals(lane: Lane, view: UserView) -> str:
    unrealized = user_unrealized(lane, view)
    total = unrealized + view.realized_pnl
    day = None if view.day_base is None else format_units(total - view.day_base)
    return _totals(format_units(unrealized), view.realized_text, format_units(total), quoted(day), remarks(lane, view))


def _totals(unrealized: str, realized: str, total: str, day: str, remarks: str) -> str:
    return (
        f'{{"unrealized_pnl":"{unrealized}","realized_pnl":"{realized}","total_pnl":"{total}",'
        f'"day_pnl":{day},"equity":"{total}",{remarks}'
    )


def remarks(lane: Lane, view: UserView) -> str:
    """What is said of a user's totals as a whole; written anew only when it may have changed."""
    newest = max(view.changed, lane.mirror.flagged, lane.silenced)
    known = view.remarks
    if known is not None and known[0] == newest:
        return known[1]
    symbols = unpriced(view)
    text = (
        f'"is_complete":{flag(view.fees_are_complete and not symbols)},"is_stale":{flag(is_stale(lane, view))},'
        f'"unpriced":{json_text(symbols) if symbols else "[]"}}}'
    )
    view.remarks = (newest, text)
    return text


def user_unrealized(lane: Lane, view: UserView) -> int:
    """The user's total as it came; before it ever came, the sum of the rows that are known."""
    value = lane.mirror.user_unrealized.value_at(view.seat)
    if value is not None:
        return value
    return sum(unrealized(lane, row) or 0 for row in view.rows.values() if row.counts)


def unrealized(lane: Lane, row: Row) -> int | None:
    """A row's unrealised P&L, or None where its symbol has no price (or its figure has not come)."""
    return None if row.mark.price is None else lane.mirror.row_unrealized.value(row.slot)


def unpriced(view: UserView) -> list[str]:
    """Symbols that are missing from a user's totals."""
    without = {mark.symbol for mark in view.marks if mark.price is None}
    return sorted(without | view.foreign_symbols)


def is_stale(lane: Lane, view: UserView) -> bool:
    """Whether a user's totals hold a price that is too old."""
    if lane.is_silent:
        return bool(view.rows)
    return any(mark.is_stale for mark in view.marks)
