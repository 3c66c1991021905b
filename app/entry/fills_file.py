"""Fills from a CSV or JSON file: row by row, so that a file of any length fits in memory.

A CSV has a header; JSON is an array of objects or one object a line. Columns:

* ``symbol``, ``side`` (buy or sell), ``quantity``, ``price``: required;
* ``fee`` (negative is a rebate), ``fee_asset`` (default: the settle asset),
  ``fee_rate`` (settle units per fee unit, for an asset that is neither settle nor base);
* ``executed_at``: RFC 3339, or seconds, milli-, micro- or nanoseconds since 1970; without
  an offset it is UTC. Rows are ordered by it; one without follows the row before it;
* ``trade_id``: the exchange's; the same one twice is one fill;
* ``strategy``, ``position_side`` (net, long or short): positions of their own;
* ``market`` (spot, linear or inverse), ``multiplier``, ``base``, ``quote``, ``settle``: what the
  symbol is, where that is not what the command line or the symbol itself says.

Other columns are ignored, unless a name looks like one of these by another word or with a slip.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO, get_args

import msgspec

from app.domain.cells import moment, number, one_of
from app.domain.decimals import ZERO, parse_plain, parse_positive, parse_signed
from app.domain.instruments import Instrument, Market
from app.domain.ledger import Fill, PositionSide
from app.domain.text_tables import FileProblem, column_name, csv_records, is_json, json_items

REQUIRED = ("symbol", "side", "quantity", "price")
COLUMNS = (
    *REQUIRED,
    *("fee", "fee_asset", "fee_rate", "executed_at", "trade_id", "strategy", "position_side"),
    *("market", "multiplier", "base", "quote", "settle"),
)

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "JPY", "BRL", "BTC", "ETH", "BNB")
_SEPARATED = re.compile(r"([A-Za-z0-9]+)[-/_]([A-Za-z0-9]{2,6})(?:[-:_].*)?")
_OTHERS_SAY = {
    **dict.fromkeys(("commission", "commission_amount"), "fee"),
    **dict.fromkeys(("commission_asset", "commission_currency", "fee_currency", "fee_coin"), "fee_asset"),
    **dict.fromkeys(("time", "timestamp", "datetime", "date", "date(utc)"), "executed_at"),
    **dict.fromkeys(("qty", "size", "amount"), "quantity"),
}


class RowProblem(ValueError):
    """A row that is not a fill. Rows are counted as a spreadsheet does: a header is row 1."""

    def __init__(self, row: int, detail: str) -> None:
        super().__init__(f"row {row}: {detail}")


class Row(msgspec.Struct, frozen=True):
    """A row as it stands in the file: its non-empty cells as text, or why it has none."""

    number: int
    cells: dict[str, str]
    problem: str | None = None


class FillRow(msgspec.Struct, frozen=True):
    """A row that is a fill."""

    number: int
    instrument: Instrument
    fill: Fill


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, one at a time. Raises FileProblem."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _json_rows(file) if is_json(file) else _csv_rows(file)
    except UnicodeDecodeError:
        raise FileProblem(f"{path.name} is not UTF-8 text") from None
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror}") from None


class FillReader:
    """Turns rows into fills. ``terms`` are what the columns market to settle say where a row does not."""

    def __init__(self, terms: Mapping[str, str]) -> None:
        self._terms = terms
        self._by_terms: dict[tuple[str | None, ...], Instrument] = {}
        self._by_symbol: dict[str, Instrument] = {}

    @property
    def instruments(self) -> dict[str, Instrument]:
        """The instruments met so far, by symbol."""
        return self._by_symbol

    def read(self, row: Row) -> FillRow:
        """A row as a fill. Raises RowProblem."""
        if row.problem is not None:
            raise RowProblem(row.number, row.problem)
        cells = row.cells
        for column in REQUIRED:
            if column not in cells:
                raise RowProblem(row.number, f"{column} is missing")
        try:
            return FillRow(row.number, self._instrument(cells), _fill(cells))
        except ValueError as error:
            raise RowProblem(row.number, str(error)) from None

    def _instrument(self, cells: Mapping[str, str]) -> Instrument:
        key = tuple(cells.get(column) for column in ("symbol", "market", "multiplier", "base", "quote", "settle"))
        known = self._by_terms.get(key)
        if known is None:
            known = _make_instrument({**self._terms, **cells})
            if self._by_symbol.setdefault(known.symbol, known) != known:
                raise ValueError(f"{known.symbol} was another instrument in an earlier row")
            self._by_terms[key] = known
        return known


def _fill(cells: Mapping[str, str]) -> Fill:
    return Fill(
        side=one_of(cells, "side", ("buy", "sell")),
        quantity=number(cells, "quantity", parse_positive),
        price=number(cells, "price", parse_positive),
        fee=number(cells, "fee", parse_signed) if "fee" in cells else ZERO,
        fee_asset=cells.get("fee_asset"),
        fee_rate=number(cells, "fee_rate", parse_plain) if "fee_rate" in cells else None,
        executed_at=moment(cells["executed_at"]) if "executed_at" in cells else None,
        trade_id=cells.get("trade_id"),
        strategy=cells.get("strategy", ""),
        position_side=one_of(cells, "position_side", get_args(PositionSide)) if "position_side" in cells else "net",
    )


def _make_instrument(terms: Mapping[str, str]) -> Instrument:
    symbol = terms["symbol"]
    market: Market = one_of(terms, "market", get_args(Market)) if "market" in terms else "spot"
    base, quote = _assets(symbol)
    base, quote = terms.get("base", base), terms.get("quote", quote)
    if quote is None:
        raise ValueError(f"cannot tell what {symbol} is quoted in: say so in a column or option named quote")
    return Instrument(
        symbol=symbol,
        market=market,
        base=base,
        quote=quote,
        settle=terms.get("settle", base if market == "inverse" else quote),
        tick_size=ZERO,
        step_size=ZERO,
        multiplier=number(terms, "multiplier", parse_positive) if "multiplier" in terms else Decimal(1),
    )


def _assets(symbol: str) -> tuple[str, str | None]:
    """Base and quote as the symbol spells them: BTC-USD, BTC/USDT:USDT, BTC_USDT, BTCUSDT, BTCUSD_PERP."""
    separated = _SEPARATED.fullmatch(symbol)
    if separated and (separated[2] in _QUOTES or "_" not in symbol):
        return separated[1], separated[2]
    head = symbol.partition("_")[0]
    for quote in _QUOTES:
        if head.endswith(quote) and head != quote:
            return head.removesuffix(quote), quote
    return symbol, None


def _csv_rows(file: TextIO) -> Iterator[Row]:
    records = csv_records(file)
    header = [column_name(name) for name in next(records, [])]
    _check_header(header)
    for row, values in enumerate(records, start=2):
        if len(values) > len(header):
            yield Row(row, {}, f"has {len(values)} cells where the header has {len(header)}")
        elif values:
            named = zip(header, values, strict=False)
            yield Row(row, {name: text for name, cell in named if (text := cell.strip())})


def _check_header(header: list[str]) -> None:
    for column in REQUIRED:
        if column not in header:
            raise FileProblem(f"the header has no column named {column}")
    for name in COLUMNS:
        if header.count(name) > 1:
            raise FileProblem(f"the header has two columns named {name}")
    _check_names(header)


def _check_names(names: Collection[str]) -> None:
    """A misnamed column would drop what it holds: better no figure than one without the fees."""
    for name in names:
        if name in COLUMNS:
            continue
        close = [_OTHERS_SAY[name]] if name in _OTHERS_SAY else difflib.get_close_matches(name, COLUMNS, 1, 0.8)
        if close and close[0] not in names:
            raise FileProblem(f"column {name} is not known: if it is the {close[0]}, name it {close[0]}")


def _json_rows(file: TextIO) -> Iterator[Row]:
    checked: set[str] = set()
    for place, item in enumerate(json_items(file), start=1):
        if not isinstance(item, dict):
            yield Row(place, {}, "is not an object")
            continue
        if not checked.issuperset(item):
            _check_names(item)
            checked.update(item)
        yield _json_row(place, item)


def _json_row(place: int, item: dict[str, Any]) -> Row:
    cells: dict[str, str] = {}
    for column in COLUMNS:
        value = item.get(column)
        if isinstance(value, str):
            if text := value.strip():
                cells[column] = text
        elif value is not None:
            return Row(place, {}, f"{column}: is neither text nor a number")
    return Row(place, cells)
