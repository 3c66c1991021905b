"""Recorded ticks instead of chance."""

from decimal import Decimal
from pathlib import Path

import pytest

from app.simulator.exchange import Exchange
from app.simulator.market import Market, TakerOrder
from app.simulator.replay import load_recording
from app.simulator.wire import fixed

_SHARED = Path(__file__).parents[3] / "shared" / "data"
_OPENING_US = 1_790_000_000_000_000

_TRADES = """time_ms,trade_id,price,quantity,buyer_is_maker
1000,7,100.50,0.5,true
1500,8,101.00,0.25,false
3000,9,99.75,1,true
"""
_QUOTES = """time_ms,bid,bid_quantity,ask,ask_quantity
1000,100.40,1,100.60,2
2000,100.90,3,101.10,4
"""


class Tape:
    """Writes down every tick with the moment it is heard."""

    def __init__(self) -> None:
        self.ticks: list[str] = []
        self.trade_ids: list[int] = []
        self.times_us: list[int] = []

    def quoted(self, market: Market) -> None:
        if market.replayed:
            self.ticks.append(f"quote {fixed(market.bid)} {fixed(market.ask)}")

    def traded(self, market: Market, order: TakerOrder) -> None:
        if market.replayed:
            self.ticks.append(f"trade {fixed(order.price)} {fixed(order.quantity)} {order.buyer_is_maker}")
            self.trade_ids.append(order.first_id)
            self.times_us.append(order.time_us - _OPENING_US)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    trades, quotes = tmp_path / "trades.csv", tmp_path / "quotes.csv"
    trades.write_text(_TRADES)
    quotes.write_text(_QUOTES)
    return trades, quotes


def play(files: tuple[Path, Path], seconds: float, **options: float | bool) -> tuple[Exchange, Tape]:
    now_us = [_OPENING_US]
    recording = load_recording("BTCUSDT", trades=files[0], quotes=files[1], **options)
    exchange = Exchange(seed=1, clock=lambda: now_us[0], ticks_per_s=0, recordings=[recording])
    tape = Tape()
    exchange.listen(tape)
    while now_us[0] < _OPENING_US + seconds * 1e6:
        now_us[0] += 100_000
        exchange.advance()
    return exchange, tape


def test_recorded_ticks_play_in_the_order_of_their_time(files: tuple[Path, Path]) -> None:
    _, tape = play(files, 5, loop=False)
    assert tape.ticks == [
        "trade 100.50000000 0.50000000 True",
        "quote 100.40000000 100.60000000",
        "trade 101.00000000 0.25000000 False",
        "quote 100.90000000 101.10000000",
        "trade 99.75000000 1.00000000 True",
    ]
    assert tape.times_us == [0, 500_000, 2_000_000]


def test_a_replay_twice_as_fast_takes_half_the_time(files: tuple[Path, Path]) -> None:
    _, tape = play(files, 1, loop=False, speed=2)
    assert tape.times_us == [0, 250_000, 1_000_000]


def test_a_loop_starts_again_with_trade_ids_that_go_on(files: tuple[Path, Path]) -> None:
    _, tape = play(files, 10, loop=True)
    assert len(tape.ticks) > 10
    assert tape.ticks[5:10] == tape.ticks[:5]
    assert tape.trade_ids == list(range(tape.trade_ids[0], tape.trade_ids[0] + len(tape.trade_ids)))
    assert tape.times_us == sorted(tape.times_us)


def test_a_replay_goes_on_where_it_was_after_the_process_slept(files: tuple[Path, Path]) -> None:
    now_us = [_OPENING_US]
    recording = load_recording("BTCUSDT", trades=files[0], quotes=files[1])
    exchange, tape = Exchange(seed=1, clock=lambda: now_us[0], ticks_per_s=0, recordings=[recording]), Tape()
    exchange.listen(tape)
    exchange.advance()
    assert len(tape.ticks) == 2
    now_us[0] += 3_600_000_000
    exchange.advance()
    assert len(tape.ticks) == 3
    now_us[0] += 500_000
    exchange.advance()
    assert len(tape.ticks) == 4


@pytest.mark.parametrize("speed", [0, -1, 10_001])
def test_a_speed_out_of_bounds_is_refused(files: tuple[Path, Path], speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        load_recording("BTCUSDT", trades=files[0], speed=speed)


def test_cross_rates_follow_the_replayed_symbol(files: tuple[Path, Path]) -> None:
    exchange, _ = play(files, 5, loop=False)
    exchange.burst("ETHBTC", 1, trades=False)
    exchange.burst("ETHUSDT", 1, trades=False)
    markets = exchange.markets
    middle = {symbol: (market.bid + market.ask) / 2 for symbol, market in markets.items()}
    assert middle["ETHBTC"] / 1e8 == pytest.approx(middle["ETHUSDT"] / middle["BTCUSDT"], rel=1e-3)


def test_the_rest_of_the_market_ticks_beside_a_replay_and_chance_does_not_touch_it(files: tuple[Path, Path]) -> None:
    exchange, tape = play(files, 5, loop=False)
    heard = len(tape.ticks)
    exchange.ticks_per_s = 2000
    exchange.advance()
    assert len(tape.ticks) == heard


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("x,1,2,3,true", "line 2"),
        ("1,1,NaN,3,true", "line 2: 'NaN' is not a finite decimal"),
        ("1,1,2,3,maybe", "neither true nor false"),
        ("1,1", "line 2"),
        ("1,1,0,3,true", "above zero"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: str, complaint: str) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("time_ms,trade_id,price,quantity,buyer_is_maker\n" + row + "\n")
    with pytest.raises(ValueError, match=complaint):
        load_recording("BTCUSDT", trades=file)


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("time_ms,trade_id,price,quantity,buyer_is_maker\n")
    with pytest.raises(ValueError, match="no ticks"):
        load_recording("BTCUSDT", trades=file)


@pytest.mark.skipif(not _SHARED.is_dir(), reason="the folder of recorded market data is not beside the checkout")
def test_recorded_binance_ticks_play_to_the_last_digit() -> None:
    trades, quotes = _SHARED / "btcusdt-trades-2021-01-08.csv", _SHARED / "btcusdt-quotes-2021-01-08.csv"
    exchange, tape = play((trades, quotes), 1, speed=100, loop=False)
    rows = [line.split(",") for line in trades.read_text().splitlines()[1:]]
    played = [tick.split()[1:3] for tick in tape.ticks if tick.startswith("trade")]
    assert [[Decimal(price), Decimal(size)] for price, size in played] == [
        [Decimal(row[2]), Decimal(row[3])] for row in rows
    ]
    assert len(tape.ticks) == 2001 + 451
    assert fixed(exchange.markets["BTCUSDT"].last) == fixed(int(Decimal(rows[-1][2]) * 10**8))
