"""The market itself: seeded, driven by its clock, without any I/O."""

import math
import statistics
from itertools import pairwise

import pytest

from app.simulator.exchange import Exchange, UnknownSymbol
from app.simulator.market import Market, TakerOrder
from app.simulator.wire import ONE

_OPENING_US = 1_790_000_000_000_000


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_us = _OPENING_US

    def __call__(self) -> int:
        return self.now_us

    def pass_s(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)


class Recorder:
    """Writes down all it hears."""

    def __init__(self) -> None:
        self.quotes: list[tuple[str, int, int, int]] = []
        self.orders: list[tuple[str, TakerOrder]] = []

    def quoted(self, market: Market) -> None:
        self.quotes.append((market.listing.symbol, market.update_id, market.bid, market.ask))

    def traded(self, market: Market, order: TakerOrder) -> None:
        self.orders.append((market.listing.symbol, order))

    def quotes_of(self, symbol: str) -> list[tuple[int, int, int]]:
        return [(update_id, bid, ask) for name, update_id, bid, ask in self.quotes if name == symbol]

    def orders_of(self, symbol: str) -> list[TakerOrder]:
        return [order for name, order in self.orders if name == symbol]


def opened(*, seed: int = 1, ticks_per_s: int = 2000) -> tuple[Exchange, HandClock, Recorder]:
    clock, recorder = HandClock(), Recorder()
    exchange = Exchange(seed=seed, clock=clock, ticks_per_s=ticks_per_s)
    exchange.listen(recorder)
    return exchange, clock, recorder


def run(exchange: Exchange, clock: HandClock, seconds: float, *, turn_s: float = 0.1) -> None:
    for _ in range(round(seconds / turn_s)):
        clock.pass_s(turn_s)
        exchange.advance()


def test_the_same_seed_clock_and_rate_give_the_same_ticks() -> None:
    first, second = opened(seed=5), opened(seed=5)
    for exchange, clock, _ in (first, second):
        run(exchange, clock, 2)
    assert first[2].quotes == second[2].quotes
    assert first[2].orders == second[2].orders
    assert len(first[2].quotes) > 2000


def test_another_seed_gives_other_ticks() -> None:
    first, second = opened(seed=5), opened(seed=6)
    for exchange, clock, _ in (first, second):
        run(exchange, clock, 1)
    assert first[2].quotes != second[2].quotes


def test_ticks_do_not_depend_on_how_often_the_exchange_is_advanced() -> None:
    often, rarely = opened(), opened()
    run(often[0], often[1], 2, turn_s=0.005)
    run(rarely[0], rarely[1], 2, turn_s=0.25)
    assert often[2].quotes == rarely[2].quotes
    assert often[2].orders == rarely[2].orders


def test_the_number_of_ticks_follows_the_clock_and_the_rate() -> None:
    exchange, clock, _ = opened(ticks_per_s=1000)
    run(exchange, clock, 3)
    assert exchange.ticks == 3000
    exchange.ticks_per_s = 0
    run(exchange, clock, 3)
    assert exchange.ticks == 3000
    exchange.ticks_per_s = 20_000
    run(exchange, clock, 0.5)
    assert exchange.ticks == 13_000


def test_after_a_long_pause_ticks_are_skipped_instead_of_made_up_for() -> None:
    exchange, clock, _ = opened(ticks_per_s=1000)
    clock.pass_s(3600)
    assert exchange.advance() == 500
    assert exchange.skipped_ticks == 3600 * 1000 - 500


@pytest.mark.parametrize("rate", [-1, 20_001])
def test_a_rate_out_of_bounds_is_refused(rate: int) -> None:
    exchange, _, _ = opened()
    with pytest.raises(ValueError, match="between 0 and 20000"):
        exchange.ticks_per_s = rate


def test_quotes_lie_on_ticks_with_a_spread_of_one_to_a_few() -> None:
    exchange, clock, recorder = opened()
    run(exchange, clock, 3)
    for symbol, _, bid, ask in recorder.quotes:
        tick = exchange.markets[symbol].listing.tick
        assert bid > 0
        assert bid % tick == ask % tick == 0
        assert 1 <= (ask - bid) // tick <= 6


def test_update_ids_rise_and_trade_ids_have_no_holes() -> None:
    exchange, clock, recorder = opened()
    run(exchange, clock, 3)
    updates = [update_id for update_id, _, _ in recorder.quotes_of("BTCUSDT")]
    assert len(updates) > 100
    assert updates == sorted(set(updates))
    orders = recorder.orders_of("BTCUSDT")
    for before, after in pairwise(orders):
        assert after.first_id == before.last_id + 1
        assert after.aggregate_id == before.aggregate_id + 1
        assert after.time_us >= before.time_us


def test_an_order_trades_at_the_side_of_the_book_it_hits() -> None:
    exchange, _, recorder = opened(ticks_per_s=0)
    market = exchange.markets["BTCUSDT"]
    bid, ask = market.bid, market.ask
    exchange.burst("BTCUSDT", 50, trades=True)
    for order in recorder.orders_of("BTCUSDT"):
        assert order.price == (bid if order.buyer_is_maker else ask)
        assert order.quantity % market.listing.step == 0


