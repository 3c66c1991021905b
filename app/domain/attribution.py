"""Why P&L changed between two moments: price, trading, fees, funding, currency. The parts sum to the change exactly.

Of one cycle with quantity ``q0`` at the start, and marks ``p0`` and ``p1``:

* price: what the quantity held at the start gained by itself, ``value(q0, p1) - value(q0, p0)``;
* trading: what fills added against the end's mark, ``Σ (p1 - x)·quantity``;
* fees and funding: what was charged and paid.

Total P&L of a cycle is ``cash - fees + funding + value(q, p)``: its cost cancels
out. Each of these is a published leaf, rounded once; trading is what they leave,
so nothing is lost or made between the parts.

A cycle that settles in another asset is explained there, and the parts are
reported: price and trading at the end's rate, fees and funding at the rates of
their own times. What then is left of the reported change is the currency's.

Where a cycle is over, its end's mark may be unknown; then the price of its last
fill stands for it, which only moves the line between price and trading.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal

import msgspec

from app.domain.account_replay import Held
from app.domain.decimals import convert_units, exact, to_units
from app.domain.ledger import FLAT, LedgerState
from app.domain.positions import Converted
from app.domain.prices import Basis, source_on


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
_NOTHING = Converted()


class Marks(msgspec.Struct, frozen=True):
    """The prices of a moment, by name, and what a unit of each other asset was worth in the reporting currency."""

    prices: Mapping[str, Decimal]
    rates: Mapping[str, Decimal] = {}


def mark_name(symbol: str, basis: Basis, *, is_long: bool) -> str:
    """Under which name a price is kept: the symbol alone for what values it by default, else with what it is."""
    source = source_on(basis, is_long=is_long)
    return symbol if source is None else f"{symbol} {source}"


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The parts by symbol. ``unknown`` are symbols of which a part could not be known; they are in no sum.

    ``is_complete`` is false too where a fee or a rate of what was realised is not known.
    """

    symbols: Mapping[str, Parts]
    unknown: tuple[str, ...]
    is_complete: bool

    @property
    def total(self) -> Parts:
        total = NO_CHANGE
        for parts in self.symbols.values():
            total += parts
        return total


def explain(
    before: Mapping[str, Held],
    after: Mapping[str, Held],
    start: Marks,
    end: Marks,
    name_of: Callable[[str, Held], str] = lambda _, held: held.instrument.symbol,
) -> Explanation:
    """The parts by symbol, from cycles (by position id) at two moments.

    ``after`` has every cycle of ``before``: one that ended is in it as it ended.
    ``name_of`` says which price values a cycle.
    """
    symbols: dict[str, Parts] = {}
    unknown: set[str] = set()
    is_complete = True
    for position_id, held in after.items():
        earlier = before.get(position_id)
        if earlier is not None and held.state.is_flat and held.state == earlier.state:
            continue
        symbol = held.instrument.symbol
        parts = explain_cycle(earlier, held, start, end, name_of(position_id, held))
        is_complete = is_complete and _is_known(held)
        if parts is None:
            unknown.add(symbol)
        else:
            symbols[symbol] = symbols.get(symbol, NO_CHANGE) + parts
    for symbol in unknown:
        symbols.pop(symbol, None)
    return Explanation(symbols=symbols, unknown=tuple(sorted(unknown)), is_complete=is_complete and not unknown)


def explain_cycle(before: Held | None, after: Held, start: Marks, end: Marks, name: str) -> Parts | None:
    """The parts of one cycle in the reporting currency, between two states of it.

    ``before`` is None where it began since. None where a price or a rate that is
    needed is not known: the start's if anything was held then, the end's if anything is.
    """
    settled = _explain_settled(before, after, start.prices.get(name), end.prices.get(name))
    if settled is None or after.converted is None:
        return settled
    return _report(before, after, start, end, name, settled)


def total_pnl(held: Held, marks: Marks, name: str) -> int | None:
    """Total P&L of a cycle as it is reported, in units of 1e-18; None where a price or a rate is not known."""
    state = held.state
    mark = marks.prices.get(name)
    if mark is None and state.signed_qty:
        return None
    if held.converted is None:
        return to_units(state.cash) - to_units(state.fees) + to_units(state.funding) + _value(held, state, mark)
    return _reported_pnl(held, held.converted, mark, marks.rates.get(held.instrument.settle))


def _explain_settled(before: Held | None, after: Held, start: Decimal | None, end: Decimal | None) -> Parts | None:
    """The parts in the settle asset."""
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


def _report(before: Held | None, after: Held, start: Marks, end: Marks, name: str, settled: Parts) -> Parts | None:
    settle = after.instrument.settle
    old = _NOTHING if before is None or before.converted is None else before.converted
    new = after.converted or _NOTHING
    earlier = 0 if before is None else total_pnl(before, start, name)
    later = _reported_pnl(after, new, end.prices.get(name), end.rates.get(settle))
    if earlier is None or later is None:
        return None
    fees, funding = to_units(old.fees) - to_units(new.fees), to_units(new.funding) - to_units(old.funding)
    rate = end.rates.get(settle, start.rates.get(settle))
    if rate is None:
        # Nothing was held at either end, so all of it was realised, at the rates of its times.
        return Parts(trading=later - earlier - fees - funding, fees=fees, funding=funding)
    price, trading = convert_units(settled.price, rate), convert_units(settled.trading, rate)
    fx = later - earlier - price - trading - fees - funding
    return Parts(price=price, trading=trading, fees=fees, funding=funding, fx=fx)


def _reported_pnl(held: Held, converted: Converted, mark: Decimal | None, rate: Decimal | None) -> int | None:
    realized = to_units(converted.gross) - to_units(converted.fees) + to_units(converted.funding)
    if not held.state.signed_qty:
        return realized
    if mark is None or rate is None:
        return None
    cost = convert_units(to_units(held.state.cost), rate)
    return realized + convert_units(_value(held, held.state, mark), rate) - cost


def _value(held: Held, state: LedgerState, mark: Decimal | None) -> int:
    if mark is None or not state.signed_qty:
        return 0
    with exact():
        return to_units(held.instrument.value(state.signed_qty, mark))


def _is_known(held: Held) -> bool:
    return not held.state.fees_unpriced and (held.converted is None or held.converted.is_complete)
