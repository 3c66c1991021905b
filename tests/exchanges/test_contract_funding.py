"""Each settled stamp with the mark it was paid at, wherever the exchange tells it."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.domain.instruments import Instrument, Market
from app.exchanges.binance.contract_funding import BinanceFunding
from app.exchanges.binance.contract_rest import ContractRest
from app.exchanges.binance.contracts import CALLS, WEIGHT_PER_MINUTE
from app.exchanges.binance.rest import RestUnavailable
from app.exchanges.binance.weights import WeightBudget
from tests.exchanges.fake_exchange import FakeExchange

NOW = datetime(2026, 10, 1, 8, 5, tzinfo=UTC)
STAMP = datetime(2026, 10, 1, 8, 0, 0, 3000, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def perpetual(market: Market) -> Instrument:
    is_linear = market == "linear"
    return Instrument(
        symbol="BTCUSDT_PERP" if is_linear else "BTCUSD_PERP",
        market=market,
        base="BTC",
        quote="USDT" if is_linear else "USD",
        settle="USDT" if is_linear else "BTC",
        tick_size=Decimal("0.1"),
        step_size=Decimal(1),
        venue_symbol="BTCUSDT" if is_linear else "",
    )


class Source:
    """The funding of one market of a fake exchange."""

    def __init__(self, exchange: FakeExchange, rest: ContractRest, market: Market) -> None:
        self._exchange = exchange
        self._path = "/fapi/v1" if market == "linear" else "/dapi/v1"
        self._market: Market = market
        self._funding = BinanceFunding(rest)
        self.kline([])

    def say(self, *stamps: dict[str, Any]) -> None:
        self._exchange.say(f"{self._path}/fundingRate", list(stamps))

    def kline(self, klines: list[list[Any]]) -> None:
        self._exchange.say(f"{self._path}/markPriceKlines", klines)

    async def settled(self, until: datetime = NOW) -> tuple[list[tuple[datetime, Decimal, Decimal]], bool]:
        stamps, is_all = await self._funding.settled(perpetual(self._market), NOW - timedelta(days=1), until)
        return [(stamp.at, stamp.rate, stamp.mark) for stamp in stamps], is_all


@pytest.fixture(params=["linear", "inverse"])
async def source(request: pytest.FixtureRequest, exchange: FakeExchange) -> AsyncIterator[Source]:
    market: Market = request.param
    budget = WeightBudget(WEIGHT_PER_MINUTE)
    async with ContractRest(exchange.rest_url, CALLS[market], budget, deadline_s=5, clock=time.time) as rest:
        yield Source(exchange, rest, market)


def stamp(at: datetime, **more: str) -> dict[str, Any]:
    return {"symbol": "?", "fundingRate": "-0.00025", "fundingTime": ms(at), **more}


async def test_a_stamp_keeps_the_time_rate_and_mark_that_the_exchange_says(source: Source) -> None:
    source.say(stamp(STAMP, markPrice="51000.12345678"))

    assert await source.settled() == ([(STAMP, Decimal("-0.00025"), Decimal("51000.12345678"))], True)


@pytest.mark.parametrize("unsaid", [{}, {"markPrice": ""}])
async def test_without_a_mark_it_is_the_one_that_the_minute_began_with(source: Source, unsaid: dict[str, str]) -> None:
    source.say(stamp(STAMP, **unsaid))
    minute = STAMP.replace(microsecond=0)
    source.kline([[ms(minute), "50999.5", "51001", "50998", "51000", "0", ms(minute) + 59_999]])

    assert await source.settled() == ([(STAMP, Decimal("-0.00025"), Decimal("50999.5"))], True)


async def test_a_stamp_whose_mark_is_not_known_yet_is_left_out_with_all_after_it(source: Source) -> None:
    source.say(stamp(NOW - timedelta(minutes=10)), stamp(STAMP, markPrice="51000"))

    assert await source.settled() == ([], False)


async def test_a_mark_that_never_comes_does_not_hold_up_the_others(source: Source) -> None:
    source.say(stamp(NOW - timedelta(hours=8)), stamp(STAMP, markPrice="51000"))

    assert await source.settled() == ([(STAMP, Decimal("-0.00025"), Decimal(51000))], True)


async def test_a_rate_that_is_no_number_is_no_answer(source: Source) -> None:
    source.say({"symbol": "?", "fundingRate": "NaN", "fundingTime": ms(STAMP), "markPrice": "1"})

    with pytest.raises(RestUnavailable, match="no number"):
        await source.settled()


async def test_questions_keep_below_the_exchanges_own_limit(source: Source) -> None:
    source.say()
    for _ in range(400):
        source._funding._calls.spend(time.monotonic())

    with pytest.raises(RestUnavailable, match="too many questions") as error:
        await source.settled()
    assert error.value.retry_after_s > 200
