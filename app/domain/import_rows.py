"""From the rows of a file to fills, by the same rules as a trade over REST.

Nothing is guessed: a symbol or asset that the exchange does not list, a number
with too many digits, a time in the future or before 2000 is a problem of its row.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import chain
from typing import Any, Final, TextIO, get_args

import msgspec

from app.domain.cells import CellProblem, moment, number, one_of, shown
from app.domain.csv_text import cell_text
from app.domain.decimals import ZERO, parse_positive, parse_signed
from app.domain.import_formats import FORMATS, Cells, Format, FormatName, check_columns, detect
from app.domain.import_symbols import SymbolBook
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, PositionSide
from app.domain.text_tables import FileProblem, column_name, csv_records, is_json, json_items

_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD: Final = timedelta(minutes=1)
"""How far another clock may be ahead of ours."""

_LONGEST_TRADE_ID: Final = 64
_LONGEST_STRATEGY: Final = 64


class RawRow(msgspec.Struct, frozen=True):
    """A row as it stands in the file. Rows are counted as a spreadsheet does: a header is row 1."""

    number: int
    cells: Cells
    problem: str | None = None


class ImportTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of one import are to be read.

    ``currency`` is what the account reports in, ``hedge`` whether it has legs.
    ``strategy`` is that of rows which name none. ``zone`` is that of times which
    do not say theirs. ``paid_is_negative``: in this file a fee paid is written
    with a minus, as some exchanges do. ``now`` bounds the times.
    """

    currency: str
    hedge: bool = False
    strategy: str = ""
    zone: tzinfo = UTC
    paid_is_negative: bool = False
    now: datetime


class ImportedFill(msgspec.Struct, frozen=True, gc=False):
    """A row that is a fill. Its ``trade_id`` may still be None."""

    number: int
    instrument: Instrument
    fill: Fill
    fill_id: str | None


def read_table(file: TextIO, wanted: FormatName | None) -> tuple[Format, Iterator[RawRow]]:
    """The format of a file (the one wanted, or the one found) and its rows. Raises FileProblem, also while reading."""
    return _read_json(file, wanted) if is_json(file) else _read_csv(file, wanted)


def _read_csv(file: TextIO, wanted: FormatName | None) -> tuple[Format, Iterator[RawRow]]:
    records = csv_records(file)
    header = [column_name(name) for name in next(records, [])]
    repeated = {name for name in header if name and header.count(name) > 1}
    if repeated:
        raise FileProblem(f"the header has two columns named {sorted(repeated)[0]}")
    found = _format_of(header, wanted, is_json=False)
    return found, _csv_rows(records, header)


def _csv_rows(records: Iterator[list[str]], header: list[str]) -> Iterator[RawRow]:
    width = len(header)
    for place, values in enumerate(records, start=2):
        if len(values) > width:
            yield RawRow(place, {}, f"has {len(values)} cells where the header has {width}")
        elif any(values):
            named = zip(header, values, strict=False)
            yield RawRow(place, {name: cell_text(text) for name, cell in named if (text := cell.strip())})


def _read_json(file: TextIO, wanted: FormatName | None) -> tuple[Format, Iterator[RawRow]]:
    items = json_items(file)
    first = next(items, None)
    if first is None:
        raise FileProblem("the file has no rows")
    if not isinstance(first, dict):
        raise FileProblem("the first element is not an object")
    found = _format_of([column_name(name) for name in first], wanted, is_json=True)
    return found, _json_rows(chain([first], items))


def _json_rows(items: Iterator[Any]) -> Iterator[RawRow]:
    for place, item in enumerate(items, start=1):
        yield RawRow(place, _flat(item)) if isinstance(item, dict) else RawRow(place, {}, "is not an object")


