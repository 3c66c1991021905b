"""A position: one cycle from flat to flat, in one account, symbol, side and strategy."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState
from app.domain.ledger import PositionSide as PositionSide

Status = Literal["open", "closed"]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A holding and its ledger state.

    A row is one cycle: opening from flat makes it, closing to flat ends it, and
    a fill through zero ends one and makes the next. ``version`` grows by one
    with every change and fences older copies out of every cache.
    """

    position_id: str
    user_id: str
    account_id: str
    instrument: Instrument
    state: LedgerState
    position_side: PositionSide = "net"
    strategy: str = ""
    note: str = ""
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None
    status: Status = "open"
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    version: int = 1

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def side(self) -> str:
        qty = self.state.signed_qty
        return "long" if qty > 0 else "short" if qty < 0 else "flat"


class ClosedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a user's closed positions add up to: published leaves, in units of 1e-18.

    Only those settled in the reporting currency; the symbols of the others are named.
    """

    realized_pnl_gross: int = 0
    fees: int = 0
    funding: int = 0
    fees_are_complete: bool = True
    foreign_symbols: tuple[str, ...] = ()


class UserBook(msgspec.Struct, frozen=True, kw_only=True):
    """All that a P&L needs of one user, as one consistent read of the database.

    ``day_base`` is total P&L at 00:00 UTC in units of 1e-18, None if unknown.
    """

    user_id: str
    account_id: str
    ledger_seq: int
    currency: str
    positions: tuple[Position, ...]
    closed: ClosedFigures
    day_base: int | None
