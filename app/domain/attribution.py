"""Why P&L changed between two moments: price, trading, fees, funding, currency. The parts sum to the change exactly.

Of one cycle with quantity ``q0`` at the start, and marks ``p0`` and ``p1``:

* price: what the quantity held at the start gained by itself, ``value(q0, p1) - value(q0, p0)``;
* trading: what fills added against the end's mark, ``Σ (p1 - x)·quantity``;
* fees and funding: what was charged and paid;
* currency: for a cycle that settles in another asset, what is left of the change
  in the reporting currency once the parts above are converted at the end's rate
  (fees and funding at the rates of their own times).

Total P&L of a cycle is ``cash - fees + funding + value(q, p)``: its cost cancels
out. Each of these is a published leaf, rounded once; trading is what they leave,
so nothing is lost or made between the parts.

Where a cycle is over, its end's mark may be unknown; then the price of its last
fill stands for it, which only moves the line between price and trading.
"""

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from app.domain.account_replay import Held
from app.domain.decimals import exact, to_units
from app.domain.ledger import FLAT, LedgerState


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a change, in units of 1e-18."""

    price: int = 0
    trading: int = 0
    fees: int = 0
    funding: int = 0
    fx: int = 0

    @property
    def total(self) -> int:
        return self.price + self.trading + self.fees + self.funding + self.fx

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(
            price=self.price + other.price,
            trading=self.trading + other.trading,
            fees=self.fees + other.fees,
            funding=self.funding + other.funding,
            fx=self.fx + other.fx,
        )


NO_CHANGE = Parts()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The parts by symbol. ``unknown`` are symbols of which a part could not be known; they are in no sum."""

    symbols: Mapping[str, Parts]
    unknown: tuple[str, ...]

    @property
    def total(self) -> Parts:
        total = NO_CHANGE
        for parts in self.symbols.values():
            total += parts
        return total


def explain_cycle(before: Held | None, after: Held, start: Decimal | None, end: Decimal | None) -> Parts | None:
    """The parts of one cycle in its settle asset, between two states of it and the marks then.

    ``before`` is None where it began since. None where a mark that is needed is
    not known: the start's if anything was held then, the end's if anything is.
    """
    held = FLAT if before is None else before.state
    state = after.state
    final = end if end is not None or state.signed_qty else after.last_price
    if (start is None and held.signed_qty) or final is None:
        return None
    earlier = _value(after, held, start)
    at_end = _value(after, held, final)
    value = _value(after, state, final)
    return Parts(
        price=at_end - earlier,
        trading=to_units(state.cash) - to_units(held.cash) + value - at_end,
        fees=to_units(held.fees) - to_units(state.fees),
        funding=to_units(state.funding) - to_units(held.funding),
    )


def total_pnl(held: Held, mark: Decimal | None) -> int | None:
    """Total P&L of a cycle in its settle asset, in units of 1e-18; None where the mark is needed and not known."""
    state = held.state
    if mark is None and state.signed_qty:
        return None
    return to_units(state.cash) - to_units(state.fees) + to_units(state.funding) + _value(held, state, mark)


def explain(
    before: Mapping[str, Held], after: Mapping[str, Held], start: Mapping[str, Decimal], end: Mapping[str, Decimal]
) -> Explanation:
    """The parts by symbol, from cycles (by position id) and marks (by symbol) at two moments.

    ``after`` has every cycle of ``before``: one that ended is in it as it ended.
    """
    symbols: dict[str, Parts] = {}
    unknown: set[str] = set()
    for position_id, held in after.items():
        earlier = before.get(position_id)
        if earlier is not None and held.state.is_flat and held.state == earlier.state:
            continue
        symbol = held.instrument.symbol
        parts = explain_cycle(earlier, held, start.get(symbol), end.get(symbol))
        if parts is None:
            unknown.add(symbol)
        else:
            symbols[symbol] = symbols.get(symbol, NO_CHANGE) + parts
    for symbol in unknown:
        symbols.pop(symbol, None)
    return Explanation(symbols=symbols, unknown=tuple(sorted(unknown)))


def _value(held: Held, state: LedgerState, mark: Decimal | None) -> int:
    if mark is None or not state.signed_qty:
        return 0
    with exact():
        return to_units(held.instrument.value(state.signed_qty, mark))
