"""Rates: the shortest way between two assets, by what is listed and never by what came first."""

from decimal import Decimal

import pytest

from app.domain.instruments import Instrument
from app.domain.prices import Price
from app.domain.rates import RateBook
from tests.domain.books import NOW_MS, instrument, price


def pair(base: str, quote: str) -> Instrument:
    return instrument(f"{base}{quote}", settle=quote)


def known(**prices: str) -> dict[str, Price]:
    return {symbol: price(symbol, value) for symbol, value in prices.items()}


LISTED = [pair("BTC", "USDT"), pair("ETH", "USDT"), pair("ETH", "BTC"), pair("EUR", "USDT"), pair("USDT", "TRY")]


@pytest.mark.parametrize(
    ("asset", "currency", "rate", "path"),
    [
        pytest.param("BTC", "USDT", "100", ("BTCUSDT",), id="the pair"),
        pytest.param("USDT", "BTC", "0.01", ("BTCUSDT",), id="the pair the other way round"),
        pytest.param("BTC", "TRY", "3000", ("BTCUSDT", "USDTTRY"), id="two pairs over a hub"),
        pytest.param("EUR", "BTC", "0.011", ("EURUSDT", "BTCUSDT"), id="over a hub, divided in the end"),
        pytest.param("ETH", "BTC", "0.07", ("ETHBTC",), id="the pair rather than a hub"),
    ],
)
def test_a_rate_goes_the_shortest_way(asset: str, currency: str, rate: str, path: tuple[str, ...]) -> None:
    prices = known(BTCUSDT="100", ETHUSDT="6", ETHBTC="0.07", EURUSDT="1.1", USDTTRY="30")

    found = RateBook(LISTED).rate(asset, currency, prices)

    assert found is not None
    assert (found.value, found.path) == (Decimal(rate), path)


def test_a_way_without_a_price_is_no_rate_though_another_way_would_have_one() -> None:
    assert RateBook(LISTED).rate("ETH", "BTC", known(BTCUSDT="100", ETHUSDT="6")) is None


def test_where_nothing_leads_there_is_no_rate_and_no_symbol() -> None:
    rates = RateBook(LISTED)

    assert rates.rate("XAU", "USDT", known(BTCUSDT="100")) is None
    assert rates.symbols("XAU", "USDT") == ()


def test_one_dollar_coin_is_not_worth_another_by_assumption() -> None:
    assert RateBook(LISTED).rate("USDC", "USDT", known(BTCUSDT="100")) is None


def test_a_rate_is_as_old_as_its_oldest_price() -> None:
    prices = {"BTCUSDT": price("BTCUSDT", "100", fresh_ms=NOW_MS - 7), "USDTTRY": price("USDTTRY", "30")}

    found = RateBook(LISTED).rate("BTC", "TRY", prices)

    assert found is not None
    assert found.fresh_ms == NOW_MS - 7


def test_only_spot_pairs_make_rates() -> None:
    assert RateBook([instrument("BTCUSDT", "linear")]).path("BTC", "USDT") is None
