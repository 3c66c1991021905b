"""Many fills of one chain, booked in memory: the rows are written once for many fills.

What comes out equals booking each fill by itself, to the last digit and to the
version of the rows (:func:`app.repositories.fills.record_fill`).
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal

import msgspec

from app.domain.cycles import Payment, book_fill
from app.domain.instruments import Instrument
from app.domain.ledger import (
    FLAT,
    Fill,
    Funding,
    LedgerState,
    apply_funding,
    funding_payment,
    refuse_wrong_side,
)
from app.domain.positions import Converted, Position


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """Whose chain it is, and the currency it is reported in."""

    user_id: str
    account_id: str
    currency: str
    instrument: Instrument


class Touched(msgspec.Struct, frozen=True):
    """The positions that a fill belongs to: as the columns of a trade have them."""

    position_id: str
    opened_position_id: str | None


class _Cycle:
    """A position being made."""

    __slots__ = ("closed_at", "converted", "is_new", "opened_at", "position_id", "standing", "state", "version")

    def __init__(self, position_id: str, state: LedgerState, converted: Converted | None, at: datetime) -> None:
        self.position_id = position_id
        self.state = state
        self.converted = converted
        self.opened_at = at
        self.closed_at = at if state.is_flat else None
        self.version = 1
        self.is_new = True
        self.standing: Position | None = None

    def become(self, state: LedgerState, rate: Decimal | None) -> None:
        if self.converted is not None:
            self.converted = self.converted.after(self.state, state, rate)
        self.state = state
        self.version += 1

    @classmethod
    def of(cls, standing: Position) -> "_Cycle":
        cycle = cls(standing.position_id, standing.state, standing.converted, standing.opened_at)
        cycle.version = standing.version
        cycle.is_new = False
        cycle.standing = standing
        return cycle


class PositionChange(msgspec.Struct, frozen=True):
    """A position as it is to be stored. ``is_new`` says that no row of it exists."""

    position: Position
    is_new: bool


class ChainBook:
    """Books the fills of one chain in ledger order.

    ``standing`` is the open position before the first of them. ``make_id`` gives
    the ids of new positions. ``stamps`` are those that apply, the oldest first.
    """

    def __init__(
        self,
        holding: Holding,
        standing: Position | None,
        make_id: Callable[[], str],
        stamps: Iterable[Funding] = (),
    ) -> None:
        self._holding = holding
        self._make_id = make_id
        self._standing = None if standing is None else _Cycle.of(standing)
        self._pending = deque(stamps)
        self._paid: list[tuple[str, Payment]] = []
        self._ended: list[_Cycle] = []
        self._is_touched = False
        self._fill: Fill | None = None
        self._converts = holding.instrument.settle != holding.currency

    @property
    def symbol(self) -> str:
        return self._holding.instrument.symbol

    @property
    def is_open(self) -> bool:
        """Whether anything is held."""
        return self._standing is not None

    @property
    def changes(self) -> int:
        """How many positions changed since the last time that changes were taken, one that stands left out."""
        return len(self._ended)

    def book(self, fill: Fill, opens_as: str | None = None) -> Touched:
        """Book a fill; a position that it opens has the id ``opens_as``, or a new one.

        Raises:
            app.domain.cycles.TooLarge, app.domain.ledger.ContradictoryFill.
        """
        self._fund_until(fill.executed_at)
        standing = self._standing
        booked = book_fill(self._holding.instrument, None if standing is None else standing.state, fill)
        for state in (booked.standing, booked.opened):
            if state is not None:
                refuse_wrong_side(fill.position_side, state)
        self._fill, self._is_touched = fill, True
        changed: list[str] = []
        if standing is not None and booked.standing is not None:
            self._move(standing, booked.standing, fill)
            changed.append(standing.position_id)
        if booked.opened is not None:
            changed.append(self._open(booked.opened, fill, opens_as))
        return Touched(changed[0], changed[1] if len(changed) > 1 else None)

    def finish(self) -> None:
        """Apply the stamps after the last fill."""
        self._fund_until(None)

    def take_payments(self) -> list[tuple[str, Payment]]:
        """The funding payments since the last time, with their positions."""
        paid, self._paid = self._paid, []
        return paid

    def take_changes(self, now: datetime) -> list[PositionChange]:
        """What changed since the last time: those that ended in their order, then the one that stands."""
        cycles = self._ended
        if self._standing is not None and self._is_touched:
            cycles = [*cycles, self._standing]
        changes = [PositionChange(self._position(cycle, now), cycle.is_new) for cycle in cycles]
        if self._standing is not None:
            self._standing.is_new = self._standing.is_new and not self._is_touched
        self._ended, self._is_touched = [], False
        return changes

    def _move(self, cycle: _Cycle, state: LedgerState, fill: Fill) -> None:
        cycle.become(state, fill.rate_to_reporting)
        self._end_if_flat(cycle, fill)

    def _fund_until(self, moment: datetime | None) -> None:
        """Apply the stamps before a moment; one at the moment of a fill comes after the fill."""
        while self._pending and (moment is None or self._pending[0].at < moment):
            stamp = self._pending.popleft()
            if self._standing is not None:
                self._fund(self._standing, stamp)

    def _fund(self, cycle: _Cycle, stamp: Funding) -> None:
        instrument, qty = self._holding.instrument, cycle.state.signed_qty
        payment = Payment(
            at=stamp.at,
            signed_qty=qty,
            mark=stamp.mark,
            rate=stamp.rate,
            amount=funding_payment(instrument, qty, stamp.mark, stamp.rate),
            rate_to_reporting=stamp.rate_to_reporting,
        )
        self._paid.append((cycle.position_id, payment))
        cycle.become(apply_funding(instrument, cycle.state, stamp.mark, stamp.rate), stamp.rate_to_reporting)
        self._is_touched = True

    def _open(self, state: LedgerState, fill: Fill, opens_as: str | None) -> str:
        converted = Converted().after(FLAT, state, fill.rate_to_reporting) if self._converts else None
        assert fill.executed_at is not None
        cycle = _Cycle(opens_as or self._make_id(), state, converted, fill.executed_at)
        cycle.is_new = opens_as is None
        self._standing = cycle
        self._end_if_flat(cycle, fill)
        return cycle.position_id

    def _end_if_flat(self, cycle: _Cycle, fill: Fill) -> None:
        if cycle.state.is_flat:
            cycle.closed_at = fill.executed_at
            self._ended.append(cycle)
            self._standing = None

    def _position(self, cycle: _Cycle, now: datetime) -> Position:
        return msgspec.structs.replace(
            cycle.standing or self._new_position(cycle, now),
            state=cycle.state,
            converted=cycle.converted,
            status="open" if cycle.closed_at is None else "closed",
            closed_at=cycle.closed_at,
            updated_at=now,
            version=cycle.version,
        )

    def _new_position(self, cycle: _Cycle, now: datetime) -> Position:
        assert self._fill is not None
        return Position(
            position_id=cycle.position_id,
            user_id=self._holding.user_id,
            account_id=self._holding.account_id,
            instrument=self._holding.instrument,
            state=cycle.state,
            position_side=self._fill.position_side,
            strategy=self._fill.strategy,
            opened_at=cycle.opened_at,
            updated_at=now,
        )
