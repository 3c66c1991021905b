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

import csv
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO, get_args

import msgspec

from app.domain.decimals import ZERO, parse_plain, parse_positive, parse_signed
from app.domain.instruments import Instrument, Market
from app.domain.ledger import Fill, PositionSide

REQUIRED = ("symbol", "side", "quantity", "price")
COLUMNS = (
    *REQUIRED,
    *("fee", "fee_asset", "fee_rate", "executed_at", "trade_id", "strategy", "position_side"),
    *("market", "multiplier", "base", "quote", "settle"),
)

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "JPY", "BRL", "BTC", "ETH", "BNB")
_SEPARATED = re.compile(r"([A-Za-z0-9]+)[-/_]([A-Za-z0-9]{2,6})(?:[-:_].*)?")
_EXPONENT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?[eE][+-]?[0-9]{1,2}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECONDS = {10: 1_000_000, 13: 1_000, 16: 1}
_CHUNK = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n]*")
_IN_ARRAY = re.compile(r"[ \t\r\n,]*")
_OTHERS_SAY = {
    **dict.fromkeys(("commission", "commission_amount"), "fee"),
    **dict.fromkeys(("commission_asset", "commission_currency", "fee_currency", "fee_coin"), "fee_asset"),
    **dict.fromkeys(("time", "timestamp", "datetime", "date", "date(utc)"), "executed_at"),
    **dict.fromkeys(("qty", "size", "amount"), "quantity"),
}


class FileProblem(ValueError):
    """The file as a whole cannot be read."""


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
            start = file.read(_CHUNK).lstrip()[:1]
            file.seek(0)
            yield from _json_rows(file) if start in ("[", "{") else _csv_rows(file)
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
        side=_one_of(cells, "side", ("buy", "sell")),
        quantity=_number(cells, "quantity", parse_positive),
        price=_number(cells, "price", parse_positive),
        fee=_number(cells, "fee", parse_signed) if "fee" in cells else ZERO,
        fee_asset=cells.get("fee_asset"),
        fee_rate=_number(cells, "fee_rate", parse_plain) if "fee_rate" in cells else None,
        executed_at=_time(cells["executed_at"]) if "executed_at" in cells else None,
        trade_id=cells.get("trade_id"),
        strategy=cells.get("strategy", ""),
        position_side=_one_of(cells, "position_side", get_args(PositionSide)) if "position_side" in cells else "net",
    )


def _make_instrument(terms: Mapping[str, str]) -> Instrument:
    symbol = terms["symbol"]
    market: Market = _one_of(terms, "market", get_args(Market)) if "market" in terms else "spot"
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
        multiplier=_number(terms, "multiplier", parse_positive) if "multiplier" in terms else Decimal(1),
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


def _number(cells: Mapping[str, str], column: str, parse: Any) -> Decimal:
    text = cells[column]
    if _EXPONENT.fullmatch(text):
        text = f"{Decimal(text):f}"
    try:
        number: Decimal = parse(text)
    except ValueError as error:
        raise ValueError(f"{column}: {cells[column]!r} is {_refusal(error)}") from None
    return number


def _refusal(error: ValueError) -> str:
    return "not greater than zero" if str(error).startswith("must") else str(error)


def _one_of(cells: Mapping[str, str], column: str, allowed: tuple[str, ...]) -> Any:
    value = cells[column].lower()
    if value not in allowed:
        raise ValueError(f"{column}: {cells[column]!r} is not {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def _time(text: str) -> datetime:
    if text.isascii() and text.isdigit():
        if len(text) == 19:
            return _EPOCH + timedelta(microseconds=int(text) // 1000)
        if len(text) in _MICROSECONDS:
            return _EPOCH + timedelta(microseconds=int(text) * _MICROSECONDS[len(text)])
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"executed_at: {text!r} is not a time") from None


def _csv_rows(file: TextIO) -> Iterator[Row]:
    first = file.readline()
    file.seek(0)
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower().replace(" ", "_") for name in next(reader, [])]
        _check_header(header)
        for number, values in enumerate(reader, start=2):
            if len(values) > len(header):
                yield Row(number, {}, f"has {len(values)} cells where the header has {len(header)}")
            elif values:
                named = zip(header, values, strict=False)
                yield Row(number, {name: text for name, cell in named if (text := cell.strip())})
    except csv.Error as error:
        raise FileProblem(f"line {reader.line_num}: {error}") from None


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
    for number, item in enumerate(_json_items(file), start=1):
        if not isinstance(item, dict):
            yield Row(number, {}, "is not an object")
            continue
        if not checked.issuperset(item):
            _check_names(item)
            checked.update(item)
        yield _json_row(number, item)


def _json_row(number: int, item: dict[str, Any]) -> Row:
    cells: dict[str, str] = {}
    for column in COLUMNS:
        value = item.get(column)
        if isinstance(value, str):
            if text := value.strip():
                cells[column] = text
        elif value is not None:
            return Row(number, {}, f"{column}: is neither text nor a number")
    return Row(number, cells)


def _json_items(file: TextIO) -> Iterator[Any]:
    """The elements of an array, or one value after another, decoded as they are read.

    Numbers stay the text they are: a binary float has lost digits already.
    """
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    text = file.read(_CHUNK)
    is_array = text.lstrip().startswith("[")
    skipped = _IN_ARRAY if is_array else _BETWEEN
    at = text.index("[") + 1 if is_array else 0
    while True:
        at = _end_of(skipped, text, at)
        try:
            item, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if is_array and text.startswith("]", at):
                return
            more = file.read(_CHUNK)
            if not more and at == len(text) and not is_array:
                return
            if not more or len(text) - at > _CHUNK:
                raise FileProblem(f"not valid JSON, or cut off: {error.msg.lower()}") from None
            text, at = text[at:] + more, 0
        else:
            yield item


def _end_of(skipped: re.Pattern[str], text: str, at: int) -> int:
    match = skipped.match(text, at)
    return match.end() if match else at
