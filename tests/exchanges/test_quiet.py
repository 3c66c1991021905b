"""Quiet symbols: whom to ask for and when, what no answer means, and when the listing is in doubt."""

from decimal import Decimal

import pytest

from app.domain.conflation import Conflator, Quote, SnapshotQuote
from app.domain.instruments import Instrument, Status
from app.domain.lateness import Lane
from app.exchanges.binance.quiet import QuietSymbols
from app.exchanges.binance.timing import Timing

NOW = 1_700_000_000_000
STALE = 5_000
TIMING = Timing(ask_by_name=3, doubt_after_s=30.0, doubt_every_s=60.0)


class Market:
    """Some symbols, and what is known of them."""

    def __init__(self) -> None:
        self.ticks = Conflator(stale_after_ms=STALE)
        self.quiet = QuietSymbols(self.ticks, TIMING)
        self.followed = {"BTCUSDT"}
        self._sequence = 0

    def list_symbols(self, at: int = 0, **statuses: Status) -> None:
        ticks = Decimal("0.01")
        self.quiet.listed(
            [
                Instrument(
                    symbol=symbol,
                    market="spot",
                    base=symbol,
                    quote="USDT",
                    settle="USDT",
                    tick_size=ticks,
                    step_size=ticks,
                    status=status,
                )
                for symbol, status in statuses.items()
            ],
            NOW + at,
        )

    def quote(self, at: int, symbol: str = "BTCUSDT") -> None:
        self._sequence += 1
        self.ticks.quote(Quote(symbol, "5.0", "6.0", self._sequence), NOW + at, Lane())
        self.ticks.drain()

    def answer(self, at: int, *symbols: str) -> None:
        asked = self.quiet.to_ask(self.followed, NOW + at)
        quotes = [SnapshotQuote(symbol, "5.0", "6.0") for symbol in symbols]
        self.ticks.snapshot(self.quiet.answered(asked, quotes), (), NOW + at, NOW + at + 1)

    def asks(self, at: int) -> list[str]:
        return self.quiet.to_ask(self.followed, NOW + at)

    def doubts(self, at: int) -> bool:
        return self.quiet.doubts_listing(self.followed, NOW + at)


@pytest.fixture
def market() -> Market:
    market = Market()
    market.list_symbols(BTCUSDT="trading", ETHUSDT="trading")
    return market


def test_a_symbol_is_asked_for_when_half_its_stale_period_passed_without_word(market: Market) -> None:
    market.quote(0)

    assert market.asks(STALE // 2) == []
    assert market.asks(STALE // 2 + 1) == ["BTCUSDT"]


def test_an_answer_counts_from_its_question_and_a_stream_makes_asking_needless(market: Market) -> None:
    market.quote(0)
    market.answer(3_000, "BTCUSDT")

    assert market.asks(5_500) == []
    assert market.asks(5_501) == ["BTCUSDT"]
    market.quote(5_502)
    assert market.asks(5_503) == []


def test_a_symbol_nobody_follows_or_nobody_lists_is_not_asked_for(market: Market) -> None:
    market.followed = {"BTCUSDT", "NEVERUSDT"}

    assert market.asks(0) == ["BTCUSDT"]


def test_a_halted_symbol_is_not_asked_for_until_it_trades(market: Market) -> None:
    market.list_symbols(BTCUSDT="halted")
    assert market.asks(60_000) == []

    market.list_symbols(BTCUSDT="trading", at=60_000)
    assert market.asks(60_001) == ["BTCUSDT"]


def test_a_symbol_without_a_book_is_asked_for_again_only_after_the_listing(market: Market) -> None:
    market.answer(0)
    assert market.asks(10_000) == []

    market.list_symbols(BTCUSDT="trading", at=10_000)
    assert market.asks(10_001) == ["BTCUSDT"]


def test_a_symbol_whose_book_came_back_by_stream_is_asked_for_as_before(market: Market) -> None:
    market.answer(0)
    market.quote(1_000)
    assert market.asks(1_001) == []

    assert market.asks(4_000) == ["BTCUSDT"]


def test_of_an_answer_only_what_was_asked_for_is_taken(market: Market) -> None:
    market.answer(0, "BTCUSDT", "ETHUSDT")

    assert [price.symbol for price in market.ticks.drain().prices] == ["BTCUSDT"]


def test_many_symbols_and_a_name_that_was_refused_are_asked_for_with_the_whole_market(market: Market) -> None:
    few, many = ["A", "B", "C"], ["A", "B", "C", "D"]
    assert market.quiet.is_by_name(few)
    assert not market.quiet.is_by_name(many)

    market.quiet.refused(is_bad_request=False)
    assert market.quiet.is_by_name(few)
    market.quiet.refused(is_bad_request=True)
    assert not market.quiet.is_by_name(few)
    market.list_symbols(BTCUSDT="trading")
    assert market.quiet.is_by_name(few)


def test_while_symbols_stream_the_listing_is_not_in_doubt(market: Market) -> None:
    market.quote(599_000)

    assert not market.doubts(600_000)


@pytest.mark.parametrize("cause", ["silent", "halted", "no book", "refused"])
def test_the_listing_is_in_doubt_once_a_minute_while_a_symbol_may_be_halted(market: Market, cause: str) -> None:
    market.quote(0)
    if cause == "halted":
        market.list_symbols(at=1, BTCUSDT="halted")
    else:
        market.quote({"silent": 29_999}.get(cause, 57_000))
    if cause == "no book":
        market.answer(59_998)
    if cause == "refused":
        market.quiet.refused(is_bad_request=True)

    assert not market.doubts(59_999)
    assert market.doubts(60_001)
    market.list_symbols(BTCUSDT="halted" if cause == "halted" else "trading", at=60_001)
    assert not market.doubts(120_000)


def test_a_halted_symbol_that_ticks_puts_the_listing_in_doubt_at_once(market: Market) -> None:
    market.quote(0)
    market.list_symbols(BTCUSDT="halted", at=1)
    assert not market.doubts(2)
    market.quote(3)

    assert market.doubts(3)
