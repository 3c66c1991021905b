"""Rows of every format become the fills that they are, or a reason why not."""

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.domain.cells import CellProblem
from app.domain.import_formats import FormatName
from app.domain.import_rows import ImportedFill, ImportTerms, RowReader, read_table
from app.domain.import_symbols import SymbolBook
from app.domain.instruments import Instrument
from app.domain.text_tables import FileProblem

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def listed(symbol: str, base: str, quote: str, market: Any = "spot") -> Instrument:
    return Instrument(
        symbol=symbol,
        market=market,
        base=base,
        quote=quote,
        settle=base if market == "inverse" else quote,
        tick_size=Decimal(1),
        step_size=Decimal(1),
        venue_symbol="BTCUSDT" if symbol == "BTCUSDT_PERP" else "",
    )


SYMBOLS = SymbolBook(
    [
        listed("BTCUSDT", "BTC", "USDT"),
        listed("1INCHUSDT", "1INCH", "USDT"),
        listed("BNBBTC", "BNB", "BTC"),
        listed("SOLBUSD", "SOL", "BUSD"),
        listed("BTCUSDT_PERP", "BTC", "USDT", "linear"),
        listed("BTCUSDT_260327", "BTC", "USDT", "linear"),
        listed("BTCUSD_PERP", "BTC", "USD", "inverse"),
    ]
)


def read(text: str, wanted: FormatName | None = None, **terms: Any) -> tuple[FormatName, list[ImportedFill]]:
    """The format of a file, and its fills. Raises CellProblem for the first row that is none."""
    found, rows = read_table(io.StringIO(text, newline=""), wanted)
    reader = RowReader(found, SYMBOLS, ImportTerms(**{"currency": "USDT", "now": NOW, **terms}))
    return found.name, [reader.read(row) for row in rows]


def one(text: str, **terms: Any) -> ImportedFill:
    (row,) = read(text, **terms)[1]
    return row


def generic(columns: str, cells: str, **terms: Any) -> ImportedFill:
    header = "symbol,side,quantity,price,executed_at"
    return one(f"{header},{columns}\nBTCUSDT,buy,1,2,2024-05-01T12:00:00Z,{cells}\n", **terms)


def test_a_generic_file_has_every_field() -> None:
    name, (row,) = read(
        "symbol,side,quantity,price,fee,fee_asset,fee_rate,executed_at,trade_id,strategy,position_side,ignored\n"
        " BTCUSDT , SELL ,0.5,60000.10,-0.01,BNB,600,2024-05-01T12:00:00.123456+02:00,t-1,grid,net,why not\n"
    )

    assert name == "generic"
    assert (row.number, row.instrument.symbol) == (2, "BTCUSDT")
    fill = row.fill
    assert (fill.side, fill.quantity, fill.price) == ("sell", Decimal("0.5"), Decimal("60000.10"))
    assert (fill.fee, fill.fee_asset, fill.fee_rate) == (Decimal("-0.01"), "BNB", Decimal(600))
    assert fill.executed_at == datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC)
    assert (fill.trade_id, fill.strategy, fill.position_side) == ("t-1", "grid", "net")


