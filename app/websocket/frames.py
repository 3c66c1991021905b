"""The frames that carry state: what a connection has not seen, joined from encoded parts.

Everything is text until the whole frame is known, since shared parts (a price)
are encoded once for everybody and a join of strings is the cheapest join there
is. "Since" is always the ordinal of the last commit a connection has seen.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from app.domain.decimals import format_units
from app.domain.positions import Realized
from app.domain.statements import totals_statement
from app.domain.valuation import Totals, fraction
from app.websocket import reporting
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.lane import Lane
from app.websocket.mirror import Mark, Row, UserView
from app.websocket.state import StreamState, WatchedPrice


class Interest(NamedTuple):
    """What an update may hold for one connection."""

    watched: Iterable[WatchedPrice]
    view: UserView | None
    pnl: bool
    positions: bool
    lane: Lane | None = None
    """Whose place in the stream the frame has: the lane of the user, which goes without saying if there is one."""


def update(state: StreamState, interest: Interest, since: int, merged: int) -> str | None:
    """The ``update`` frame of all that changed since a commit, or None where nothing did."""
    prices, event_ms = _changed_prices(interest.watched, since)
    parts = [f'"prices":[{",".join(prices)}]'] if prices else []
    view = interest.view
    lane = interest.lane or state.only_lane
    if view is not None:
        if interest.pnl and pnl_changed(lane, view, since):
            parts.append(f'"pnl":{{{_pnl_fields(lane, view, since)}}}')
        if interest.positions:
            rows = _changed_rows(lane, view, since)
            if rows:
                parts.append(f'"positions":[{",".join(rows)}]')
    if not parts:
        return None
    return (
        f'{{"type":"update",{_place(lane)},"event_ms":{event_ms or lane.event_ms},'
        f'"merged":{max(merged, 1)},{",".join(parts)}}}'
    )


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


def pnl_changed(lane: Lane, view: UserView, since: int) -> bool:
    """Whether a user's totals, or what is said about them, changed since a commit."""
    mirror = lane.mirror
    return (
        view.changed > since
        or mirror.user_unrealized.changed_at(view.slot) > since
        or lane.silenced > since
        or (mirror.flagged > since and any(_flagged_at(mirror.marks.get(name)) > since for name in view.marks))
        or reporting.rates_changed(lane, view, since)
    )


def totals(state: StreamState, view: UserView) -> Totals:
    """A user's totals, as at the stream's position."""
    lane = state.lane_of(view.user_id)
    mirror = lane.mirror
    long_exposure = short_exposure = 0
    ages: list[int] = []
    for row in view.rows.values():
        parts = reporting.reported(lane, row, _unrealized(lane, row))
        if parts is None:
            continue
        long_exposure += max(parts[0], 0)
        short_exposure += min(parts[0], 0)
        rate = reporting.rate_of(lane, row)
        fresh_ms = mirror.marks[row.mark].fresh_ms
        ages.append(max(0, lane.as_of_ms - (fresh_ms if rate is None else min(fresh_ms, rate.fresh_ms))))
    effect, _ = reporting.effect(lane, view)
    return Totals(
        currency=view.currency,
        unrealized_pnl=_user_unrealized(lane, view),
        realized=Realized(gross=view.realized_pnl_gross, fees=view.fees, funding=view.funding),
        fx_pnl=effect,
        net_deposits=view.net_deposits,
        day_base=view.day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(_unpriced(lane, view)),
        fees_are_complete=view.fees_are_complete,
        is_stale=_is_stale(lane, view),
        oldest_price_age_ms=max(ages, default=None),
    )


def _place(lane: Lane) -> str:
    return f'"epoch":{lane.position.epoch},"seq":{lane.position.seq},"as_of_ms":{lane.as_of_ms}'


def _changed_prices(watched: Iterable[WatchedPrice], since: int) -> tuple[list[str], int]:
    """Encoded rows, and the newest exchange time among them."""
    rows: list[str] = []
    event_ms = 0
    for one in watched:
        if one.changed > since:
            rows.append(one.text or one.encoded())
            if one.event_ms > event_ms:
                event_ms = one.event_ms
    return rows, event_ms


def _pnl_fields(lane: Lane, view: UserView, since: int) -> str:
    unrealized = _user_unrealized(lane, view)
    realized = view.realized_pnl
    total = unrealized + realized
    day = None if view.day_base is None else format_units(total - view.day_base)
    unpriced = _unpriced(lane, view)
    effect, _ = reporting.effect(lane, view)
    equity = format_units(view.net_deposits + total + effect)
    # What never moves by itself is told when anything of the user may have changed.
    balances = f'"net_deposits":"{format_units(view.net_deposits)}",' if view.changed > since else ""
    if balances or view.balances:
        balances += f'"fx_pnl":"{format_units(effect)}",'
    return (
        f'"unrealized_pnl":"{format_units(unrealized)}","realized_pnl":"{format_units(realized)}",'
        f'"total_pnl":"{format_units(total)}","day_pnl":{quoted(day)},{balances}"equity":"{equity}",'
        f'"is_complete":{flag(view.fees_are_complete and not unpriced)},"is_stale":{flag(_is_stale(lane, view))},'
        f'"unpriced":{json_text(unpriced) if unpriced else "[]"}'
    )


def _user_unrealized(lane: Lane, view: UserView) -> int:
    """The user's total as it came; before it ever came, the sum of the rows that are known."""
    value = lane.mirror.user_unrealized.value(view.slot)
    if value is not None:
        return value
    rows = view.rows.values()
    return sum(reporting.unrealized_reported(lane, row, _unrealized(lane, row)) or 0 for row in rows)


