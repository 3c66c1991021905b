"""The spot market against the local exchange, which keeps Binance's rules and breaks on demand.

After each fault the same holds: the price here is the price there again.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.domain.conflation import Conflator
from app.domain.instruments import Instrument
from app.domain.prices import Price
from app.exchanges.binance.spot import BinanceSpot
from app.exchanges.binance.timing import Timing
from app.simulator.limits import Rules
from app.simulator.server import SimulatorHandle, serve_simulator
from tests.exchanges.waiting import eventually, running

QUICK = Timing(
    open_s=2,
    ack_s=2,
    first_data_s=0.8,
    stale_s=0.4,
    data_age_s=0.8,
    silence_s=30,
    close_s=0.2,
    backoff_base_s=0.05,
    backoff_cap_s=0.2,
    listing_gap_s=0.1,
    snapshot_gap_s=0.1,
    ask_every_s=0.1,
    clock_every_s=0.5,
    linger_s=0.0,
)
# For tests that say a connection was kept: a busy machine must not make it look silent.
PATIENT = msgspec.structs.replace(QUICK, first_data_s=60.0, data_age_s=60.0)
WATCHED = frozenset({"BTCUSDT", "ETHUSDT", "SOLUSDT"})
STALE_MS = 400


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Followed:
    """A spot market that follows a simulator, and the prices that come out."""

    def __init__(self, simulator: SimulatorHandle, timing: Timing) -> None:
        self.simulator = simulator
        self.ticks = Conflator(stale_after_ms=STALE_MS)
        self.prices: dict[str, Price] = {}
        self.statuses: dict[str, str] = {}
        self.went_back: list[Price] = []
        self.spot = BinanceSpot(rest_url=simulator.rest_url, stream_url=simulator.ws_url, now_ms=now_ms, timing=timing)

    def take_listing(self, instruments: list[Instrument]) -> None:
        self.statuses = {each.symbol: each.status for each in instruments}

    def drain(self) -> None:
        for price in self.ticks.drain().prices:
            assert price.price.is_finite()
            assert price.price > 0
            self.prices[price.symbol] = price

    def control(self, action: str, **detail: Any) -> dict[str, Any]:
        return self.simulator.control.perform(action, **detail)

    async def agrees(self, symbol: str = "BTCUSDT") -> None:
        """Put a price in place over there, and wait for it here."""
        market = self.simulator.exchange.market(symbol)
        tick = Decimal(market.listing.tick) / 10**8
        bid = Decimal(market.bid) / 10**8 + 7 * tick
        ask = bid + 2 * tick
        self.freeze(symbol, bid, ask)

        def is_here() -> bool:
            self.drain()
            price = self.prices.get(symbol)
            return price is not None and price.price == bid + tick and not price.is_stale(now_ms(), STALE_MS)

        await eventually(is_here, 10.0)
        self.simulator.exchange.market(symbol).frozen = False

    def freeze(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Put a book in place over there, and keep it there."""
        self.control("price", symbol=symbol, bid=f"{bid:.8f}", ask=f"{ask:.8f}", frozen=True)

    def answer_no_questions(self) -> None:
        self.control("rest", status=503)

    async def is_confirmed_at(self, moment_ms: int, symbol: str = "BTCUSDT") -> None:
        """Wait until a symbol is known to have been right at a moment or later."""

        def is_confirmed() -> bool:
            self.drain()
            return self.prices[symbol].fresh_ms >= moment_ms

        await eventually(is_confirmed, 10.0)

    async def is_stale(self, symbol: str = "BTCUSDT") -> None:
        def looks_old() -> bool:
            self.drain()
            return self.prices[symbol].is_stale(now_ms(), STALE_MS)

        await eventually(looks_old, 10.0)

    @property
    def state(self) -> dict[str, Any]:
        return self.simulator.control.state()


@asynccontextmanager
async def following(timing: Timing = QUICK, rules: Rules | None = None) -> AsyncIterator[Followed]:
    async with serve_simulator(ticks_per_s=2_000, rules=rules) as simulator:
        followed = Followed(simulator, timing)
        followed.spot.watch(WATCHED)
        async with running(followed.spot.run(followed.ticks, followed.take_listing)):
            await followed.agrees()
            yield followed
        assert followed.state["closed_for_limits"] == 0
        assert followed.state["busiest_second"] <= 5


async def test_every_listed_symbol_gets_a_price() -> None:
    async with following() as followed:

        def all_priced() -> bool:
            followed.drain()
            return len(followed.statuses) >= 400 and followed.prices.keys() >= followed.statuses.keys()

        await eventually(all_priced, 10.0)
        assert not followed.ticks.rejected["malformed"]


@pytest.mark.parametrize(
    ("action", "detail"),
    [
        ("close", {"code": 1001}),
        ("close", {"code": 1008, "reason": "Too many requests"}),
        ("abort", {}),
        ("stall", {}),
        ("blackhole", {}),
        ("shutdown", {}),
    ],
)
async def test_a_connection_that_fails_is_replaced(action: str, detail: dict[str, Any]) -> None:
    async with following() as followed:
        followed.control(action, **detail)
        await eventually(lambda: followed.state["opened"] >= 2, 10.0)

        await followed.agrees()


async def test_silence_of_streams_and_rest_makes_prices_stale_before_the_connection_is_replaced() -> None:
    async with following() as followed:
        followed.control("stall", new=True)
        followed.answer_no_questions()
        await followed.is_stale()
        followed.control("resume")

        await followed.agrees()


