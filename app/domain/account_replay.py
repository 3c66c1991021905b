"""What an account held and had realised at any moment, from its recorded fills.

Every fill names the cycles that it changed, so each cycle is rebuilt from its
own fills: the same states that its row went through, whatever happened to
strategies and notes since. A moment has what happened *before* it; what happens
exactly at midnight belongs to the day that begins.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from app.domain.decimals import ZERO, exact
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, LedgerState, apply_fill, split_through_flat
from app.domain.positions import Converted


class RecordedFill(msgspec.Struct, frozen=True, kw_only=True):
    """A fill and the cycles it changed: ``opened_position_id`` where it went through zero."""

    position_id: str
    opened_position_id: str | None
    executed_at: datetime
    fill: Fill


class PaidFunding(msgspec.Struct, frozen=True, kw_only=True):
    """Funding that a cycle received (or paid: negative), in its settle asset."""

    position_id: str
    at: datetime
    amount: Decimal
    rate_to_reporting: Decimal | None = None


class Held(msgspec.Struct, frozen=True):
    """One cycle at a moment, and the price of its last fill (zero before any).

    ``converted`` is None where the settle asset is the reporting currency.
    """

    instrument: Instrument
    state: LedgerState
    last_price: Decimal
    converted: Converted | None = None


class AccountReplay:
    """Goes through fills and funding in order of time.

    ``instruments`` are by position id; fills of one instant stay as given. What
    settles in another asset than ``currency`` is also converted to it.
    """

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        fills: Iterable[RecordedFill],
        funding: Iterable[PaidFunding] = (),
        *,
        currency: str,
    ) -> None:
        self._instruments = instruments
        self._currency = currency
        self._fills = sorted(fills, key=lambda fill: fill.executed_at)
        self._funding = sorted(funding, key=lambda paid: paid.at)
        self._next_fill = self._next_paid = 0
        self.cycles: dict[str, Held] = {}
        """Every cycle that began, by position id."""

    def advance_to(self, moment: datetime) -> list[str]:
        """Take in everything before a moment; the cycles that changed."""
        changed: dict[str, None] = {}
        while (event := self._next_before(moment)) is not None:
            if isinstance(event, PaidFunding):
                self._pay(event)
                changed[event.position_id] = None
            else:
                changed.update(dict.fromkeys(self._book(event)))
        return list(changed)

    def _next_before(self, moment: datetime) -> RecordedFill | PaidFunding | None:
        """The next event. Funding is for what was held strictly before it, so it comes before a fill of its time."""
        fill = self._fills[self._next_fill] if self._next_fill < len(self._fills) else None
        paid = self._funding[self._next_paid] if self._next_paid < len(self._funding) else None
        if paid is not None and paid.at < moment and (fill is None or paid.at <= fill.executed_at):
            self._next_paid += 1
            return paid
        if fill is not None and fill.executed_at < moment:
            self._next_fill += 1
            return fill
        return None

    def _book(self, recorded: RecordedFill) -> Sequence[str]:
        closed, opened = recorded.position_id, recorded.opened_position_id
        if opened is None:
            self._fill(closed, recorded.fill)
            return (closed,)
        closing, opening = split_through_flat(self._instruments[closed], self._held(closed).state, recorded.fill)
        self._fill(closed, closing)
        self._fill(opened, opening)
        return (closed, opened)

    def _fill(self, position_id: str, fill: Fill) -> None:
        held = self._held(position_id)
        state = apply_fill(held.instrument, held.state, fill)
        self.cycles[position_id] = msgspec.structs.replace(
            _moved(held, state, fill.rate_to_reporting), last_price=fill.price
        )

    def _pay(self, paid: PaidFunding) -> None:
        held = self._held(paid.position_id)
        with exact():
            state = msgspec.structs.replace(held.state, funding=held.state.funding + paid.amount)
        self.cycles[paid.position_id] = _moved(held, state, paid.rate_to_reporting)

    def _held(self, position_id: str) -> Held:
        held = self.cycles.get(position_id)
        if held is None:
            instrument = self._instruments[position_id]
            held = Held(instrument, FLAT, ZERO, None if instrument.settle == self._currency else Converted())
        return held


def _moved(held: Held, state: LedgerState, rate: Decimal | None) -> Held:
    converted = held.converted and held.converted.after(held.state, state, rate)
    return msgspec.structs.replace(held, state=state, converted=converted)
