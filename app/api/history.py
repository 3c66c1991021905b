"""P&L over time: the curve of equity, days, and what the curve and closed cycles say."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import Query, Response
from pydantic import Field

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Reader
from app.api.context import Opened
from app.api.curves import (
    CurveReader,
    Of,
    Period,
    figures_now,
    find_asked,
    known_figures,
    load_book,
    period_of,
    stretches,
    zone_of,
)
from app.api.paging import Cursor, Limit, page_by_place, place_of
from app.api.routing import new_router
from app.domain.candles import Candle, sample
from app.domain.day_boundaries import days_until, midnights_between
from app.domain.day_pnl import change_between, day_pnls
from app.domain.history_statements import (
    candle_statement,
    change_statement,
    cycle_statement,
    day_statement,
    performance_statement,
    trades_statement,
)
from app.domain.performance import performance
from app.domain.risk_ratios import daily_returns
from app.domain.statements import timestamp
from app.domain.trade_statistics import trade_statistics
from app.repositories.database import snapshot
from app.repositories.history import HistoryRepository
from app.repositories.paging import Place

router = new_router("/api/v1/pnl", "pnl")

_MAX_SAMPLES: Final = 1500
"""A day of minutes and an hour."""
_MAX_DAYS: Final = 366
_MAX_CYCLES: Final = 50_000
_DAY: Final = timedelta(days=1)


class HistoryFilter(Period):
    """Which samples, how fine, and which page of them."""

    resolution: Literal["minute", "hour", "day"] = "hour"
    limit: Annotated[int, Field(ge=1, le=_MAX_SAMPLES)] = 500
    cursor: Cursor | None = None


class CyclesFilter(Period):
    """Of which account, closed when, and which page of them."""

    limit: Limit = 50
    cursor: Cursor | None = None


class DaysFilter(Of):
    """Of which account, and how many days up to today."""

    days: Annotated[int, Field(ge=1, le=_MAX_DAYS)] = 30


@router.get("/history", response_model=bodies.PnlHistory)
async def get_pnl_history(web: Opened, caller: Reader, wanted: Annotated[HistoryFilter, Query()]) -> Response:
    """Samples of what accounts were worth, the oldest first; hours and days as candles."""
    place = place_of(wanted.cursor)
    after, until = period_of(web, wanted)
    after = after if place is None else max(after, place.at)
    rows: list[Candle] = []
    async with snapshot(web.database) as connection:
        asked = await find_asked(connection, caller, wanted.account_id)
        reader = CurveReader(HistoryRepository(connection), zone_of(asked.time_zone))
        for part in stretches(asked.scopes, asked.account_ids, after, until):
            rows += await reader.page(part, wanted.resolution, wanted.limit + 1 - len(rows))
            if len(rows) > wanted.limit:
                break
    return page_by_place(rows, wanted.limit, lambda candle: Place(candle.at, caller.user_id), candle_statement)


@router.get("/daily", response_model=bodies.PnlDaily)
async def get_pnl_daily(web: Opened, caller: Reader, wanted: Annotated[DaysFilter, Query()]) -> Response:
    """P&L by day in the user's time zone, the oldest first, up to this moment; and of the last 24 hours."""
    now = web.now()
    book = await load_book(web, caller)
    async with snapshot(web.database) as connection:
        asked = await find_asked(connection, caller, wanted.account_id)
        days = days_until(now, zone_of(asked.time_zone), wanted.days)
        history = HistoryRepository(connection)
        moments = [*(day.start for day in days), now - _DAY]
        known = await known_figures(history, asked.scopes, asked.account_ids, moments)
        revisions = await history.revisions(asked.account_ids)
    known[now] = figures_now(book, web.market.prices, asked.account_ids, now)
    return json_answer(
        {
            "account_id": wanted.account_id,
            "currency": asked.currency,
            "time_zone": asked.time_zone,
            "pnl_24h": change_statement(change_between(now - _DAY, now, known.get(now - _DAY), known[now])),
            "items": [day_statement(row) for row in day_pnls(days, known, now, revisions)],
        }
    )


@router.get("/statistics", response_model=bodies.PnlStatistics)
async def get_pnl_statistics(web: Opened, caller: Reader, wanted: Annotated[Period, Query()]) -> Response:
    """What the curve of equity and the closed cycles of a period say. The newest 50,000 cycles count."""
    after, until = period_of(web, wanted)
    book = await load_book(web, caller) if wanted.to is None else None
    async with snapshot(web.database) as connection:
        asked = await find_asked(connection, caller, wanted.account_id)
        history = HistoryRepository(connection)
        reader = CurveReader(history, zone_of(asked.time_zone))
        curve: list[Candle] = []
        for part in stretches(asked.scopes, asked.account_ids, after, until):
            curve += await reader.curve(part)
        cycles = await history.closed_cycles(
            caller.user_id, asked.account_ids, since=after, until=until, limit=_MAX_CYCLES + 1
        )
    if book is not None:
        now = figures_now(book, web.market.prices, asked.account_ids, until)
        curve.append(sample(until, now.figures))
    found = performance(curve)
    midnights = midnights_between(curve[0].opened_at, until, zone_of(asked.time_zone)) if curve else []
    returns = [] if found is None else daily_returns(found.index, midnights)
    return json_answer(
        {
            "account_id": wanted.account_id,
            "currency": asked.currency,
            "from": timestamp(curve[0].opened_at) if curve else None,
            "to": timestamp(until),
            "performance": performance_statement(found, until, returns),
            "trades": trades_statement(trade_statistics(cycles[:_MAX_CYCLES])),
            "is_truncated": len(cycles) > _MAX_CYCLES,
        }
    )


@router.get("/cycles", response_model=bodies.PnlCycles)
async def list_pnl_cycles(web: Opened, caller: Reader, wanted: Annotated[CyclesFilter, Query()]) -> Response:
    """Closed cycles with how far they went, the newest closed first."""
    after, until = period_of(web, wanted)
    place = place_of(wanted.cursor)
    async with snapshot(web.database) as connection:
        asked = await find_asked(connection, caller, wanted.account_id)
        rows = await HistoryRepository(connection).closed_cycles(
            caller.user_id, asked.account_ids, since=after, until=until, limit=wanted.limit + 1, after=place
        )
    return page_by_place(rows, wanted.limit, lambda cycle: Place(cycle.closed_at, cycle.position_id), cycle_statement)
