"""What the rows of positions must say, by the fills and funding payments alone, and where they say otherwise.

The fills of a chain make its positions (:mod:`app.domain.cycles`); the first fill
of each names the row it belongs to. So a row that was changed, lost, added or
left behind is found without trusting any row.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import msgspec

from app.domain.cycles import Cycle, replay_cycles
from app.domain.decimals import format_decimal, from_units
from app.domain.drift import Drift, Facts, difference, drift_between, ledger_facts
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Funding, LedgerState
from app.domain.positions import Converted, Position, realized_units
from app.domain.trades import ChainKey, Trade

MOST_TOLD: Final = 20
"""An event is kept for ever and sent to browsers: it tells of so many drifts, and of how many there were."""


class UnknownInstrument(ValueError):
    """Fills of a symbol that nobody knows any more."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a row that SQL adds up: leaves, rounded as published. None where nothing is converted."""

    realized_pnl_gross: Decimal
    fees: Decimal
    funding: Decimal
    reported_gross: Decimal | None = None
    reported_fees: Decimal | None = None
    reported_funding: Decimal | None = None


class Row(msgspec.Struct, frozen=True):
    """A row of the database: the position, and what of it is kept for sums."""

    position: Position
    published: Published


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All that was recorded of one user, at one moment, and the rows that were derived from it.

    ``payments`` are funding stamps by the position that they were booked on.
    """

    user_id: str
    currency: str
    ledger_seq: int
    rows: Mapping[str, Row]
    fills: Sequence[Trade]
    payments: Mapping[str, Sequence[Funding]]

    @property
    def chains(self) -> dict[ChainKey, list[Trade]]:
        """The fills that make positions together."""
        chains: defaultdict[ChainKey, list[Trade]] = defaultdict(list)
        for fill in self.fills:
            chains[fill.chain].append(fill)
        return chains


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What one row must say, and which fills are to point at it."""

    position_id: str
    chain: ChainKey
    instrument: Instrument
    cycle: Cycle


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A row that says something else, and the position it must hold; ``is_new`` where there is no such row."""

    drift: Drift
    right: Position
    is_new: bool = False


class Pointer(msgspec.Struct, frozen=True):
    """The positions that a fill must point at, where it points elsewhere."""

    fill_id: str
    position_id: str
    opened_position_id: str | None


def replay_chain(ledger: Ledger, chain: ChainKey, fills: Sequence[Trade], instrument: Instrument) -> list[Due]:
    """The rows of one chain.

    Raises:
        app.domain.cycles.TooLarge, app.domain.ledger.ContradictoryFill: the
            fills cannot be booked.
    """
    by_id = {fill.fill_id: fill for fill in fills}
    ids = dict.fromkeys(pointed for fill in fills for pointed in (fill.position_id, fill.opened_position_id) if pointed)
    stamps = {stamp.at: stamp for position_id in ids for stamp in ledger.payments.get(position_id, ())}
    due: list[Due] = []
    for cycle in replay_cycles(instrument, fills, stamps.values(), currency=ledger.currency):
        opening = by_id[cycle.opened_by]
        position_id = opening.opened_position_id if cycle.is_opened_by_rest else opening.position_id
        if position_id is None:
            position_id = _made_up_id(cycle)
        due.append(Due(position_id=position_id, chain=chain, instrument=instrument, cycle=cycle))
    return due


def each_its_row(ledger: Ledger, due: Sequence[Due]) -> list[Due]:
    """Where two would have the same row, leave it to the one whose chain it says it is of; the other gets a new one."""
    owners: dict[str, Due] = {}
    for one in due:
        row = ledger.rows.get(one.position_id)
        if one.position_id not in owners or (row is not None and _is_of_chain(row.position, one.chain)):
            owners[one.position_id] = one
    return [
        one if owners[one.position_id] is one else msgspec.structs.replace(one, position_id=_made_up_id(one.cycle))
        for one in due
    ]


def known_instruments(ledger: Ledger, listed: Mapping[str, Instrument]) -> dict[str, Instrument]:
    """What each symbol of a user is: as the exchange lists it, else as most of his rows say.

    Raises UnknownInstrument.
    """
    said: defaultdict[str, Counter[Instrument]] = defaultdict(Counter)
    for row in ledger.rows.values():
        said[row.position.symbol][row.position.instrument] += 1
    known: dict[str, Instrument] = {}
    for symbol in {fill.symbol for fill in ledger.fills}:
        if symbol not in listed and symbol not in said:
            raise UnknownInstrument(f"neither the exchange nor any position says what {symbol!a} is")
        known[symbol] = listed[symbol] if symbol in listed else said[symbol].most_common(1)[0][0]
    return known


def compare_rows(ledger: Ledger, due: Sequence[Due]) -> list[Repair]:
    """The rows that are not as they must be.

    A row that no fill stands behind must be closed and empty: what it held was
    never bought. It is not deleted, for clients know it by its id.
    """
    repairs = [repair for one in due if (repair := _compare(ledger, one)) is not None]
    known = {one.position_id for one in due}
    for position_id, row in ledger.rows.items():
        if position_id not in known and not _is_empty(row.position):
            repairs.append(_without_fills(row))
    return repairs


def compare_pointers(ledger: Ledger, due: Sequence[Due]) -> list[Pointer]:
    """The fills that point at other positions than those that they made."""
    closing: dict[str, str] = {}
    opening: dict[str, str] = {}
    for one in due:
        first, *rest = one.cycle.fill_ids
        (opening if one.cycle.is_opened_by_rest else closing)[first] = one.position_id
        closing.update(dict.fromkeys(rest, one.position_id))
    return [
        Pointer(fill.fill_id, closing[fill.fill_id], opening.get(fill.fill_id))
        for fill in ledger.fills
        if fill.fill_id in closing
        and (fill.position_id, fill.opened_position_id) != (closing[fill.fill_id], opening.get(fill.fill_id))
    ]


def published_of(state: LedgerState, converted: Converted | None) -> Published:
    """The leaves of a position as its row keeps them."""
    own = realized_units(state, None)
    published = Published(
        realized_pnl_gross=from_units(own.gross), fees=from_units(own.fees), funding=from_units(own.funding)
    )
    if converted is None:
        return published
    reported = realized_units(state, converted)
    return msgspec.structs.replace(
        published,
        reported_gross=from_units(reported.gross),
        reported_fees=from_units(reported.fees),
        reported_funding=from_units(reported.funding),
    )


def _compare(ledger: Ledger, due: Due) -> Repair | None:
    row = ledger.rows.get(due.position_id)
    if row is None:
        right = _new_position(due)
        drift = drift_between("positions", due.position_id, None, ledger_facts(right))
        return Repair(drift=drift, right=right, is_new=True)
    right = _right(row.position, due)
    published = published_of(right.state, right.converted)
    if right == row.position and published == row.published:
        return None
    said = {**ledger_facts(row.position), **_published_facts(row.published)}
    true = {**ledger_facts(right), **_published_facts(published)}
    return Repair(drift=_of_row(row.position, right, said, true), right=_next_version(right))


def _of_row(position: Position, right: Position, said: Facts, true: Facts) -> Drift:
    """A row that stands although it ended is too much, one that ended although it stands is missing."""
    drift = drift_between("positions", position.position_id, said, true)
    if position.status == right.status:
        return drift
    return msgspec.structs.replace(drift, kind="extra" if position.status == "open" else "missing")


def _without_fills(row: Row) -> Repair:
    position = row.position
    emptied = msgspec.structs.replace(
        position,
        state=FLAT,
        converted=None if position.converted is None else Converted(),
        status="closed",
        closed_at=position.closed_at or position.opened_at,
    )
    before, after = difference(ledger_facts(position), ledger_facts(emptied))
    drift = Drift(
        place="positions",
        kind="extra",
        position_id=position.position_id,
        symbol=position.symbol,
        before=before,
        after=after,
    )
    return Repair(drift=drift, right=_next_version(emptied))


def _is_empty(position: Position) -> bool:
    return position.status == "closed" and position.state == FLAT and position.converted in (None, Converted())


def _new_position(due: Due) -> Position:
    chain, cycle = due.chain, due.cycle
    moment: datetime = cycle.closed_at or cycle.opened_at
    return Position(
        position_id=due.position_id,
        user_id=chain.user_id,
        account_id=chain.account_id,
        instrument=due.instrument,
        state=cycle.state,
        converted=cycle.converted,
        position_side=chain.position_side,
        strategy=chain.strategy,
        status="open" if cycle.closed_at is None else "closed",
        opened_at=cycle.opened_at,
        updated_at=moment,
        closed_at=cycle.closed_at,
    )


def _right(position: Position, due: Due) -> Position:
    """A row's position with all that the ledger knows of it put right."""
    chain, cycle = due.chain, due.cycle
    return msgspec.structs.replace(
        position,
        account_id=chain.account_id,
        instrument=_terms(position.instrument, due.instrument),
        state=cycle.state,
        converted=cycle.converted,
        position_side=chain.position_side,
        strategy=chain.strategy,
        status="open" if cycle.closed_at is None else "closed",
        opened_at=cycle.opened_at,
        closed_at=cycle.closed_at,
    )