def _flat(item: Mapping[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in item.items():
        name = column_name(key)
        if name == "fee" and isinstance(value, dict):
            cells |= _fee_cells(value)
        elif name == "fees" and isinstance(value, list):
            cells["fees.count"] = str(len(value))
            if len(value) == 1 and isinstance(value[0], dict):
                cells = _fee_cells(value[0]) | cells
        elif text := _text(value):
            cells[name] = text
    return cells


def _fee_cells(fee: Mapping[str, Any]) -> dict[str, str]:
    """A fee that is an object, as columns; what else is nested, such as ccxt's ``info``, is left out."""
    return {f"fee.{column_name(key)}": text for key, value in fee.items() if (text := _text(value))}


def _text(value: Any) -> str:
    """A scalar as the text it was in the file; nothing for null and what is nested."""
    if isinstance(value, str):
        return value.strip()
    return str(value).lower() if isinstance(value, bool) else ""


def _format_of(columns: list[str], wanted: FormatName | None, *, is_json: bool) -> Format:
    if wanted is None:
        return detect(columns, is_json=is_json)
    check_columns(FORMATS[wanted], columns)
    return FORMATS[wanted]


class RowReader:
    """Turns the rows of one file into fills."""

    def __init__(self, file_format: Format, symbols: SymbolBook, terms: ImportTerms) -> None:
        self._format = file_format
        self._symbols = symbols
        self._terms = terms
        self._latest = terms.now + _AHEAD
        self._account: str | None = None

    def read(self, row: RawRow) -> ImportedFill:
        """A row as a fill. Raises CellProblem."""
        if row.problem is not None:
            raise CellProblem(None, row.problem)
        instrument = self._symbols.find(self._format.symbol(row.cells), self._format.naming)
        cells = self._format.cells(row.cells, instrument)
        for column in ("side", "quantity", "price", "executed_at"):
            if column not in cells:
                raise CellProblem(column, "is missing")
        self._refuse_other_account(cells)
        return ImportedFill(row.number, instrument, self._fill(cells, instrument), _fill_id(cells))

    def _fill(self, cells: Cells, instrument: Instrument) -> Fill:
        quantity = number(cells, "quantity", parse_positive)
        fee, fee_asset, fee_rate = self._fee(cells, instrument, quantity)
        return Fill(
            side=one_of(cells, "side", ("buy", "sell")),
            quantity=quantity,
            price=number(cells, "price", parse_positive),
            fee=fee,
            fee_asset=fee_asset,
            fee_rate=fee_rate,
            executed_at=self._moment(cells["executed_at"]),
            trade_id=_trade_id(cells),
            strategy=_strategy(cells) if "strategy" in cells else self._terms.strategy,
            position_side=self._side(cells),
            rate_to_reporting=self._rate_to_reporting(cells, instrument),
        )

    def _fee(
        self, cells: Cells, instrument: Instrument, quantity: Decimal
    ) -> tuple[Decimal, str | None, Decimal | None]:
        """A fee with its asset and rate, as :class:`app.domain.ledger.Fill` has them."""
        fee = number(cells, "fee", parse_signed) if "fee" in cells else ZERO
        if not fee:
            return ZERO, None, None
        if self._terms.paid_is_negative:
            fee = fee.copy_negate()
        asset = cells.get("fee_asset", instrument.settle)
        if asset not in self._symbols.assets:
            raise CellProblem("fee_asset", f"{shown(asset)} is no asset that the exchange lists")
        if asset == instrument.settle:
            return fee, asset, None
        if asset == instrument.base and instrument.market == "spot":
            if fee.copy_abs() >= quantity:
                raise CellProblem("fee", "a fee in the base asset must be less than the quantity")
            return fee, asset, None
        return fee, asset, number(cells, "fee_rate", parse_positive) if "fee_rate" in cells else None

    def _rate_to_reporting(self, cells: Cells, instrument: Instrument) -> Decimal | None:
        """None where nothing is to be converted, and where the file does not say: today's rate is not that of then."""
        if instrument.settle == self._terms.currency or "rate_to_reporting" not in cells:
            return None
        return number(cells, "rate_to_reporting", parse_positive)

    def _moment(self, text: str) -> datetime:
        at = moment(text, self._terms.zone)
        if not _EARLIEST <= at <= self._latest:
            raise CellProblem("executed_at", f"{shown(text)} is before the year 2000 or in the future")
        return at

    def _side(self, cells: Cells) -> PositionSide:
        side: PositionSide = (
            one_of(cells, "position_side", get_args(PositionSide)) if "position_side" in cells else "net"
        )
        if (side != "net") != self._terms.hedge:
            needed = (
                "long or short, for the account is in hedge mode" if self._terms.hedge else "net in a one-way account"
            )
            raise CellProblem("position_side", f"must be {needed}")
        return side

    def _refuse_other_account(self, cells: Cells) -> None:
        """Rows of several accounts would be netted against one another in the one they are imported into."""
        account = cells.get("account_id")
        if account is None:
            return
        if self._account is None:
            self._account = account
        if account != self._account:
            raise CellProblem("account_id", "is another account than in rows before: import one account at a time")


def _trade_id(cells: Cells) -> str | None:
    text = cells.get("trade_id")
    if text is None:
        return None
    if len(text) > _LONGEST_TRADE_ID or not all("\x21" <= character <= "\x7e" for character in text):
        raise CellProblem("trade_id", f"{shown(text)} is not 1 to {_LONGEST_TRADE_ID} visible ASCII characters")
    return text


def _strategy(cells: Cells) -> str:
    text = cells["strategy"]
    if len(text) > _LONGEST_STRATEGY or any(unicodedata.category(character)[0] == "C" for character in text):
        raise CellProblem("strategy", f"{shown(text)} is not up to {_LONGEST_STRATEGY} printable characters")
    return text


def _fill_id(cells: Cells) -> str | None:
    """Our own id of a fill, where the file is an export of ours."""
    text = cells.get("fill_id")
    if text is None:
        return None
    if len(text) != 36 or not all(character in "0123456789abcdef-" for character in text):
        raise CellProblem("fill_id", f"{shown(text)} is not an id")
    return text
