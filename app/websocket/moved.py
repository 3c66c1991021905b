"""What prices moved, written for many connections at once: rows and totals of users.

A row or a total by itself costs a dozen calls; a few hundred connections
together cost the same array operations as one, and what is left for each row is
joining its text. "Since" is the ordinal of the last commit a connection has seen.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.decimals import format_units
from app.domain.valuation import fraction
from app.domain.wide import High, Low, Mask, add, join, subtract
from app.domain.wide_text import format_fractions, format_wide
from app.websocket import reporting
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
    rows = [all_rows[index] for index in moved.tolist()]
    texts = _write_rows(lane, rows, all_seats[moved])
    if any(view.foreign for view, _ in asked):
        texts = [text if row.pair is None else _converted_row(lane, row) for text, row in zip(texts, rows, strict=True)]
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
    if lane.mirror.rated > oldest and any(view.foreign for view, _ in asked):
        rated = [reporting.rate_changed_at(lane, row) for view, _ in asked for row in view.ordered_rows]
        moved |= np.array(rated, np.int64) > since
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


def _unvalued(row: Row, converted: str = "") -> str:
    """A row whose symbol has no price, or whose figure has not come."""
    return (
        f'{row.head}"mark_price":null,"unrealized_pnl":null,"unrealized_pnl_pct":null{converted},"is_stale":false,'
        f'"version":{row.end}'
    )


def _converted_row(lane: Lane, row: Row) -> str:
    """A row that settles in another asset than its user reports in, with what of it is reported."""
    value, mark = unrealized(lane, row), row.mark
    converted = f",{reporting.reported_fields(lane, row, value)}"
    if value is None or mark.price is None:
        return _unvalued(row, converted)
    is_old = mark.is_stale or lane.is_silent or reporting.is_stale(lane, row)
    share = quoted(fraction(value, row.cost_basis))
    return (
        f'{row.head}{mark.before}{format_units(value)}","unrealized_pnl_pct":{share}{converted}'
        f"{after_fraction(is_stale=is_old)}{row.end}"
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
        texts[index] = _plain_totals(lane, asked[index])
    chosen = np.flatnonzero(due & ~is_plain)
    if len(chosen):
        indexes = chosen.tolist()
        written = _write_totals(lane, [asked[index] for index in indexes], seats[chosen])
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
    if lane.mirror.rated > oldest:
        due |= [reporting.rates_changed(lane, view, last) for view, last in asked]
    return due


def _is_vast(high: High) -> Mask:
    return (high ^ (high >> 63)) >= _VAST


def _write_totals(lane: Lane, asked: list[Seen], seats: Seats) -> list[str]:
    figures = lane.mirror.user_unrealized
    unrealized = figures.high[seats], figures.low[seats]
    total = add(*unrealized, figures.realized_high[seats], figures.realized_low[seats])
    day = subtract(*total, figures.base_high[seats], figures.base_low[seats])
    highs, lows = zip(unrealized, total, day, strict=True)
    written = format_wide(np.concatenate(highs), np.concatenate(lows))
    count = len(asked)
    totals = written[count : 2 * count]
    balances = [
        _balances(lane, seen, of_all, partial(_at, total, index))
        for index, (seen, of_all) in enumerate(zip(asked, totals, strict=True))
    ]
    return [
        f'{{"unrealized_pnl":"{of_rows}","realized_pnl":"{view.realized_text}","total_pnl":"{of_all}",'
        f'"day_pnl":{quoted(None if view.day_base is None else of_day)},{of_cash},{remarks(lane, view)}'
        for (view, _), of_rows, of_all, of_day, of_cash in zip(
            asked, written[:count], totals, written[2 * count :], balances, strict=True
        )
    ]


def _at(values: tuple[High, Low], index: int) -> int:
    return join(int(values[0][index]), int(values[1][index]))


def _plain_totals(lane: Lane, seen: Seen) -> str:
    view = seen.view
    unrealized = user_unrealized(lane, view)
    total = unrealized + view.realized_pnl
    shown = format_units(total)
    day = None if view.day_base is None else format_units(total - view.day_base)
    return (
        f'{{"unrealized_pnl":"{format_units(unrealized)}","realized_pnl":"{view.realized_text}",'
        f'"total_pnl":"{shown}","day_pnl":{quoted(day)},'
        f"{_balances(lane, seen, shown, lambda: total)},{remarks(lane, view)}"
    )


def _balances(lane: Lane, seen: Seen, shown: str, total: Callable[[], int]) -> str:
    """Equity; and, when anything of the user may have changed, what never moves by itself.

    ``shown`` is the total P&L as text: equity too, where no money came or went.
    """
    view = seen.view
    effect = reporting.effect(lane, view)[0] if view.balances else 0
    if view.net_deposits or effect:
        shown = format_units(view.net_deposits + total() + effect)
    text = f'"net_deposits":"{format_units(view.net_deposits)}",' if view.changed > seen.since else ""
    if text or view.balances:
        text += f'"fx_pnl":"{format_units(effect)}",'
    return f'{text}"equity":"{shown}"'


def remarks(lane: Lane, view: UserView) -> str:
    """What is said of a user's totals as a whole; written anew only when it may have changed."""
    newest = max(view.changed, lane.mirror.flagged, lane.silenced, lane.mirror.rated if view.is_converted else 0)
    known = view.remarks
    if known is not None and known[0] == newest:
        return known[1]
    symbols = unpriced(lane, view)
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
    rows = view.rows.values()
    return sum(reporting.unrealized_reported(lane, row, unrealized(lane, row)) or 0 for row in rows)


def unrealized(lane: Lane, row: Row) -> int | None:
    """A row's unrealised P&L, or None where its symbol has no price (or its figure has not come)."""
    return None if row.mark.price is None else lane.mirror.row_unrealized.value(row.slot)


def unpriced(lane: Lane, view: UserView) -> list[str]:
    """Symbols that are missing from a user's totals for want of a price or a rate, and assets without a rate."""
    names = {row.symbol for row in view.rows.values() if row.mark.price is None}
    if view.is_converted:
        names |= reporting.effect(lane, view)[1]
        names.update(
            row.symbol for row in view.rows.values() if row.pair is not None and reporting.rate_of(lane, row) is None
        )
    return sorted(names)


def is_stale(lane: Lane, view: UserView) -> bool:
    """Whether a user's totals hold a price or a rate that is too old."""
    if lane.is_silent:
        return bool(view.rows)
    if not view.foreign:
        return any(mark.is_stale for mark in view.marks)
    return any(
        row.mark.is_stale or reporting.is_stale(lane, row)
        for row in view.rows.values()
        if reporting.reported(lane, row, unrealized(lane, row)) is not None
    )
