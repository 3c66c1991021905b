"""Fills that come late, are edited, deleted or moved: the ledger is brought to what it would be had they been so.

Everything here happens in the caller's transaction, under the user's lock
(``UserRepository.advance``). Totals at the beginnings of past days follow where
the prices needed were written down, and become unknown where they were not.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal
from uuid import uuid4

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.day_bases import at_midnights, base_change, day_of
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, Funding
from app.domain.positions import Position
from app.domain.trades import ChainKey, Trade
from app.repositories.chains import ChainRepository, Rewrite, Tail, plan_rewrite
from app.repositories.day_bases import BaseCorrection, DayBaseRepository, corrected
from app.repositories.positions import PositionRepository, StandingAlready
from app.repositories.revised_days import mark_days_revised
from app.repositories.tables import accounts
from app.repositories.trades import Ending, TradeRepository

Cause = Literal["late_fill", "fill_edited", "fill_deleted", "position_retagged"]

_TICK = timedelta(microseconds=1)


class Correction(msgspec.Struct, frozen=True):
    """What changed besides the fill itself: the positions and day bases, before and after."""

    cause: Cause
    note: str
    trade_before: Trade | None
    trade_after: Trade | None
    before: list[Position]
    after: list[Position]
    bases: list[BaseCorrection]


class TooManyPositions(Exception):
    """The user has as many open positions as are allowed."""


class Books(msgspec.Struct, frozen=True):
    """Whose ledger is corrected, in which currency it is reported, and how many positions may be open."""

    user_id: str
    currency: str
    max_open: int


class _Part(msgspec.Struct, frozen=True):
    """One chain of a correction: its fills before and after, and the stamps that apply after."""

    instrument: Instrument
    tail: Tail
    fills: list[Trade]
    stamps: list[Funding]
    rewrite: Rewrite


async def insert_late(
    connection: AsyncConnection,
    books: Books,
    account_id: str,
    instrument: Instrument,
    fill: Fill,
    *,
    source: str,
    at: datetime,
    now: datetime,
) -> tuple[Trade, Correction]:
    """Record a fill that belongs before others, or before today.

    Raises:
        TooLarge, ContradictoryFill, TooManyPositions, ChainTooLong.
    """
    key = ChainKey(books.user_id, account_id, instrument.symbol, fill.position_side, fill.strategy)
    tail = await ChainRepository(connection).tail(key, at)
    recorded = max((trade.created_at + _TICK for trade in tail.trades if trade.executed_at == at), default=now)
    trade = Trade(
        fill_id=str(uuid4()),
        user_id=books.user_id,
        account_id=account_id,
        symbol=instrument.symbol,
        position_id="",
        opened_position_id=None,
        fill=msgspec.structs.replace(fill, executed_at=at),
        source=source,
        executed_at=at,
        created_at=max(now, recorded),
    )
    part = await _plan(connection, books, tail, [*tail.trades, trade], instrument, now)
    await _refuse_too_many(connection, books, [part])
    bases = await _correct_bases(connection, books, [part], at, now)
    await part.rewrite.begin()
    trade = _placed(trade, part.rewrite)
    await TradeRepository(connection).insert(trade)
    await part.rewrite.finish()
    return trade, _correction("late_fill", "", None, trade, [part], bases)


async def edit_fill(
    connection: AsyncConnection, books: Books, before: Trade, after: Trade, instrument: Instrument, ending: Ending
) -> tuple[Trade, Correction]:
    """Give a fill another form: other amounts, another time, another strategy.

    Raises:
        TooLarge, ContradictoryFill, TooManyPositions, ChainTooLong.
    """
    since = min(before.executed_at, after.executed_at)
    chains = ChainRepository(connection)
    tail = await chains.tail(before.chain, since)
    rest = [trade for trade in tail.trades if trade.fill_id != before.fill_id]
    if before.chain == after.chain:
        parts = [await _plan(connection, books, tail, [*rest, after], instrument, ending.at)]
    else:
        other = await chains.tail(after.chain, after.executed_at)
        parts = [
            await _plan(connection, books, tail, rest, instrument, ending.at),
            await _plan(connection, books, other, [*other.trades, after], instrument, ending.at),
        ]
    await _refuse_too_many(connection, books, parts)
    bases = await _correct_bases(connection, books, parts, since, ending.at)
    for part in parts:
        await part.rewrite.begin()
    after = _placed(after, parts[-1].rewrite)
    await TradeRepository(connection).replace(before, after, ending)
    for part in parts:
        await part.rewrite.finish()
    return after, _correction("fill_edited", ending.reason, before, after, parts, bases)


async def delete_fill(
    connection: AsyncConnection, books: Books, trade: Trade, instrument: Instrument, ending: Ending
) -> Correction:
    """Take a fill out of the ledger; its id stays reserved.

    Raises:
        TooLarge, ContradictoryFill, TooManyPositions, ChainTooLong.
    """
    tail = await ChainRepository(connection).tail(trade.chain, trade.executed_at)
    rest = [one for one in tail.trades if one.fill_id != trade.fill_id]
    part = await _plan(connection, books, tail, rest, instrument, ending.at)
    await _refuse_too_many(connection, books, [part])
    bases = await _correct_bases(connection, books, [part], trade.executed_at, ending.at)
    await part.rewrite.begin()
    await TradeRepository(connection).delete(trade, ending)
    await part.rewrite.finish()
    return _correction("fill_deleted", ending.reason, trade, None, [part], bases)


async def retag_position(
    connection: AsyncConnection, position: Position, strategy: str, ending: Ending
) -> tuple[Position, Correction]:
    """Move a position to another strategy, with its fills and with the positions it shares fills with.

    No figure changes: a strategy in which something was held meanwhile does not take it.

    Raises:
        StandingAlready, ChainTooLong.
    """
    chains = ChainRepository(connection)
    repository = PositionRepository(connection)
    old = ChainKey(position.user_id, position.account_id, position.symbol, position.position_side, position.strategy)
    tail = await chains.tail(old, position.opened_at)
    linked = _linked(tail.trades, position.position_id)
    moved = [trade for trade in tail.trades if trade.position_id in linked or trade.opened_position_id in linked]
    held = [tail.positions[one] for one in linked]
    if await repository.is_held_between(
        msgspec.structs.replace(old, strategy=strategy),
        min(one.opened_at for one in held),
        None if any(one.closed_at is None for one in held) else max(one.closed_at or ending.at for one in held),
    ):
        raise StandingAlready
    after = [await repository.retag(one, strategy, ending.at) for one in held]
    await TradeRepository(connection).retag(moved, strategy, ending)
    correction = Correction("position_retagged", ending.reason, None, None, held, after, [])
    return next(one for one in after if one.position_id == position.position_id), correction


async def correct_funding_bases(
    connection: AsyncConnection, user_id: str, changes: Sequence[tuple[datetime, int]], now: datetime
) -> list[BaseCorrection]:
    """Bring day bases to funding that was applied after the midnight it belongs before.

    ``changes`` are amounts in units of 1e-18, as reported, with their times.
    """
    repository = DayBaseRepository(connection, user_id)
    since = min(day_of(at) for at, _ in changes)
    if since >= day_of(now):
        return []
    known = await repository.known_after(since, day_of(now))
    totals = {day: sum(amount for at, amount in changes if day_of(at) < day) for day in known}
    bases = corrected(known, totals)
    await repository.correct(bases)
    return bases


async def _plan(
    connection: AsyncConnection, books: Books, tail: Tail, fills: list[Trade], instrument: Instrument, now: datetime
) -> _Part:
    rewrite, stamps = await plan_rewrite(connection, tail, fills, instrument, books.currency, now)
    return _Part(instrument, tail, fills, stamps, rewrite)


async def _refuse_too_many(connection: AsyncConnection, books: Books, parts: Sequence[_Part]) -> None:
    more = sum(part.rewrite.opened for part in parts)
    if more > 0 and await PositionRepository(connection).count_open(books.user_id) + more > books.max_open:
        raise TooManyPositions


async def _correct_bases(
    connection: AsyncConnection, books: Books, parts: Sequence[_Part], since: datetime, now: datetime
) -> list[BaseCorrection]:
    """Bring the bases of the days after a moment to what the chains will be. Called before anything is written.

    What was sampled since is noted to be reckoned anew.
    """
    for account_id in {part.tail.key.account_id for part in parts}:
        await mark_days_revised(connection, account_id, since)
    today = day_of(now)
    if day_of(since) >= today:
        return []
    repository = DayBaseRepository(connection, books.user_id)
    known = await repository.known_after(day_of(since), today)
    changes: dict[date, int | None] = dict.fromkeys(known, 0)
    for part in parts:
        marks = await _marks(connection, repository, part, list(known))
        for day, change in _base_changes(part, list(known), marks, books.currency).items():
            so_far = changes[day]
            changes[day] = None if change is None or so_far is None else so_far + change
    bases = corrected(known, changes)
    if known.get(today) is not None and all(one.day != today for one in bases):
        # Written down even if nothing changed: that there was nothing before today is no longer so.
        await repository.correct([BaseCorrection(today, known[today], known[today])])
    await repository.correct(bases)
    return bases


def _base_changes(
    part: _Part, days: Sequence[date], marks: dict[date, Decimal], currency: str
) -> dict[date, int | None]:
    tail = part.tail
    befores = at_midnights(part.instrument, tail.trades, tail.stamps, days, currency=currency)
    afters = at_midnights(part.instrument, part.fills, part.stamps, days, currency=currency)
    return {
        day: base_change(part.instrument, before, after, marks.get(day), currency=currency)
        for day, before, after in zip(days, befores, afters, strict=True)
    }


async def _marks(
    connection: AsyncConnection, repository: DayBaseRepository, part: _Part, days: Sequence[date]
) -> dict[date, Decimal]:
    """The marks that valued the account's positions at midnights; none where it is valued by another price."""
    query = select(accounts.c.valuation).where(accounts.c.id == part.tail.key.account_id)
    if await connection.scalar(query) != "auto":
        return {}
    return await repository.marks(part.tail.key.symbol, days)


def _placed(trade: Trade, rewrite: Rewrite) -> Trade:
    position_id, opened = rewrite.places[trade.fill_id]
    return msgspec.structs.replace(trade, position_id=position_id, opened_position_id=opened)


def _correction(
    cause: Cause,
    note: str,
    trade_before: Trade | None,
    trade_after: Trade | None,
    parts: Sequence[_Part],
    bases: list[BaseCorrection],
) -> Correction:
    return Correction(
        cause,
        note,
        trade_before,
        trade_after,
        [position for part in parts for position in part.rewrite.before],
        [position for part in parts for position in part.rewrite.after],
        bases,
    )


def _linked(fills: Sequence[Trade], position_id: str) -> list[str]:
    """A position and those that it was turned from and into by fills through zero, the oldest first."""
    linked = {position_id}
    turns = [(trade.position_id, trade.opened_position_id) for trade in fills if trade.opened_position_id]
    for closed, opened in reversed(turns):
        if opened in linked:
            linked.add(closed)
    for closed, opened in turns:
        if closed in linked and opened is not None:
            linked.add(opened)
    return list(
        dict.fromkeys(one for trade in fills for one in (trade.position_id, trade.opened_position_id) if one in linked)
    )
