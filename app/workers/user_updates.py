"""A user as web instances are told of him: the whole, or what changed; but for what moves with prices."""

from typing import Any, Final

from app.bus.messages import BalanceUpdate, RowUpdate, UserUpdate
from app.domain.book import Book, Change, Holder
from app.domain.decimals import to_units
from app.domain.positions import Position
from app.domain.row_statements import MOVING, RowStatements
from app.domain.statements import position_statement, standing_statement
from app.domain.valuation import Valued, report, value_position

_MOVING: Final = {*MOVING, "rate_to_reporting"}


def changed_user(book: Book, statements: RowStatements, slot: int, change: Change) -> UserUpdate:
    """A user whose rows or sums changed. Rows that closed are told a last time, those that vanished are only named."""
    rows = [_open_row(book, row, statements) for row in sorted(change.rows)]
    closed = [
        _row(ended, position, position.symbol, standing_statement(position, to_units(position.state.cost)))
        for ended, position in change.ended.items()
        if position is not None
    ]
    vanished = [ended for ended, position in change.ended.items() if position is None]
    return _user(book.holder(slot), full=False, rows=[*rows, *closed], removed=vanished)


def whole_user(book: Book, holder: Holder, statements: RowStatements | None = None) -> UserUpdate:
    """A user with all his rows. ``statements`` get theirs, for whoever else needs them."""
    rows = [_open_row(book, row, statements) for row in holder.rows.values()]
    return _user(holder, full=True, rows=rows, removed=[])


def _open_row(book: Book, row: int, statements: RowStatements | None) -> RowUpdate:
    position = book.position(row)
    if statements is not None:
        value = value_position(position, None, 0, 0)
        whole = position_statement(Valued(position, value, report(position, value, None), None, is_stale=False))
        statements.keep(row, position, value.realized.net, whole)
        statement = {name: figure for name, figure in whole.items() if name not in _MOVING}
    else:
        statement = standing_statement(position, to_units(position.state.cost))
    mark = book.prices.name(int(book.rows.column[row]))
    return _row(int(book.rows.slot[row]), position, mark, statement)


def _user(holder: Holder, *, full: bool, rows: list[RowUpdate], removed: list[int]) -> UserUpdate:
    sums = holder.sums
    return UserUpdate(
        user_id=holder.user_id,
        slot=holder.slot,
        ledger_seq=holder.ledger_seq,
        full=full,
        currency=holder.currency,
        figures={
            "realized_pnl_gross": str(sums.gross),
            "fees": str(sums.fees),
            "funding": str(sums.funding),
            "net_deposits": str(sums.deposited),
            "day_base": None if holder.day_base is None else str(holder.day_base),
        },
        fees_are_complete=sums.is_complete,
        balances=[
            BalanceUpdate(asset, str(balance.held), str(balance.booked))
            for (_, asset), balance in sums.balances.items()
        ],
        rows=rows,
        removed_slots=removed,
    )


def _row(slot: int, position: Position, mark: str, statement: dict[str, Any]) -> RowUpdate:
    return RowUpdate(
        slot=slot,
        position_id=position.position_id,
        symbol=position.symbol,
        mark=mark,
        version=position.version,
        is_open=position.status == "open",
        cost_basis=str(to_units(position.state.cost)),
        statement=statement,
    )
