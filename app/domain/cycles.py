"""A fill against what stands: which cycle it changes or ends, and which it starts.

A position is one cycle from flat to flat, so a fill through zero touches two:
it ends one, and its rest opens the next.
"""

from decimal import Decimal

import msgspec

from app.domain.decimals import exact
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, LedgerState, apply_fill, ends_a_cycle, split_through_flat

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