async def test_a_stall_that_ends_in_a_burst_ends_in_the_right_price() -> None:
    async with following(PATIENT) as followed:
        followed.control("blackhole")
        followed.answer_no_questions()
        await followed.is_stale()
        followed.control("resume")

        await followed.agrees()
        assert followed.state["opened"] == 1


@pytest.mark.parametrize("action", ["duplicate", "reorder", "drop"])
async def test_messages_twice_out_of_order_or_missing_end_in_the_right_price(action: str) -> None:
    async with following(PATIENT) as followed:
        followed.control(action, count=100)
        await asyncio.sleep(0.2)

        await followed.agrees()
        assert followed.state["opened"] == 1


@pytest.mark.parametrize("kind", ["truncated", "binary"])
async def test_malformed_messages_are_counted_and_cost_nothing_else(kind: str) -> None:
    async with following(PATIENT) as followed:
        followed.control("malformed", kind=kind, count=20)
        await eventually(lambda: followed.ticks.rejected["malformed"] == 20, 10.0)

        await followed.agrees()
        assert followed.state["opened"] == 1


async def test_impossible_ticks_are_counted_and_cost_nothing_else() -> None:
    async with following() as followed:
        await followed.agrees("ETHUSDT")
        before = followed.prices["ETHUSDT"].price
        followed.control("impossible", symbol="ETHUSDT")
        await eventually(lambda: followed.ticks.rejected.total() >= 8, 10.0)

        followed.drain()
        assert before * Decimal("0.9") < followed.prices["ETHUSDT"].price < before * Decimal("1.1")
        await followed.agrees("ETHUSDT")


async def test_a_burst_is_conflated() -> None:
    async with following() as followed:
        followed.ticks.drain()
        followed.control("burst", stream="btcusdt@bookTicker", count=20_000)
        drained = 0

        def is_through() -> bool:
            nonlocal drained
            drained += followed.ticks.drain().ticks
            return drained >= 20_000

        await eventually(is_through, 10.0)
        await followed.agrees()


@pytest.mark.parametrize("shift_ms", [-30_000, 30_000])
async def test_a_clock_that_jumps_over_there_makes_no_price_stale_for_long(shift_ms: int) -> None:
    async with following() as followed:
        followed.control("clock", shift_ms=shift_ms)
        await asyncio.sleep(0.2)

        await followed.agrees()


async def test_refused_upgrades_are_tried_again_until_they_are_not() -> None:
    async with following() as followed:
        followed.control("refuse", status=503, count=3)
        followed.control("abort")
        await eventually(lambda: followed.state["refused"] == 3, 10.0)

        await followed.agrees()


async def test_a_halted_symbol_is_listed_as_halted_after_the_next_reconnect() -> None:
    async with following() as followed:
        followed.control("halt", symbol="SOLUSDT")
        followed.control("abort")

        await eventually(lambda: followed.statuses.get("SOLUSDT") == "halted", 10.0)


async def test_a_held_symbol_that_stands_still_stays_fresh_over_rest_and_is_stale_without() -> None:
    async with following() as followed:
        followed.freeze("BTCUSDT", Decimal(60_000), Decimal(60_001))
        followed.control("rate", ticks_per_s=0)
        await followed.is_confirmed_at(now_ms() + 3 * STALE_MS)
        assert followed.prices["BTCUSDT"].price == Decimal("60000.5")

        followed.answer_no_questions()
        await followed.is_stale()
        assert followed.prices["BTCUSDT"].price == Decimal("60000.5")


async def test_prices_go_on_over_rest_while_streams_are_refused() -> None:
    async with following() as followed:
        followed.control("refuse", status=503)
        followed.control("abort")
        await eventually(lambda: not followed.spot.is_connected, 10.0)

        await followed.agrees()
        assert not followed.spot.is_connected


async def test_a_halted_symbol_turns_stale_though_its_book_can_be_asked_for() -> None:
    async with following(msgspec.structs.replace(QUICK, doubt_after_s=0.3, doubt_every_s=0.3)) as followed:
        followed.control("halt", symbol="SOLUSDT")
        await eventually(lambda: followed.statuses.get("SOLUSDT") == "halted", 10.0)
        await followed.is_stale("SOLUSDT")
        followed.control("halt", symbol="SOLUSDT", halted=False)

        await followed.agrees("SOLUSDT")
        assert followed.statuses["SOLUSDT"] == "trading"


async def test_failing_rest_calls_do_not_stop_the_ticks() -> None:
    async with following() as followed:
        followed.control("rest", status=503)
        followed.control("abort")

        await followed.agrees()


async def test_a_day_passes_without_a_gap() -> None:
    """The exchange cuts every connection at the end of its life; ours is replaced before."""
    timing = msgspec.structs.replace(QUICK, rotate_after_s=0.5)
    async with following(timing, Rules(life_s=1.5, shutdown_notice_s=0.25)) as followed:
        await eventually(lambda: followed.state["opened"] >= 4, 15.0)

        await followed.agrees()


async def test_symbols_spread_over_connections_all_tick() -> None:
    async with serve_simulator(ticks_per_s=2_000) as simulator:
        followed = Followed(simulator, PATIENT)
        followed.spot = BinanceSpot(
            rest_url=simulator.rest_url,
            stream_url=simulator.ws_url,
            now_ms=now_ms,
            timing=PATIENT,
            max_streams_per_connection=4,
        )
        followed.spot.watch(WATCHED)
        async with running(followed.spot.run(followed.ticks, followed.take_listing)):
            for symbol in sorted(WATCHED):
                await followed.agrees(symbol)
            assert followed.state["opened"] == 3
