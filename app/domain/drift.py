"""What a copy of a user says otherwise than the truth: the book in memory, the cached answer of ``GET /pnl``.

Every comparison goes both ways, so that what is there too much is found as what
is missing is. A copy that is older because news is on its way is none of its
business: whoever calls compares what belongs to one moment.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from app.domain.decimals import exact, format_decimal, format_units, parse_positive, to_units
from app.domain.pnl_snapshot import Prices, value_book
from app.domain.positions import AccountBook, Converted, Position, UserBook
from app.domain.rates import RateBook
from app.domain.statements import position_statement, totals_statement

Place: TypeAlias = Literal["positions", "book", "cache"]
"""Where the drift is: the rows of the database, the P&L worker's book, the P&L cache in Redis."""

Kind: TypeAlias = Literal["missing", "extra", "different", "stale"]
"""``missing`` is true and not there, ``extra`` is there and not true, ``stale`` is there as it once was."""

Facts: TypeAlias = dict[str, str | None]
"""Names and values, written out."""

_MOVING: Final = frozenset(
    {
        "mark_price",
        "price_source",
        "mark_age_ms",
        "is_stale",
        "market_value",
        "unrealized_pnl",
        "unrealized_pnl_pct",
        "total_pnl",
        "rate_to_reporting",
        "unrealized_pnl_reported",
    }
)
"""What of a position's statement moves with prices."""

_STANDING: Final = ("currency", "realized_pnl", "realized_pnl_gross", "fees", "funding", "net_deposits")
"""What of the totals does not."""

_VERSION_DIGITS: Final = 18

_NO_PRICES: Final = Prices({}, RateBook(), 0, 0)


class CachedPnl(msgspec.Struct):
    """What is looked at of a cached answer."""

    ledger_seq: int
    totals: dict[str, Any]
    positions: list[dict[str, Any]]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as the ledger has it.

    ``position_id`` is None where it is about what a user's positions add up to.
    ``before`` and ``after`` are what was said and what is true: all of it where
    one of them is None, else only where they differ.
    """

    place: Place
    kind: Kind
    position_id: str | None = None
    symbol: str | None = None
    before: Facts | None
    after: Facts | None

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of what differs."""
        return tuple(self.before or self.after or ())

    @property
    def version_said(self) -> int:
        """The version that was claimed, where it is not the true one; 0 otherwise."""
        return _version(self.before or {})


def compare_books(truth: UserBook, held: UserBook) -> list[Drift]:
    """How a book in memory differs from the truth."""
    due = {position.position_id: position for position in truth.positions}
    said = {position.position_id: position for position in held.positions}
    drifts = [
        drift_between("book", position_id, _facts(said.get(position_id)), _facts(due.get(position_id)))
        for position_id in {**due, **said}
        if due.get(position_id) != said.get(position_id)
    ]
    drifts += _compare_sums("book", _sums(held), _sums(truth))
    if truth.ledger_seq == held.ledger_seq or drifts:
        return drifts
    kind: Kind = "stale" if held.ledger_seq < truth.ledger_seq else "different"
    before: Facts = {"ledger_seq": str(held.ledger_seq)}
    return [Drift(place="book", kind=kind, before=before, after={"ledger_seq": str(truth.ledger_seq)})]


def compare_cache(truth: UserBook, cached: CachedPnl) -> list[Drift]:
    """How a cached answer differs from the truth. What moves with prices is held against the marks that it names."""
    valued = value_book(truth, _NO_PRICES)
    due = {one.position.position_id: _standing(position_statement(one)) for one in valued.positions}
    rows = {str(row.get("position_id")): row for row in cached.positions}
    said = {position_id: _standing(row) for position_id, row in rows.items()}
    drifts = [
        drift_between("cache", position_id, said.get(position_id), due.get(position_id))
        for position_id in {**due, **said}
        if due.get(position_id) != said.get(position_id)
    ]
    drifted = {drift.position_id for drift in drifts}
    for position in truth.positions:
        if position.position_id not in drifted:
            drifts += _compare_worth(position, rows[position.position_id])
    totals = totals_statement(valued.totals)
    drifts += _compare_sums("cache", _written(cached.totals, _STANDING), _written(totals, _STANDING))
    return drifts


def unreadable_cache() -> Drift:
    """The drift of an answer that is none."""
    return Drift(place="cache", kind="different", before={"body": "unreadable"}, after={"body": None})


def drift_between(place: Place, position_id: str, said: Facts | None, due: Facts | None) -> Drift:
    """The drift of a position of which two things are said; None is that it is not there."""
    symbol = (due or said or {}).get("symbol")
    if due is None or said is None:
        kind: Kind = "missing" if said is None else "extra"
        return Drift(place=place, kind=kind, position_id=position_id, symbol=symbol, before=said, after=due)
    before, after = difference(said, due)
    is_older = "version" in before and _version(before) < _version(after)
    kind = "stale" if is_older else "different"
    return Drift(place=place, kind=kind, position_id=position_id, symbol=symbol, before=before, after=after)