@pytest.mark.parametrize(
    "text",
    [
        "Pair;Type;Amount;Price;Time;Fee;Fee Coin;ID\nBTCUSDT;Buy;1;2;1714564800000;0.1;USDT;7\n",
        "Ticker\tDirection\tQty\tAvg price\tTimestamp\tCommission\tCommission Asset\tTrade ID\n"
        "BTCUSDT\tBUY\t1\t2\t1714564800\t0.1\tUSDT\t7\n",
        '[{"symbol":"BTCUSDT","side":"buy","size":1,"price":2.0,"time":1714564800000000,"fee":1E-1,"id":7}]',
        '{"symbol":"BTCUSDT","side":"buy","quantity":"1","price":"2","datetime":"2024-05-01 12:00:00","fee":"0.1",'
        '"trade_id":"7"}\n',
        "\ufeffsymbol,side,amount,price,date,fee,trade_id\r\nBTCUSDT,buy,1,2,2024-05-01 12:00,0.1,7\r\n\r\n",
    ],
    ids=["semicolons", "tabs", "array", "lines", "byte order mark"],
)
def test_columns_may_go_by_their_usual_other_names(text: str) -> None:
    fill = one(text.removeprefix("\ufeff")).fill

    assert (fill.quantity, fill.price, fill.fee, fill.fee_asset, fill.trade_id) == (1, 2, Decimal("0.1"), "USDT", "7")
    assert fill.executed_at == datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_binance_spot_exports_have_their_units_in_the_cells() -> None:
    name, rows = read(
        "Date(UTC),Pair,Side,Price,Executed,Amount,Fee\n"
        "2022-03-28 13:01:36,SOLBUSD,SELL,110.03,0.1800000000SOL,19.8054BUSD,0.0198054BUSD\n"
        '2024-01-05 10:00:00,BTCUSDT,BUY,"42,000.5",0.5BTC,"21,000.25USDT",0.0005BTC\n'
        "2024-01-05 10:00:00,1INCHUSDT,BUY,0.4,1001INCH,40USDT,0.11INCH\n"
        "2024-01-05 10:00:00,1INCHUSDT,BUY,0.4,1001INCH,40USDT,0.00009936BNB\n"
    )

    assert name == "binance_spot"
    assert [(row.instrument.symbol, row.fill.quantity, row.fill.fee, row.fill.fee_asset) for row in rows] == [
        ("SOLBUSD", Decimal("0.18"), Decimal("0.0198054"), "BUSD"),
        ("BTCUSDT", Decimal("0.5"), Decimal("0.0005"), "BTC"),
        ("1INCHUSDT", Decimal(100), Decimal("0.1"), "1INCH"),
        ("1INCHUSDT", Decimal(100), Decimal("0.00009936"), "BNB"),
    ]
    assert rows[1].fill.price == Decimal("42000.5")
    assert {row.fill.trade_id for row in rows} == {None}


def test_older_binance_spot_exports_name_the_fee_coin() -> None:
    name, (row,) = read(
        "Date(UTC),Market,Type,Price,Amount,Total,Fee,Fee Coin\n"
        "2018-01-20 16:59:59,BNBBTC,BUY,0.00012345,123,0.01518435,0.123,BNB\n"
    )

    assert name == "binance_spot"
    assert (row.fill.quantity, row.fill.fee, row.fill.fee_asset) == (123, Decimal("0.123"), "BNB")


@pytest.mark.parametrize(
    "text",
    [
        "Uid,Time,Symbol,Side,Price,Quantity,Amount,Fee,Realized Profit,Buyer,Maker,Trade ID,Order ID\n"
        "8,26-03-17 12:34:12,BTCUSDT,BUY,73822.3,0.01,738.223,0.29528919 USDT,0.28,true,false,419925075,491\n",
        "Date(UTC),Symbol,Side,Price,Quantity,Amount,Fee,Fee Coin,Realized Profit,Quote Asset\n"
        "2026-03-17 12:34:12,BTCUSDT,BUY,73822.3,0.01,738.223,0.29528919,USDT,0.28,USDT\n",
        "Date(UTC),Symbol,Side,Price,Quantity,Amount,Fee,Realized Profit\n"
        "2026-03-17 12:34:12,BTCUSDT,BUY,73822.3,0.01,738.223,0.29528919,0.28\n",
    ],
)
def test_a_symbol_in_a_binance_futures_export_is_a_perpetual(text: str) -> None:
    name, (row,) = read(text)

    assert (name, row.instrument.symbol) == ("binance_futures", "BTCUSDT_PERP")
    assert (row.fill.fee, row.fill.fee_asset) == (Decimal("0.29528919"), "USDT")
    assert row.fill.executed_at == datetime(2026, 3, 17, 12, 34, 12, tzinfo=UTC)


