"""The files that fills are imported from: how each is told from the others, and where in it what stands.

A format turns a row as it stands in the file into the cells of the generic
format: ``symbol, side, quantity, price, fee, fee_asset, fee_rate,
rate_to_reporting, executed_at, trade_id, strategy, position_side, account_id, fill_id``, of which those that it
lacks are left out. Sources of the foreign ones: Binance's website exports
(spot: ``Date(UTC),Pair,Side,Price,Executed,Amount,Fee`` and, before 2021,
``Date(UTC),Market,Type,Price,Amount,Total,Fee,Fee Coin``; futures: a column
``Realized Profit``), its REST documents (``myTrades``, ``userTrades``), and the
trade structure of the ccxt manual.
"""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from app.domain.cells import CellProblem, shown
from app.domain.import_symbols import Naming
from app.domain.instruments import Instrument
from app.domain.text_tables import FileProblem

FormatName = Literal["generic", "binance_spot", "binance_futures", "binance_spot_rest", "binance_futures_rest", "ccxt"]
FORMAT_NAMES: Final = get_args(FormatName)

Cells = Mapping[str, str]
"""A row: what is not empty, by column name."""

_REQUIRED: Final = ("symbol", "side", "quantity", "price", "executed_at")

GENERIC_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": ("symbol", "pair", "instrument", "ticker"),
    "side": ("side", "type", "direction", "action", "buy/sell"),
    "quantity": ("quantity", "qty", "size", "executed", "filled", "executed_qty", "amount", "volume"),
    "price": ("price", "fill_price", "trade_price", "avg_price", "average_price"),
    "fee": ("fee", "fees", "commission", "fee_amount", "commission_amount"),
    "fee_asset": ("fee_asset", "fee_currency", "fee_coin", "commission_asset", "commission_currency"),
    "fee_rate": ("fee_rate",),
    "rate_to_reporting": ("rate_to_reporting",),
    "executed_at": (
        *("executed_at", "timestamp", "time", "datetime", "date", "date(utc)", "time(utc)"),
        *("trade_time", "trade_date"),
    ),
    "trade_id": ("trade_id", "tradeid", "id", "exec_id", "execution_id"),
    "strategy": ("strategy", "strategy_id", "tag"),
    "position_side": ("position_side", "positionside"),
    "account_id": ("account_id",),
    "fill_id": ("fill_id",),
}
"""By what other names the generic columns go; of several in one file the first here counts."""

_AMOUNT_AND_UNIT = re.compile(r"(-?[0-9][0-9,]*(?:\.[0-9]+)?) ?([A-Z][A-Z0-9]*)?")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_SHORT_YEAR = re.compile(r"[0-9]{2}-[0-9]{2}-[0-9]{2}[ T].*")
_POSITION_SIDES = {"BOTH": "net", "LONG": "long", "SHORT": "short"}


@dataclass(frozen=True)
class Format:
    """One kind of file. ``cells`` gets a row and its instrument, and may raise CellProblem."""

    name: FormatName
    naming: Naming
    symbol_columns: tuple[str, ...]
    cells: Callable[[Cells, Instrument], dict[str, str]]

    def symbol(self, row: Cells) -> str:
        """The symbol as the file spells it. Raises CellProblem."""
        for column in self.symbol_columns:
            if column in row:
                return row[column]
        raise CellProblem("symbol", "is missing")


def detect(columns: Collection[str], *, is_json: bool) -> Format:
    """The format of a file by the columns of its header, or of its first object. Raises FileProblem."""
    names = frozenset(columns)
    for name, needed, json_only in _SIGNS:
        if needed <= names and (is_json or not json_only):
            return FORMATS[name]
    check_generic(names)
    return FORMATS["generic"]


def check_columns(file_format: Format, columns: Collection[str]) -> None:
    """Refuse a file that lacks what its format has. Raises FileProblem."""
    if file_format.name == "generic":
        check_generic(columns)
        return
    if not any(needed <= frozenset(columns) for name, needed, _ in _SIGNS if name == file_format.name):
        raise FileProblem(f"the columns are not those of {file_format.name}")


def check_generic(columns: Collection[str]) -> None:
    """Refuse a table without what a fill needs, and one where a column may be misspelt.

    What a misnamed column holds would be dropped: better no import than one
    without the fees. Raises FileProblem.
    """
    known = {name for names in GENERIC_NAMES.values() for name in names}
    missing = [column for column in _REQUIRED if not _stands_for(column, columns)]
    if missing:
        raise FileProblem(f"no column for {', '.join(missing)}; there are {', '.join(sorted(columns)[:20]) or 'none'}")
    for name in columns:
        close = difflib.get_close_matches(name, GENERIC_NAMES, 1, 0.8) if name not in known else []
        if close and not _stands_for(close[0], columns):
            raise FileProblem(f"column {shown(name)} is not known: if it is the {close[0]}, name it {close[0]}")


def _stands_for(column: str, columns: Collection[str]) -> bool:
    return any(name in columns for name in GENERIC_NAMES[column])


def _generic(row: Cells, _: Instrument) -> dict[str, str]:
    cells = {}
    for column, names in GENERIC_NAMES.items():
        for name in names:
            if name in row:
                cells[column] = row[name]
                break
    return cells


