"""From fills to a position: average cost, reduce, flip, fees, funding.

The state keeps three sums, from which everything else follows:

* ``signed_qty``: what is held;
* ``cash``: the exact sum of what the fills paid and received, before fees;
* ``cost``: the value at entry of what is held, signed like a value.

Gross realised profit is ``cash + cost``. So realised plus unrealised is
``cash + value(now)`` whatever was rounded in ``cost``: the cash identity
(realised + unrealised = cash flows - fees + funding + value) holds exactly by
construction, and nothing drifts over any number of partial closes.

Average cost: an addition adds its value to the cost; a reduction keeps the
entry price, so it takes the cost down in proportion; passing through zero
closes everything, then opens the rest at the fill price.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Literal

import msgspec

from app.domain.decimals import ZERO, exact, quantize_state
from app.domain.instruments import Instrument

Side = Literal["buy", "sell"]
PositionSide = Literal["net", "long", "short"]
"""``net`` in one-way mode; ``long`` and ``short`` are the legs of hedge mode, never netted."""

_PRICE_DIGITS = Context(prec=16)


class Fill(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One execution.

    ``fee`` is in ``fee_asset`` (None means the settle asset): positive is paid,
    negative is a rebate. ``fee_rate`` is settle units per fee unit at the time
    of the fill, needed only for an asset that is neither settle nor, on a spot
    market, base. ``trade_id`` is the exchange's: the same one is the same fill.
    ``rate_to_reporting`` is what a unit of the settle asset was worth at the time in
    the reporting currency; no arithmetic of this module needs it.
    """

    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal = ZERO
    fee_asset: str | None = None
    fee_rate: Decimal | None = None
    executed_at: datetime | None = None
    trade_id: str | None = None
    strategy: str = ""
    position_side: PositionSide = "net"
    rate_to_reporting: Decimal | None = None

    @property
    def signed_qty(self) -> Decimal:
        return self.quantity if self.side == "buy" else self.quantity.copy_negate()


class LedgerState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the fills of one position add up to. Never rounded but where a division must end."""

    signed_qty: Decimal = ZERO
    cost: Decimal = ZERO
    cash: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    fees_unpriced: dict[str, Decimal] = {}

    @property
    def is_flat(self) -> bool:
        return not self.signed_qty

    @property
    def realized_pnl_gross(self) -> Decimal:
        with exact():
            return self.cash + self.cost

    @property
    def realized_pnl(self) -> Decimal:
        """Gross less fees plus funding. Fees without a rate are not in it."""
        with exact():
            return self.cash + self.cost - self.fees + self.funding


FLAT = LedgerState()


def entry_price(instrument: Instrument, state: LedgerState) -> Decimal | None:
    """The average entry price to 16 significant digits, or None when flat."""
    with exact():
        return price_of_cost(instrument, state.signed_qty, state.cost)


def price_of_cost(instrument: Instrument, signed_qty: Decimal, cost: Decimal) -> Decimal | None:
    """The price at which a quantity cost that much, to 16 significant digits; None for no quantity.

    Also None for an inverse position so small that its cost is zero at the
    resolution of the ledger. Call inside :func:`app.domain.decimals.exact`.
    """
    if not signed_qty or (instrument.market == "inverse" and not cost):
        return None
    return instrument.price_of(signed_qty, cost, _PRICE_DIGITS)


def break_even_price(
    instrument: Instrument, state: LedgerState, *, exit_fee_rate: Decimal = ZERO, earlier_pnl: Decimal = ZERO
) -> Decimal | None:
    """The price at which closing everything leaves the cycle with neither profit nor loss.

    Counts all that was realised, also fees and funding, less ``earlier_pnl``
    (what cycles before this one realised, where ``state`` spans them), and a
    fee of ``exit_fee_rate`` of the closing value. 16 significant digits. None
    when flat, or when no price above zero does it.
    """
    if state.is_flat:
        return None
    with exact():
        exit_fee = abs(state.signed_qty) * exit_fee_rate
        qty = state.signed_qty + exit_fee if instrument.market == "inverse" else state.signed_qty - exit_fee
        needed = state.cost - (state.realized_pnl - earlier_pnl)
        if needed * qty * (-1 if instrument.market == "inverse" else 1) <= 0:
            return None
        return instrument.price_of(qty, needed, _PRICE_DIGITS)


def apply_fill(instrument: Instrument, state: LedgerState, fill: Fill) -> LedgerState:
    """The state after a fill. A fill through zero closes, then opens the rest."""
    with exact():
        after = _trade(instrument, state, fill.signed_qty, fill.price)
        return _charge(instrument, after, fill)


def apply_funding(instrument: Instrument, state: LedgerState, mark: Decimal, rate: Decimal) -> LedgerState:
    """The state after a funding stamp."""
    payment = funding_payment(instrument, state.signed_qty, mark, rate)
    with exact():
        return msgspec.structs.replace(state, funding=state.funding + payment)


def funding_payment(instrument: Instrument, signed_qty: Decimal, mark: Decimal, rate: Decimal) -> Decimal:
    """What a holding receives (+) or pays (-) at a stamp: ``-q·m·p·rate`` (``-q·m/p·rate`` inverse)."""
    with exact():
        notional = instrument.value(signed_qty, mark)
        return quantize_state((notional if instrument.market == "inverse" else -notional) * rate)


def closing_part(state: LedgerState, fill: Fill) -> Decimal:
    """How much of a fill's quantity closes what is held (zero if it opens or adds)."""
    if state.signed_qty * fill.signed_qty >= 0:
        return ZERO
    return min(state.signed_qty.copy_abs(), fill.quantity)


