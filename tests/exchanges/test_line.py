"""A line outlives its connections, and only data makes it bold again."""

import msgspec

from app.exchanges.binance.backoff import Backoff
from app.exchanges.binance.line import Line
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.timing import Timing
from tests.exchanges.fake_exchange import FakeExchange
from tests.exchanges.waiting import eventually, running

TIMING = Timing(first_data_s=0.1, data_age_s=60, close_s=0.2)


class Deaf:
    """Takes everything and does nothing with it."""

    def receive(self, stream: str, data: msgspec.Raw) -> None: ...
    def malformed(self) -> None: ...


class WatchedBackoff(Backoff):
    """Never waits, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(1.0, 30.0, lambda _low, _high: 0.0)
        self.failures = 0
        self.resets = 0

    def next_delay_s(self, at_least_s: float = 0.0) -> float:
        self.failures += 1
        return super().next_delay_s(at_least_s)

    def reset(self) -> None:
        self.resets += 1
        super().reset()


def line_to(exchange: FakeExchange, backoff: Backoff) -> Line:
    line = Line(exchange.stream_url, TIMING, RollingLimit(1000, 1.0), backoff, Deaf, lambda: None)
    line.follow(frozenset({"!miniTicker@arr"}))
    return line


async def test_a_connection_that_is_acknowledged_but_silent_does_not_reset_the_backoff(
    exchange: FakeExchange,
) -> None:
    exchange.ticks_at_once = False
    backoff = WatchedBackoff()
    async with running(line_to(exchange, backoff).run()):
        await eventually(lambda: backoff.failures >= 3)

    assert backoff.resets == 0


async def test_data_resets_the_backoff(exchange: FakeExchange) -> None:
    backoff = WatchedBackoff()
    async with running(line_to(exchange, backoff).run()):
        await eventually(lambda: exchange.sessions and exchange.latest.streams)
        await exchange.latest.socket.close(1001)
        await eventually(lambda: backoff.failures == 1)

    assert backoff.resets == 1
