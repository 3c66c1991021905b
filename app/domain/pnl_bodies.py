"""The bodies of ``GET /pnl`` of many users at once: what :mod:`app.domain.pnl_snapshot` says of each, as JSON.

A body costs a fifth of encoding a snapshot: what does not move with prices is
kept as text (:mod:`app.domain.row_statements`), figures are the book's vectors,
their digits are written for all users together. Who is not plain to value, with
several accounts, with another asset, with a row that has no price or is odd,
gets the snapshot itself. The bytes are the same.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.domain.book import Book, Holder
from app.domain.decimals import format_decimal, format_units
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.position_rows import Kind
from app.domain.prices import StreamPosition
from app.domain.row_statements import RowStatements
from app.domain.wide import Floats, High, Indices, Low, add, join, sum_by
from app.domain.wide_text import format_fractions, format_wide, magnitudes

_WORD: Final = float(2**64)
_SNAPSHOT_WEIGHT: Final = 5
_JSON_BOOL: Final = ("false", "true")


class PnlBodies:
    """Writes bodies from one book, at the prices that it holds."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.statements = RowStatements(book)

    def weight(self, slot: int) -> int:
        """What a user costs, in rows of plain ones."""
        holder = self._book.holder(slot)
        return (len(holder.rows) + 1) * (1 if _may_be_plain(holder) else _SNAPSHOT_WEIGHT)

    def write(self, slots: Sequence[int], prices: Prices, place: StreamPosition) -> dict[str, bytes]:
        """Bodies by user id. ``prices`` are the book's own, with the moment that ages count to."""
        holders = [self._book.holder(slot) for slot in slots]
        plain = self._plain(holders)
        bodies = self._together(plain, prices, place)
        for holder in holders:
            if holder.user_id not in bodies:
                snapshot = pnl_snapshot(self._book.user_book(holder.slot), prices, place)
                bodies[holder.user_id] = msgspec.json.encode(snapshot)
        return bodies

    def _plain(self, holders: Sequence[Holder]) -> list[Holder]:
        """Those whom the vectors value whole."""
        book = self._book
        able = [holder for holder in holders if _may_be_plain(holder)]
        rows, owners = _rows_of(able)
        self.statements.prepare(rows)
        is_fit = (book.rows.kinds[rows] == Kind.TOGETHER) & book.prices.carried[book.rows.column[rows]]
        is_fit &= self.statements.is_plain[rows] & (book.rows.qty_low[rows] != 0)
        unfit = np.bincount(owners[~is_fit], minlength=len(able)).tolist()
        return [holder for holder, count in zip(able, unfit, strict=True) if not count]

    def _together(self, holders: Sequence[Holder], prices: Prices, place: StreamPosition) -> dict[str, bytes]:
        if not holders:
            return {}
        rows, owners = _rows_of(holders)
        valued = _Valued(self._book, self.statements, prices, rows, owners, len(holders))
        texts = valued.row_texts()
        head = f'{{"as_of_ms":{prices.as_of_ms},"epoch":{place.epoch},"seq":{place.seq},"ledger_seq":'
        bodies: dict[str, bytes] = {}
        start = 0
        for number, holder in enumerate(holders):
            end = start + len(holder.rows)
            currency, account = _json(holder.currency), holder.accounts[0]
            totals = valued.totals(number, holder, currency)
            body = (
                f'{head}{holder.ledger_seq},"currency":{currency},"totals":{totals},'
                f'"accounts":[{{"account_id":{_json(account.account_id)},"name":{_json(account.name)},'
                f'"totals":{totals}}}],"positions":[{",".join(texts[start:end])}]}}'
            )
            bodies[holder.user_id] = body.encode()
            start = end
        return bodies


