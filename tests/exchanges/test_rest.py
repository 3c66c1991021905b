"""Asking the exchange: answers, refusals, and the weight it allows."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain.conflation import SnapshotQuote, SnapshotTrade
from app.exchanges.binance.rest import BinanceRest, RestUnavailable, retry_after_s
from app.exchanges.binance.weights import WeightBudget
from tests.exchanges.fake_exchange import FakeExchange


@pytest.fixture
async def rest(exchange: FakeExchange) -> AsyncIterator[BinanceRest]:
    async with BinanceRest(exchange.rest_url, WeightBudget(), deadline_s=2.0, clock=lambda: 30.0) as rest:
        yield rest


async def test_the_listing_the_prices_and_the_time_are_asked_for(exchange: FakeExchange, rest: BinanceRest) -> None:
    exchange.say("/api/v3/time", {"serverTime": 1499827319559})
    exchange.say("/api/v3/ticker/price", [{"symbol": "LTCBTC", "price": "4.00000200"}])
    empty = {"symbol": "EMPTY", "bidPrice": "0.00000000", "askPrice": "0.00000000"}
    book = {"symbol": "LTCBTC", "bidPrice": "4.00000000", "askPrice": "4.00000200"}
    exchange.say("/api/v3/ticker/bookTicker", [empty, book])

    assert len((await rest.exchange_info()).instruments()) == 6
    assert await rest.server_ms() == 1499827319559
    assert await rest.trades() == [SnapshotTrade("LTCBTC", "4.00000200")]
    assert await rest.quotes() == [SnapshotQuote("LTCBTC", "4.00000000", "4.00000200")]


async def test_some_symbols_are_asked_for_by_name(exchange: FakeExchange, rest: BinanceRest) -> None:
    books = [{"symbol": symbol, "bidPrice": "4.0", "askPrice": "5.0"} for symbol in ("LTCBTC", "ETHBTC", "BNBBTC")]
    exchange.say("/api/v3/ticker/bookTicker", books)

    quotes = await rest.quotes(["LTCBTC", "BNBBTC"])

    assert [quote.symbol for quote in quotes] == ["LTCBTC", "BNBBTC"]
    assert exchange.asked_by_name == [["LTCBTC", "BNBBTC"]]


@pytest.mark.parametrize(("status", "is_bad_request"), [(400, True), (404, False), (429, False), (503, False)])
async def test_a_question_that_was_wrong_is_told_from_an_exchange_that_fails(
    exchange: FakeExchange, rest: BinanceRest, status: int, is_bad_request: bool
) -> None:
    exchange.say("/api/v3/ticker/bookTicker", {"code": -1121, "msg": "Invalid symbol."}, status)

    with pytest.raises(RestUnavailable) as refused:
        await rest.quotes(["GONEBTC"])

    assert refused.value.is_bad_request is is_bad_request


@pytest.mark.parametrize("status", [429, 418])
async def test_after_a_refusal_nothing_is_asked_until_its_time_is_over(
    exchange: FakeExchange, rest: BinanceRest, status: int
) -> None:
    exchange.say("/api/v3/time", {"code": -1003}, status, {"Retry-After": "17"})

    with pytest.raises(RestUnavailable) as refused:
        await rest.server_ms()
    with pytest.raises(RestUnavailable) as not_asked:
        await rest.trades()

    assert refused.value.retry_after_s == 17.0
    assert not_asked.value.retry_after_s == 17.0
    assert exchange.rest_calls == ["/api/v3/time"]


async def test_the_weight_that_the_exchange_counts_is_respected(exchange: FakeExchange, rest: BinanceRest) -> None:
    exchange.say("/api/v3/time", {"serverTime": 1}, headers={"x-mbx-USED-weight-1M": "4199"})
    await rest.server_ms()

    with pytest.raises(RestUnavailable) as stopped:
        await rest.exchange_info()

    assert stopped.value.retry_after_s == 30.0
    assert await rest.server_ms() == 1


@pytest.mark.parametrize("status", [403, 451, 500, 503])
async def test_another_refusal_is_unavailability(exchange: FakeExchange, rest: BinanceRest, status: int) -> None:
    exchange.say("/api/v3/time", b"<html>", status)

    with pytest.raises(RestUnavailable, match=str(status)):
        await rest.server_ms()


@pytest.mark.parametrize("body", [b"<html>", b'{"serverTime":"soon"}', b"[]", b""])
async def test_an_answer_of_another_shape_is_unavailability(
    exchange: FakeExchange, rest: BinanceRest, body: bytes
) -> None:
    exchange.say("/api/v3/time", body)

    with pytest.raises(RestUnavailable):
        await rest.server_ms()


async def test_an_exchange_that_is_not_there_is_unavailable(unused_tcp_port: int) -> None:
    async with BinanceRest(f"http://127.0.0.1:{unused_tcp_port}", WeightBudget(), deadline_s=2.0) as rest:
        with pytest.raises(RestUnavailable):
            await rest.server_ms()


async def test_an_answer_that_never_comes_is_given_up() -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with BinanceRest(f"http://127.0.0.1:{port}", WeightBudget(), deadline_s=0.2) as rest:
            with pytest.raises(RestUnavailable, match="longer than"):
                await rest.server_ms()
        await hung_up.wait()


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), (None, None), ("soon", None), ("-1", None), ("٣", None)])
def test_retry_after_is_whole_seconds_or_nothing(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds
