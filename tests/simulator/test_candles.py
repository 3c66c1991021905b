"""Trades summed over time."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.simulator.candles import (
    DAY_MS,
    INTERVALS,
    MINUTE_MS,
    QUARTER_MS,
    Candle,
    CandleTape,
    interval_closes,
    interval_opens,
)
from app.simulator.exchange import Exchange

_OPENED_MS = 1_790_000_000_000 // QUARTER_MS * QUARTER_MS


class NothingBefore:
    """An exchange without a past."""

    def minutes(self) -> list[Candle]:
        return []

    def quarters(self) -> list[Candle]:
        return []


def new_tape() -> CandleTape:
    return CandleTape(_OPENED_MS, 1000, 1, NothingBefore())


trades = st.lists(
    st.tuples(st.integers(0, 400_000), st.integers(1, 10_000), st.integers(1, 500), st.integers(1, 4), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(trades, st.sampled_from(sorted(INTERVALS)))
def test_klines_of_any_interval_hold_every_trade_once_and_have_no_holes(
    orders: list[tuple[int, int, int, int, bool]], interval: str
) -> None:
    tape, now_ms = new_tape(), _OPENED_MS
    for gap_ms, price, quantity, fills, buys in orders:
        now_ms += gap_ms
        tape.add(now_ms, price, quantity, fills, taker_buys=buys)
    klines = tape.klines(interval, now_ms)
    assert sum(kline.volume for kline in klines) == sum(order[2] for order in orders)
    assert sum(kline.count for kline in klines) == sum(order[3] for order in orders)
    assert sum(kline.quote_volume for kline in klines) == sum(order[1] * order[2] for order in orders)
    assert max(kline.high for kline in klines if kline.count) == max(order[1] for order in orders)
    assert klines[-1].close == orders[-1][1]
    assert klines[-1].opens_ms == interval_opens(interval, now_ms)
    for before, after in pairwise(klines):
        assert after.opens_ms == interval_closes(interval, before.opens_ms) + 1
        assert after.first_id == before.last_id + 1


@given(trades)
def test_the_open_kline_is_the_last_of_all_klines(orders: list[tuple[int, int, int, int, bool]]) -> None:
    tape, now_ms = new_tape(), _OPENED_MS
    for gap_ms, price, quantity, fills, buys in orders:
        now_ms += gap_ms
        tape.add(now_ms, price, quantity, fills, taker_buys=buys)
    for interval in ("1m", "15m", "1h"):
        last, current = tape.klines(interval, now_ms)[-1], tape.kline_at(interval, now_ms)
        for field in ("opens_ms", "open", "high", "low", "close", "volume", "count", "first_id", "last_id"):
            assert getattr(last, field) == getattr(current, field), (interval, field)


def test_a_trade_older_than_a_day_leaves_the_daily_figures() -> None:
    tape = new_tape()
    tape.add(_OPENED_MS, 9999, 5, 1, taker_buys=True)
    tape.add(_OPENED_MS + 2 * QUARTER_MS, 1000, 7, 1, taker_buys=True)
    tape.add(_OPENED_MS + 3 * QUARTER_MS, 1100, 7, 1, taker_buys=True)
    before = tape.day(_OPENED_MS + DAY_MS - QUARTER_MS - 1)
    assert (before.high, before.volume) == (9999, 19)
    after = tape.day(_OPENED_MS + DAY_MS + 1)
    assert (after.open, after.high, after.low, after.close, after.volume) == (1000, 1100, 1000, 1100, 14)


def test_a_seeded_day_lies_before_the_opening_and_ends_at_the_opening_price() -> None:
    opened_us = 1_790_000_000_000_000
    exchange = Exchange(seed=1, clock=lambda: opened_us, ticks_per_s=0)
    now_ms = opened_us // 1000
    for symbol in ("BTCUSDT", "ETHBTC", "PEPEUSDT"):
        market = exchange.markets[symbol]
        day, klines = market.tape.day(now_ms), market.tape.klines("1m", now_ms)
        assert day.low <= market.last <= day.high
        assert day.volume > 0
        assert day.last_id == market.next_id - 1
        assert len(klines) == 1441
        assert klines[-2].close == market.last
        assert all(kline.low <= min(kline.open, kline.close) for kline in klines)
        assert all(kline.high >= max(kline.open, kline.close) for kline in klines)
        coarse = market.tape.klines("15m", now_ms)
        assert sum(kline.volume for kline in coarse) == sum(kline.volume for kline in klines)


@pytest.mark.parametrize(
    ("interval", "opens", "closes"),
    [
        ("1m", 1_790_000_040_000, 1_790_000_099_999),
        ("1h", 1_789_999_200_000, 1_790_002_799_999),
        ("1d", 1_789_948_800_000, 1_790_035_199_999),
        ("1w", 1_789_948_800_000, 1_790_553_599_999),  # Monday, 2026-09-21
        ("1M", 1_788_220_800_000, 1_790_812_799_999),  # September 2026
    ],
)
def test_klines_open_and_close_where_the_exchange_lets_them(interval: str, opens: int, closes: int) -> None:
    assert interval_opens(interval, 1_790_000_040_000 + MINUTE_MS // 2) == opens
    assert interval_closes(interval, opens) == closes
