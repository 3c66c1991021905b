"""A user's whole P&L at one place in the stream: the body of ``GET /pnl``."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.domain.positions import Position, UserBook
from app.domain.prices import Price, StreamPosition
from app.domain.statements import position_statement, totals_statement
from app.domain.valuation import PositionValue, Totals, total, value_position


def value_book(
    book: UserBook, prices: Mapping[str, Price], as_of_ms: int, stale_after_ms: int
) -> list[tuple[Position, PositionValue]]:
    """Every open position with its worth."""
    return [
        (position, value_position(position, prices.get(position.symbol), as_of_ms, stale_after_ms))
        for position in book.positions
    ]


def total_book(book: UserBook, valued: Sequence[tuple[Position, PositionValue]]) -> Totals:
    """A user's totals: the open positions, and what the closed ones left behind."""
    closed = book.closed
    standing = total(valued, book.currency, book.day_base)
    return msgspec.structs.replace(
        standing,
        realized_pnl_gross=standing.realized_pnl_gross + closed.realized_pnl_gross,
        fees=standing.fees + closed.fees,
        funding=standing.funding + closed.funding,
        fees_are_complete=standing.fees_are_complete and closed.fees_are_complete,
        unpriced=tuple(sorted({*standing.unpriced, *closed.foreign_symbols})),
    )


def pnl_snapshot(
    book: UserBook,
    prices: Mapping[str, Price],
    place: StreamPosition,
    *,
    as_of_ms: int,
    stale_after_ms: int,
) -> dict[str, Any]:
    """The body of ``GET /pnl``, with ``ledger_seq`` to tell which events are in it."""
    valued = value_book(book, prices, as_of_ms, stale_after_ms)
    totals = totals_statement(total_book(book, valued))
    return {
        "as_of_ms": as_of_ms,
        "epoch": place.epoch,
        "seq": place.seq,
        "ledger_seq": book.ledger_seq,
        "currency": book.currency,
        "totals": totals,
        "accounts": [{"account_id": book.account_id, "totals": totals}],
        "positions": [position_statement(position, value) for position, value in valued],
    }
