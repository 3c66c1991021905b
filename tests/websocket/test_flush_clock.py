"""When a flush was sent, by the clock of who reads it."""

import pytest

from app.websocket.flush_clock import FlushClock

HOUR_MS = 3_600_000


def test_what_took_the_shortest_way_was_sent_just_now() -> None:
    clock = FlushClock()

    assert clock.sent_at(1, HOUR_MS, 7.0) == 7.0
    assert clock.sent_at(1, HOUR_MS + 100, 7.05) == 7.05


def test_what_took_longer_was_sent_that_much_earlier() -> None:
    clock = FlushClock()
    clock.sent_at(1, HOUR_MS, 7.0)

    assert clock.sent_at(1, HOUR_MS + 1000, 12.0) == pytest.approx(8.0, abs=0.001)


def test_two_clocks_may_drift_apart_for_ever() -> None:
    clock = FlushClock()
    now = 0.0
    for flush in range(100_000):
        now = flush * 0.1 * 1.00005
        assert now - clock.sent_at(1, flush * 100, now) < 0.01


def test_another_price_worker_has_another_clock() -> None:
    clock = FlushClock()
    clock.sent_at(1, HOUR_MS, 7.0)

    assert clock.sent_at(2, 0, 7.1) == 7.1
