"""Recording a fill: the ledger's arithmetic and the rows it changes, in one step."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import book_fill
from app.domain.day_bases import day_of
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, refuse_wrong_side
from app.domain.positions import Converted, Position
from app.domain.trades import ChainKey, Trade
from app.repositories.chains import ChainRepository
from app.repositories.corrections import Books, Correction, TooManyPositions, insert_late
from app.repositories.funding_payments import FundingPaymentRepository
from app.repositories.positions import PositionRepository
from app.repositories.trades import TradeRepository

__all__ = ["Holder", "Recorded", "Source", "TooManyPositions", "record_fill"]

Source = Literal["api", "import", "paper", "seed"]


class Holder(msgspec.Struct, frozen=True):
    """For whom a fill is recorded, and the currency it is reported in."""

    user_id: str
    account_id: str
    currency: str


class Recorded(msgspec.Struct, frozen=True):
    """A recorded fill, and the positions it belongs to: the closed one first where it went through zero.

    ``correction`` tells what else changed where the fill came late.
    """

    trade: Trade
    positions: list[Position]
    correction: Correction | None = None

    @property
    def position(self) -> Position:
        """The position that holds what the fill left: the opened one where it went through zero."""
        return self.positions[-1]


async def record_fill(
    connection: AsyncConnection,
    holder: Holder,
    instrument: Instrument,
    fill: Fill,
    standing: Position | None,
    *,
    source: Source,
    now: datetime,
    max_open: int,
) -> Recorded:
    """Book a fill, in the caller's transaction: against the position that stands (None: none does) where it is the
    newest of its chain and of today, else by a replay of what follows it.

    The caller holds the user's lock (``UserRepository.advance``).

    Raises:
        TradeDeleted, app.domain.cycles.TooLarge, app.domain.ledger.ContradictoryFill,
        TooManyPositions, PositionChanged, ChainTooLong.
    """
    at = fill.executed_at or now
    if fill.trade_id is not None:
        await TradeRepository(connection).refuse_deleted(holder.account_id, instrument.symbol, fill.trade_id)
    recorded_at = await _if_newest(connection, _chain(holder, instrument, fill), instrument, at, now)
    if recorded_at is None:
        return await _record_late(
            connection, holder, instrument, fill, source=source, at=at, now=now, max_open=max_open
        )
    changed = await _append(connection, holder, instrument, fill, standing, at=at, now=now, max_open=max_open)
    trade = await TradeRepository(connection).add(
        user_id=holder.user_id,
        account_id=holder.account_id,
        symbol=instrument.symbol,
        position_id=changed[0].position_id,
        opened_position_id=changed[1].position_id if len(changed) > 1 else None,
        fill=fill,
        source=source,
        executed_at=at,
        now=recorded_at,
    )
    return Recorded(trade, changed)


async def _if_newest(
    connection: AsyncConnection, key: ChainKey, instrument: Instrument, at: datetime, now: datetime
) -> datetime | None:
    """When a fill counts as recorded if it only adds to the end of the ledger; None if it came late.

    Late is what others of its chain follow, what was executed before today (a day
    base follows it), and what a funding stamp follows.
    """
    if day_of(at) < day_of(now):
        return None
    newest = await ChainRepository(connection).newest(key)
    if newest is not None and newest[0] > at:
        return None
    if instrument.market != "spot" and await FundingPaymentRepository(connection).has_stamp_since(key.symbol, at):
        return None
    if newest is None or newest[0] < at:
        return now
    # Of one instant: after the others, whatever the clock of another host said.
    return max(now, newest[1] + timedelta(microseconds=1))


async def _record_late(
    connection: AsyncConnection,
    holder: Holder,
    instrument: Instrument,
    fill: Fill,
    *,
    source: Source,
    at: datetime,
    now: datetime,
    max_open: int,
) -> Recorded:
    books = Books(holder.user_id, holder.currency, max_open)
    trade, correction = await insert_late(
        connection, books, holder.account_id, instrument, fill, source=source, at=at, now=now
    )
    ids = [one for one in (trade.position_id, trade.opened_position_id) if one is not None]
    positions = {one.position_id: one for one in await PositionRepository(connection).of_ids(holder.user_id, ids)}
    return Recorded(trade, [positions[one] for one in ids], correction)


async def _append(
    connection: AsyncConnection,
    holder: Holder,
    instrument: Instrument,
    fill: Fill,
    standing: Position | None,
    *,
    at: datetime,
    now: datetime,
    max_open: int,
) -> list[Position]:
    """Change the position that stands, open the next one, or both."""
    repository = PositionRepository(connection)
    booked = book_fill(instrument, None if standing is None else standing.state, fill)
    for state in (booked.standing, booked.opened):
        if state is not None:
            refuse_wrong_side(fill.position_side, state)
    changed: list[Position] = []
    if standing is not None and booked.standing is not None:
        converted = standing.converted and standing.converted.after(
            standing.state, booked.standing, fill.rate_to_reporting
        )
        changed.append(await repository.move(standing, booked.standing, converted, at=at, now=now))
    if booked.opened is not None:
        if not changed and await repository.count_open(holder.user_id) >= max_open:
            raise TooManyPositions
        changed.append(
            await repository.open(
                user_id=holder.user_id,
                account_id=holder.account_id,
                instrument=instrument,
                strategy=fill.strategy,
                position_side=fill.position_side,
                state=booked.opened,
                converted=None
                if instrument.settle == holder.currency
                else Converted().after(FLAT, booked.opened, fill.rate_to_reporting),
                at=at,
                now=now,
            )
        )
    return changed


def _chain(holder: Holder, instrument: Instrument, fill: Fill) -> ChainKey:
    return ChainKey(holder.user_id, holder.account_id, instrument.symbol, fill.position_side, fill.strategy)