def _unrealized(lane: Lane, row: Row) -> int | None:
    """A row's unrealised P&L, or None where its symbol has no price (or its figure has not come)."""
    mark = lane.mirror.marks.get(row.mark)
    if mark is None or mark.price is None:
        return None
    return lane.mirror.row_unrealized.value(row.slot)


def _unpriced(lane: Lane, view: UserView) -> list[str]:
    priced = lane.mirror.priced
    if view.marks <= priced and not view.balances and not view.foreign:
        return []
    _, names = reporting.effect(lane, view)
    for row in view.rows.values():
        if row.mark not in priced or (row.pair is not None and reporting.rate_of(lane, row) is None):
            names.add(row.symbol)
    return sorted(names)


def _is_stale(lane: Lane, view: UserView) -> bool:
    if lane.is_silent:
        return bool(view.rows)
    if not view.foreign:
        return not view.marks.isdisjoint(lane.mirror.stale)
    return any(
        row.mark in lane.mirror.stale or reporting.is_stale(lane, row)
        for row in view.rows.values()
        if reporting.reported(lane, row, _unrealized(lane, row)) is not None
    )


def _flagged_at(mark: Mark | None) -> int:
    return 0 if mark is None else mark.flagged


def _changed_rows(lane: Lane, view: UserView, since: int) -> list[str]:
    """Rows of which only the price moved in short, those whose structure changed whole, closed ones last."""
    rows: list[str] = []
    if view.changed <= since:
        _append_moved(rows, lane, view, since)
        return rows
    for row, has_moved in zip(view.rows.values(), _moved(lane, view, since), strict=True):
        if row.changed > since:
            rows.append(_whole_row(lane, row))
        elif has_moved:
            rows.append(_moved_row(lane, row, _unrealized(lane, row)))
    rows.extend(_closed_row(lane, row) for ordinal, row in view.closed if ordinal > since)
    return rows


def _append_moved(rows: list[str], lane: Lane, view: UserView, since: int) -> None:
    """The common case, kept tight: no structure changed."""
    if not view.rows:
        return
    figures = lane.mirror.row_unrealized
    slots = view.slots
    indexes = _moved_mask(lane, view, since).nonzero()[0]
    if not len(indexes):
        return
    chosen = slots[indexes]
    known = (figures.changed[chosen] > 0).tolist()
    values = zip(figures.high[chosen].tolist(), figures.low[chosen].tolist(), known, strict=True)
    in_order = view.ordered_rows
    for index, (high, low, is_known) in zip(indexes.tolist(), values, strict=True):
        rows.append(_moved_row(lane, in_order[index], (high << 64) | low if is_known else None))


def _moved(lane: Lane, view: UserView, since: int) -> list[bool]:
    return _moved_mask(lane, view, since).tolist() if view.rows else []


def _moved_mask(lane: Lane, view: UserView, since: int) -> Any:
    """One bool per open row, in order: whether its figure, or what is said about it, changed."""
    mirror = lane.mirror
    mask = mirror.row_unrealized.changed[view.slots] > since
    if lane.silenced > since:
        mask[:] = True
    elif mirror.flagged > since:
        for index, row in enumerate(view.ordered_rows):
            if _flagged_at(mirror.marks.get(row.mark)) > since:
                mask[index] = True
    if view.foreign and mirror.rated > since:
        for index, row in enumerate(view.ordered_rows):
            if reporting.rate_changed(lane, row, since):
                mask[index] = True
    return mask


def _moved_row(lane: Lane, row: Row, value: int | None) -> str:
    mark = lane.mirror.marks.get(row.mark)
    converted = "" if row.pair is None else json_text(_reported_fields(lane, row, value))[1:-1] + ","
    if mark is None or mark.price is None or value is None:
        return (
            f'{row.head}"mark_price":null,"unrealized_pnl":null,"unrealized_pnl_pct":null,{converted}'
            f'"is_stale":false,"version":{row.version}}}'
        )
    is_stale = mark.is_stale or lane.is_silent or reporting.is_stale(lane, row)
    return (
        f'{row.head}"mark_price":"{mark.price}","unrealized_pnl":"{format_units(value)}",'
        f'"unrealized_pnl_pct":{quoted(fraction(value, row.cost_basis))},{converted}'
        f'"is_stale":{flag(is_stale)},"version":{row.version}}}'
    )


def _whole_row(lane: Lane, row: Row) -> str:
    value = _unrealized(lane, row)
    mark = lane.mirror.marks.get(row.mark)
    is_stale = value is not None and mark is not None and (mark.is_stale or lane.is_silent)
    is_stale = is_stale or (value is not None and reporting.is_stale(lane, row))
    moving = _mark_fields(lane, mark) | _moving_fields(row, value) | _reported_fields(lane, row, value)
    return _joined(row, moving | {"is_stale": is_stale})


def _closed_row(lane: Lane, row: Row) -> str:
    """A closed position: worth nothing, without a mark, and all of its P&L is realised."""
    moving = _mark_fields(lane, None) | _moving_fields(row, 0) | _reported_fields(lane, row, 0)
    return _joined(row, moving | {"is_stale": False})


def _joined(row: Row, moving: dict[str, Any]) -> str:
    return f"{row.statement},{json_text(moving)[1:]}"


def _mark_fields(lane: Lane, mark: Mark | None) -> dict[str, Any]:
    if mark is None or mark.price is None:
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


def _reported_fields(lane: Lane, row: Row, value: int | None) -> dict[str, Any]:
    """What of a row is reported in its user's currency, and at which rate."""
    rate = reporting.rate_of(lane, row)
    worth = reporting.unrealized_reported(lane, row, value)
    return {
        "rate_to_reporting": "1" if row.pair is None else None if rate is None else rate.text,
        "unrealized_pnl_reported": None if worth is None else format_units(worth),
    }