def _terms(said: Instrument, true: Instrument) -> Instrument:
    """The row's instrument, valuing as the true one does. Steps and ticks change with time, and a row keeps its own."""
    terms = {name: getattr(true, name) for name in ("symbol", "market", "base", "quote", "settle", "multiplier")}
    return msgspec.structs.replace(said, **terms)


def _next_version(position: Position) -> Position:
    return msgspec.structs.replace(position, version=position.version + 1)


def _made_up_id(cycle: Cycle) -> str:
    """An id for a row that was lost: the same whenever it is asked for."""
    return str(uuid5(NAMESPACE_OID, f"{cycle.opened_by}/{cycle.is_opened_by_rest}"))


def _is_of_chain(position: Position, chain: ChainKey) -> bool:
    said = ChainKey(position.user_id, position.account_id, position.symbol, position.position_side, position.strategy)
    return said == chain


def _published_facts(published: Published) -> Facts:
    facts: Facts = {}
    for name, value in msgspec.structs.asdict(published).items():
        facts[f"published.{name}"] = None if value is None else format_decimal(value)
    return facts


def pointer_drift(ledger: Ledger, pointers: Sequence[Pointer]) -> Drift:
    """Fills that point at other positions than those that they made."""
    said = {fill.fill_id: f"{fill.position_id} {fill.opened_position_id or '-'}" for fill in ledger.fills}
    return Drift(
        place="positions",
        kind="different",
        before={f"fill {pointer.fill_id}": said[pointer.fill_id] for pointer in pointers},
        after={
            f"fill {pointer.fill_id}": f"{pointer.position_id} {pointer.opened_position_id or '-'}"
            for pointer in pointers
        },
    )


def correction(drifts: Sequence[Drift]) -> dict[str, Any]:
    """The content of the event that tells a user what was put right: the first of it, and how much there was."""
    told = drifts[:MOST_TOLD]
    return {
        "reason": "reconciliation",
        "count": len(drifts),
        "what": [
            {"place": drift.place, "kind": drift.kind, "position_id": drift.position_id, "symbol": drift.symbol}
            for drift in told
        ],
        "before": [drift.before for drift in told],
        "after": [drift.after for drift in told],
    }
