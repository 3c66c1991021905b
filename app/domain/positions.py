"""A position: one cycle from flat to flat, in one account, symbol, side and strategy."""

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from app.domain.decimals import ZERO, exact, quantize_state, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState
from app.domain.ledger import PositionSide as PositionSide
from app.domain.prices import Basis

Status = Literal["open", "closed"]


class Converted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a position realised, in the reporting currency, each part at the rate of its own time.

    Kept only where a position settles in another asset. Never valued anew: what
    a rate does later is the currency effect. ``is_complete`` is false once a
    rate was unknown; that part is in no sum.
    """

    gross: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    is_complete: bool = True

    def after(self, before: LedgerState, after: LedgerState, rate: Decimal | None) -> "Converted":
        """With what was realised between two states of the ledger added at a rate (None: not known)."""
        with exact():
            gross = after.realized_pnl_gross - before.realized_pnl_gross
            fees = after.fees - before.fees
            funding = after.funding - before.funding
            if rate is None:
                return self if not (gross or fees or funding) else msgspec.structs.replace(self, is_complete=False)
            return Converted(
                gross=self.gross + quantize_state(gross * rate),
                fees=self.fees + quantize_state(fees * rate),
                funding=self.funding + quantize_state(funding * rate),
                is_complete=self.is_complete,
            )


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
    converted: Converted | None = None
    """None where the settle asset is the reporting currency."""

    @property
    def symbol(self) -> str:
        return self.instrument.symbol

    @property
    def side(self) -> str:
        qty = self.state.signed_qty
        return "long" if qty > 0 else "short" if qty < 0 else "flat"


class Realized(msgspec.Struct, frozen=True, kw_only=True):
    """What positions realised: sums of published leaves, in units of 1e-18."""

    gross: int = 0
    fees: int = 0
    funding: int = 0

    @property
    def net(self) -> int:
        return self.gross - self.fees + self.funding

    def __add__(self, other: "Realized") -> "Realized":
        return Realized(
            gross=self.gross + other.gross, fees=self.fees + other.fees, funding=self.funding + other.funding
        )


NOTHING_REALIZED = Realized()


def realized_of(position: Position) -> Realized:
    """The leaves of what a position realised, in its settle asset."""
    return realized_units(position.state, None)


def reported_of(position: Position) -> Realized:
    """The leaves of what a position realised, in the reporting currency at the rates of their times."""
    return realized_units(position.state, position.converted)


def realized_units(state: LedgerState, converted: Converted | None) -> Realized:
    """The leaves of what a state of the ledger realised: as converted, else in the settle asset."""
    if converted is None:
        # Of most open positions nothing was sold yet.
        has_realized = state.cash != state.cost.copy_negate()
        return Realized(
            gross=to_units(state.cash) + to_units(state.cost) if has_realized else 0,
            fees=to_units(state.fees),
            funding=to_units(state.funding),
        )
    return Realized(gross=to_units(converted.gross), fees=to_units(converted.fees), funding=to_units(converted.funding))


def is_known(position: Position) -> bool:
    """Whether every fee and every rate of what was realised is known."""
    return not position.state.fees_unpriced and (position.converted is None or position.converted.is_complete)


class AssetBook(msgspec.Struct, frozen=True, kw_only=True):
    """What an account's closed positions and its transfers add up to in one asset, in units of 1e-18.

    ``realized`` and ``deposited`` (deposits less withdrawals) are in the asset,
    ``reported`` and ``deposited_reported`` the same in the reporting currency at
    the rates of their times. ``is_complete`` is false where a fee or a rate is
    not known.
    """

    asset: str
    realized: Realized = NOTHING_REALIZED
    reported: Realized = NOTHING_REALIZED
    deposited: int = 0
    deposited_reported: int = 0
    is_complete: bool = True

    def with_closed(self, position: Position) -> "AssetBook":
        """With one more closed position in it."""
        return msgspec.structs.replace(
            self,
            realized=self.realized + realized_of(position),
            reported=self.reported + reported_of(position),
            is_complete=self.is_complete and is_known(position),
        )


class AccountBook(msgspec.Struct, frozen=True, kw_only=True):
    """An account: what values its positions, and the sums of what is over."""

    account_id: str
    name: str = ""
    valuation: Basis = "auto"
    assets: tuple[AssetBook, ...] = ()

    def with_closed(self, position: Position) -> "AccountBook":
        """With one more closed position in its sums."""
        settle = position.instrument.settle
        book = next((book for book in self.assets if book.asset == settle), AssetBook(asset=settle))
        others = tuple(book for book in self.assets if book.asset != settle)
        return msgspec.structs.replace(self, assets=(*others, book.with_closed(position)))


class UserBook(msgspec.Struct, frozen=True, kw_only=True):
    """All that a P&L needs of one user, as one consistent read of the database.

    ``currency`` is what everything is reported in, ``positions`` are the open
    ones of all accounts, the default account comes first. ``day_base`` is total
    P&L at 00:00 UTC of ``base_day`` in units of 1e-18, None if unknown.
    """

    user_id: str
    ledger_seq: int
    currency: str
    accounts: tuple[AccountBook, ...]
    positions: tuple[Position, ...]
    day_base: int | None
    base_day: date | None = None
