"""What the exchange lists, and its current prices."""

from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field, StringConstraints

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Reader
from app.api.context import Opened
from app.api.fields import QueryParameters
from app.api.market import Market
from app.api.paging import MAX_LIMIT, Cursor, Limit, offset_of, page_by_offset
from app.api.problems import Problem
from app.api.routing import new_router
from app.domain.decimals import format_decimal
from app.domain.instruments import Instrument, explain_unknown
from app.domain.instruments import Market as MarketName
from app.domain.statements import price_statement

router = new_router("/api/v1", "market")


class SymbolFilter(QueryParameters):
    """Which symbols, and which page of them."""

    market: MarketName | None = None
    q: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = Field(
        default=None, description="Part of a symbol or asset, in any letter case."
    )
    limit: Limit = 50
    cursor: Cursor | None = None


class PriceFilter(QueryParameters):
    """Which prices: of the symbols named, else a page of all."""

    symbols: Annotated[str, StringConstraints(min_length=1, max_length=8000)] | None = Field(
        default=None, description="Symbols with commas between.", examples=["BTCUSDT,ETHUSDT"]
    )
    limit: Limit = 50
    cursor: Cursor | None = None


@router.get("/symbols", response_model=bodies.SymbolList)
async def list_symbols(web: Opened, caller: Reader, wanted: Annotated[SymbolFilter, Query()]) -> Response:
    """What can be held: best match first, else by name."""
    found = [
        instrument
        for instrument in web.market.listings.listed.values()
        if wanted.market is None or instrument.market == wanted.market
    ]
    if wanted.q is not None:
        sought = wanted.q.upper()
        found = [instrument for instrument in found if sought in instrument.symbol]
        # Of equals first what counts in the totals.
        own = web.policy.reporting_currency
        found.sort(key=lambda each: (_rank(each, sought), each.settle != own, each.symbol))
    else:
        found.sort(key=lambda instrument: instrument.symbol)
    return page_by_offset(found, wanted.limit, wanted.cursor, _show_instrument)


@router.get("/prices", response_model=bodies.PriceList)
async def list_prices(web: Opened, caller: Reader, wanted: Annotated[PriceFilter, Query()]) -> Response:
    """Current prices with their age."""
    market = web.market
    start, end = 0, MAX_LIMIT
    if wanted.symbols is None:
        symbols = sorted(market.board.prices)
        start = offset_of(wanted.cursor)
        end = start + wanted.limit
    else:
        symbols = _asked_for(market, wanted.symbols)
    items = [_show_price(market, symbol) for symbol in symbols[start:end]]
    next_cursor = str(end) if end < len(symbols) else None
    return json_answer({"as_of_ms": market.as_of_ms, "items": items, "next_cursor": next_cursor})


def _asked_for(market: Market, text: str) -> list[str]:
    """The symbols of a list with commas. Raises Problem for one that is not listed, and for too many."""
    symbols = list(dict.fromkeys(text.split(",")))
    if len(symbols) > MAX_LIMIT:
        raise Problem("invalid_request", f"At most {MAX_LIMIT} symbols may be asked for at once.")
    listed = market.listings.listed
    errors = [
        {"parameter": "symbols", "field": "symbols", "code": "unknown_symbol", "detail": f"{symbol!a}: {reason}"}
        for symbol in symbols
        if symbol not in listed
        for reason in [explain_unknown(symbol, listed)]
    ]
    if errors:
        raise Problem("unknown_symbol", f"{errors[0]['detail']}.", errors=errors[:20])
    return symbols


def _rank(instrument: Instrument, sought: str) -> int:
    """The base asset itself, then what begins with it, then what contains it."""
    if instrument.symbol == sought:
        return 0
    if instrument.base == sought:
        return 1
    return 2 if instrument.symbol.startswith(sought) else 3


def _show_instrument(instrument: Instrument) -> dict[str, Any]:
    return {
        "symbol": instrument.symbol,
        "market": instrument.market,
        "base": instrument.base,
        "quote": instrument.quote,
        "settle": instrument.settle,
        "tick_size": format_decimal(instrument.tick_size),
        "step_size": format_decimal(instrument.step_size),
        "multiplier": format_decimal(instrument.multiplier),
        "status": instrument.status,
    }


def _show_price(market: Market, symbol: str) -> dict[str, Any]:
    price = market.board.prices.get(symbol)
    if price is not None:
        return price_statement(price, market.as_of_ms, market.stale_after_ms)
    known = ("price", "price_source", "bid", "ask", "last", "mark", "funding_rate", "next_funding_ms")
    times = ("event_ms", "received_ms", "fresh_ms", "age_ms")
    return {"symbol": symbol, **dict.fromkeys((*known, *times)), "is_stale": False}