def test_some_symbols_tick_often_and_most_tick_rarely() -> None:
    exchange, clock, recorder = opened(ticks_per_s=10_000)
    run(exchange, clock, 2)
    counts = {symbol: len(recorder.quotes_of(symbol)) for symbol in ("BTCUSDT", "LINKUSDT", "POWRUSDT")}
    assert counts["BTCUSDT"] > 5 * counts["LINKUSDT"] > 5 * counts["POWRUSDT"]


def test_cross_rates_agree_with_the_prices_they_are_made_of() -> None:
    exchange, clock, _ = opened(ticks_per_s=20_000)
    run(exchange, clock, 10)
    markets = exchange.markets

    def middle(symbol: str) -> float:
        return (markets[symbol].bid + markets[symbol].ask) / 2 / ONE

    for cross, base, quote in (("ETHBTC", "ETHUSDT", "BTCUSDT"), ("BNBETH", "BNBUSDT", "ETHUSDT")):
        if cross in markets:
            tick = markets[cross].listing.tick / ONE
            assert abs(middle(cross) - middle(base) / middle(quote)) < 4 * tick
    assert middle("BTCTRY") == pytest.approx(middle("BTCUSDT") * middle("USDTTRY"), rel=2e-3)


def test_volatility_is_believable_and_coins_move_together() -> None:
    exchange, clock, _ = opened(ticks_per_s=1000)
    prices: dict[str, list[float]] = {"BTCUSDT": [], "ETHUSDT": [], "USDCUSDT": []}
    for _ in range(300):
        run(exchange, clock, 0.5, turn_s=0.5)
        clock.pass_s(0)
        for symbol, series in prices.items():
            series.append(math.log(exchange.markets[symbol].bid))
    moves = {symbol: [after - before for before, after in pairwise(series)] for symbol, series in prices.items()}
    a_year = math.sqrt(365.25 * 86_400 / 0.5)
    assert 0.2 < statistics.stdev(moves["BTCUSDT"]) * a_year < 0.9
    assert statistics.stdev(moves["USDCUSDT"]) * a_year < 0.05
    assert statistics.correlation(moves["BTCUSDT"], moves["ETHUSDT"]) > 0.3


def test_a_halted_symbol_falls_silent_until_it_trades_again() -> None:
    exchange, clock, recorder = opened()
    exchange.set_status("BTCUSDT", "HALT")
    run(exchange, clock, 1)
    assert not recorder.quotes_of("BTCUSDT")
    exchange.set_status("BTCUSDT", "TRADING")
    run(exchange, clock, 1)
    assert recorder.quotes_of("BTCUSDT")


def test_a_frozen_symbol_keeps_the_exact_prices_it_was_given_and_goes_on_ticking() -> None:
    exchange, clock, recorder = opened()
    exchange.set_price("BTCUSDT", bid=100 * ONE, ask=101 * ONE, last=100 * ONE + 5)
    run(exchange, clock, 2)
    quotes, orders = recorder.quotes_of("BTCUSDT"), recorder.orders_of("BTCUSDT")
    assert len(quotes) > 50
    assert {(bid, ask) for _, bid, ask in quotes} == {(100 * ONE, 101 * ONE)}
    assert len(orders) > 20
    assert {order.price for order in orders} == {100 * ONE + 5}


def test_a_price_set_without_freezing_walks_on_from_there() -> None:
    exchange, clock, recorder = opened()
    exchange.set_price("BTCUSDT", bid=50_000 * ONE, ask=50_001 * ONE, frozen=False)
    run(exchange, clock, 2)
    bids = [bid for _, bid, _ in recorder.quotes_of("BTCUSDT")]
    assert len(set(bids)) > 10
    assert all(49_900 * ONE < bid < 50_100 * ONE for bid in bids)


def test_a_book_that_would_be_crossed_cannot_be_set() -> None:
    exchange, _, _ = opened()
    with pytest.raises(ValueError, match="bid < ask"):
        exchange.set_price("BTCUSDT", bid=101 * ONE, ask=100 * ONE)


def test_a_symbol_that_is_not_listed_is_named_in_the_error() -> None:
    exchange, _, _ = opened()
    with pytest.raises(UnknownSymbol, match="NOPE"):
        exchange.set_price("NOPE", bid=1)


def test_a_shifted_clock_shows_in_the_times_but_does_not_stop_the_ticks() -> None:
    exchange, clock, recorder = opened()
    exchange.shift_us = -3_600_000_000
    run(exchange, clock, 1)
    assert exchange.ticks == 2000
    assert all(order.time_us < _OPENING_US - 3_598_000_000 for _, order in recorder.orders)


def test_the_deeper_book_continues_the_top_away_from_the_middle() -> None:
    exchange, clock, _ = opened()
    run(exchange, clock, 1)
    market = exchange.markets["ETHUSDT"]
    bids, asks = market.depth(20)
    assert bids[0] == (market.bid, market.bid_quantity)
    assert asks[0] == (market.ask, market.ask_quantity)
    assert [price for price, _ in bids] == sorted({price for price, _ in bids}, reverse=True)
    assert [price for price, _ in asks] == sorted({price for price, _ in asks})
    assert len(bids) == len(asks) == 20
    assert market.depth(20) == (bids, asks)
