"""Holds the fills of a file of any length, ordered by position and time, in little memory.

A private SQLite file, deleted when closed: it sorts and finds repeated trade
ids on disk, where a dictionary of a million ids would not fit.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from app.domain.ledger import Fill, PositionSide
from app.entry.fills_file import FillRow, RowProblem

_CACHE_KIB = 32 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL = -(1 << 62)


class PositionKey(NamedTuple):
    """What makes fills one position."""

    symbol: str
    position_side: PositionSide
    strategy: str


class FillSpool:
    """Takes fills in the order of the file, gives them position by position in the order they happened."""

    def __init__(self) -> None:
        self.repeats = 0
        """How many fills were left out because they were there already."""
        self._last_at: dict[str, int] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Fill).decode
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute(
            "CREATE TABLE fills (number INTEGER PRIMARY KEY, symbol TEXT, position_side TEXT, strategy TEXT,"
            " at INTEGER, trade_id TEXT, fill BLOB)"
        )
        self._rows.execute("CREATE UNIQUE INDEX known ON fills (symbol, trade_id) WHERE trade_id IS NOT NULL")
        self._rows.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()

    def add(self, row: FillRow) -> None:
        """Take a fill; a repeated one is counted and left out.

        Raises:
            RowProblem: an earlier row is another fill with this trade id.
        """
        fill, symbol = row.fill, row.instrument.symbol
        added = self._rows.execute(
            "INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                row.number,
                symbol,
                fill.position_side,
                fill.strategy,
                self._place_in_time(symbol, fill),
                fill.trade_id,
                self._encode(fill),
            ),
        )
        if not added.rowcount:
            self._check_repeat(row.number, symbol, fill)
            self.repeats += 1

    def positions(self) -> Iterator[tuple[PositionKey, Iterator[tuple[int, Fill]]]]:
        """Each position with its fills and the numbers of their rows. One at a time: as itertools.groupby."""
        ordered = self._rows.execute(
            "SELECT symbol, position_side, strategy, number, fill FROM fills"
            " ORDER BY symbol, strategy, position_side, at, number"
        )
        for key, rows in groupby(ordered, key=lambda row: PositionKey(*row[:3])):
            yield key, ((number, self._decode(fill)) for *_, number, fill in rows)

    def _place_in_time(self, symbol: str, fill: Fill) -> int:
        """Microseconds; a fill without a time follows the one of the row before."""
        if fill.executed_at is not None:
            since = fill.executed_at - _EPOCH
            self._last_at[symbol] = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        return self._last_at.get(symbol, _BEFORE_ALL)

    def _check_repeat(self, number: int, symbol: str, fill: Fill) -> None:
        earlier, known = self._rows.execute(
            "SELECT number, fill FROM fills WHERE symbol = ? AND trade_id = ?", (symbol, fill.trade_id)
        ).fetchone()
        if self._decode(known) != fill:
            raise RowProblem(number, f"trade_id {fill.trade_id} was another fill of {symbol} in row {earlier}")