def difference(before: Facts, after: Facts) -> tuple[Facts, Facts]:
    """Both, without what they agree on."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in names}, {name: after.get(name) for name in names}


def ledger_facts(position: Position) -> Facts:
    """What of a position follows from its fills and funding payments."""
    state, closed_at = position.state, position.closed_at
    return {
        "account_id": position.account_id,
        "symbol": position.symbol,
        "market": position.instrument.market,
        "settle_asset": position.instrument.settle,
        "multiplier": format_decimal(position.instrument.multiplier),
        "position_side": position.position_side,
        "strategy": position.strategy,
        "status": position.status,
        "signed_qty": format_decimal(state.signed_qty),
        "cost": format_decimal(state.cost),
        "cash": format_decimal(state.cash),
        "fees": format_decimal(state.fees),
        "funding": format_decimal(state.funding),
        "fees_unpriced": _text({asset: format_decimal(fee) for asset, fee in sorted(state.fees_unpriced.items())}),
        **_converted_facts(position.converted),
        "opened_at": position.opened_at.isoformat(),
        "closed_at": None if closed_at is None else closed_at.isoformat(),
    }


def _version(facts: Facts) -> int:
    """A version as it stands there, 0 where it is none."""
    text = facts.get("version") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _VERSION_DIGITS else 0


def _facts(position: Position | None) -> Facts | None:
    """Everything of a position."""
    if position is None:
        return None
    return {
        **ledger_facts(position),
        "note": position.note,
        "take_profit": None if position.take_profit is None else format_decimal(position.take_profit),
        "stop_loss": None if position.stop_loss is None else format_decimal(position.stop_loss),
        "tick_size": format_decimal(position.instrument.tick_size),
        "step_size": format_decimal(position.instrument.step_size),
        "updated_at": position.updated_at.isoformat(),
        "version": str(position.version),
    }


def _converted_facts(converted: Converted | None) -> Facts:
    if converted is None:
        return {}
    return {
        "converted_gross": format_decimal(converted.gross),
        "converted_fees": format_decimal(converted.fees),
        "converted_funding": format_decimal(converted.funding),
        "is_converted": _text(converted.is_complete),
    }


def _sums(book: UserBook) -> Facts:
    """What a book says beside its open positions. Accounts come in any order, and so do their assets."""
    facts: Facts = {"currency": book.currency}
    for account in book.accounts:
        facts[account.account_id] = f"{account.name} ({account.valuation})"
        facts.update(_asset_facts(account))
    return facts


def _asset_facts(account: AccountBook) -> Iterator[tuple[str, str]]:
    for book in account.assets:
        parts = {
            "realized_pnl_gross": book.realized.gross,
            "fees": book.realized.fees,
            "funding": book.realized.funding,
            "reported_gross": book.reported.gross,
            "reported_fees": book.reported.fees,
            "reported_funding": book.reported.funding,
            "deposited": book.deposited,
            "deposited_reported": book.deposited_reported,
        }
        # Nothing is the same as no entry.
        yield from (
            (f"{account.account_id}.{book.asset}.{name}", format_units(sum_)) for name, sum_ in parts.items() if sum_
        )
        if not book.is_complete:
            yield f"{account.account_id}.{book.asset}.is_complete", "false"


def _compare_sums(place: Place, said: Facts, due: Facts) -> list[Drift]:
    before, after = difference(said, due)
    return [Drift(place=place, kind="different", before=before, after=after)] if before else []


def _compare_worth(position: Position, row: Mapping[str, Any]) -> list[Drift]:
    """Whether a row's worth is that of its own mark."""
    worth = _worth(position, row.get("mark_price"))
    cost = to_units(position.state.cost)
    due: Facts = {
        "market_value": None if worth is None else format_units(worth),
        "unrealized_pnl": None if worth is None else format_units(worth - cost),
    }
    before, after = difference(_written(row, due), due)
    if not before:
        return []
    return [
        Drift(
            place="cache",
            kind="different",
            position_id=position.position_id,
            symbol=position.symbol,
            before=before,
            after=after,
        )
    ]


def _worth(position: Position, mark: object) -> int | None:
    if not isinstance(mark, str):
        return None
    try:
        price = parse_positive(mark)
    except ValueError:
        return None
    with exact():
        return to_units(position.instrument.value(position.state.signed_qty, price))


def _standing(statement: Mapping[str, Any]) -> Facts:
    return _written(statement, [name for name in statement if name not in _MOVING])


def _written(values: Mapping[str, Any], names: Iterable[str]) -> Facts:
    return {name: _text(values.get(name)) for name in names}


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value, order="sorted").decode()
