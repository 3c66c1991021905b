"""The frames that carry state: what a connection has not seen, joined from encoded parts.

Everything is text until the whole frame is known, since shared parts (a price)
are encoded once for everybody and a join of strings is the cheapest join there
is. "Since" is always the ordinal of the last commit a connection has seen.
"""

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from app.domain.decimals import format_units
from app.domain.positions import Realized
from app.domain.statements import totals_statement
from app.domain.valuation import Totals, exposure_of, fraction
from app.websocket import reporting
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.lane import Lane
from app.websocket.mirror import Mark, Row, UserView
from app.websocket.moved import (
    Seen,
    is_stale,
    moved_of,
    moved_rows,
    moved_totals,
    unpriced,
    unrealized,
    user_unrealized,
)
from app.websocket.state import StreamState, WatchedPrice

_event_ms = attrgetter("event_ms")


class Interest(NamedTuple):
    """What an update may hold for one connection, which has seen everything up to the commit ``since``."""

    lane: Lane
    """Whose place in the stream the frame has: the lane of the user."""
    watched: Collection[WatchedPrice]
    view: UserView | None
    pnl: bool
    positions: bool
    since: int
    pnl_since: int
    positions_since: int
    """A snapshot may have shown more of a channel than was seen of the others."""
    merged: int
    """How many price flushes the frame stands for."""


def updates(interests: Sequence[Interest]) -> list[str | None]:
    """For each the ``update`` frame of all that changed since, or None where nothing did."""
    lanes = {interest.lane for interest in interests}
    if len(lanes) == 1:
        return _updates(lanes.pop(), interests)
    found: list[str | None] = [None] * len(interests)
    for lane in lanes:
        indexes = [index for index, interest in enumerate(interests) if interest.lane is lane]
        texts = _updates(lane, [interests[index] for index in indexes])
        for index, text in zip(indexes, texts, strict=True):
            found[index] = text
    return found


def _updates(lane: Lane, interests: Sequence[Interest]) -> list[str | None]:
    """The same for users of one lane."""
    totals = iter(moved_totals(lane, [Seen(one.view, one.pnl_since) for one in interests if one.view and one.pnl]))
    rows = iter(
        _changed_rows(lane, [Seen(one.view, one.positions_since) for one in interests if one.view and one.positions])
    )
    place = f'{{"type":"update",{_place(lane)},"event_ms":'
    found: list[str | None] = []
    for _, watched, view, pnl, positions, since, _, _, merged in interests:
        text, event_ms = "", 0
        prices = [one for one in watched if one.changed > since]
        if prices:
            event_ms = max(map(_event_ms, prices))
            text = f',"prices":[{",".join([one.text or one.encoded() for one in prices])}]'
        if pnl and view and (total := next(totals)):
            text += f',"pnl":{total}'
        if positions and view and (changed := next(rows)):
            text += f',"positions":[{",".join(changed)}]'
        if text:
            text = f'{place}{event_ms or lane.event_ms},"merged":{merged if merged > 1 else 1}{text}}}'
        found.append(text or None)
    return found


def _changed_rows(lane: Lane, asked: Sequence[Seen]) -> list[list[str]]:
    """Rows of which only the price moved in short, those whose structure changed whole, closed ones last."""
    moved = iter(moved_rows(lane, [one for one in asked if one.view.changed <= one.since]))
    return [next(moved) if view.changed <= since else _restructured(lane, view, since) for view, since in asked]


def _restructured(lane: Lane, view: UserView, since: int) -> list[str]:
    moved = iter(moved_rows(lane, [Seen(view, since)])[0])
    rows: list[str] = []
    for row, has_moved in zip(view.ordered_rows, moved_of(lane, view, since), strict=True):
        text = next(moved) if has_moved else None
        if row.changed > since:
            rows.append(_whole_row(lane, row))
        elif text is not None:
            rows.append(text)
    rows.extend(_closed_row(lane, row) for ordinal, row in view.closed or () if ordinal > since)
    return rows


