"""What of a row's statement does not move with prices, kept as text, so that it is worked out once per version.

Only values are kept, as JSON, one after the other: names would treble the 300
bytes of a row. A template puts both together with what moves.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np

from app.domain.book import Book
from app.domain.positions import Position
from app.domain.slack_matrix import grown
from app.domain.statements import position_statement
from app.domain.still_statement import STILL, StillStatement, still_statement
from app.domain.valuation import Valued, report, value_position
from app.domain.wide import High, Indices, Low, Mask, split

MOVING: Final = (
    "mark_price",
    "price_source",
    "mark_age_ms",
    "is_stale",
    "market_value",
    "unrealized_pnl",
    "unrealized_pnl_pct",
    "total_pnl",
    "unrealized_pnl_reported",
)
"""What moves with the price, where nothing is converted."""

_MOVES: Final = frozenset(MOVING)
_UNQUOTED: Final = {"mark_age_ms", "is_stale", "unrealized_pnl_pct"}

MOST_KEPT: Final = 262_144
"""Rows whose text is kept: 90 MB. The text of others is made each time."""

_MOST_REALIZED: Final = 2**120
_NEVER: Final = -1
_BEFORE_RATE: Final = STILL.index("realized_pnl_reported")


class RowStatements:
    """Texts of a book's rows. What follows from prices is filled in by :meth:`whole`."""

    def __init__(self, book: Book, most_kept: int = MOST_KEPT) -> None:
        self._book = book
        self._most_kept = most_kept
        self._texts: dict[int, str] = {}
        """By row."""
        self._unkept: dict[int, str] = {}
        self._slot: Indices = np.full(64, _NEVER, np.int32)
        self._version: Indices = np.full(64, _NEVER, np.int32)
        self.net_high: High = np.zeros(64, np.int64)
        """By row: what it realised, net, in its settle asset."""
        self.net_low: Low = np.zeros(64, np.uint64)
        self.is_plain: Mask = np.zeros(64, np.bool_)
        """By row: whether it is in its user's usual account, and what it realised leaves room to add to."""
        self._template = ""
        self._in_order: Callable[[Sequence[str]], tuple[str, ...]] = tuple
        self._made_in_vain = 0

    def __len__(self) -> int:
        """How many texts are kept."""
        return len(self._texts)

    def prepare(self, rows: Indices) -> None:
        """Have the statements of these rows as they are now."""
        self._make_way()
        if not len(rows):
            return
        self._make_room(int(rows.max()) + 1)
        here = self._book.rows
        is_known = (self._slot[rows] == here.slot[rows]) & (self._version[rows] == here.version[rows])
        for row in rows[~is_known].tolist():
            self._make(row)

    def whole(self, row: int, moving: tuple[str, ...]) -> str:
        """The ``Position`` of a prepared row as JSON. ``moving`` are the values of :data:`MOVING`, all known.

        Age, staleness and share are JSON, the others texts that JSON quotes.
        """
        text = self._texts.get(row) or self._unkept[row]
        return self._template % self._in_order((*text.split("\n"), *moving))

    def _make_way(self) -> None:
        """Where there was no room for many, forget rows that ended and those of users whom nobody watches any more."""
        self._made_in_vain += len(self._unkept)
        self._unkept.clear()
        if self._made_in_vain <= self._most_kept // 4:
            return
        self._made_in_vain = 0
        rows = np.fromiter(self._texts, np.int32)
        gone = rows[~self._book.are_watched(rows)]
        self._slot[gone] = _NEVER
        for row in gone.tolist():
            del self._texts[row]

    def keep(self, row: int, position: Position, still: StillStatement) -> None:
        """Take over the statement of a row as it is now: whoever made one for other ends saves making it again."""
        book = self._book
        if not self._template:
            self._lay_out(list(_statement(position)))
        rate = '"1"' if position.converted is None else "null"
        text = "\n".join((*still.values[:_BEFORE_RATE], rate, *still.values[_BEFORE_RATE:]))
        if row >= len(self._slot):
            self._make_room(row + 1)
        net = still.realized_pnl
        self.net_high[row], self.net_low[row] = split(net)
        usual = book.holder(int(book.rows.user[row])).usual_account
        self.is_plain[row] = position.account_id == usual and abs(net) < _MOST_REALIZED
        if row not in self._texts and len(self._texts) >= self._most_kept:
            self._unkept[row] = text
            return
        self._texts[row] = text
        self._slot[row], self._version[row] = book.rows.slot[row], book.rows.version[row]

    def _make(self, row: int) -> None:
        position = self._book.position(row)
        self.keep(row, position, still_statement(position))

    def _lay_out(self, names: list[str]) -> None:
        """Find where values stand in a statement, those that are kept first and those that move behind them."""
        still = [name for name in names if name not in _MOVES]
        places = {name: place for place, name in enumerate(still)}
        places.update({name: len(places) + place for place, name in enumerate(MOVING)})
        quoted = _MOVES - _UNQUOTED
        self._template = "{" + ",".join(f'"{name}":"%s"' if name in quoted else f'"{name}":%s' for name in names) + "}"
        self._in_order = itemgetter(*(places[name] for name in names))

    def _make_room(self, needed: int) -> None:
        self._slot = grown(self._slot, needed, fill=_NEVER)
        self._version = grown(self._version, needed, fill=_NEVER)
        self.net_high = grown(self.net_high, needed)
        self.net_low = grown(self.net_low, needed)
        self.is_plain = grown(self.is_plain, needed)


def _statement(position: Position) -> dict[str, Any]:
    value = value_position(position, None, 0, 0)
    return position_statement(Valued(position, value, report(position, value, None), None, is_stale=False))
