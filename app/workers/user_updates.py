"""A user as web instances are told of him: the whole, or what changed; but for what moves with prices."""

from app.bus.messages import BalanceUpdate, RowUpdate, UserUpdate
from app.domain.book import Book, Change, Holder
from app.domain.positions import Position
from app.domain.row_statements import RowStatements
from app.domain.still_statement import StillStatement, still_statement


def changed_user(book: Book, slot: int, change: Change, statements: RowStatements) -> UserUpdate:
    """A user whose rows or sums changed. Rows that closed are told a last time, those that vanished are only named."""
    rows = [_open_row(book, row, statements) for row in sorted(change.rows)]
    closed = [
        _row(ended, position, position.symbol, still_statement(position))
        for ended, position in change.ended.items()
        if position is not None
    ]
    vanished = [ended for ended, position in change.ended.items() if position is None]
    return _user(book.holder(slot), full=False, rows=[*rows, *closed], removed=vanished)


def whole_user(book: Book, holder: Holder, statements: RowStatements | None = None) -> UserUpdate:
    """A user with all his rows, whose statements are kept for other ends too."""
    rows = [_open_row(book, row, statements) for row in holder.rows.values()]
    return _user(holder, full=True, rows=rows, removed=[])


def _open_row(book: Book, row: int, statements: RowStatements | None) -> RowUpdate:
    position = book.position(row)
    still = still_statement(position)
    if statements is not None:
        statements.keep(row, position, still)
    return _row(int(book.rows.slot[row]), position, book.prices.name(int(book.rows.column[row])), still)


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


def _row(slot: int, position: Position, mark: str, still: StillStatement) -> RowUpdate:
    return RowUpdate(
        slot=slot,
        position_id=position.position_id,
        symbol=position.symbol,
        mark=mark,
        version=position.version,
        is_open=position.status == "open",
        is_inverse=position.instrument.market == "inverse",
        settle_asset=position.instrument.settle,
        cost_basis=str(still.cost_basis),
        realized_pnl=str(still.realized_pnl),
        statement=still.text,
    )