def test_binance_rest_answers_are_read_as_they_come() -> None:
    spot = {
        **{"symbol": "BNBBTC", "id": 28457, "orderId": 100234, "orderListId": -1, "price": "4.00000100"},
        **{"qty": "12.00000000", "quoteQty": "48.000012", "commission": "0.10000000", "commissionAsset": "BNB"},
        **{"time": 1499865549590, "isBuyer": True, "isMaker": False, "isBestMatch": True},
    }
    futures = {
        **{"buyer": False, "commission": "0.07819010", "commissionAsset": "USDT", "id": 698759, "maker": False},
        **{"orderId": 25851813, "price": "7819.01", "qty": "0.002", "quoteQty": "15.63802", "realizedPnl": "-0.9"},
        **{"side": "SELL", "positionSide": "SHORT", "symbol": "BTCUSDT", "time": 1569514978020},
    }

    name, (bought,) = read(json.dumps([spot]))
    assert (name, bought.fill.side, bought.fill.trade_id) == ("binance_spot_rest", "buy", "28457")
    name, (sold,) = read(json.dumps([futures]), hedge=True)
    assert (name, sold.fill.side, sold.fill.position_side) == ("binance_futures_rest", "sell", "short")
    assert sold.instrument.symbol == "BTCUSDT_PERP"
    with pytest.raises(CellProblem, match="one-way account"):
        read(json.dumps([futures]))


@pytest.mark.parametrize(
    ("symbol", "meant"),
    [
        ("BTC/USDT", "BTCUSDT"),
        ("BTC/USDT:USDT", "BTCUSDT_PERP"),
        ("BTC/USDT:USDT-260327", "BTCUSDT_260327"),
        ("BTC/USD:BTC", "BTCUSD_PERP"),
    ],
)
def test_unified_symbols_mean_exactly_one_instrument(symbol: str, meant: str) -> None:
    trade = {
        **{"id": "1", "timestamp": 1714564800000, "datetime": "2024-05-01T12:00:00.000Z", "symbol": symbol},
        **{"side": "buy", "price": 2.5, "amount": 1e-05, "takerOrMaker": "maker", "info": {"price": "9"}},
        **{"fee": {"cost": 0.001, "currency": "USDT"}, "fees": [{"cost": 0.001, "currency": "USDT"}]},
    }

    name, (row,) = read(json.dumps(trade) + "\n")

    assert (name, row.instrument.symbol) == ("ccxt", meant)
    assert (row.fill.quantity, row.fill.price, row.fill.fee) == (Decimal("0.00001"), Decimal("2.5"), Decimal("0.001"))


def test_no_fee_of_a_unified_trade_is_lost() -> None:
    trade: dict[str, Any] = {"timestamp": 1, "symbol": "BTC/USDT", "side": "buy", "price": 2, "amount": 1}
    trade |= {"timestamp": 1714564800000, "fee": None, "fees": [{"cost": "0.1", "currency": "USDT"}]}

    assert one(json.dumps([trade])).fill.fee == Decimal("0.1")
    trade["fees"] *= 2
    with pytest.raises(CellProblem, match="several parts"):
        one(json.dumps([trade]))


def test_terms_say_what_the_file_does_not() -> None:
    row = one(
        "symbol,side,quantity,price,executed_at,fee\nBTCUSDT,buy,1,2,2024-05-01 12:00:00,-0.1\n",
        zone=timezone(timedelta(hours=2)),
        strategy="grid",
        paid_is_negative=True,
    )

    assert row.fill.executed_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert (row.fill.strategy, row.fill.fee) == ("grid", Decimal("0.1"))


def test_a_rate_to_the_reporting_currency_counts_only_where_one_is_needed() -> None:
    assert generic("rate_to_reporting", "1.1").fill.rate_to_reporting is None
    assert generic("rate_to_reporting", "1.1", currency="EUR").fill.rate_to_reporting == Decimal("1.1")
    assert generic("rate_to_reporting", "", currency="EUR").fill.rate_to_reporting is None


