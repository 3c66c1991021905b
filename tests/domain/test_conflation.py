"""What gets through the door, which of it is newest, and what price comes out."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.conflation import Conflator, Quote, SnapshotQuote, SnapshotTrade, Trade
from app.domain.lateness import Lane
from app.domain.prices import Price

NOW = 1_700_000_000_000
STALE = 5_000


class Market:
    """A conflator whose exchange has the right time and one connection."""

    def __init__(self) -> None:
        self.ticks = Conflator(stale_after_ms=STALE)
        self.lane = Lane()

    def quote(self, bid: str, ask: str, sequence: int, at: int = 0, symbol: str = "BTCUSDT") -> None:
        self.ticks.quote(Quote(symbol, bid, ask, sequence), NOW + at, self.lane)

    def trade(
        self, price: str, sequence: int | None = None, at: int = 0, late: int = 0, symbol: str = "BTCUSDT"
    ) -> None:
        self.ticks.trade(Trade(symbol, price, NOW + at - late, sequence), NOW + at, self.lane)

    def snapshot(self, bid: str, ask: str, last: str, asked: int, answered: int) -> None:
        quotes, trades = [SnapshotQuote("BTCUSDT", bid, ask)], [SnapshotTrade("BTCUSDT", last)]
        self.ticks.snapshot(quotes, trades, NOW + asked, NOW + answered)

    def price(self) -> Price:
        [price] = self.ticks.drain().prices
        return price


@pytest.fixture
def market() -> Market:
    return Market()


def test_the_price_is_the_exact_middle_of_bid_and_ask(market: Market) -> None:
    market.quote("0.00000001", "0.00000002", 1)

    price = market.price()

    assert (price.price, price.source) == (Decimal("0.000000015"), "mid")
    assert (price.bid, price.ask) == (Decimal("0.00000001"), Decimal("0.00000002"))


def test_the_middle_of_the_longest_numbers_loses_no_digit(market: Market) -> None:
    market.quote("123456789012345678.00000000000000001", "123456789012345678.00000000000000002", 1)

    assert market.price().price == Decimal("123456789012345678.000000000000000015")


def test_without_a_book_the_price_is_the_last_trade(market: Market) -> None:
    market.trade("100.5")

    price = market.price()

    assert (price.price, price.source, price.bid, price.ask) == (Decimal("100.5"), "last", None, None)
    assert (price.event_ms, price.received_ms, price.fresh_ms) == (NOW, NOW, NOW)


def test_book_and_trades_of_a_symbol_are_one_price(market: Market) -> None:
    market.trade("100.0", 7)
    market.quote("100.0", "101.0", 1)

    price = market.price()

    assert (price.price, price.last) == (Decimal("100.5"), Decimal("100.0"))


def test_many_ticks_of_a_symbol_are_one_price_and_their_number_is_told(market: Market) -> None:
    for n in range(1, 1001):
        market.quote(f"{n}.0", f"{n}.5", n)

    drained = market.ticks.drain()

    assert drained.ticks == 1000
    assert [price.bid for price in drained.prices] == [Decimal(1000)]


def test_what_was_drained_is_not_drained_again(market: Market) -> None:
    market.quote("1.0", "1.5", 1)
    market.ticks.drain()

    assert market.ticks.drain().prices == []


def test_an_unchanged_quote_makes_the_price_fresh_again(market: Market) -> None:
    market.quote("1.0", "1.5", 1)
    market.ticks.drain()
    market.quote("1.0", "1.5", 2, at=100)

    assert market.price().fresh_ms == NOW + 100


@pytest.mark.parametrize(
    ("bid", "ask", "flaw"),
    [
        pytest.param("0.00000000", "1.0", "not_positive", id="zero bid"),
        pytest.param("1.0", "0", "not_positive", id="zero ask"),
        pytest.param("-1.0", "1.0", "not_plain", id="negative"),
        pytest.param("2.0", "1.0", "crossed", id="crossed"),
        pytest.param("10.0", "9.00", "crossed", id="crossed, of different shapes"),
        pytest.param("NaN", "1.0", "not_plain", id="not a number"),
        pytest.param("Infinity", "Infinity", "not_plain", id="infinite"),
        pytest.param("1e3", "1e4", "not_plain", id="exponent"),
        pytest.param("1E999", "1E999", "not_plain", id="huge exponent"),
        pytest.param("١٢", "١٣", "not_plain", id="digits of another script"),
        pytest.param("", "1.0", "not_plain", id="empty"),
        pytest.param(" 1.0", "1.0", "not_plain", id="space"),
        pytest.param("1.0\n", "1.5", "not_plain", id="newline"),
        pytest.param("1.", "2.0", "not_plain", id="nothing after the point"),
        pytest.param("+1.0", "2.0", "not_plain", id="plus"),
        pytest.param("1_000", "2000", "not_plain", id="underscore"),
        pytest.param("1" * 19, "2" * 19, "not_plain", id="too many digits"),
    ],
)
def test_an_impossible_quote_is_counted_and_the_good_one_before_it_stays(
    market: Market, bid: str, ask: str, flaw: str
) -> None:
    market.quote("5.0", "6.0", 1)
    market.quote(bid, ask, 2)

    assert market.price().price == Decimal("5.5")
    assert dict(market.ticks.rejected) == {flaw: 1}


@pytest.mark.parametrize("price", ["0.0", "-1", "NaN", "1e3", "", "٣", "0x10"])
def test_an_impossible_trade_is_counted_and_dropped(market: Market, price: str) -> None:
    market.trade("5.0", 1)
    market.trade(price, 2)

    assert market.price().price == Decimal(5)
    assert market.ticks.rejected.total() == 1


@pytest.mark.parametrize("text", ["", "?", "None"])
def test_a_symbol_whose_first_tick_is_empty_has_no_price(market: Market, text: str) -> None:
    market.trade(text, 1)
    market.quote(text, text, 1)

    assert market.ticks.drain().prices == []
    assert dict(market.ticks.rejected) == {"not_plain": 2}


def test_an_impossible_tick_does_not_block_the_sequence(market: Market) -> None:
    market.quote("0.0", "1.0", 1_000_000)
    market.quote("5.0", "6.0", 1)

    assert market.price().price == Decimal("5.5")


def test_a_locked_book_is_possible(market: Market) -> None:
    market.quote("5.0", "5.00", 1)

    assert market.price().price == Decimal(5)


def test_numbers_of_different_shapes_compare_as_numbers(market: Market) -> None:
    market.quote("9.0", "10.0", 1)

    assert market.price().price == Decimal("9.5")


@pytest.mark.parametrize("sequence", [6, 7])
def test_an_older_or_repeated_update_never_replaces_a_newer_one(market: Market, sequence: int) -> None:
    market.quote("5.0", "6.0", 7)
    market.quote("1.0", "2.0", sequence, at=10)

    assert market.price().price == Decimal("5.5")
    assert market.ticks.rejected["old_update"] == 1


@pytest.mark.parametrize("sequence", [6, 7])
def test_an_older_or_repeated_trade_never_replaces_a_newer_one(market: Market, sequence: int) -> None:
    market.trade("5.0", 7)
    market.trade("1.0", sequence, at=10)

    assert market.price().price == Decimal(5)
    assert market.ticks.rejected["old_trade"] == 1


def test_a_source_that_counts_anew_is_believed_after_a_while(market: Market) -> None:
    market.quote("5.0", "6.0", 1_000_000)
    market.quote("7.0", "8.0", 3, at=3_000)
    assert market.price().bid == Decimal(5)
    market.quote("7.0", "8.0", 4, at=4_001)

    assert market.price().bid == Decimal(7)


def test_trades_that_count_anew_are_believed_though_a_ticker_goes_on(market: Market) -> None:
    market.trade("5.0", 1_000_000)
    for second in range(1, 5):
        market.trade("5.0", at=second * 1_000)
    market.trade("6.0", 3, at=4_500)

    assert market.price().last == Decimal(6)


def test_a_repeated_quote_is_never_fresh_news(market: Market) -> None:
    market.quote("5.0", "6.0", 7)
    market.quote("5.0", "6.0", 7, at=60_000)

    assert market.price().fresh_ms == NOW


def test_the_ticker_does_not_replace_a_newer_trade(market: Market) -> None:
    market.trade("6.0", 1, at=1_000)
    market.trade("5.0", at=1_010, late=500)

    assert market.price().last == Decimal(6)


def test_a_trade_newer_than_the_ticker_replaces_it(market: Market) -> None:
    market.trade("5.0", at=1_000)
    market.trade("6.0", 1, at=1_100)

    assert market.price().last == Decimal(6)


def test_an_exchange_clock_set_back_holds_prices_up_only_for_a_moment(market: Market) -> None:
    market.trade("5.0")
    market.trade("6.0", at=1_000, late=30_000)
    assert market.price().price == Decimal(5)
    market.trade("7.0", at=4_500, late=30_000)

    assert market.price().price == Decimal(7)


def test_a_book_that_stands_still_while_trades_go_on_is_not_the_price(market: Market) -> None:
    market.quote("5.0", "6.0", 1)
    market.trade("9.0", 1, at=STALE)
    assert market.price().source == "mid"
    market.trade("9.0", 2, at=STALE + 1)

    price = market.price()
    assert (price.price, price.source, price.bid) == (Decimal(9), "last", None)


def test_a_book_that_moves_again_is_the_price_again(market: Market) -> None:
    market.quote("5.0", "6.0", 1)
    market.trade("9.0", 1, at=STALE + 1)
    market.quote("8.0", "9.0", 2, at=STALE + 2)

    assert market.price().source == "mid"


def test_a_book_nobody_follows_yields_to_the_next_trade(market: Market) -> None:
    market.quote("5.0", "6.0", 1)
    market.ticks.drop_book("BTCUSDT")
    market.trade("9.0", at=1)

    price = market.price()
    assert (price.price, price.source, price.bid, price.ask) == (Decimal(9), "last", None, None)


def test_an_unknown_symbol_has_no_book_to_drop(market: Market) -> None:
    market.ticks.drop_book("NOPE")

    assert market.ticks.drain().prices == []


def test_a_snapshot_gives_prices_that_were_right_when_asked_for(market: Market) -> None:
    market.snapshot("5.0", "6.0", "5.5", asked=0, answered=80)

    price = market.price()
    assert (price.price, price.source, price.last) == (Decimal("5.5"), "mid", Decimal("5.5"))
    assert (price.received_ms, price.fresh_ms) == (NOW + 80, NOW)


def test_a_snapshot_does_not_replace_what_the_stream_said_since_the_question(market: Market) -> None:
    market.quote("7.0", "8.0", 1, at=50)
    market.trade("7.5", 1, at=50)
    market.snapshot("5.0", "6.0", "5.5", asked=0, answered=80)

    price = market.price()
    assert (price.bid, price.last) == (Decimal(7), Decimal("7.5"))


def test_a_snapshot_replaces_what_was_known_before_the_question(market: Market) -> None:
    market.quote("7.0", "8.0", 9)
    market.trade("7.5", 9)
    market.snapshot("5.0", "6.0", "5.5", asked=100, answered=180)

    price = market.price()
    assert (price.bid, price.last) == (Decimal(5), Decimal("5.5"))


def test_a_snapshot_does_not_let_older_updates_in(market: Market) -> None:
    market.quote("7.0", "8.0", 9)
    market.snapshot("5.0", "6.0", "5.5", asked=100, answered=180)
    market.quote("1.0", "2.0", 8, at=200)

    assert market.price().bid == Decimal(5)


def test_the_book_of_a_snapshot_yields_to_a_newer_last_price(market: Market) -> None:
    market.snapshot("5.0", "6.0", "5.5", asked=0, answered=80)
    market.trade("9.0", at=1_000)

    assert market.price().source == "last"


def test_an_impossible_snapshot_is_counted_and_dropped(market: Market) -> None:
    market.snapshot("6.0", "5.0", "0.0", asked=0, answered=80)

    assert market.ticks.drain().prices == []
    assert dict(market.ticks.rejected) == {"crossed": 1, "not_positive": 1}


def test_a_price_asked_for_and_unchanged_is_fresh_again_but_does_not_make_the_market_live(market: Market) -> None:
    market.quote("5.0", "6.0", 1)
    market.price()
    market.snapshot("5.0", "6.0", "5.5", asked=3_000, answered=3_080)

    price = market.price()
    assert (price.price, price.fresh_ms) == (Decimal("5.5"), NOW + 3_000)
    assert (market.ticks.newest_ms, market.ticks.newest_asked_ms) == (NOW, NOW + 3_000)


def test_a_book_is_confirmed_by_the_stream_or_by_an_answer_and_silent_without_the_stream(market: Market) -> None:
    symbols = ["BTCUSDT", "NEWUSDT"]
    market.trade("5.0", 1, at=0)
    assert market.ticks.unconfirmed(symbols, NOW) == market.ticks.silent(symbols, NOW) == symbols
    market.quote("5.0", "6.0", 1, at=10)
    assert market.ticks.unconfirmed(symbols, NOW + 10) == market.ticks.silent(symbols, NOW + 10) == ["NEWUSDT"]
    market.price()
    assert market.ticks.unconfirmed(symbols, NOW + 10) == ["NEWUSDT"]
    assert market.ticks.unconfirmed(symbols, NOW + 11) == symbols
    market.snapshot("5.0", "6.0", "5.0", asked=20, answered=30)

    assert market.ticks.unconfirmed(symbols, NOW + 20) == ["NEWUSDT"]
    assert market.ticks.silent(symbols, NOW + 20) == symbols


def test_a_book_that_came_late_is_not_confirmed(market: Market) -> None:
    market.trade("5.0", 1)
    market.trade("5.0", 2, at=12_000, late=9_000)
    market.quote("5.0", "6.0", 1, at=12_000)
    market.price()

    assert market.ticks.unconfirmed(["BTCUSDT"], NOW + 12_000 - STALE) == ["BTCUSDT"]


def test_the_price_of_a_symbol_that_does_not_trade_is_never_fresh(market: Market) -> None:
    def is_stale(at: int) -> bool:
        return market.price().is_stale(NOW + at, STALE)

    market.quote("5.0", "6.0", 1)
    assert not is_stale(0)
    market.ticks.set_halted({"BTCUSDT", "NOPE"})
    assert is_stale(0), "what was drained as fresh must be drained again"
    market.snapshot("5.0", "6.0", "5.5", asked=100, answered=180)
    assert is_stale(180)
    market.quote("5.0", "6.0", 2, at=200)
    assert is_stale(200)
    market.ticks.drop_book("BTCUSDT")
    market.trade("5.5", 1, at=300)
    assert is_stale(300)

    market.ticks.set_halted({"NOPE"})
    assert not is_stale(300)


def test_halting_a_symbol_without_a_price_gives_it_none(market: Market) -> None:
    market.quote("0.0", "0.0", 1)
    market.ticks.set_halted({"BTCUSDT"})

    assert market.ticks.drain().prices == []


@pytest.mark.parametrize("skew", [-30_000, 30_000])
def test_an_exchange_clock_that_is_off_makes_nothing_stale_nor_fresh(market: Market, skew: int) -> None:
    market.trade("5.0", at=0, late=-skew + 20)
    market.trade("6.0", at=1_000, late=-skew + 20)
    assert market.price().fresh_ms == NOW + 1_000

    market.trade("7.0", at=20_000, late=-skew + 20 + 10_000)
    assert market.price().fresh_ms == NOW + 10_000


def test_a_burst_after_a_stall_is_stale_until_it_has_caught_up(market: Market) -> None:
    for second in range(3):
        market.trade("5.0", second + 1, at=second * 1_000)
    market.ticks.drain()

    # Ten seconds of silence; then all of it at once, the book beside the trades.
    market.quote("6.0", "7.0", 1, at=12_000)
    market.trade("6.5", 4, at=12_000, late=9_000)
    old = market.price()
    assert old.is_stale(NOW + 12_000, STALE)
    assert market.ticks.newest_ms == NOW + 3_000

    market.quote("8.0", "9.0", 2, at=12_100)
    market.trade("8.5", 5, at=12_100, late=0)
    assert market.price().fresh_ms == NOW + 12_100


def test_a_message_of_many_symbols_is_as_late_as_its_newest(market: Market) -> None:
    entries = [Trade("AUSDT", "1.0", NOW - 900), Trade("BUSDT", "2.0", NOW - 10), Trade("CUSDT", "x", NOW)]
    market.ticks.trades(entries, NOW, market.lane)
    market.quote("5.0", "6.0", 1)

    fresh = {price.symbol: price.fresh_ms for price in market.ticks.drain().prices}

    assert fresh["BTCUSDT"] == NOW
    assert set(fresh) == {"AUSDT", "BUSDT", "BTCUSDT"}


def test_a_time_that_cannot_be_is_counted_and_dropped(market: Market) -> None:
    market.ticks.trade(Trade("BTCUSDT", "5.0", 0), NOW, market.lane)

    assert market.ticks.drain().prices == []
    assert dict(market.ticks.rejected) == {"bad_time": 1}


def test_the_number_of_symbols_is_bounded() -> None:
    ticks, lane = Conflator(stale_after_ms=STALE, max_symbols=2), Lane()
    for symbol in ("A", "B", "C"):
        ticks.quote(Quote(symbol, "1.0", "2.0", 1), NOW, lane)

    assert [price.symbol for price in ticks.drain().prices] == ["A", "B"]
    assert dict(ticks.rejected) == {"too_many_symbols": 1}


texts = st.one_of(
    st.decimals(min_value=0, max_value=10**6, places=8).map(str),
    st.sampled_from(["0.0", "-1.0", "NaN", "1e5", "", "0.00000000", "999999999999999999.99999999", "٣.0"]),
    st.text(max_size=6),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("quote"), texts, texts, st.integers(0, 30)),
        st.tuples(st.just("trade"), texts, st.integers(-40_000, 40_000), st.one_of(st.none(), st.integers(0, 30))),
        st.tuples(st.just("snapshot"), texts, texts, st.integers(0, 100)),
        st.tuples(st.just("wait"), st.integers(0, 8_000)),
        st.tuples(st.just("drain")),
    ),
    max_size=60,
)


def play(market: Market, step: tuple[object, ...], at: int) -> list[Price]:
    match step:
        case ("quote", str(bid), str(ask), int(sequence)):
            market.quote(bid, ask, sequence, at)
        case ("trade", str(price), int(late), sequence):
            assert sequence is None or isinstance(sequence, int)
            market.trade(price, sequence, at, late)
        case ("snapshot", str(bid), str(ask), int(took)):
            market.snapshot(bid, ask, ask, at - took, at)
        case ("drain",):
            return market.ticks.drain().prices
    return []


@given(steps)
def test_whatever_comes_in_what_goes_out_is_a_price(sequence: list[tuple[object, ...]]) -> None:
    market, at = Market(), 0
    for step in [*sequence, ("drain",)]:
        if step[0] == "wait":
            assert isinstance(step[1], int)
            at += step[1]
        for price in play(market, step, at):
            assert price.price.is_finite()
            assert price.price > 0
            assert price.fresh_ms <= price.received_ms <= NOW + at
            if price.source == "mid":
                assert price.bid is not None
                assert price.ask is not None
                assert price.bid <= price.price <= price.ask


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100)), min_size=1, max_size=40))
def test_within_the_time_of_a_restart_no_update_is_ever_older_than_one_before(updates: list[tuple[int, int]]) -> None:
    market, at, newest = Market(), 0, 0
    for sequence, pause in updates:
        at += pause
        market.quote(f"{sequence}.0", f"{sequence}.5", sequence, at)
        for price in market.ticks.drain().prices:
            assert price.bid is not None
            assert int(price.bid) > newest
            newest = int(price.bid)
