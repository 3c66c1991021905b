"""The frames that carry state: what a connection has not seen, joined from encoded parts.

Everything is text until the whole frame is known, since shared parts (a price)
are encoded once for everybody and a join of strings is the cheapest join there
is. "Since" is always the ordinal of the last commit a connection has seen.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from app.domain.decimals import format_units
from app.domain.statements import totals_statement
from app.domain.valuation import Totals, fraction
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.mirror import Mark, Row, UserView
from app.websocket.state import StreamState, WatchedPrice


class Interest(NamedTuple):
    """What an update may hold for one connection."""

    watched: Iterable[WatchedPrice]
    view: UserView | None
    pnl: bool
    positions: bool


def update(state: StreamState, interest: Interest, since: int, merged: int) -> str | None:
    """The ``update`` frame of all that changed since a commit, or None where nothing did."""
    prices, event_ms = _changed_prices(interest.watched, since)
    parts = [f'"prices":[{",".join(prices)}]'] if prices else []
    view = interest.view
    if view is not None:
        if interest.pnl and pnl_changed(state, view, since):
            parts.append(f'"pnl":{{{_pnl_fields(state, view)}}}')
        if interest.positions:
            rows = _changed_rows(state, view, since)
            if rows:
                parts.append(f'"positions":[{",".join(rows)}]')
    if not parts:
        return None
    return (
        f'{{"type":"update",{_place(state)},"event_ms":{event_ms or state.pnl_event_ms},'
        f'"merged":{max(merged, 1)},{",".join(parts)}}}'
    )


def prices_snapshot(state: StreamState, watched: Iterable[WatchedPrice]) -> str:
    """The ``snapshot`` of some symbols; one without a price is left out until it has one."""
    rows = ",".join(one.encoded() for one in watched if one.price is not None)
    return f'{{"type":"snapshot","channel":"prices",{_place(state)},"prices":[{rows}]}}'


def pnl_snapshot(state: StreamState, view: UserView) -> str:
    """The ``snapshot`` of a user's totals."""
    figures = json_text(totals_statement(totals(state, view)))
    return f'{{"type":"snapshot","channel":"pnl",{_place(state)},"pnl":{figures}}}'


def positions_snapshot(state: StreamState, view: UserView) -> str:
    """The ``snapshot`` of a user's open positions."""
    rows = ",".join(_whole_row(state, row) for row in view.rows.values())
    return f'{{"type":"snapshot","channel":"positions",{_place(state)},"positions":[{rows}]}}'


def pnl_changed(state: StreamState, view: UserView, since: int) -> bool:
    """Whether a user's totals, or what is said about them, changed since a commit."""
    mirror = state.mirror
    return (
        view.changed > since
        or mirror.user_unrealized.changed_at(view.slot) > since
        or state.pnl_silenced > since
        or (mirror.flagged > since and any(_flagged_at(mirror.marks.get(s)) > since for s in view.symbols))
    )


def totals(state: StreamState, view: UserView) -> Totals:
    """A user's totals, as at the stream's position."""
    mirror = state.mirror
    long_exposure = short_exposure = 0
    ages: list[int] = []
    for row in view.rows.values():
        value = _unrealized(state, row)
        if value is None or not row.counts:
            continue
        market_value = value + row.cost_basis
        long_exposure += max(market_value, 0)
        short_exposure += min(market_value, 0)
        ages.append(max(0, state.as_of_ms - mirror.marks[row.symbol].fresh_ms))
    return Totals(
        currency=view.currency,
        unrealized_pnl=_user_unrealized(state, view),
        realized_pnl_gross=view.realized_pnl_gross,
        fees=view.fees,
        funding=view.funding,
        day_base=view.day_base,
        gross_exposure=long_exposure - short_exposure,
        net_exposure=long_exposure + short_exposure,
        unpriced=tuple(_unpriced(state, view)),
        fees_are_complete=view.fees_are_complete,
        is_stale=_is_stale(state, view),
        oldest_price_age_ms=max(ages, default=None),
    )


def _place(state: StreamState) -> str:
    return f'"epoch":{state.position.epoch},"seq":{state.position.seq},"as_of_ms":{state.as_of_ms}'


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


def _pnl_fields(state: StreamState, view: UserView) -> str:
    unrealized = _user_unrealized(state, view)
    realized = view.realized_pnl
    total = unrealized + realized
    day = None if view.day_base is None else format_units(total - view.day_base)
    unpriced = _unpriced(state, view)
    written = format_units(total)
    return (
        f'"unrealized_pnl":"{format_units(unrealized)}","realized_pnl":"{format_units(realized)}",'
        f'"total_pnl":"{written}","day_pnl":{quoted(day)},"equity":"{written}",'
        f'"is_complete":{flag(view.fees_are_complete and not unpriced)},"is_stale":{flag(_is_stale(state, view))},'
        f'"unpriced":{json_text(unpriced) if unpriced else "[]"}'
    )


