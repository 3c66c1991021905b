"""The frames that carry state: what a connection has not seen, joined from encoded parts.

Everything is text until the whole frame is known, since shared parts (a price)
are encoded once for everybody and a join of strings is the cheapest join there
is. "Since" is always the ordinal of the last commit a connection has seen.
"""

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from app.domain.decimals import format_units
from app.domain.statements import totals_statement
from app.domain.valuation import Totals, fraction
from app.websocket.json_text import json_text
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
    totals = iter(moved_totals(lane, [Seen(one.view, one.since) for one in interests if one.view and one.pnl]))
    rows = iter(_changed_rows(lane, [Seen(one.view, one.since) for one in interests if one.view and one.positions]))
    place = _place(lane)
    found: list[str | None] = []
    for interest in interests:
        _, watched, view, pnl, positions, since, merged = interest
        prices = [one for one in watched if one.changed > since]
        total = next(totals) if pnl and view else None
        texts = next(rows) if positions and view else None
        if not (prices or total or texts):
            found.append(None)
            continue
        event_ms = (max(map(_event_ms, prices)) if prices else 0) or lane.event_ms
        found.append(
            f'{{"type":"update",{place},"event_ms":{event_ms},"merged":{merged if merged > 1 else 1}'
            f"{_prices(prices)}{_pnl(total)}{_positions(texts)}}}"
        )
    return found


def _prices(changed: list[WatchedPrice]) -> str:
    return f',"prices":[{",".join([one.text or one.encoded() for one in changed])}]' if changed else ""


def _pnl(total: str | None) -> str:
    return f',"pnl":{total}' if total else ""


def _positions(rows: list[str] | None) -> str:
    return f',"positions":[{",".join(rows)}]' if rows else ""


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
        value = unrealized(lane, row)
        if value is None or not row.counts:
            continue
        market_value = value + row.cost_basis
        long_exposure += max(market_value, 0)
        short_exposure += min(market_value, 0)
        ages.append(max(0, lane.as_of_ms - row.mark.fresh_ms))
    return Totals(
        currency=view.currency,
        unrealized_pnl=user_unrealized(lane, view),
        realized_pnl_gross=view.realized_pnl_gross,
        fees=view.fees,
        funding=view.funding,
        day_base=view.day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(unpriced(view)),
        fees_are_complete=view.fees_are_complete,
        is_stale=is_stale(lane, view),
        oldest_price_age_ms=max(ages, default=None),
    )


def _place(lane: Lane) -> str:
    return f'"epoch":{lane.position.epoch},"seq":{lane.position.seq},"as_of_ms":{lane.as_of_ms}'


def _whole_row(lane: Lane, row: Row) -> str:
    value = unrealized(lane, row)
    is_old = value is not None and (row.mark.is_stale or lane.is_silent)
    return _joined(row, _mark_fields(lane, row.mark) | _moving_fields(row, value) | {"is_stale": is_old})


def _closed_row(lane: Lane, row: Row) -> str:
    """A closed position: worth nothing, and all of its P&L is realised."""
    return _joined(row, _mark_fields(lane, row.mark) | _moving_fields(row, 0) | {"is_stale": False})


def _joined(row: Row, moving: dict[str, Any]) -> str:
    return f"{row.statement},{json_text(moving)[1:]}"


def _mark_fields(lane: Lane, mark: Mark) -> dict[str, Any]:
    if mark.price is None:
        return {"mark_price": None, "price_source": None, "mark_age_ms": None}
    age_ms = max(0, lane.as_of_ms - mark.fresh_ms)
    return {"mark_price": mark.price, "price_source": mark.source, "mark_age_ms": age_ms}


def _moving_fields(row: Row, value: int | None) -> dict[str, Any]:
    if value is None:
        return dict.fromkeys(("market_value", "unrealized_pnl", "unrealized_pnl_pct", "total_pnl"))
    return {
        "market_value": format_units(value + row.cost_basis),
        "unrealized_pnl": format_units(value),
        "unrealized_pnl_pct": fraction(value, row.cost_basis),
        "total_pnl": format_units(value + row.realized_pnl),
    }
