"""Why P&L changed between two moments."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Caller, Reader
from app.api.context import Opened, Web
from app.api.curves import Asked, Period, figures_now, find_asked, known_figures, load_book, period_of
from app.api.problems import Problem
from app.api.routing import new_router
from app.domain.account_replay import AccountReplay
from app.domain.attribution import Explanation, Marks, explain, mark_name
from app.domain.day_pnl import Known
from app.domain.decimals import to_units
from app.domain.history_statements import explanation_statement, parts_statement
from app.domain.positions import Position, UserBook
from app.domain.prices import Basis, Price, ValueSource
from app.domain.statements import timestamp
from app.repositories.database import snapshot
from app.repositories.history import HistoryRepository
from app.repositories.recorded_fills import Adjustments, History, TooManyFills, adjustments, load_fills

router = new_router("/api/v1/pnl", "pnl")

_MAX_FILLS: Final = 50_000
_ALWAYS: Final = datetime.max.replace(tzinfo=UTC)


class _Evidence(msgspec.Struct, frozen=True):
    """What is known of a period. ``end_marks`` is None where it ends now."""

    asked: Asked
    start: datetime
    end: datetime
    made: History
    start_marks: Mapping[str, Decimal]
    end_marks: Mapping[str, Decimal] | None
    known: Mapping[datetime, Known]
    adjusted: Adjustments


@router.get("/explain", response_model=bodies.PnlExplanation)
async def explain_pnl(web: Opened, caller: Reader, wanted: Annotated[Period, Query()]) -> Response:
    """Why P&L changed: price, trading, fees, funding, currency and adjustments, which sum to the change exactly.

    Marks are kept of each minute for days, of each quarter of an hour for
    months, of midnights (UTC) for ever: the answer's ``from`` and ``to`` are the
    moments that were used, the nearest before those asked for.
    """
    after, until = period_of(web, wanted)
    book = await load_book(web, caller)
    async with snapshot(web.database) as connection:
        evidence = await _gather(web, connection, caller, book, wanted, after, until)
    names = _names(evidence.made, book)
    start = _marks(web, evidence.asked.currency, evidence.made, evidence.start_marks)
    if evidence.end_marks is None:
        end = _live_marks(web, evidence.asked.currency, evidence.made, names)
    else:
        end = _marks(web, evidence.asked.currency, evidence.made, evidence.end_marks)
    found = await asyncio.to_thread(_replay, evidence, start, end, names)
    return json_answer(_answer(web, wanted, book, evidence, found))


async def _gather(
    web: Web,
    connection: AsyncConnection,
    caller: Caller,
    book: UserBook,
    wanted: Period,
    after: datetime,
    until: datetime,
) -> _Evidence:
    asked = await find_asked(connection, caller, wanted.account_id)
    history = HistoryRepository(connection)
    start = await history.mark_time(after) or after
    end = until if wanted.to is None else await history.mark_time(until) or until
    try:
        made = await load_fills(
            connection,
            caller.user_id,
            asked.account_ids,
            since=start,
            until=_ALWAYS if wanted.to is None else end,
            most=_MAX_FILLS,
        )
    except TooManyFills as error:
        raise Problem("out_of_range", f"More than {_MAX_FILLS} fills made this. Ask for one account.") from error
    symbols = [*set(_names(made, book).values()), *_rate_symbols(web, made, asked.currency)]
    return _Evidence(
        asked=asked,
        start=start,
        end=end,
        made=made,
        start_marks=await history.marks(start, symbols),
        end_marks=None if wanted.to is None else await history.marks(end, symbols),
        known=await known_figures(history, asked.scopes, asked.account_ids, [start, end]),
        adjusted=await adjustments(connection, asked.account_ids, start, _ALWAYS if wanted.to is None else end),
    )


def _replay(evidence: _Evidence, start: Marks, end: Marks, names: Mapping[str, str]) -> Explanation:
    """Goes through up to 50,000 fills: not on the event loop."""
    instruments = {position.position_id: position.instrument for position in evidence.made.positions}
    currency = evidence.asked.currency
    replay = AccountReplay(instruments, evidence.made.fills, evidence.made.funding, currency=currency)
    replay.advance_to(evidence.start)
    before = dict(replay.cycles)
    replay.advance_to(_ALWAYS if evidence.end_marks is None else evidence.end)
    return explain(before, replay.cycles, start, end, lambda position_id, _: names[position_id])


def _names(made: History, book: UserBook) -> dict[str, str]:
    """Under which name the price of each position is kept."""
    bases: dict[str, Basis] = {account.account_id: account.valuation for account in book.accounts}
    opened_by = {fill.opened_position_id or fill.position_id: fill.fill.side for fill in reversed(made.fills)}

    def name(position: Position) -> str:
        is_long = opened_by.get(position.position_id) == "buy"
        return mark_name(position.symbol, bases.get(position.account_id, "auto"), is_long=is_long)

    return {position.position_id: name(position) for position in made.positions}


def _settles(made: History, currency: str) -> set[str]:
    """The other assets that positions settle in."""
    return {position.instrument.settle for position in made.positions} - {currency}


def _rate_symbols(web: Web, made: History, currency: str) -> list[str]:
    rates = web.market.listings.rates
    return [symbol for asset in sorted(_settles(made, currency)) for symbol in rates.symbols(asset, currency)]


def _marks(web: Web, currency: str, made: History, stored: Mapping[str, Decimal]) -> Marks:
    """Stored prices, and the rates that they make."""
    prices = {symbol: Price(symbol, value, "mid", None, None, None, None, 0, 0, 0) for symbol, value in stored.items()}
    return Marks(stored, _rates(web, currency, made, prices))


def _live_marks(web: Web, currency: str, made: History, names: Mapping[str, str]) -> Marks:
    known = web.market.board.prices
    found: dict[str, Decimal] = {}
    for name in names.values():
        symbol, _, source = name.partition(" ")
        price = known.get(symbol)
        value = None if price is None else price.quoted(cast("ValueSource", source)) if source else price.price
        if value is not None:
            found[name] = value
    return Marks(found, _rates(web, currency, made, known))


def _rates(web: Web, currency: str, made: History, prices: Mapping[str, Price]) -> dict[str, Decimal]:
    rates = {asset: web.market.listings.rates.rate(asset, currency, prices) for asset in _settles(made, currency)}
    return {asset: rate.value for asset, rate in rates.items() if rate is not None}


def _answer(web: Web, wanted: Period, book: UserBook, evidence: _Evidence, found: Explanation) -> dict[str, Any]:
    asked = evidence.asked
    balances = _balance_effect(web, book, evidence)
    adjusted = to_units(evidence.adjusted.reported)
    total = found.total
    total = msgspec.structs.replace(total, fx=total.fx + (balances or 0))
    return {
        "account_id": wanted.account_id,
        "currency": asked.currency,
        "from": timestamp(evidence.start),
        "to": timestamp(evidence.end),
        "total": parts_statement(total, adjusted),
        "symbols": explanation_statement(found),
        "unknown": list(found.unknown),
        "is_complete": found.is_complete and balances is not None and evidence.adjusted.is_complete,
    }


def _balance_effect(web: Web, book: UserBook, evidence: _Evidence) -> int | None:
    """How the currency effect on balances changed; None where it is not known at one end."""
    currency, account_ids = evidence.asked.currency, evidence.asked.account_ids
    accounts = [account for account in book.accounts if account.account_id in account_ids]
    if not _settles(evidence.made, currency) and all(
        asset.asset == currency for account in accounts for asset in account.assets
    ):
        return 0
    before, after = evidence.known.get(evidence.start), evidence.known.get(evidence.end)
    if evidence.end_marks is None:
        after = figures_now(book, web.market.prices, account_ids, evidence.end)
    if before is None or after is None or before.figures.fx_pnl is None or after.figures.fx_pnl is None:
        return None
    return after.figures.fx_pnl - before.figures.fx_pnl