@pytest.mark.parametrize(
    ("columns", "cells", "column", "reason"),
    [
        ("fee,fee_asset", "1,BTC", "fee", "must be less than the quantity"),
        ("fee,fee_asset", "1,XYZ", "fee_asset", "no asset that the exchange lists"),
        ("fee", "abc", "fee", "not a plain decimal"),
        ("fee", "NaN", "fee", "not a plain decimal"),
        ("fee,fee_asset,fee_rate", "1,BNB,0", "fee_rate", "not greater than zero"),
        ("trade_id", "with space", "trade_id", "visible ASCII"),
        ("trade_id", "x" * 65, "trade_id", "visible ASCII"),
        ("strategy", "x" * 65, "strategy", "printable"),
        ("strategy", "a\u202eb", "strategy", "printable"),
        ("position_side", "long", "position_side", "one-way"),
        ("position_side", "both", "position_side", "not net, long or short"),
        ("fill_id", "../../etc", "fill_id", "not an id"),
        ("a,b", "1,2,3", None, "8 cells where the header has 7"),
    ],
)
def test_a_cell_that_cannot_be_taken_is_named(columns: str, cells: str, column: str | None, reason: str) -> None:
    with pytest.raises(CellProblem, match=reason) as caught:
        generic(columns, cells)

    assert caught.value.column == column


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("BTCUSD,buy,1,2,2024-05-01T12:00:00Z", "symbol"),
        ("btcusdt,buy,1,2,2024-05-01T12:00:00Z", "symbol"),
        ("ВTCUSDT,buy,1,2,2024-05-01T12:00:00Z", "symbol"),
        ("BTCUSDT,,1,2,2024-05-01T12:00:00Z", "side"),
        ("BTCUSDT,long,1,2,2024-05-01T12:00:00Z", "side"),
        ("BTCUSDT,buy,0,2,2024-05-01T12:00:00Z", "quantity"),
        ("BTCUSDT,buy,-1,2,2024-05-01T12:00:00Z", "quantity"),
        ("BTCUSDT,buy,1,١,2024-05-01T12:00:00Z", "price"),
        ("BTCUSDT,buy,1,1e19,2024-05-01T12:00:00Z", "price"),
        ("BTCUSDT,buy,1,2,1999-12-31T23:59:59Z", "executed_at"),
        ("BTCUSDT,buy,1,2,2026-06-01T00:02:00Z", "executed_at"),
        ("BTCUSDT,buy,1,2,yesterday", "executed_at"),
    ],
)
def test_a_fill_is_judged_as_strictly_as_over_rest(row: str, column: str) -> None:
    with pytest.raises(CellProblem) as caught:
        one(f"symbol,side,quantity,price,executed_at\n{row}\n")

    assert caught.value.column == column


def test_rows_of_several_accounts_are_not_netted_into_one() -> None:
    header = "symbol,side,quantity,price,executed_at,account_id\n"
    row = "BTCUSDT,buy,1,2,2024-05-01T12:00:00Z"

    assert len(read(f"{header}{row},a\n{row},a\n")[1]) == 2
    with pytest.raises(CellProblem, match="one account at a time"):
        read(f"{header}{row},a\n{row},b\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column for symbol"),
        ("[]", "no rows"),
        ("[1]", "not an object"),
        ('[{"symbol": "BTCUSDT"', "cut off"),
        ("symbol,side,quantity,price\n", "no column for executed_at"),
        ("symbol,side,quantity,price,executed_at,fe\n", "if it is the fee"),
        ("symbol,side,quantity,price,executed_at,price\n", "two columns named price"),
        ("symbol,side,quantity,price,executed_at\nBTCUSDT,buy,1,2," + "x" * 1_100_000, "longer than"),
        ('symbol,side,quantity,price,executed_at\n"BTCUSDT', "unexpected end of data"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_table_of_fills_is_refused_as_a_whole(text: str, reason: str) -> None:
    with pytest.raises(FileProblem, match=reason):
        read(text)


def test_a_format_that_was_asked_for_has_to_fit() -> None:
    with pytest.raises(FileProblem, match="not those of binance_spot"):
        read("symbol,side,quantity,price,executed_at\n", "binance_spot")


def test_messages_never_repeat_more_than_the_beginning_of_a_cell() -> None:
    with pytest.raises(CellProblem) as caught:
        generic("fee", "9" * 50_000)

    assert len(str(caught.value)) < 300
