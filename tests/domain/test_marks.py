"""A contract is worth its mark: whatever its book does, and however late either is."""

from decimal import Decimal

from app.domain.conflation import Quote, SnapshotQuote, Trade
from app.domain.lateness import Lane
from app.domain.marks import Mark, MarkConflator
from app.domain.prices import Price

STALE_MS = 5_000
NOW = 1_790_000_000_000
SYMBOL = "BTCUSDT_PERP"


class Market:
    """A market of contracts whose clock and the exchange's agree."""

    def __init__(self) -> None:
        self.ticks = MarkConflator(stale_after_ms=STALE_MS)
        self.lane = Lane()
        self.sequence = 0

    def mark(self, price: str, at_ms: int = NOW, *, late_ms: int = 0, rate: str = "0.0001", next_ms: int = 7) -> None:
        self.ticks.marks([Mark(SYMBOL, price, at_ms, rate, next_ms)], at_ms + late_ms)

    def book(self, bid: str, ask: str, at_ms: int = NOW) -> None:
        self.sequence += 1
        self.ticks.quote(Quote(SYMBOL, bid, ask, self.sequence), at_ms, self.lane)

    def price(self) -> Price:
        [price] = self.ticks.drain().prices
        return price


def test_a_contract_is_valued_at_its_mark_with_book_trade_and_funding_beside_it() -> None:
    market = Market()
    market.book("99.5", "100.5")
    market.ticks.trade(Trade(SYMBOL, "99.9", NOW, 1), NOW, market.lane)
    market.mark("101.25", rate="-0.00025", next_ms=NOW + 9)

    assert market.price() == Price(
        SYMBOL,
        Decimal("101.25"),
        "mark",
        Decimal("99.5"),
        Decimal("100.5"),
        Decimal("99.9"),
        Decimal("101.25"),
        NOW,
        NOW,
        NOW,
        Decimal("-0.00025"),
        NOW + 9,
    )


def test_without_a_mark_there_is_no_price() -> None:
    market = Market()
    market.book("99.5", "100.5")

    drained = market.ticks.drain()
    assert (drained.prices, drained.ticks) == ([], 1)
    assert market.ticks.newest_ms is None


def test_a_contract_with_delivery_has_no_funding() -> None:
    market = Market()
    market.mark("101", rate="", next_ms=0)

    price = market.price()
    assert (price.funding_rate, price.next_funding_ms) == (None, None)


def test_a_mark_that_stops_grows_stale_though_the_book_goes_on() -> None:
    market = Market()
    market.mark("101")
    market.price()
    later = NOW + STALE_MS + 1
    market.book("99.5", "100.5", later)

    price = market.price()
    assert (price.price, price.fresh_ms) == (Decimal(101), NOW)
    assert price.is_stale(later, STALE_MS)
    assert market.ticks.newest_ms == NOW


def test_a_book_much_older_than_the_mark_is_not_shown() -> None:
    market = Market()
    market.book("99.5", "100.5")
    market.mark("101", NOW + STALE_MS)
    assert market.price().bid == Decimal("99.5")
    market.mark("102", NOW + STALE_MS + 1)

    price = market.price()
    assert (price.price, price.bid, price.ask) == (Decimal(102), None, None)
    assert price.on_basis("exit", is_long=True) is None


def test_of_two_connections_the_newer_mark_stays() -> None:
    market = Market()
    market.mark("101", NOW)
    market.mark("100", NOW - 1000, late_ms=1000)

    assert market.price().price == Decimal(101)


def test_a_clock_set_back_over_there_is_believed_after_a_while() -> None:
    market = Market()
    market.mark("101", NOW)
    market.ticks.marks([Mark(SYMBOL, "100", NOW - 60_000, "", 0)], NOW + 4_001)

    assert market.price().price == Decimal(100)


def test_a_late_mark_is_as_old_as_it_is_late() -> None:
    market = Market()
    market.mark("101")
    market.mark("102", NOW + 1000, late_ms=700)

    assert market.price().fresh_ms == NOW + 1000


def test_impossible_marks_are_counted_and_change_nothing() -> None:
    market = Market()
    market.mark("101")
    for n, text in enumerate(("0", "0.00000000", "-1", "NaN", "1e3", ""), start=1):
        market.mark(text, NOW + n)
    market.mark("102", NOW + 10, rate="NaN")
    market.ticks.marks([Mark(SYMBOL, "103", 5, "", 0)], NOW + 11)

    price = market.price()
    assert (price.price, price.funding_rate, price.fresh_ms) == (Decimal(101), Decimal("0.0001"), NOW)
    assert dict(market.ticks.rejected) == {"not_plain": 7, "bad_time": 1}


def test_a_mark_that_was_asked_for_is_as_old_as_the_question_and_does_not_make_the_market_live() -> None:
    market = Market()
    market.ticks.snapshot_marks([Mark(SYMBOL, "101", NOW - 50, "0.0001", 7)], NOW - 40, NOW)

    assert market.price().fresh_ms == NOW - 40
    assert (market.ticks.newest_ms, market.ticks.newest_asked_ms) == (None, NOW - 40)
    market.mark("102", NOW + 5)
    market.ticks.snapshot_marks([Mark(SYMBOL, "100", NOW, "", 0)], NOW, NOW + 6)
    assert market.price().price == Decimal(102)


def test_which_marks_and_which_books_must_be_asked_for() -> None:
    market = Market()
    market.mark("101")
    market.ticks.snapshot([SnapshotQuote("ETHUSDT_PERP", "9", "10")], (), NOW, NOW)

    both = {SYMBOL, "ETHUSDT_PERP"}
    assert market.ticks.unmarked(both, NOW) == ["ETHUSDT_PERP"]
    assert market.ticks.unconfirmed(both, NOW) == [SYMBOL]


def test_a_contract_that_does_not_trade_is_drained_again_and_stale() -> None:
    market = Market()
    market.mark("101")
    assert not market.price().is_stale(NOW, STALE_MS)
    market.ticks.set_halted({SYMBOL})
    assert market.price().is_stale(NOW, STALE_MS)
    market.ticks.set_halted(set())
    assert not market.price().is_stale(NOW, STALE_MS)


def test_the_number_of_contracts_is_bounded() -> None:
    ticks = MarkConflator(stale_after_ms=STALE_MS, max_symbols=1)
    ticks.marks([Mark(symbol, "1", NOW, "", 0) for symbol in ("A_PERP", "B_PERP")], NOW)

    assert [price.symbol for price in ticks.drain().prices] == ["A_PERP"]
    assert ticks.rejected["too_many_symbols"] == 1
