"""A fill against what stands: which cycle it changes or ends, and which it starts.

A position is one cycle from flat to flat, so a fill through zero touches two:
it ends one, and its rest opens the next.

The fills of one *chain* (account, symbol, position side, strategy) give its
cycles one after the other, and nothing but them and the funding stamps does:
:func:`replay_cycles` finds what booking each as it came has stored.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from app.domain.decimals import exact
from app.domain.instruments import Instrument
from app.domain.ledger import (
    FLAT,
    Fill,
    Funding,
    LedgerState,
    apply_fill,
    apply_funding,
    ends_a_cycle,
    funding_payment,
    refuse_wrong_side,
    split_through_flat,
)
from app.domain.positions import Converted
from app.domain.trades import Trade

MAX_VALUE = Decimal(10) ** 15
"""The most a position may be worth, cost, pay or receive, in its settle asset: room for sums over thousands."""


class TooLarge(ValueError):
    """A fill that would make a position larger than can be summed up."""


class Booked(msgspec.Struct, frozen=True):
    """The states after a fill: of the cycle that stood, and of the one it opened."""

    standing: LedgerState | None
    opened: LedgerState | None


def book_fill(instrument: Instrument, standing: LedgerState | None, fill: Fill) -> Booked:
    """Apply a fill to the cycle that stands (None: nothing is held).

    Raises:
        TooLarge: a figure would pass MAX_VALUE.
    """
    booked = _book(instrument, standing, fill)
    for state in (booked.standing, booked.opened):
        if state is not None:
            _refuse_too_large(state)
    return booked


def _book(instrument: Instrument, standing: LedgerState | None, fill: Fill) -> Booked:
    if standing is None or standing.is_flat:
        return Booked(None, apply_fill(instrument, FLAT, fill))
    after = apply_fill(instrument, standing, fill)
    if not ends_a_cycle(standing, after, fill):
        return Booked(after, None)
    closing, opening = split_through_flat(instrument, standing, fill)
    return Booked(apply_fill(instrument, standing, closing), apply_fill(instrument, FLAT, opening))


def _refuse_too_large(state: LedgerState) -> None:
    with exact():
        if max(abs(state.cost), abs(state.cash), abs(state.fees)) > MAX_VALUE:
            raise TooLarge(f"a position may not be worth, cost or earn more than {MAX_VALUE:f}")


class Payment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one cycle received (+) or paid (-) at one funding stamp, in its settle asset."""

    at: datetime
    signed_qty: Decimal
    mark: Decimal
    rate: Decimal
    amount: Decimal
    rate_to_reporting: Decimal | None = None


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One cycle from flat to flat as its fills make it: what the row of a position must say.

    ``fill_ids`` are in ledger order; the first opened it. A fill through zero
    is the last of one cycle and the first of the next, of which
    ``is_opened_by_rest`` is then true. ``closed_at`` is None while it is open.
    """

    fill_ids: tuple[str, ...]
    is_opened_by_rest: bool
    state: LedgerState
    converted: Converted | None
    payments: tuple[Payment, ...]
    opened_at: datetime
    closed_at: datetime | None

    @property
    def opened_by(self) -> str:
        """The id of the fill that opened it: what a position is recognised by in a replay."""
        return self.fill_ids[0]


LedgerPlace = tuple[datetime, datetime, str]


def ledger_place(trade: Trade) -> LedgerPlace:
    """Where a fill stands in its chain: by time, then as recorded; the id only makes the order total."""
    return (trade.executed_at, trade.created_at, trade.fill_id)


def replay_cycles(
    instrument: Instrument, fills: Iterable[Trade], stamps: Iterable[Funding] = (), *, currency: str | None = None
) -> list[Cycle]:
    """The cycles of one chain, oldest first, as booking its fills one by one in ledger order gives them.

    Equal to the last digit to what :func:`book_fill` leaves of the same fills.
    ``fills`` and ``stamps`` may come in any order; fills that start from flat
    may also be a tail of the chain. Only funding and its payments depend on the
    stamps, never quantity or cost. A stamp applies to what is held after the
    fills of its own instant; while flat it is nothing. With a reporting
    ``currency`` other than the settle asset, what was realised is also converted.

    Raises:
        TooLarge: a figure would pass MAX_VALUE at some fill.
        ContradictoryFill: a long leg would turn short, or a short leg long.
    """
    chain = Chain(instrument, stamps, currency=currency)
    for trade in sorted(fills, key=ledger_place):
        chain.book(trade)
    return chain.finish()


class _Standing:
    """The cycle that is being built."""

    def __init__(self, trade: Trade, state: LedgerState, converted: Converted | None, *, by_rest: bool) -> None:
        self.state = FLAT
        self.converted = converted
        self.fill_ids: list[str] = []
        self.payments: list[Payment] = []
        self._opened_at = trade.executed_at
        self._by_rest = by_rest
        self.add(trade, state)

    def add(self, trade: Trade, state: LedgerState) -> None:
        self.fill_ids.append(trade.fill_id)
        self._become(state, trade.fill.rate_to_reporting)

    def fund(self, instrument: Instrument, stamp: Funding) -> None:
        qty = self.state.signed_qty
        payment = Payment(
            at=stamp.at,
            signed_qty=qty,
            mark=stamp.mark,
            rate=stamp.rate,
            amount=funding_payment(instrument, qty, stamp.mark, stamp.rate),
            rate_to_reporting=stamp.rate_to_reporting,
        )
        self.payments.append(payment)
        self._become(apply_funding(instrument, self.state, stamp.mark, stamp.rate), stamp.rate_to_reporting)

    def as_cycle(self, closed_at: datetime | None) -> Cycle:
        return Cycle(
            fill_ids=tuple(self.fill_ids),
            is_opened_by_rest=self._by_rest,
            state=self.state,
            converted=self.converted,
            payments=tuple(self.payments),
            opened_at=self._opened_at,
            closed_at=closed_at,
        )

    def _become(self, state: LedgerState, rate: Decimal | None) -> None:
        if self.converted is not None:
            self.converted = self.converted.after(self.state, state, rate)
        self.state = state


class Chain:
    """Books the fills of a chain in ledger order. What stands and what ended can be looked at in between."""

    def __init__(self, instrument: Instrument, stamps: Iterable[Funding] = (), *, currency: str | None = None) -> None:
        self.ended: list[Cycle] = []
        self._instrument = instrument
        self._pending = deque(sorted(stamps, key=lambda stamp: stamp.at))
        self._converts = currency is not None and currency != instrument.settle
        self._standing: _Standing | None = None

    def book(self, trade: Trade) -> None:
        """Book the next fill, after the stamps before it. Raises TooLarge, ContradictoryFill."""
        self.fund_until(trade.executed_at)
        standing = self._standing
        booked = book_fill(self._instrument, None if standing is None else standing.state, trade.fill)
        if standing is not None and booked.standing is not None:
            standing.add(trade, booked.standing)
            self._end_if_flat(standing, trade)
        if booked.opened is not None:
            converted = Converted() if self._converts else None
            opened = _Standing(trade, booked.opened, converted, by_rest=booked.standing is not None)
            self._standing = opened
            self._end_if_flat(opened, trade)

    def fund_until(self, moment: datetime | None) -> None:
        """Apply the stamps before a moment (None: all); one at the moment of a fill comes after the fill."""
        while self._pending and (moment is None or self._pending[0].at < moment):
            stamp = self._pending.popleft()
            if self._standing is not None:
                self._standing.fund(self._instrument, stamp)

    def standing(self) -> Cycle | None:
        """The cycle that is open."""
        return None if self._standing is None else self._standing.as_cycle(None)

    def finish(self) -> list[Cycle]:
        """Apply the stamps that are left, and give all cycles."""
        self.fund_until(None)
        standing = self.standing()
        return self.ended if standing is None else [*self.ended, standing]

    def _end_if_flat(self, standing: _Standing, trade: Trade) -> None:
        refuse_wrong_side(trade.fill.position_side, standing.state)
        if standing.state.is_flat:
            self.ended.append(standing.as_cycle(trade.executed_at))
            self._standing = None


def match_positions(cycles: Sequence[Cycle], before: Iterable[Trade]) -> list[str | None]:
    """The position that each cycle continues, None for a new one.

    ``before`` are the fills with the positions that they had. A cycle is first
    of all the position that its opening fill opened, else one that any of its
    fills belonged to, the earliest fill first. No position goes to two cycles.
    """
    trades = {trade.fill_id: trade for trade in sorted(before, key=ledger_place)}
    opened = _openings(trades.values())
    found = [opened.get(cycle.opened_by) for cycle in cycles]
    taken = set(found)
    for place, cycle in enumerate(cycles):
        if found[place] is None:
            found[place] = next((one for one in _positions(cycle, trades) if one not in taken), None)
            taken.add(found[place])
    return found


def _openings(trades: Iterable[Trade]) -> dict[str, str]:
    """The position that each fill opened, by fill; the fills in ledger order."""
    opened: dict[str, str] = {}
    known: set[str] = set()
    for trade in trades:
        position_id = trade.position_id if trade.position_id not in known else trade.opened_position_id
        known.update((trade.position_id, trade.opened_position_id or ""))
        if position_id is not None:
            opened[trade.fill_id] = position_id
    return opened


def _positions(cycle: Cycle, trades: Mapping[str, Trade]) -> Iterator[str]:
    for trade in filter(None, map(trades.get, cycle.fill_ids)):
        yield trade.position_id
        if trade.opened_position_id is not None:
            yield trade.opened_position_id