def _user_unrealized(state: StreamState, view: UserView) -> int:
    """The user's total as it came; before it ever came, the sum of the rows that are known."""
    value = state.mirror.user_unrealized.value(view.slot)
    if value is not None:
        return value
    return sum(_unrealized(state, row) or 0 for row in view.rows.values() if row.counts)


def _unrealized(state: StreamState, row: Row) -> int | None:
    """A row's unrealised P&L, or None where its symbol has no price (or its figure has not come)."""
    mark = state.mirror.marks.get(row.symbol)
    if mark is None or mark.price is None:
        return None
    return state.mirror.row_unrealized.value(row.slot)


def _unpriced(state: StreamState, view: UserView) -> list[str]:
    if view.symbols <= state.mirror.priced and not view.foreign_symbols:
        return []
    return sorted((view.symbols - state.mirror.priced) | view.foreign_symbols)


def _is_stale(state: StreamState, view: UserView) -> bool:
    if state.health.pnl_is_silent:
        return bool(view.rows)
    return not view.symbols.isdisjoint(state.mirror.stale)


def _flagged_at(mark: Mark | None) -> int:
    return 0 if mark is None else mark.flagged


def _changed_rows(state: StreamState, view: UserView, since: int) -> list[str]:
    """Rows of which only the price moved in short, those whose structure changed whole, closed ones last."""
    rows: list[str] = []
    if view.changed <= since:
        _append_moved(rows, state, view, since)
        return rows
    for row, has_moved in zip(view.rows.values(), _moved(state, view, since), strict=True):
        if row.changed > since:
            rows.append(_whole_row(state, row))
        elif has_moved:
            rows.append(_moved_row(state, row, _unrealized(state, row)))
    rows.extend(_closed_row(state, row) for ordinal, row in view.closed if ordinal > since)
    return rows


def _append_moved(rows: list[str], state: StreamState, view: UserView, since: int) -> None:
    """The common case, kept tight: no structure changed."""
    if not view.rows:
        return
    figures = state.mirror.row_unrealized
    slots = view.slots
    indexes = _moved_mask(state, view, since).nonzero()[0]
    if not len(indexes):
        return
    chosen = slots[indexes]
    known = (figures.changed[chosen] > 0).tolist()
    values = zip(figures.high[chosen].tolist(), figures.low[chosen].tolist(), known, strict=True)
    in_order = view.ordered_rows
    for index, (high, low, is_known) in zip(indexes.tolist(), values, strict=True):
        rows.append(_moved_row(state, in_order[index], (high << 64) | low if is_known else None))


def _moved(state: StreamState, view: UserView, since: int) -> list[bool]:
    return _moved_mask(state, view, since).tolist() if view.rows else []


def _moved_mask(state: StreamState, view: UserView, since: int) -> Any:
    """One bool per open row, in order: whether its figure, or what is said about it, changed."""
    mirror = state.mirror
    mask = mirror.row_unrealized.changed[view.slots] > since
    if state.pnl_silenced > since:
        mask[:] = True
    elif mirror.flagged > since:
        for index, row in enumerate(view.ordered_rows):
            if _flagged_at(mirror.marks.get(row.symbol)) > since:
                mask[index] = True
    return mask


def _moved_row(state: StreamState, row: Row, value: int | None) -> str:
    mark = state.mirror.marks.get(row.symbol)
    if mark is None or mark.price is None or value is None:
        return (
            f'{row.head}"mark_price":null,"unrealized_pnl":null,"unrealized_pnl_pct":null,'
            f'"is_stale":false,"version":{row.version}}}'
        )
    return (
        f'{row.head}"mark_price":"{mark.price}","unrealized_pnl":"{format_units(value)}",'
        f'"unrealized_pnl_pct":{quoted(fraction(value, row.cost_basis))},'
        f'"is_stale":{flag(mark.is_stale or state.health.pnl_is_silent)},"version":{row.version}}}'
    )


def _whole_row(state: StreamState, row: Row) -> str:
    value = _unrealized(state, row)
    mark = state.mirror.marks.get(row.symbol)
    is_stale = value is not None and mark is not None and (mark.is_stale or state.health.pnl_is_silent)
    return _joined(row, _mark_fields(state, mark) | _moving_fields(row, value) | {"is_stale": is_stale})


def _closed_row(state: StreamState, row: Row) -> str:
    """A closed position: worth nothing, and all of its P&L is realised."""
    mark = state.mirror.marks.get(row.symbol)
    return _joined(row, _mark_fields(state, mark) | _moving_fields(row, 0) | {"is_stale": False})


def _joined(row: Row, moving: dict[str, Any]) -> str:
    return f"{row.statement},{json_text(moving)[1:]}"


def _mark_fields(state: StreamState, mark: Mark | None) -> dict[str, Any]:
    if mark is None or mark.price is None:
        return {"mark_price": None, "price_source": None, "mark_age_ms": None}
    age_ms = max(0, state.as_of_ms - mark.fresh_ms)
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
