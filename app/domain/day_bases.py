"""What a correction does to total P&L at the beginnings of days that are over.

A fill that comes late, or is changed, changes what was held and realised at
every 00:00 UTC after it. Marks of the past are known only at those midnights, and
only those of the user's own quantities that changed are needed: what did not
change is in the recorded base already, at the price of its time.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import msgspec

from app.domain.cycles import Chain, Cycle, ledger_place
from app.domain.decimals import ZERO, exact, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import Funding
from app.domain.positions import realized_units
from app.domain.trades import Trade


class AtMidnight(msgspec.Struct, frozen=True):
    """A chain at the beginning of a day: what it had realised (units of 1e-18, as reported) and what it held."""

    realized: int = 0
    signed_qty: Decimal = ZERO
    cost: Decimal = ZERO


def midnight(day: date) -> datetime:
    """The first moment of a day in UTC."""
    return datetime.combine(day, time(), UTC)


def day_of(moment: datetime) -> date:
    """The UTC day of a moment."""
    return moment.astimezone(UTC).date()


def days_between(first: date, last: date) -> Iterator[date]:
    """The days after the first up to and with the last: those that begin after something on the first."""
    day = first + timedelta(days=1)
    while day <= last:
        yield day
        day += timedelta(days=1)


def at_midnights(
    instrument: Instrument,
    fills: Iterable[Trade],
    stamps: Iterable[Funding],
    days: Sequence[date],
    *,
    currency: str,
) -> list[AtMidnight]:
    """What a chain was at the beginning of each of ``days`` (ascending): all that happened before it."""
    chain = Chain(instrument, stamps, currency=currency)
    found: list[AtMidnight] = []
    waiting = iter(sorted(fills, key=ledger_place))
    trade = next(waiting, None)
    ended = counted = 0
    for moment in map(midnight, days):
        while trade is not None and trade.executed_at < moment:
            chain.book(trade)
            trade = next(waiting, None)
        chain.fund_until(moment)
        ended += sum(_realized(cycle) for cycle in chain.ended[counted:])
        counted = len(chain.ended)
        found.append(_with_standing(ended, chain.standing()))
    return found


def base_change(
    instrument: Instrument, before: AtMidnight, after: AtMidnight, mark: Decimal | None, *, currency: str
) -> int | None:
    """The change of total P&L at a midnight, in units of 1e-18; None where that needs a price that is not known."""
    realized = after.realized - before.realized
    if before.signed_qty == after.signed_qty and before.cost == after.cost:
        return realized
    if instrument.settle != currency:
        return None
    cost = to_units(after.cost) - to_units(before.cost)
    if before.signed_qty == after.signed_qty:
        return realized - cost
    if mark is None:
        return None
    with exact():
        worth = [to_units(instrument.value(one.signed_qty, mark)) if one.signed_qty else 0 for one in (before, after)]
    return realized - cost + worth[1] - worth[0]


def _realized(cycle: Cycle) -> int:
    return realized_units(cycle.state, cycle.converted).net


def _with_standing(ended: int, standing: Cycle | None) -> AtMidnight:
    if standing is None:
        return AtMidnight(ended)
    return AtMidnight(ended + _realized(standing), standing.state.signed_qty, standing.state.cost)