def split_at_flat(state: LedgerState, fill: Fill) -> tuple[Fill | None, Fill | None]:
    """Split a fill into the part that closes and the part that opens or adds.

    The fee is shared in proportion to quantity; the parts add up to it exactly.
    """
    closing = closing_part(state, fill)
    if not closing:
        return None, fill
    if closing == fill.quantity:
        return fill, None
    with exact():
        closing_fee = quantize_state(fill.fee * closing / fill.quantity)
        close = msgspec.structs.replace(fill, quantity=closing, fee=closing_fee)
        rest = msgspec.structs.replace(fill, quantity=fill.quantity - closing, fee=fill.fee - closing_fee)
    return close, rest


def ends_a_cycle(before: LedgerState, after: LedgerState, fill: Fill) -> bool:
    """Whether a fill went through zero: ended one cycle and opened another."""
    return after.signed_qty * before.signed_qty < 0 and closing_part(before, fill) > 0


def split_through_flat(instrument: Instrument, state: LedgerState, fill: Fill) -> tuple[Fill, Fill]:
    """Split a fill through zero into the part that closes exactly to flat, and its rest.

    Of a fee that changes what is held, the closing part bears only what it still
    takes to reach zero: with a share in proportion it would miss it.
    """
    if is_paid_in_holding(instrument, fill):
        closed = closing_part(state, fill)
        with exact():
            # Not zero where the fee itself goes through zero: the fill alone would leave less than the fee.
            closing_fee = state.signed_qty - closed.copy_sign(state.signed_qty)
            rest, rest_fee = fill.quantity - closed, fill.fee - closing_fee
        closing = msgspec.structs.replace(fill, quantity=closed, fee=closing_fee)
        return closing, msgspec.structs.replace(fill, quantity=rest, fee=rest_fee)
    parts = split_at_flat(state, fill)
    assert parts[0] is not None  # It goes through zero, so it closes something
    assert parts[1] is not None  # and opens something.
    return parts[0], parts[1]


def _trade(instrument: Instrument, state: LedgerState, signed_qty: Decimal, price: Decimal) -> LedgerState:
    """Book a signed quantity at a price, without fees."""
    held = state.signed_qty
    remaining = held + signed_qty
    cash = state.cash - instrument.value(signed_qty, price)
    if held * signed_qty >= 0:
        cost = state.cost + instrument.value(signed_qty, price)
    elif remaining * held > 0:
        cost = quantize_state(state.cost * remaining / held)
    else:
        cost = instrument.value(remaining, price) if remaining else ZERO
    return msgspec.structs.replace(state, signed_qty=remaining, cost=cost, cash=cash)


def _charge(instrument: Instrument, state: LedgerState, fill: Fill) -> LedgerState:
    """Book a fill's fee at its own time: in the settle asset, the base, or a third asset."""
    if not fill.fee:
        return state
    if is_paid_in_holding(instrument, fill):
        # The fee units leave the holding: an expense at the fill price, and a
        # disposal at that price so that the cash identity keeps holding.
        state = _trade(instrument, state, -fill.fee, fill.price)
    expense = fee_expense(instrument, fill)
    if expense is not None:
        return msgspec.structs.replace(state, fees=state.fees + expense)
    return msgspec.structs.replace(state, fees_unpriced=with_unpriced_fee(state.fees_unpriced, fill))


