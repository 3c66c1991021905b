"""What Binance sends becomes what the domain knows. The recordings are the contract."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from app.domain.conflation import Quote, SnapshotQuote, SnapshotTrade, Trade
from app.domain.instruments import Instrument
from app.exchanges.binance.messages import (
    Envelope,
    ErrorBody,
    ExchangeInfo,
    Malformed,
    ServerTime,
    TickerBook,
    TickerPrice,
    decode_answer,
    decode_envelope,
    decode_quote,
    decode_ticker,
    decode_tickers,
    decode_trade,
)

RECORDINGS = Path(__file__).parent / "recordings"


def recorded(name: str) -> list[bytes]:
    return (RECORDINGS / name).read_bytes().splitlines()


def stream(name: str) -> Envelope:
    return next(each for each in map(decode_envelope, recorded("streams.jsonl")) if each.stream == name)


def test_a_book_ticker_is_a_quote() -> None:
    quote = decode_quote(stream("btcusdt@bookTicker").data)

    assert quote == Quote("BTCUSDT", "28621.74000000", "28621.75000000", 7488717758)


def test_an_aggregate_trade_is_a_trade() -> None:
    assert decode_trade(stream("bnbbtc@aggTrade").data) == Trade("BNBBTC", "0.001", 1672515782136, 12345)


def test_a_mini_ticker_is_a_trade_without_a_sequence() -> None:
    assert decode_ticker(stream("mobbusd@miniTicker").data) == Trade("MOBBUSD", "0.95900000", 1671617114585, None)


def test_an_array_of_mini_tickers_is_many_trades() -> None:
    trades, malformed = decode_tickers(stream("!miniTicker@arr").data)

    assert [trade.symbol for trade in trades] == ["MOBBUSD", "１２３４５６"]
    assert malformed == 0


def test_one_malformed_entry_of_an_array_costs_only_itself() -> None:
    data = b'[{"E":1,"s":"A","c":"1.0"},{"E":1,"s":"B","c":2.0},{"s":"C"},7,{"E":1,"s":"D","c":"4.0"}]'

    trades, malformed = decode_tickers(msgspec.Raw(data))

    assert [trade.symbol for trade in trades] == ["A", "D"]
    assert malformed == 3


@pytest.mark.parametrize("line", recorded("control.jsonl")[:2])
def test_a_confirmation_has_an_id_and_is_no_refusal(line: bytes) -> None:
    envelope = decode_envelope(line)

    assert envelope.id in (1, 3)
    assert envelope.refusal is None
    assert not envelope.is_server_shutdown


@pytest.mark.parametrize("line", recorded("control.jsonl")[2:4])
def test_a_refusal_is_understood_wrapped_and_unwrapped(line: bytes) -> None:
    envelope = decode_envelope(line)

    assert envelope.refusal == ErrorBody(2, "Invalid request: invalid stream")
    assert envelope.id == 1


def test_a_refusal_may_come_without_an_id() -> None:
    envelope = decode_envelope(recorded("control.jsonl")[4])

    assert envelope.refusal is not None
    assert envelope.id is None


@pytest.mark.parametrize("line", recorded("control.jsonl")[5:])
def test_a_server_shutdown_is_understood_in_each_of_its_shapes(line: bytes) -> None:
    assert decode_envelope(line).is_server_shutdown


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b'{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTC', id="truncated"),
        pytest.param(bytes(range(64)), id="binary garbage"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b'{"stream":7,"data":{}}', id="a stream that is a number"),
    ],
)
def test_a_frame_that_is_no_message_is_malformed(frame: bytes) -> None:
    with pytest.raises(Malformed):
        decode_envelope(frame)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"u":1,"s":"BTCUSDT","b":28621.74,"a":"28621.75"}', id="a price that is a number"),
        pytest.param(b'{"u":"1","s":"BTCUSDT","b":"28621.74","a":"28621.75"}', id="a sequence that is a string"),
        pytest.param(b'{"u":1,"s":"BTCUSDT","b":"28621.74"}', id="no ask"),
        pytest.param(b'{"u":1,"s":"BTCUSDT","b":null,"a":null}', id="nulls"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(b"", id="no data at all"),
    ],
)
def test_a_quote_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_quote(msgspec.Raw(data))


def test_the_listing_becomes_instruments() -> None:
    info = decode_answer((RECORDINGS / "exchange_info.json").read_bytes(), ExchangeInfo)

    first, *rest = info.instruments()

    assert first == Instrument(
        symbol="ETHBTC",
        market="spot",
        base="ETH",
        quote="BTC",
        settle="BTC",
        tick_size=Decimal("0.000001"),
        step_size=Decimal("0.001"),
        status="trading",
    )
    assert {each.symbol: each.status for each in rest} == {
        "HALTUSDT": "halted",
        "BREAKUSDT": "halted",
        "CANCELUSDT": "halted",
        "１２３４５６": "trading",
    }
    assert info.weight_per_minute == 6000


def test_an_instrument_without_filters_has_the_increments_of_its_precision() -> None:
    info = decode_answer((RECORDINGS / "exchange_info.json").read_bytes(), ExchangeInfo)

    broken = next(each for each in info.instruments() if each.symbol == "BREAKUSDT")

    assert (broken.tick_size, broken.step_size) == (Decimal("0.0001"), Decimal("0.01"))


def test_answers_to_questions_about_prices_become_snapshots() -> None:
    prices = decode_answer((RECORDINGS / "ticker_price.json").read_bytes(), list[TickerPrice])
    books = decode_answer((RECORDINGS / "ticker_book.json").read_bytes(), list[TickerBook])

    assert prices[0].trade() == SnapshotTrade("LTCBTC", "4.00000200")
    assert books[0].quote() == SnapshotQuote("LTCBTC", "4.00000000", "4.00000200")
    assert [book.has_both_sides for book in books] == [True, False]


def test_the_time_is_in_milliseconds() -> None:
    assert decode_answer((RECORDINGS / "time.json").read_bytes(), ServerTime).serverTime == 1499827319559
