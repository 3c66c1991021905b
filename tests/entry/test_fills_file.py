"""Fills from a file: what is read, and what is said of what is not."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.domain.ledger import Fill
from app.domain.text_tables import FileProblem
from app.entry.fills_file import FillReader, FillRow, RowProblem, read_rows

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(content: str | bytes, name: str = "fills.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def read(path: Path, **terms: str) -> list[FillRow]:
    reader = FillReader(terms)
    return [reader.read(row) for row in read_rows(path)]


def one(write: Write, columns: str, cells: str, **terms: str) -> FillRow:
    (row,) = read(write(f"symbol,side,quantity,price,{columns}\nBTCUSDT,buy,1,2,{cells}\n"), **terms)
    return row


def test_every_column_is_read(write: Write) -> None:
    path = write(
        "symbol,side,quantity,price,fee,fee_asset,fee_rate,executed_at,trade_id,strategy,position_side,note\n"
        " BTCUSDT , SELL ,0.5,60000.10,-0.01,BNB,600,2024-05-01T12:00:00+02:00,t-1,grid,SHORT,why not\n"
    )

    (row,) = read(path, market="linear")

    assert row.number == 2
    assert row.fill == Fill(
        side="sell",
        quantity=Decimal("0.5"),
        price=Decimal("60000.10"),
        fee=Decimal("-0.01"),
        fee_asset="BNB",
        fee_rate=Decimal(600),
        executed_at=datetime(2024, 5, 1, 10, tzinfo=UTC),
        trade_id="t-1",
        strategy="grid",
        position_side="short",
    )


@pytest.mark.parametrize(
    "content",
    [
        '[{"symbol": "BTCUSDT", "side": "buy", "quantity": 0.1, "price": "60000", "info": {"id": 1}}]',
        '{"symbol": "BTCUSDT", "side": "buy", "quantity": "0.1", "price": 60000.0, "fee": null}\n',
        "symbol;side;quantity;price\nBTCUSDT;buy;0.1;60000\n",
        "\ufeffSymbol\tSide\tQuantity\tPrice\r\nBTCUSDT\tbuy\t0.1\t60000\r\n",
        'symbol,side,quantity,price\n\n"BTCUSDT",buy,1e-1,6E4\n',
    ],
    ids=["array", "lines", "semicolons", "tabs, a mark and capitals", "quotes, a blank line and exponents"],
)
def test_the_same_fill_in_other_clothes_is_the_same(write: Write, content: str) -> None:
    (row,) = read(write(content))

    assert row.fill == Fill(side="buy", quantity=Decimal("0.1"), price=Decimal(60000))


def test_a_number_in_json_keeps_its_digits(write: Write) -> None:
    path = write('[{"symbol": "BTCUSDT", "side": "buy", "quantity": 0.1234567890123456789e1, "price": 1}]')

    assert read(path)[0].fill.quantity == Decimal("1.234567890123456789")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T12:00:00Z", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01 12:00:00.123456", datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("1714564800", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("1714564800123", datetime(2024, 5, 1, 12, 0, 0, 123000, tzinfo=UTC)),
        ("1714564800123456", datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("1714564800123456789", datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_times_are_utc_unless_they_say(write: Write, text: str, expected: datetime) -> None:
    assert one(write, "executed_at", text).fill.executed_at == expected


@pytest.mark.parametrize(
    ("symbol", "terms", "expected"),
    [
        ("BTCUSDT", {}, ("BTC", "USDT", "USDT")),
        ("ETHBTC", {}, ("ETH", "BTC", "BTC")),
        ("BTC-EUR", {}, ("BTC", "EUR", "EUR")),
        ("GATE_USDT", {}, ("GATE", "USDT", "USDT")),
        ("BTC-USDT-SWAP", {"market": "linear"}, ("BTC", "USDT", "USDT")),
        ("BTC/USDT:USDT", {"market": "linear"}, ("BTC", "USDT", "USDT")),
        ("BTCUSD_PERP", {"market": "inverse", "multiplier": "100"}, ("BTC", "USD", "BTC")),
        ("AAPL", {"quote": "CHF"}, ("AAPL", "CHF", "CHF")),
        ("USDT", {"quote": "EUR"}, ("USDT", "EUR", "EUR")),
        ("XY", {"base": "X", "quote": "Y", "settle": "Z"}, ("X", "Y", "Z")),
    ],
)
def test_the_assets_come_from_the_symbol_or_from_what_is_given(
    write: Write, symbol: str, terms: dict[str, str], expected: tuple[str, str, str]
) -> None:
    (row,) = read(write(f"symbol,side,quantity,price\n{symbol},buy,1,2\n"), **terms)

    instrument = row.instrument
    assert (instrument.base, instrument.quote, instrument.settle) == expected


def test_a_row_says_more_than_the_command_line(write: Write) -> None:
    assert one(write, "market,multiplier", "inverse,10", market="spot").instrument.multiplier == 10


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("fee", "abc", "row 2: fee: 'abc' is not a plain decimal"),
        ("fee", "0,5", "row 2: has 6 cells where the header has 5"),
        ("executed_at", "yesterday", "row 2: executed_at: 'yesterday' is not a time"),
        ("executed_at", "12345", "row 2: executed_at: '12345' is not a time"),
        ("position_side", "both", "row 2: position_side: 'both' is not net, long or short"),
        ("market", "future", "row 2: market: 'future' is not spot, linear or inverse"),
        ("multiplier", "0", "row 2: multiplier: '0' is not greater than zero"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(write: Write, columns: str, cells: str, message: str) -> None:
    with pytest.raises(RowProblem, match=message.replace("(", r"\(")):
        one(write, columns, cells)


@pytest.mark.parametrize("quantity", ["0", "-1", "NaN", "Infinity", "1e30", "1_000", "٣", "1e-19", "0x10"])
def test_a_quantity_is_a_plain_number_above_zero(write: Write, quantity: str) -> None:
    with pytest.raises(RowProblem, match=r"row 2: quantity: '.*' is not "):
        read(write(f"symbol,side,quantity,price\nBTCUSDT,buy,{quantity},1\n"))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"side": "buy", "quantity": 1, "price": 1}, "row 1: symbol is missing"),
        ({"symbol": "BTCUSDT", "side": " ", "quantity": 1, "price": 1}, "row 1: side is missing"),
        ({"symbol": "BTCUSDT", "side": "buy", "quantity": True, "price": 1}, "row 1: quantity: is neither text nor a"),
        ({"symbol": "BTCUSDT", "side": "buy", "quantity": [1], "price": 1}, "row 1: quantity: is neither text nor a"),
        (["BTCUSDT", "buy", 1, 1], "row 1: is not an object"),
    ],
)
def test_a_wrong_item_is_named_with_its_number(write: Write, item: Any, message: str) -> None:
    with pytest.raises(RowProblem, match=message):
        read(write(json.dumps([item])))


def test_a_symbol_is_one_instrument(write: Write) -> None:
    path = write("symbol,side,quantity,price,market\nBTCUSDT,buy,1,2,spot\nBTCUSDT,buy,1,2,linear\n")

    with pytest.raises(RowProblem, match="row 3: BTCUSDT was another instrument"):
        read(path)


def test_an_unknown_quote_asset_is_asked_for(write: Write) -> None:
    with pytest.raises(RowProblem, match="row 2: cannot tell what AAPL is quoted in"):
        read(write("symbol,side,quantity,price\nAAPL,buy,1,2\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("symbol,side,price\n", "no column named quantity"),
        ("", "no column named symbol"),
        ("symbol,side,quantity,price,price\n", "two columns named price"),
        ("symbol,side,quantity,price,fees\n", "column fees is not known: if it is the fee, name it fee"),
        ("symbol,side,quantity,price,fee,fee_currency\n", "if it is the fee_asset, name it"),
        ("symbol,side,quantity,price,Time\n", "if it is the executed_at, name it"),
        ('symbol,side,quantity,price\n"BTC', "line 2"),
        (b"symbol,side,quantity,price\n\xff\xfe\n", "not UTF-8"),
        ('[{"symbol": "BTCUSDT", "commission": 1}]', "if it is the fee, name it"),
        ('[{"symbol": "BTCUSDT"', "not valid JSON, or cut off"),
        ("[", "not valid JSON, or cut off"),
        ('{"symbol" "BTCUSDT"}', "not valid JSON"),
    ],
)
def test_a_file_that_is_no_list_of_fills_is_refused_whole(write: Write, content: str | bytes, message: str) -> None:
    with pytest.raises((FileProblem, RowProblem), match=message):
        read(write(content))


def test_an_array_that_is_cut_off_is_refused(write: Write) -> None:
    item = '{"symbol": "BTCUSDT", "side": "buy", "quantity": 1, "price": 1}'

    with pytest.raises(FileProblem, match="cut off"):
        read(write(f"[{item}, {item}"))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="No such file"):
        read(tmp_path / "none.csv")


def test_an_empty_list_has_no_fills(write: Write) -> None:
    assert read(write("[]")) == read(write("symbol,side,quantity,price\n")) == []


def test_json_longer_than_what_is_read_at_once_keeps_every_item(write: Write) -> None:
    item = {"symbol": "BTCUSDT", "side": "buy", "quantity": 1, "price": 1, "note": "x" * 1000}
    items = [{**item, "trade_id": str(number)} for number in range(3000)]

    rows = read(write(json.dumps(items)))

    assert [row.fill.trade_id for row in rows] == [str(number) for number in range(3000)]
    assert [row.number for row in rows] == list(range(1, 3001))