def is_paid_in_holding(instrument: Instrument, fill: Fill) -> bool:
    """Whether the fee is taken from what is held: the base of a spot market."""
    return instrument.market == "spot" and fill.fee_asset == instrument.base != instrument.settle


def fee_expense(instrument: Instrument, fill: Fill) -> Decimal | None:
    """The fee in the settle asset, at the rate of its own time; None where no rate is known.

    Call inside :func:`app.domain.decimals.exact`.
    """
    if fill.fee_asset is None or fill.fee_asset == instrument.settle:
        return fill.fee
    if is_paid_in_holding(instrument, fill):
        return instrument.value(fill.fee, fill.price)
    return None if fill.fee_rate is None else fill.fee * fill.fee_rate


def with_unpriced_fee(unpriced: Mapping[str, Decimal], fill: Fill) -> dict[str, Decimal]:
    """The fees without a rate, by asset, with a fill's added."""
    assert fill.fee_asset is not None  # The settle asset needs no rate.
    return {**unpriced, fill.fee_asset: unpriced.get(fill.fee_asset, ZERO) + fill.fee}


class Funding(msgspec.Struct, frozen=True, kw_only=True):
    """One funding stamp of a perpetual: applied to what is held at that time.

    ``rate_to_reporting`` is what a unit of the settle asset was worth at the time in
    the reporting currency; no arithmetic of this module needs it.
    """

    at: datetime
    mark: Decimal
    rate: Decimal
    rate_to_reporting: Decimal | None = None


