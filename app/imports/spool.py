"""Holds the fills of a file of any length, chain by chain in the order they happened, in little memory.

A private SQLite file: it orders and finds repeated fills on disk, where a
dictionary of a million ids would not fit.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from app.domain.cells import CellProblem
from app.domain.decimals import ZERO, format_decimal
from app.domain.import_rows import ImportedFill
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, PositionSide

MOST_CHAINS = 20_000
"""How many symbols × position sides × strategies one file may have."""

OWN_ID = "fill:"
"""Before the id that this system once gave a fill: its trade id where it came back without another."""

_CACHE_KIB = 32 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ChainKey(NamedTuple):
    """What makes fills one chain, within an account."""

    symbol: str
    position_side: PositionSide
    strategy: str


class SpooledFill(NamedTuple):
    """A fill with the row it stands in. Its ``trade_id`` is never None."""

    number: int
    fill: Fill


class Chain(msgspec.Struct, frozen=True):
    """The fills of one chain: what they are of, when the first happened, how many there are."""

    place: int
    key: ChainKey
    instrument: Instrument
    first_at: datetime
    fills: int


class Spool:
    """Takes fills in the order of the file, gives them chain by chain in the order they happened."""

    def __init__(self, path: Path | None = None) -> None:
        """``path`` is where the file is made; without one it is a temporary file of SQLite's."""
        self.fills = 0
        self.repeats = 0
        """How many fills were left out because they were in the file already."""
        self._path = path
        self._chains: dict[ChainKey, int] = {}
        self._instruments: dict[str, Instrument] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Fill).decode
        if path is not None:
            path.unlink(missing_ok=True)
        # Filled in a thread of its own, then read in another: never in two at once.
        self._rows = sqlite3.connect(str(path or ""), isolation_level=None, check_same_thread=False)
        self._rows.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._rows.execute("PRAGMA journal_mode = OFF")
        self._rows.execute("PRAGMA synchronous = OFF")
        self._rows.execute(
            "CREATE TABLE fills (chain INTEGER, at INTEGER, number INTEGER, fill BLOB,"
            " PRIMARY KEY (chain, at, number)) WITHOUT ROWID"
        )
        self._rows.execute(
            "CREATE TABLE known (symbol TEXT, trade_id TEXT, number INTEGER, digest BLOB, times INTEGER,"
            " PRIMARY KEY (symbol, trade_id)) WITHOUT ROWID"
        )
        self._rows.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rows.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def add(self, row: ImportedFill) -> None:
        """Take a fill; a repeated one is counted and left out.

        A fill without an id gets one from what it says and how many equal ones came
        before it in the file: so a file is recognised when it comes again, and equal
        fills of one moment stay as many as they are.

        Raises:
            CellProblem: an earlier row is another fill with this trade id, or there are too many chains.
        """
        symbol, fill = row.instrument.symbol, row.fill
        digest = _digest(symbol, fill)
        trade_id = fill.trade_id or (f"{OWN_ID}{row.fill_id}" if row.fill_id else None)
        if trade_id is None:
            trade_id = self._numbered(row.number, symbol, digest)
        elif not self._is_new(row.number, symbol, trade_id, digest):
            self.repeats += 1
            return
        self._insert(row.number, row.instrument, msgspec.structs.replace(fill, trade_id=trade_id))

    def chains(self) -> Iterator[Chain]:
        """The chains, by symbol, strategy and side."""
        found = {place: key for key, place in self._chains.items()}
        counted = self._rows.execute("SELECT chain, min(at), count(*) FROM fills GROUP BY chain").fetchall()
        chains = [
            Chain(place, found[place], self._instruments[found[place].symbol], _moment(first), fills)
            for place, first, fills in counted
        ]
        yield from sorted(chains, key=lambda chain: chain.key)

    def of_chain(self, chain: Chain) -> Iterator[SpooledFill]:
        """The fills of a chain by time, then by row."""
        rows = self._rows.execute("SELECT number, fill FROM fills WHERE chain = ? ORDER BY at, number", (chain.place,))
        for number, fill in rows:
            yield SpooledFill(number, self._decode(fill))

    def _is_new(self, number: int, symbol: str, trade_id: str, digest: bytes) -> bool:
        """Note a trade id. False where it was there with the same content. Raises CellProblem."""
        added = self._rows.execute(
            "INSERT OR IGNORE INTO known VALUES (?, ?, ?, ?, 1)", (symbol, trade_id, number, digest)
        )
        if added.rowcount:
            return True
        earlier, known = self._rows.execute(
            "SELECT number, digest FROM known WHERE symbol = ? AND trade_id = ?", (symbol, trade_id)
        ).fetchone()
        if known != digest:
            raise CellProblem("trade_id", f"{trade_id} was another fill of {symbol} in row {earlier}")
        return False

    def _numbered(self, number: int, symbol: str, digest: bytes) -> str:
        """An id from what a fill says and its number among those that say the same."""
        trade_id = f"row:{digest.hex()}"
        (times,) = self._rows.execute(
            "INSERT INTO known VALUES (?, ?, ?, ?, 1)"
            " ON CONFLICT (symbol, trade_id) DO UPDATE SET times = times + 1 RETURNING times",
            (symbol, trade_id, number, digest),
        ).fetchone()
        return trade_id if times == 1 else f"{trade_id}:{times}"

    def _insert(self, number: int, instrument: Instrument, fill: Fill) -> None:
        key = ChainKey(instrument.symbol, fill.position_side, fill.strategy)
        place = self._chains.get(key)
        if place is None:
            if len(self._chains) == MOST_CHAINS:
                raise CellProblem(None, f"one file may have {MOST_CHAINS} symbols and strategies")
            place = self._chains[key] = len(self._chains)
            self._instruments[instrument.symbol] = instrument
        assert fill.executed_at is not None
        at = _microseconds(fill.executed_at)
        self._rows.execute("INSERT INTO fills VALUES (?, ?, ?, ?)", (place, at, number, self._encode(fill)))
        self.fills += 1


def _digest(symbol: str, fill: Fill) -> bytes:
    """128 bits of all that a fill says, however its numbers were written."""
    numbers = (fill.quantity, fill.price, fill.fee, fill.fee_rate or ZERO, fill.rate_to_reporting or ZERO)
    words = (symbol, fill.side, fill.fee_asset, fill.executed_at, fill.strategy, fill.position_side)
    said = "\x1f".join((*map(str, words), *map(format_decimal, numbers)))
    return blake2b(said.encode(), digest_size=16).digest()


def _microseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).replace(microsecond=microseconds % 1_000_000)
