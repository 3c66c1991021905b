"""Rewriting what follows from the fills of a chain: positions, their fills and funding payments.

A chain is rewritten from the last moment before the change at which nothing was
held, for what came before does not depend on what came after. The caller holds
the user's lock and writes the changed fill itself between :meth:`Rewrite.begin`
and :meth:`Rewrite.finish`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Final
from uuid import uuid4

import msgspec
from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Cycle, Payment, ledger_place, match_positions, replay_cycles
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Funding
from app.domain.positions import Position
from app.domain.trades import ChainKey, Trade
from app.repositories.funding_payments import FundingPaymentRepository, PaidFunding
from app.repositories.positions import PositionRepository
from app.repositories.tables import positions, trades
from app.repositories.trades import TRADE_COLUMNS, PositionsOfFill, TradeRepository, to_trade

MOST_REPLAYED: Final = 50_000
"""Fills that one request may have replayed: seconds of work, where most of them end a position."""

_AT_ONCE: Final = 1000
"""More fills than these are replayed in a thread, so that the loop goes on."""


class ChainTooLong(Exception):
    """More fills follow the change than one request may have replayed."""


class Tail(msgspec.Struct, frozen=True):
    """The fills of a chain since it was last flat before a moment, in ledger order, and what they made."""

    key: ChainKey
    trades: list[Trade]
    positions: dict[str, Position]
    paid: list[PaidFunding]

    @property
    def stamps(self) -> list[Funding]:
        """The stamps that were applied."""
        by_time = {one.payment.at: one.payment for one in self.paid}
        return [as_stamp(payment) for payment in by_time.values()]


def as_stamp(payment: Payment) -> Funding:
    """The stamp that a payment was made at."""
    return Funding(at=payment.at, mark=payment.mark, rate=payment.rate, rate_to_reporting=payment.rate_to_reporting)


class ChainRepository:
    """Reads chains within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def newest(self, key: ChainKey) -> tuple[datetime, datetime] | None:
        """When the last fill of a chain was executed, and when it was recorded."""
        query = (
            select(trades.c.executed_at, trades.c.created_at)
            .where(*_of_chain(trades, key))
            .order_by(trades.c.executed_at.desc(), trades.c.created_at.desc(), trades.c.id.desc())
            .limit(1)
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else (row[0], row[1])

    async def tail(self, key: ChainKey, moment: datetime, most: int = MOST_REPLAYED) -> Tail:
        """What follows the last time before ``moment`` that nothing was held. Raises ChainTooLong."""
        query = select(*TRADE_COLUMNS).where(*_of_chain(trades, key))
        opener = await self._last_from_flat(key, moment)
        if opener is not None:
            # The first fill of one instant may close what the next one opens anew: the time alone is not enough.
            query = query.where(trades.c.executed_at >= opener.executed_at)
        ordered = query.order_by(trades.c.executed_at, trades.c.created_at, trades.c.id).limit(most + 1)
        found = [to_trade(row) for row in await self._connection.execute(ordered)]
        if opener is not None:
            found = [trade for trade in found if ledger_place(trade) >= ledger_place(opener)]
        if len(found) > most:
            raise ChainTooLong(f"more than {most} fills follow the change")
        ids = list({one for trade in found for one in (trade.position_id, trade.opened_position_id) if one})
        held = await PositionRepository(self._connection).of_ids(key.user_id, ids)
        paid = await FundingPaymentRepository(self._connection).of_positions(ids)
        return Tail(key, found, {position.position_id: position for position in held}, paid)

    async def _last_from_flat(self, key: ChainKey, moment: datetime) -> Trade | None:
        """The fill before a moment that opened the newest position from flat."""
        by_rest = select(trades.c.id).where(trades.c.opened_position_id == positions.c.id).exists()
        query = (
            select(positions.c.id)
            .where(*_of_chain(positions, key), positions.c.opened_at < moment, ~by_rest)
            .order_by(positions.c.opened_at.desc())
            .limit(1)
        )
        position_id = await self._connection.scalar(query)
        if position_id is None:
            return None
        first = (
            select(*TRADE_COLUMNS)
            .where(trades.c.position_id == position_id)
            .order_by(trades.c.executed_at, trades.c.created_at, trades.c.id)
            .limit(1)
        )
        row = (await self._connection.execute(first)).one_or_none()
        return None if row is None else to_trade(row)


class Rewrite:
    """One chain brought from what its fills were to what they are."""

    def __init__(
        self, connection: AsyncConnection, tail: Tail, cycles: Sequence[Cycle], instrument: Instrument, now: datetime
    ) -> None:
        self._connection = connection
        self._tail = tail
        self._instrument = instrument
        self._now = now
        ids = match_positions(cycles, tail.trades)
        self._rows = [(one or str(uuid4()), cycle) for one, cycle in zip(ids, cycles, strict=True)]
        kept = {position_id for position_id, _ in self._rows}
        self._vanished = [position for key, position in tail.positions.items() if key not in kept]
        self.places = _places(self._rows)
        self.before, self.after = self._changes()

    @property
    def opened(self) -> int:
        """How many more positions are open than were."""
        return sum(one.status == "open" for one in self.after) - sum(one.status == "open" for one in self.before)

    def new_payments(self, position_id: str) -> list[Payment]:
        """The payments of a position that were not booked before."""
        before = {one.payment for one in self._tail.paid if one.position_id == position_id}
        cycles = [cycle for row_id, cycle in self._rows if row_id == position_id]
        return [payment for cycle in cycles for payment in cycle.payments if payment not in before]

    async def begin(self) -> None:
        """Write the positions. Raises PositionChanged."""
        repository = PositionRepository(self._connection)
        was = {position.position_id: position for position in self.before}
        for position in self._vanished:
            if position.status == "open":
                # Emptied first: its fills still point to it, and another may now be the open one.
                await repository.correct(position, _emptied(position, self._now))
        changes = [(was[one.position_id], one) for one in self.after if one.position_id in was]
        # What is closed now comes first, for only one of a chain may be open.
        await repository.correct_many(sorted(changes, key=lambda change: change[1].status == "open"))
        await repository.add_many([one for one in self.after if one.position_id not in was])

    async def finish(self) -> None:
        """Bring fills and payments to the positions they belong to, and remove positions that nothing belongs to."""
        moved = {
            trade.fill_id: self.places[trade.fill_id]
            for trade in self._tail.trades
            if self.places.get(trade.fill_id, _place(trade)) != _place(trade)
        }
        await TradeRepository(self._connection).repoint(moved)
        paid = {
            PaidFunding(position_id, self._tail.key.symbol, payment)
            for position_id, cycle in self._rows
            for payment in cycle.payments
        }
        before = set(self._tail.paid)
        repository = FundingPaymentRepository(self._connection)
        await repository.remove(before - paid)
        await repository.add(self._tail.key.user_id, paid - before)
        if self._vanished:
            await PositionRepository(self._connection).remove([one.position_id for one in self._vanished])

    def _changes(self) -> tuple[list[Position], list[Position]]:
        before, after = list(self._vanished), []
        for position_id, cycle in self._rows:
            was = self._tail.positions.get(position_id)
            position = self._position(position_id, cycle, was)
            if position is not was:
                after.append(position)
                if was is not None:
                    before.append(was)
        return sorted(before, key=lambda one: one.opened_at), after

    def _position(self, position_id: str, cycle: Cycle, was: Position | None) -> Position:
        figures = {
            "state": cycle.state,
            "converted": cycle.converted,
            "status": "open" if cycle.closed_at is None else "closed",
            "opened_at": cycle.opened_at,
            "closed_at": cycle.closed_at,
        }
        if was is None:
            key = self._tail.key
            return Position(
                position_id=position_id,
                user_id=key.user_id,
                account_id=key.account_id,
                instrument=self._instrument,
                position_side=key.position_side,
                strategy=key.strategy,
                updated_at=self._now,
                **figures,  # type: ignore[arg-type]
            )
        if all(getattr(was, name) == figure for name, figure in figures.items()):
            return was
        return msgspec.structs.replace(was, **figures, updated_at=self._now, version=was.version + 1)


async def plan_rewrite(
    connection: AsyncConnection,
    tail: Tail,
    fills: Iterable[Trade],
    instrument: Instrument,
    currency: str,
    now: datetime,
    rates: Mapping[datetime, Decimal] | None = None,
) -> tuple[Rewrite, list[Funding]]:
    """Replay a tail with other fills; also the stamps that apply to it. Nothing is written yet.

    ``rates`` are exchange rates into the reporting currency at stamps that were not applied before.

    Raises:
        TooLarge, ContradictoryFill: such fills cannot be.
    """
    ordered = sorted(fills, key=ledger_place)
    stamps = await _stamps(connection, tail, ordered, instrument, rates or {})
    work = partial(replay_cycles, instrument, ordered, stamps, currency=currency)
    cycles = work() if len(ordered) <= _AT_ONCE else await asyncio.to_thread(work)
    return Rewrite(connection, tail, cycles, instrument, now), stamps


async def _stamps(
    connection: AsyncConnection,
    tail: Tail,
    fills: Sequence[Trade],
    instrument: Instrument,
    rates: Mapping[datetime, Decimal],
) -> list[Funding]:
    """The stamps that apply, at the exchange rates under which they were applied before."""
    if instrument.market == "spot" or not fills:
        return []
    settled = await FundingPaymentRepository(connection).stamps(tail.key.symbol, fills[0].executed_at)
    known = {**rates, **{one.payment.at: one.payment.rate_to_reporting for one in tail.paid}}
    return [msgspec.structs.replace(stamp, rate_to_reporting=known.get(stamp.at)) for stamp in settled]


def _of_chain(table: Table, key: ChainKey) -> list[ColumnElement[bool]]:
    columns = table.c
    return [
        columns.user_id == key.user_id,
        columns.account_id == key.account_id,
        columns.symbol == key.symbol,
        columns.position_side == key.position_side,
        columns.strategy == key.strategy,
    ]


def _places(rows: Iterable[tuple[str, Cycle]]) -> dict[str, PositionsOfFill]:
    """The positions of each fill: that of the cycle it ended or was in, and the one that its rest opened."""
    places: dict[str, PositionsOfFill] = {}
    for position_id, cycle in rows:
        for fill_id in cycle.fill_ids:
            ended = places.get(fill_id)
            places[fill_id] = (position_id, None) if ended is None else (ended[0], position_id)
    return places


def _place(trade: Trade) -> PositionsOfFill:
    return trade.position_id, trade.opened_position_id


def _emptied(position: Position, now: datetime) -> Position:
    return msgspec.structs.replace(position, state=FLAT, status="closed", closed_at=now, updated_at=now)