class PositionState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A position, or a leg of one in hedge mode, after one fill.

    Exact amounts in the settle asset; realised figures, fees and funding since
    the first fill, through flat. ``index`` is the fill's place in the list given.
    ``cost_basis`` is the value at entry of what is held. ``unrealized_pnl`` has a
    figure for each mark asked for, in their order.
    """

    index: int
    position_side: PositionSide
    signed_qty: Decimal
    cost_basis: Decimal
    entry_price: Decimal | None
    break_even_price: Decimal | None
    realized_pnl_gross: Decimal
    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal
    fees_unpriced: dict[str, Decimal]
    unrealized_pnl: tuple[Decimal, ...]


class ContradictoryFill(ValueError):
    """A fill that cannot be, given the fills before it."""


class TradeIds:
    """Knows fills by their ``trade_id``."""

    def __init__(self) -> None:
        self._known: dict[str, Fill] = {}

    def is_repeat(self, fill: Fill) -> bool:
        """Whether a fill was given before; one without a ``trade_id`` never was.

        Raises:
            ContradictoryFill: another fill has its ``trade_id``.
        """
        if fill.trade_id is None:
            return False
        known = self._known.get(fill.trade_id)
        if known is None:
            self._known[fill.trade_id] = fill
            return False
        if known != fill:
            raise ContradictoryFill(f"two different fills have trade_id {fill.trade_id}")
        return True


class Leg:
    """Books the fills of one position, or one leg of it, in the order they happened.

    Unlike the :class:`LedgerState` of one cycle, ``state`` spans all cycles.
    """

    def __init__(self, instrument: Instrument, position_side: PositionSide = "net") -> None:
        self.state = FLAT
        self._instrument = instrument
        self._position_side: PositionSide = position_side
        self._earlier_pnl = ZERO

    def book(self, fill: Fill) -> None:
        """Book a fill. Raises ContradictoryFill where it turns a long leg short or a short leg long."""
        after = self._after(fill)
        refuse_wrong_side(self._position_side, after)
        self.state = after

    def fund(self, stamp: Funding) -> None:
        """Book a funding stamp. Nothing happens while flat."""
        if not self.state.is_flat:
            self.state = apply_funding(self._instrument, self.state, stamp.mark, stamp.rate)

    def describe(self, index: int, marks: Sequence[Decimal] = ()) -> PositionState:
        """What the leg is, valued at each mark."""
        state, instrument = self.state, self._instrument
        with exact():
            gross = state.cash + state.cost
            return PositionState(
                index=index,
                position_side=self._position_side,
                signed_qty=state.signed_qty,
                cost_basis=state.cost,
                entry_price=entry_price(instrument, state),
                break_even_price=break_even_price(instrument, state, earlier_pnl=self._earlier_pnl),
                realized_pnl_gross=gross,
                realized_pnl=gross - state.fees + state.funding,
                fees=state.fees,
                funding=state.funding,
                fees_unpriced=state.fees_unpriced,
                unrealized_pnl=tuple(unrealized_pnl(instrument, state, mark) for mark in marks),
            )

    def _after(self, fill: Fill) -> LedgerState:
        before = self.state
        if before.is_flat:
            self._earlier_pnl = before.realized_pnl
        after = apply_fill(self._instrument, before, fill)
        if not ends_a_cycle(before, after, fill):
            return after
        closing, opening = split_through_flat(self._instrument, before, fill)
        closed = apply_fill(self._instrument, before, closing)
        self._earlier_pnl = closed.realized_pnl
        return apply_fill(self._instrument, closed, opening)


def unrealized_pnl(instrument: Instrument, state: LedgerState, mark: Decimal) -> Decimal:
    """What closing at a mark would add to the gross realised profit. Zero when flat."""
    if state.is_flat:
        return ZERO
    with exact():
        return instrument.value(state.signed_qty, mark) - state.cost


def replay(
    instrument: Instrument,
    fills: Sequence[Fill],
    funding: Iterable[Funding] = (),
    marks: Sequence[Decimal] = (),
) -> list[PositionState]:
    """Value any list of fills: one state after each, in the order they happened.

    Fills are ordered by ``executed_at``, those of one instant as given; one
    without a time follows the one given before it. In hedge mode (a
    ``position_side`` of long or short) each leg is a position of its own. A fill
    given twice (same ``trade_id``) changes nothing the second time.

    A funding stamp applies to what is held after the fills of its own instant.
    A state has the stamps up to the leg's next fill, so the last state has all.

    A state takes about a kilobyte: book millions of fills on a :class:`Leg` instead.

    Raises:
        ValueError: funding is given and a fill has no time, or a fill
            contradicts the others (:class:`ContradictoryFill`).
    """
    stamps = sorted(funding, key=lambda stamp: stamp.at)
    if stamps and any(fill.executed_at is None for fill in fills):
        raise ValueError("funding needs the time of every fill (executed_at)")
    trade_ids = TradeIds()
    legs: dict[PositionSide, _ReplayedLeg] = {}
    states: list[PositionState] = []
    for place in in_time_order(fills):
        fill = fills[place]
        if fill.position_side not in legs:
            legs[fill.position_side] = _ReplayedLeg(Leg(instrument, fill.position_side), stamps, marks, states)
        legs[fill.position_side].add(place, fill, is_repeat=trade_ids.is_repeat(fill))
    for leg in legs.values():
        leg.fund_until(None)
    return states


def in_time_order(fills: Sequence[Fill]) -> list[int]:
    """The places of fills in the list, by time, then as given."""
    moments: list[datetime | None] = []
    moment: datetime | None = None
    for fill in fills:
        moment = fill.executed_at or moment
        moments.append(moment)
    return sorted(range(len(fills)), key=lambda place: (moments[place] is not None, moments[place]))


class _ReplayedLeg:
    """Adds the states of one leg to those of all."""

    def __init__(
        self, leg: Leg, stamps: Sequence[Funding], marks: Sequence[Decimal], states: list[PositionState]
    ) -> None:
        self._leg = leg
        self._pending = deque(stamps)
        self._marks = marks
        self._states = states
        self._last: int | None = None

    def add(self, place: int, fill: Fill, *, is_repeat: bool) -> None:
        self.fund_until(fill.executed_at)
        if not is_repeat:
            self._leg.book(fill)
        self._last = len(self._states)
        self._states.append(self._leg.describe(place, self._marks))

    def fund_until(self, moment: datetime | None) -> None:
        """Apply the stamps before a moment, and put them into the leg's last state."""
        funded = False
        while self._pending and (moment is None or self._pending[0].at < moment):
            self._leg.fund(self._pending.popleft())
            funded = True
        if funded and self._last is not None:
            self._states[self._last] = self._leg.describe(self._states[self._last].index, self._marks)


def refuse_wrong_side(position_side: PositionSide, state: LedgerState) -> None:
    """Refuse a long leg that is short, or a short leg that is long. Raises ContradictoryFill."""
    if position_side == "net":
        return
    if state.signed_qty < 0 if position_side == "long" else state.signed_qty > 0:
        raise ContradictoryFill(f"the {position_side} leg does not hold that much")
