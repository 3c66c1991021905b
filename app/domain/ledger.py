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

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Literal

import msgspec

from app.domain.decimals import ZERO, exact, quantize_state
from app.domain.instruments import Instrument

Side = Literal["buy", "sell"]

_ENTRY_DIGITS = Context(prec=16)


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One execution.

    ``fee`` is in ``fee_asset`` (None means the settle asset): positive is paid,
    negative is a rebate. ``fee_rate`` is settle units per fee unit at the time
    of the fill, needed only for an asset that is neither settle nor base.
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

    @property
    def signed_qty(self) -> Decimal:
        return self.quantity if self.side == "buy" else -self.quantity


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
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
    if state.is_flat:
        return None
    with exact():
        return +_ENTRY_DIGITS.plus(instrument.price_of(state.signed_qty, state.cost))


def apply_fill(instrument: Instrument, state: LedgerState, fill: Fill) -> LedgerState:
    """The state after a fill. A fill through zero closes, then opens the rest."""
    with exact():
        after = _trade(instrument, state, fill.signed_qty, fill.price)
        return _charge(instrument, after, fill)


def apply_funding(instrument: Instrument, state: LedgerState, mark: Decimal, rate: Decimal) -> LedgerState:
    """The state after a funding stamp: ``-q·m·p·rate`` (``-q·m/p·rate`` inverse), + is received."""
    with exact():
        notional = instrument.value(state.signed_qty, mark)
        signed = notional if instrument.market == "inverse" else -notional
        return msgspec.structs.replace(state, funding=state.funding + quantize_state(signed * rate))


def closing_part(state: LedgerState, fill: Fill) -> Decimal:
    """How much of a fill's quantity closes what is held (zero if it opens or adds)."""
    if state.signed_qty * fill.signed_qty >= 0:
        return ZERO
    return min(abs(state.signed_qty), fill.quantity)


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
    fee = fill.fee
    if not fee:
        return state
    asset = fill.fee_asset or instrument.settle
    if asset == instrument.settle:
        return msgspec.structs.replace(state, fees=state.fees + fee)
    if asset == instrument.base and instrument.market == "spot":
        # The fee units leave the holding: an expense at the fill price, and a
        # disposal at that price so that the cash identity keeps holding.
        expense = instrument.value(fee, fill.price)
        paid = _trade(instrument, state, -fee, fill.price)
        return msgspec.structs.replace(paid, fees=paid.fees + expense)
    if fill.fee_rate is not None:
        return msgspec.structs.replace(state, fees=state.fees + fee * fill.fee_rate)
    unpriced = dict(state.fees_unpriced)
    unpriced[asset] = unpriced.get(asset, ZERO) + fee
    return msgspec.structs.replace(state, fees_unpriced=unpriced)


class Funding(msgspec.Struct, frozen=True, kw_only=True):
    """One funding stamp of a perpetual: applied to what is held at that time."""

    at: datetime
    mark: Decimal
    rate: Decimal


class PositionState(msgspec.Struct, frozen=True, kw_only=True):
    """A position after one fill, with its unrealised profit at each mark asked for."""

    signed_qty: Decimal
    entry_price: Decimal | None
    realized_pnl_gross: Decimal
    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal
    fees_unpriced: dict[str, Decimal]
    unrealized_pnl: tuple[Decimal, ...]


def replay(
    instrument: Instrument,
    fills: Sequence[Fill],
    funding: Iterable[Funding] = (),
    marks: Sequence[Decimal] = (),
) -> list[PositionState]:
    """Value any list of fills: one state after each fill.

    A funding stamp is applied before the first fill executed after it (at the
    same instant, the fill comes first); stamps after the last fill belong to
    the last state. Fills with stamps need ``executed_at``.
    """
    pending = sorted(funding, key=lambda stamp: stamp.at)
    state = FLAT
    states: list[PositionState] = []
    for index, fill in enumerate(fills):
        state = apply_fill(instrument, state, fill)
        following = fills[index + 1].executed_at if index + 1 < len(fills) else None
        while pending and _is_due(pending[0], fill, following):
            stamp = pending.pop(0)
            state = apply_funding(instrument, state, stamp.mark, stamp.rate)
        states.append(_describe(instrument, state, marks))
    return states


def _is_due(stamp: Funding, fill: Fill, following: datetime | None) -> bool:
    """Whether a stamp falls at or after a fill and before the one that follows it."""
    if fill.executed_at is None or stamp.at < fill.executed_at:
        return fill.executed_at is not None
    return following is None or stamp.at < following


def _describe(instrument: Instrument, state: LedgerState, marks: Sequence[Decimal]) -> PositionState:
    with exact():
        unrealized = tuple(
            instrument.value(state.signed_qty, mark) - state.cost if state.signed_qty else ZERO for mark in marks
        )
    return PositionState(
        signed_qty=state.signed_qty,
        entry_price=entry_price(instrument, state),
        realized_pnl_gross=state.realized_pnl_gross,
        realized_pnl=state.realized_pnl,
        fees=state.fees,
        funding=state.funding,
        fees_unpriced=state.fees_unpriced,
        unrealized_pnl=unrealized,
    )
