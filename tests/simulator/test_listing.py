"""What the simulated exchange lists."""

import math

import pytest

from app.simulator.listing import Listing, build_assets, build_listings
from app.simulator.wire import ONE, fixed, parse_fixed


@pytest.fixture(scope="module")
def listings() -> dict[str, Listing]:
    return build_listings(build_assets(1), 1)


def test_at_least_four_hundred_symbols_are_listed(listings: dict[str, Listing]) -> None:
    assert len(listings) >= 400


@pytest.mark.parametrize(
    "symbol",
    ["BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "BNBBTC", "ETHBTC", "SHIBUSDT", "PEPEUSDT", "币安人生USDT", "BTCTRY"],
)
def test_the_symbols_everybody_expects_are_listed_and_trade(listings: dict[str, Listing], symbol: str) -> None:
    assert listings[symbol].status == "TRADING"


def test_made_up_coins_come_on_top_and_leave_the_others_as_they_are(listings: dict[str, Listing]) -> None:
    more = build_listings(build_assets(1, 1800), 1)
    added = [listing for symbol, listing in more.items() if symbol not in listings]
    assert {symbol: more[symbol] for symbol in listings} == listings
    assert len(added) == 1800
    assert all(listing.status == "TRADING" and listing.quote == "USDT" for listing in added)


def test_every_quote_asset_of_the_exchange_is_there(listings: dict[str, Listing]) -> None:
    quotes = {listing.quote for listing in listings.values()}
    assert {"USDT", "BTC", "ETH", "FDUSD", "USDC", "EUR", "TRY", "BNB"} <= quotes


def test_a_few_symbols_are_halted_or_delisted(listings: dict[str, Listing]) -> None:
    statuses = [listing.status for listing in listings.values()]
    assert 1 <= statuses.count("HALT") <= 20
    assert 5 <= statuses.count("BREAK") <= 60


def test_ticks_and_steps_are_powers_of_ten_that_fit_eight_places(listings: dict[str, Listing]) -> None:
    for listing in listings.values():
        assert 10 ** round(math.log10(listing.tick)) == listing.tick
        assert 10 ** round(math.log10(listing.step)) == listing.step


def test_the_busy_symbols_have_the_ticks_and_steps_of_the_real_exchange(listings: dict[str, Listing]) -> None:
    rules = {symbol: (fixed(listings[symbol].tick), fixed(listings[symbol].step)) for symbol in listings}
    assert rules["BTCUSDT"] == ("0.01000000", "0.00001000")
    assert rules["ETHUSDT"] == ("0.01000000", "0.00010000")
    assert rules["ETHBTC"] == ("0.00001000", "0.00010000")
    assert rules["SHIBUSDT"] == ("0.00000001", "1.00000000")


def test_the_same_seed_lists_the_same_and_another_seed_does_not() -> None:
    assert build_assets(7) == build_assets(7)
    assert build_listings(build_assets(7), 7) == build_listings(build_assets(7), 7)
    assert build_assets(7) != build_assets(8)


@pytest.mark.parametrize(
    ("units", "text"),
    [(0, "0.00000000"), (1, "0.00000001"), (2_862_174_000_000, "28621.74000000"), (-150_000_000, "-1.50000000")],
)
def test_decimals_are_written_with_exactly_eight_places(units: int, text: str) -> None:
    assert fixed(units) == text
    assert parse_fixed(text) == units


@pytest.mark.parametrize("text", ["", "x", "NaN", "Infinity", "0.000000001"])
def test_a_decimal_that_is_none_or_too_fine_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimal|finer"):
        parse_fixed(text)


def test_one_unit_of_money_is_a_hundred_million_units() -> None:
    assert parse_fixed("1") == ONE