class _Valued:
    """Rows of several users, one after the other, and what each user's add up to."""

    def __init__(
        self,
        book: Book,
        statements: RowStatements,
        prices: Prices,
        rows: Indices,
        owners: NDArray[np.intp],
        users: int,
    ) -> None:
        self._book, self._statements, self._prices = book, statements, prices
        self._rows = rows
        vector = book.prices
        self._worth = book.rows.worth(rows, vector.low, vector.floats)
        self._value = book.rows.market_value(rows, vector.low, vector.floats)
        self._columns = book.rows.column[rows]
        _, gross_high, gross_low = magnitudes(*self._value)
        self._unrealized = _joined(sum_by(owners, *self._worth, users))
        self._net_exposure = _joined(sum_by(owners, *self._value, users))
        self._gross_exposure = _joined(sum_by(owners, gross_high, gross_low, users))
        self._marks = {column: self._mark(column) for column in np.unique(self._columns).tolist()}
        ages = np.maximum(prices.as_of_ms - vector.fresh_ms_of(self._columns), 0)
        oldest = np.full(users, -1, np.int64)
        np.maximum.at(oldest, owners, ages)
        self._oldest: list[int] = oldest.tolist()
        self._is_stale: list[bool] = self._stale_users(owners, users)

    def row_texts(self) -> list[str]:
        """The ``Position`` of each row."""
        count = len(self._rows)
        statements = self._statements
        total = add(*self._worth, statements.net_high[self._rows], statements.net_low[self._rows])
        amounts = format_wide(
            np.concatenate((self._value[0], self._worth[0], total[0])),
            np.concatenate((self._value[1], self._worth[1], total[1])),
        )
        shares = self._shares()
        marks, whole = self._marks, statements.whole
        return [
            whole(row, (*marks[column], value, worth, share, total_pnl, worth))
            for row, column, value, worth, share, total_pnl in zip(
                self._rows.tolist(),
                self._columns.tolist(),
                amounts[:count],
                amounts[count : 2 * count],
                shares,
                amounts[2 * count :],
                strict=True,
            )
        ]

    def totals(self, number: int, holder: Holder, currency: str) -> str:
        """The ``Totals`` of a user, and of his one account."""
        sums, unrealized = holder.sums, self._unrealized[number]
        total = sums.realized + unrealized
        day = "null" if holder.day_base is None else f'"{format_units(total - holder.day_base)}"'
        oldest = self._oldest[number]
        return (
            f'{{"currency":{currency},"unrealized_pnl":"{format_units(unrealized)}",'
            f'"realized_pnl":"{format_units(sums.realized)}","realized_pnl_gross":"{format_units(sums.gross)}",'
            f'"fees":"{format_units(sums.fees)}","funding":"{format_units(sums.funding)}",'
            f'"total_pnl":"{format_units(total)}","fx_pnl":"0","day_pnl":{day},'
            f'"net_deposits":"{format_units(sums.deposited)}","equity":"{format_units(sums.deposited + total)}",'
            f'"gross_exposure":"{format_units(self._gross_exposure[number])}",'
            f'"net_exposure":"{format_units(self._net_exposure[number])}",'
            f'"is_complete":{_JSON_BOOL[sums.is_complete]},"is_stale":{_JSON_BOOL[self._is_stale[number]]},'
            f'"unpriced":[],"oldest_price_age_ms":{"null" if oldest < 0 else oldest}}}'
        )

    def _shares(self) -> list[str]:
        """Unrealised over cost, as JSON."""
        cost = self._book.rows.cost_basis(self._rows)
        _, high, low = magnitudes(*cost)
        about: Floats = (high * _WORD + low).astype(np.float64)
        return format_fractions(*self._worth, about, lambda index: join(int(cost[0][index]), int(cost[1][index])))

    def _mark(self, column: int) -> tuple[str, str, str, str]:
        """The price of a column: what it is, which it is, how old, whether that is too old."""
        prices = self._prices
        quote = self._book.prices.quote(column)
        assert quote is not None
        age_ms = prices.as_of_ms - quote.fresh_ms
        return (
            format_decimal(quote.price),
            quote.source,
            str(max(0, age_ms)),
            _JSON_BOOL[age_ms > prices.stale_after_ms],
        )

    def _stale_users(self, owners: NDArray[np.intp], users: int) -> list[bool]:
        ages = self._prices.as_of_ms - self._book.prices.fresh_ms_of(self._columns)
        is_stale = ages > self._prices.stale_after_ms
        stale: list[bool] = (np.bincount(owners[is_stale], minlength=users) > 0).tolist()
        return stale


def _may_be_plain(holder: Holder) -> bool:
    is_alone = len(holder.accounts) == 1 and holder.accounts[0].account_id == holder.usual_account
    return is_alone and not holder.sums.balances


def _rows_of(holders: Sequence[Holder]) -> tuple[Indices, NDArray[np.intp]]:
    """The rows of users, one after the other, and the number of each row's user."""
    rows = np.fromiter((row for holder in holders for row in holder.rows.values()), np.int32)
    return rows, np.repeat(np.arange(len(holders)), [len(holder.rows) for holder in holders])


def _joined(parts: tuple[High, Low]) -> list[int]:
    return [join(*pair) for pair in zip(parts[0].tolist(), parts[1].tolist(), strict=True)]


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()
