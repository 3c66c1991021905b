"""Recording a fill: the ledger's arithmetic and the rows it changes, in one step."""

from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import book_fill
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, refuse_wrong_side
from app.domain.positions import Converted, Position
from app.domain.trades import Trade
from app.repositories.positions import PositionRepository
from app.repositories.trades import TradeRepository

Source = Literal["api", "import", "paper", "seed"]


class Holder(msgspec.Struct, frozen=True):
    """For whom a fill is recorded, and the currency it is reported in."""

    user_id: str
    account_id: str
    currency: str


class Recorded(msgspec.Struct, frozen=True):
    """A recorded fill, and every position it changed: the closed one first where it went through zero."""

    trade: Trade
    positions: list[Position]

    @property
    def position(self) -> Position:
        """The position that holds what the fill left: the opened one where it went through zero."""
        return self.positions[-1]


class TooManyPositions(Exception):
    """The user has as many open positions as are allowed."""


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
    """Book a fill against the position that stands (None: none does), in the caller's transaction.

    The caller holds the user's lock (``UserRepository.advance``).

    Raises:
        app.domain.cycles.TooLarge, app.domain.ledger.ContradictoryFill,
        TooManyPositions, PositionChanged.
    """
    repository = PositionRepository(connection)
    at = fill.executed_at or now
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
    trade = await TradeRepository(connection).add(
        user_id=holder.user_id,
        account_id=holder.account_id,
        symbol=instrument.symbol,
        position_id=changed[0].position_id,
        opened_position_id=changed[1].position_id if len(changed) > 1 else None,
        fill=fill,
        source=source,
        executed_at=at,
        now=now,
    )
    return Recorded(trade, changed)