def prices_snapshot(lane: Lane, watched: Iterable[WatchedPrice]) -> str:
    """The ``snapshot`` of some symbols; one without a price is left out until it has one."""
    rows = ",".join(one.encoded() for one in watched if one.price is not None)
    return f'{{"type":"snapshot","channel":"prices",{_place(lane)},"prices":[{rows}]}}'


def pnl_snapshot(state: StreamState, view: UserView) -> str:
    """The ``snapshot`` of a user's totals."""
    figures = json_text(totals_statement(totals(state, view)))
    return f'{{"type":"snapshot","channel":"pnl",{_place(state.lane_of(view.user_id))},"pnl":{figures}}}'


def positions_snapshot(state: StreamState, view: UserView) -> str:
    """The ``snapshot`` of a user's open positions."""
    lane = state.lane_of(view.user_id)
    rows = ",".join(_whole_row(lane, row) for row in view.rows.values())
    return f'{{"type":"snapshot","channel":"positions",{_place(lane)},"positions":[{rows}]}}'


def totals(state: StreamState, view: UserView) -> Totals:
    """A user's totals, as at the stream's position."""
    lane = state.lane_of(view.user_id)
    long_exposure = short_exposure = 0
    ages: list[int] = []
    for row in view.rows.values():
        parts = reporting.reported(lane, row, unrealized(lane, row))
        if parts is None:
            continue
        exposure = exposure_of(parts[0], is_inverse=row.is_inverse)
        long_exposure += max(exposure, 0)
        short_exposure += min(exposure, 0)
        rate = reporting.rate_of(lane, row)
        fresh_ms = row.mark.fresh_ms if rate is None else min(row.mark.fresh_ms, rate.fresh_ms)
        ages.append(max(0, lane.as_of_ms - fresh_ms))
    effect, _ = reporting.effect(lane, view)
    return Totals(
        currency=view.currency,
        unrealized_pnl=user_unrealized(lane, view),
        realized=Realized(gross=view.realized_pnl_gross, fees=view.fees, funding=view.funding),
        fx_pnl=effect,
        net_deposits=view.net_deposits,
        day_base=view.day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(unpriced(lane, view)),
        fees_are_complete=view.fees_are_complete,
        is_stale=is_stale(lane, view),
        oldest_price_age_ms=max(ages, default=None),
    )


def _place(lane: Lane) -> str:
    return f'"epoch":{lane.position.epoch},"seq":{lane.position.seq},"as_of_ms":{lane.as_of_ms}'


def _whole_row(lane: Lane, row: Row) -> str:
    value = unrealized(lane, row)
    mark = row.mark
    is_old = value is not None and (mark.is_stale or lane.is_silent or reporting.is_stale(lane, row))
    return _joined(lane, row, value, mark, is_old=is_old)


def _closed_row(lane: Lane, row: Row) -> str:
    """A closed position: worth nothing, without a mark, and all of its P&L is realised."""
    return _joined(lane, row, 0, None, is_old=False)


def _joined(lane: Lane, row: Row, value: int | None, mark: Mark | None, *, is_old: bool) -> str:
    if mark is None or mark.price is None:
        known = '"mark_price":null,"price_source":null,"mark_age_ms":null'
    else:
        age_ms = max(0, lane.as_of_ms - mark.fresh_ms)
        known = f'"mark_price":"{mark.price}","price_source":{quoted(mark.source)},"mark_age_ms":{age_ms}'
    reported = reporting.reported_fields(lane, row, value)
    return f'{row.statement},{known},{_moving_fields(row, value)},{reported},"is_stale":{flag(is_old)}}}'


def _moving_fields(row: Row, value: int | None) -> str:
    if value is None:
        return '"market_value":null,"unrealized_pnl":null,"unrealized_pnl_pct":null,"total_pnl":null'
    return (
        f'"market_value":"{format_units(value + row.cost_basis)}","unrealized_pnl":"{format_units(value)}",'
        f'"unrealized_pnl_pct":{quoted(fraction(value, row.cost_basis))},'
        f'"total_pnl":"{format_units(value + row.realized_pnl)}"'
    )