def _binance_spot(row: Cells, instrument: Instrument) -> dict[str, str]:
    """The website's spot export: amounts with their units, or in columns of their own."""
    cells = {
        "side": row.get("side", row.get("type", "")),
        "price": _plain(row.get("price", "")),
        "quantity": _without_unit("executed" if "executed" in row else "amount", row, instrument.base),
        "executed_at": _long_year(row.get("date(utc)", row.get("time", ""))),
    }
    if "fee" in row:
        cells["fee"], cells["fee_asset"] = _fee(row, instrument)
    return _known(cells)


def _binance_futures(row: Cells, instrument: Instrument) -> dict[str, str]:
    """The website's futures export. Without a unit a fee is in the settle asset."""
    cells = {
        "side": row.get("side", ""),
        "price": _plain(row.get("price", "")),
        "quantity": _plain(row.get("quantity", "")),
        "executed_at": _long_year(row.get("date(utc)", row.get("time", row.get("time(utc)", "")))),
        "trade_id": row.get("trade_id", ""),
        "position_side": _POSITION_SIDES.get(row.get("position_side", "BOTH").upper(), row.get("position_side", "")),
    }
    if "fee" in row:
        cells["fee"], cells["fee_asset"] = _fee(row, instrument)
    return _known(cells)


def _binance_rest(row: Cells, _: Instrument) -> dict[str, str]:
    """``myTrades`` (side in ``isBuyer``) and ``userTrades``."""
    buyer = row.get("isbuyer", row.get("buyer", ""))
    return _known(
        {
            "side": row.get("side", {"true": "buy", "false": "sell"}.get(buyer, "")),
            "price": row.get("price", ""),
            "quantity": row.get("qty", ""),
            "fee": row.get("commission", ""),
            "fee_asset": row.get("commissionasset", ""),
            "executed_at": row.get("time", ""),
            "trade_id": row.get("id", ""),
            "position_side": _POSITION_SIDES.get(row.get("positionside", "BOTH"), row.get("positionside", "")),
        }
    )


def _ccxt(row: Cells, _: Instrument) -> dict[str, str]:
    """The unified trade. A nested ``fee`` comes as ``fee.cost`` and ``fee.currency``. Raises CellProblem."""
    if "fee.cost" not in row and row.get("fees.count", "0") not in "01":
        raise CellProblem("fee", "has several parts: split the row, or give the sum in one asset")
    return _known(
        {
            "side": row.get("side", ""),
            "price": row.get("price", ""),
            "quantity": row.get("amount", ""),
            "fee": row.get("fee.cost", ""),
            "fee_asset": row.get("fee.currency", "") if row.get("fee.cost") else "",
            "executed_at": row.get("timestamp", row.get("datetime", "")),
            "trade_id": row.get("id", ""),
        }
    )


def _known(cells: dict[str, str]) -> dict[str, str]:
    return {column: text for column, text in cells.items() if text}


def _plain(text: str) -> str:
    """A number without separators of thousands; anything else as it is."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _without_unit(column: str, row: Cells, unit: str) -> str:
    """An amount with its unit at the end, which must be the one expected. Raises CellProblem."""
    text = row.get(column, "")
    amount = text.removesuffix(unit).rstrip()
    if amount and not amount[-1].isdigit():
        raise CellProblem("quantity", f"{shown(text)} is not in {unit}")
    return _plain(amount)


def _fee(row: Cells, instrument: Instrument) -> tuple[str, str]:
    """A fee and its asset: from a column of its own, from the unit, else the settle asset. Raises CellProblem."""
    text = row["fee"]
    if "fee_coin" in row:
        return _plain(text), row["fee_coin"]
    # Assets may begin with a digit (1INCH): those of the instrument are tried whole.
    for asset in (instrument.base, instrument.quote, instrument.settle):
        amount = text.removesuffix(asset).rstrip()
        if amount != text and amount[-1:].isdigit():
            return _plain(amount), asset
    match = _AMOUNT_AND_UNIT.fullmatch(text)
    if match is None:
        raise CellProblem("fee", f"{shown(text)} is not an amount with its asset")
    return _plain(match[1]), match[2] or instrument.settle


def _long_year(text: str) -> str:
    return f"20{text}" if _SHORT_YEAR.fullmatch(text) else text


FORMATS: Final[Mapping[FormatName, Format]] = {
    found.name: found
    for found in (
        Format("generic", "listed", GENERIC_NAMES["symbol"], _generic),
        Format("binance_spot", "spot", ("pair", "market"), _binance_spot),
        Format("binance_futures", "futures", ("symbol",), _binance_futures),
        Format("binance_spot_rest", "spot", ("symbol",), _binance_rest),
        Format("binance_futures_rest", "futures", ("symbol",), _binance_rest),
        Format("ccxt", "ccxt", ("symbol",), _ccxt),
    )
}

_SIGNS: Final[tuple[tuple[FormatName, frozenset[str], bool], ...]] = (
    ("binance_spot_rest", frozenset({"symbol", "isbuyer", "price", "qty", "time"}), True),
    ("binance_futures_rest", frozenset({"symbol", "side", "price", "qty", "time", "realizedpnl"}), True),
    ("ccxt", frozenset({"symbol", "side", "price", "amount", "timestamp"}), True),
    ("binance_spot", frozenset({"pair", "side", "price", "executed", "amount", "fee"}), False),
    ("binance_spot", frozenset({"date(utc)", "market", "type", "price", "amount", "total", "fee"}), False),
    ("binance_futures", frozenset({"symbol", "side", "price", "quantity", "realized_profit"}), False),
)
"""The columns by which a format is known, the most telling first, and whether only JSON has it."""
