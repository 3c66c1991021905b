"""Realised profit lot by lot: first in first out, last in first out, or at average cost.

A *lot* is what one fill opened and no later fill has closed. The method only
chooses which lots a closing fill consumes, so it moves profit between realised
and unrealised: their sum is ``cash + value(now)``, and no method changes either.
What is held, paid in fees and paid in cash is the ledger's
(:mod:`app.domain.ledger`); at average cost the realised profit is too, to the
last digit.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec

from app.domain.decimals import ZERO, exact, quantize_state
from app.domain.instruments import Instrument
from app.domain.ledger import (
    Fill,
    Funding,
    Leg,
    PositionSide,
    PositionState,
    TradeIds,
    fee_expense,
    in_time_order,
    is_paid_in_holding,
    price_of_cost,
    with_unpriced_fee,
)

Method: TypeAlias = Literal["average", "fifo", "lifo"]


class Lot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A quantity opened by one fill (at average cost: by all since flat) and still held.

    ``cost`` is its value at entry, signed like a value. ``opened_by`` is the
    ``trade_id`` of the (first) fill.
    """

    opened_at: datetime | None
    opened_by: str | None
    signed_qty: Decimal
    cost: Decimal


class Disposal(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A part of one lot, closed by one fill.

    ``signed_qty`` is positive where a long was sold. ``realized_pnl_gross`` is
    ``proceeds - cost``, exactly. ``is_fee`` says that the units were not traded
    but paid as the fee of the fill.
    """

    position_side: PositionSide
    opened_at: datetime | None
    opened_by: str | None
    closed_at: datetime | None
    closed_by: str | None
    signed_qty: Decimal
    cost: Decimal
    proceeds: Decimal
    is_fee: bool

    @property
    def realized_pnl_gross(self) -> Decimal:
        with exact():
            return self.proceeds - self.cost


class LotReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was realised in a period by one method, and the lots open at its end.

    Fees and funding are those charged in the period, whatever lot they belong
    to; ``realized_pnl`` is gross less fees plus funding.
    """

    method: Method
    disposals: tuple[Disposal, ...]
    open_lots: dict[PositionSide, tuple[Lot, ...]]
    realized_pnl_gross: Decimal
    fees: Decimal
    funding: Decimal
    fees_unpriced: dict[str, Decimal]

    @property
    def realized_pnl(self) -> Decimal:
        with exact():
            return self.realized_pnl_gross - self.fees + self.funding


class LotBook:
    """The lots of one position, or one leg of it. Fills come in the order they happened."""

    def __init__(self, instrument: Instrument, method: Method, position_side: PositionSide = "net") -> None:
        self.leg = Leg(instrument, position_side)
        self._instrument = instrument
        self._method = method
        self._position_side: PositionSide = position_side
        self._lots: deque[Lot] = deque()
        self._cost = ZERO

    @property
    def lots(self) -> tuple[Lot, ...]:
        """The open lots, oldest first."""
        return tuple(self._lots)

    def book(self, fill: Fill) -> list[Disposal]:
        """Book a fill and say which lots it consumed. Raises ContradictoryFill as the leg does."""
        held = self.leg.state.signed_qty
        self.leg.book(fill)
        with exact():
            disposals = self._trade(fill, held, fill.signed_qty, is_fee=False)
            if fill.fee and is_paid_in_holding(self._instrument, fill):
                disposals += self._trade(fill, held + fill.signed_qty, -fill.fee, is_fee=True)
        return disposals

    def fund(self, stamp: Funding) -> None:
        """Book a funding stamp: the same payment by every method."""
        self.leg.fund(stamp)

    def describe(self, index: int, marks: Sequence[Decimal] = ()) -> PositionState:
        """What the leg is by this method, valued at each mark."""
        average = self.leg.describe(index, marks)
        state = self.leg.state
        with exact():
            deferred = self._cost - state.cost
            return msgspec.structs.replace(
                average,
                cost_basis=self._cost,
                entry_price=price_of_cost(self._instrument, state.signed_qty, self._cost),
                realized_pnl_gross=average.realized_pnl_gross + deferred,
                realized_pnl=average.realized_pnl + deferred,
                unrealized_pnl=tuple(figure - deferred for figure in average.unrealized_pnl),
            )

    def _trade(self, fill: Fill, held: Decimal, signed_qty: Decimal, *, is_fee: bool) -> list[Disposal]:
        """Close what can be closed, then open the rest."""
        closing = ZERO if held * signed_qty >= 0 else min(abs(held), abs(signed_qty))
        disposals = list(self._close(fill, closing.copy_sign(held), is_fee=is_fee)) if closing else []
        opening = signed_qty + closing.copy_sign(held)
        if opening:
            self._open(fill, opening)
        return disposals

    def _close(self, fill: Fill, closing: Decimal, *, is_fee: bool) -> Iterator[Disposal]:
        """Consume lots; ``closing`` is signed like what is held."""
        proceeds = self._instrument.value(closing, fill.price)
        while closing:
            lot = self._lots.popleft() if self._method == "fifo" else self._lots.pop()
            if abs(lot.signed_qty) > abs(closing):
                lot, kept = _split(lot, closing)
                self._lots.appendleft(kept) if self._method == "fifo" else self._lots.append(kept)
            closing -= lot.signed_qty
            # The last lot takes what rounding left, so that the parts add up to what the fill brought.
            part = self._instrument.value(lot.signed_qty, fill.price) if closing else proceeds
            proceeds -= part
            self._cost -= lot.cost
            yield Disposal(
                position_side=self._position_side,
                opened_at=lot.opened_at,
                opened_by=lot.opened_by,
                closed_at=fill.executed_at,
                closed_by=fill.trade_id,
                signed_qty=lot.signed_qty,
                cost=lot.cost,
                proceeds=part,
                is_fee=is_fee,
            )

    def _open(self, fill: Fill, signed_qty: Decimal) -> None:
        cost = self._instrument.value(signed_qty, fill.price)
        self._cost += cost
        if self._method == "average" and self._lots:
            pool = self._lots.pop()
            self._lots.append(
                msgspec.structs.replace(pool, signed_qty=pool.signed_qty + signed_qty, cost=pool.cost + cost)
            )
            return
        self._lots.append(
            Lot(opened_at=fill.executed_at, opened_by=fill.trade_id, signed_qty=signed_qty, cost=cost),
        )


def realized_by_lots(
    instrument: Instrument,
    fills: Sequence[Fill],
    method: Method,
    funding: Sequence[Funding] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> LotReport:
    """What the fills realised in ``since <= time < until``, lot by lot.

    The fills from the first on are needed, also those before ``since``: they
    opened the lots. Fills may come in any order and twice, as for
    :func:`app.domain.ledger.replay`; each leg of hedge mode has its own lots.

    Raises:
        ValueError: a period or funding is given and a fill has no time, or a
            fill contradicts the others.
    """
    ordered = [fills[place] for place in in_time_order(fills)]
    if (since or until or funding) and any(fill.executed_at is None for fill in ordered):
        raise ValueError("a period and funding need the time of every fill (executed_at)")
    period = _Period(instrument, method, since, until)
    trade_ids = TradeIds()
    events: list[Fill | Funding] = [fill for fill in ordered if not trade_ids.is_repeat(fill)]
    if funding:
        # Stable: at one instant the fills come before the stamp.
        events = sorted([*events, *funding], key=_moment)
    for event in events:
        period.book(event)
    return period.report()


class _Period:
    """Adds up what happens in a period, over all legs."""

    def __init__(self, instrument: Instrument, method: Method, since: datetime | None, until: datetime | None) -> None:
        self._instrument = instrument
        self._method: Method = method
        self._since = since
        self._until = until
        self._books: dict[PositionSide, LotBook] = {}
        self._disposals: list[Disposal] = []
        self._fees = self._funding = ZERO
        self._unpriced: dict[str, Decimal] = {}

    def book(self, event: Fill | Funding) -> None:
        moment = _moment(event) if self._since or self._until else None
        if moment is not None and self._until is not None and moment >= self._until:
            return
        counts = moment is None or self._since is None or moment >= self._since
        if isinstance(event, Funding):
            self._fund(event, counts=counts)
        else:
            self._fill(event, counts=counts)

    def report(self) -> LotReport:
        with exact():
            gross = sum((disposal.realized_pnl_gross for disposal in self._disposals), ZERO)
        return LotReport(
            method=self._method,
            disposals=tuple(self._disposals),
            open_lots={side: book.lots for side, book in self._books.items() if book.lots},
            realized_pnl_gross=gross,
            fees=self._fees,
            funding=self._funding,
            fees_unpriced=self._unpriced,
        )

    def _fill(self, fill: Fill, *, counts: bool) -> None:
        side = fill.position_side
        if side not in self._books:
            self._books[side] = LotBook(self._instrument, self._method, side)
        disposals = self._books[side].book(fill)
        if counts:
            self._disposals += disposals
            self._charge(fill)

    def _charge(self, fill: Fill) -> None:
        with exact():
            expense = fee_expense(self._instrument, fill)
            if expense is not None:
                self._fees += expense
            elif fill.fee:
                self._unpriced = with_unpriced_fee(self._unpriced, fill)

    def _fund(self, stamp: Funding, *, counts: bool) -> None:
        for book in self._books.values():
            before = book.leg.state.funding
            book.fund(stamp)
            if counts:
                with exact():
                    self._funding += book.leg.state.funding - before


class RealizedSums:
    """Adds up what one chain of fills realises within a period, by one method, and keeps nothing but open lots.

    Exact amounts in the settle asset. ``cost`` and ``proceeds`` are signed like
    values: negative where a short was bought back; ``gross`` is their difference.
    ``quantity`` is what was closed, units paid as fees included. Fees are those
    charged in the period, whatever lot they belong to.
    """

    def __init__(
        self,
        instrument: Instrument,
        method: Method,
        position_side: PositionSide = "net",
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        self.quantity = self.cost = self.proceeds = self.fees = ZERO
        self.fees_unpriced: dict[str, Decimal] = {}
        self.closing_fills = 0
        self._instrument = instrument
        self._book = LotBook(instrument, method, position_side)
        self._since = since
        self._until = until

    def book(self, fill: Fill, at: datetime) -> None:
        """Book the next fill, which was executed at ``at``. Those of before the period open its lots."""
        if self._until is not None and at >= self._until:
            return
        disposals = self._book.book(fill)
        if self._since is not None and at < self._since:
            return
        self.closing_fills += bool(disposals)
        with exact():
            for disposal in disposals:
                self.quantity += abs(disposal.signed_qty)
                self.cost += disposal.cost
                self.proceeds += disposal.proceeds
            expense = fee_expense(self._instrument, fill)
            if expense is not None:
                self.fees += expense
            elif fill.fee:
                self.fees_unpriced = with_unpriced_fee(self.fees_unpriced, fill)

    @property
    def gross(self) -> Decimal:
        with exact():
            return self.proceeds - self.cost


def _split(lot: Lot, signed_qty: Decimal) -> tuple[Lot, Lot]:
    """The part of a lot that has a quantity, and what is kept; cost is shared in proportion."""
    kept_qty = lot.signed_qty - signed_qty
    kept_cost = quantize_state(lot.cost * kept_qty / lot.signed_qty)
    part = msgspec.structs.replace(lot, signed_qty=signed_qty, cost=lot.cost - kept_cost)
    return part, msgspec.structs.replace(lot, signed_qty=kept_qty, cost=kept_cost)


def _moment(event: Fill | Funding) -> datetime:
    moment = event.at if isinstance(event, Funding) else event.executed_at
    assert moment is not None  # Checked before: a period and funding need times.
    return moment
