"""The spot market against an exchange that misbehaves on request: ticks keep coming, and only good ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.domain.conflation import Conflator
from app.domain.instruments import Instrument
from app.domain.prices import Price
from app.exchanges.binance.liveness import ConnectionState
from app.exchanges.binance.spot import BinanceSpot
from app.exchanges.binance.timing import Timing
from tests.exchanges.fake_exchange import FakeExchange, Session, listed
from tests.exchanges.waiting import eventually, running

QUICK = Timing(
    open_s=2,
    ack_s=2,
    first_data_s=2,
    stale_s=5,
    data_age_s=60,
    silence_s=60,
    close_s=0.2,
    backoff_base_s=0.02,
    backoff_cap_s=0.1,
    connects=1000,
    control_window_s=0.05,
    listing_gap_s=0.03,
    listing_every_s=60,
    snapshot_gap_s=0.05,
    ask_every_s=0.01,
    clock_every_s=60,
    linger_s=0.0,
)
STALE_MS = 5_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Followed:
    """A spot market, and what comes out of it."""

    def __init__(
        self, exchange: FakeExchange, timing: Timing, max_streams: int, now_ms: Callable[[], int] = now_ms
    ) -> None:
        self.ticks = Conflator(stale_after_ms=STALE_MS)
        self.listed: list[Instrument] = []
        self.prices: dict[str, Price] = {}
        self.spot = BinanceSpot(
            rest_url=exchange.rest_url,
            stream_url=exchange.stream_url,
            now_ms=now_ms,
            timing=timing,
            max_streams_per_connection=max_streams,
        )

    def price(self, symbol: str) -> Decimal | None:
        self.prices |= {price.symbol: price for price in self.ticks.drain().prices}
        return self.prices[symbol].price if symbol in self.prices else None

    def take_listing(self, instruments: list[Instrument]) -> None:
        self.listed = instruments


Follow = Callable[..., Any]


@pytest.fixture
def follow(exchange: FakeExchange) -> Follow:
    @asynccontextmanager
    async def start(
        timing: Timing = QUICK,
        watch: tuple[str, ...] = (),
        max_streams: int = 300,
        now_ms: Callable[[], int] = now_ms,
    ) -> AsyncIterator[Followed]:
        followed = Followed(exchange, timing, max_streams, now_ms)
        followed.spot.watch(set(watch))
        async with running(followed.spot.run(followed.ticks, followed.take_listing)):
            wanted = {"!miniTicker@arr", *(stream for symbol in watch for stream in close_streams(symbol))}
            await eventually(lambda: subscribed(exchange) >= wanted)
            yield followed

    return start


def close_streams(symbol: str) -> set[str]:
    return {f"{symbol.lower()}@bookTicker", f"{symbol.lower()}@aggTrade"}


def subscribed(exchange: FakeExchange) -> set[str]:
    return set().union(*(session.streams for session in exchange.open_sessions))


async def send_quote(session: Session, symbol: str, bid: str, ask: str, sequence: int) -> None:
    stream = f"{symbol.lower()}@bookTicker"
    await session.send(stream, {"u": sequence, "s": symbol, "b": bid, "B": "1", "a": ask, "A": "1"})


async def send_ticker(session: Session, symbol: str, price: str) -> None:
    await session.send("!miniTicker@arr", [{"e": "24hrMiniTicker", "E": now_ms(), "s": symbol, "c": price}])


async def test_the_whole_market_comes_by_ticker_and_watched_symbols_by_book(
    exchange: FakeExchange, follow: Follow
) -> None:
    async with follow(watch=("BTCUSDT",)) as followed:
        await send_ticker(exchange.latest, "ADAUSDT", "0.5")
        await send_quote(exchange.latest, "BTCUSDT", "100.0", "101.0", 1)
        await eventually(lambda: followed.price("BTCUSDT") == Decimal("100.5"))

        assert followed.price("ADAUSDT") == Decimal("0.5")
        assert subscribed(exchange) == {"!miniTicker@arr", *close_streams("BTCUSDT")}
        assert followed.spot.is_connected


async def test_what_is_listed_is_told_and_nothing_else_is_ever_subscribed(
    exchange: FakeExchange, follow: Follow
) -> None:
    exchange.list_symbols(listed("BTCUSDT"), listed("HALTUSDT", "HALT"))
    async with follow(watch=("BTCUSDT",)) as followed:
        followed.spot.watch({"BTCUSDT", "btcusdt", "ВТСUSDT", "bad name", "HALTUSDT"})
        await eventually(lambda: subscribed(exchange) >= close_streams("HALTUSDT"))

        assert subscribed(exchange) == {"!miniTicker@arr", *close_streams("BTCUSDT"), *close_streams("HALTUSDT")}
        assert {each.symbol: each.status for each in followed.listed} == {"BTCUSDT": "trading", "HALTUSDT": "halted"}


async def test_a_symbol_nobody_wants_any_more_is_unsubscribed_and_its_book_forgotten(
    exchange: FakeExchange, follow: Follow
) -> None:
    async with follow(watch=("BTCUSDT",)) as followed:
        await send_quote(exchange.latest, "BTCUSDT", "100.0", "101.0", 1)
        await eventually(lambda: followed.price("BTCUSDT"))
        followed.spot.watch(set())
        await eventually(lambda: subscribed(exchange) == {"!miniTicker@arr"})
        await send_quote(exchange.latest, "BTCUSDT", "200.0", "201.0", 2)
        await send_ticker(exchange.latest, "BTCUSDT", "99.0")

        await eventually(lambda: followed.price("BTCUSDT") == Decimal(99))


async def test_more_symbols_than_one_connection_holds_are_spread_over_more(
    exchange: FakeExchange, follow: Follow
) -> None:
    symbols = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "ADAUSDT", "XRPUSDT")
    async with follow(watch=symbols, max_streams=6) as followed:
        assert all(len(session.streams) <= 6 for session in exchange.open_sessions)
        assert len(exchange.open_sessions) == 3
        # A connection of quiet symbols follows busy ones too: their silence means trouble.
        others = [session.streams for session in exchange.open_sessions if "!miniTicker@arr" not in session.streams]
        assert all({"btcusdt@miniTicker", "ethusdt@miniTicker"} <= streams for streams in others)

        # A symbol stays where it is: this one is on the first connection, which is always there.
        followed.spot.watch({"ADAUSDT"})
        await eventually(lambda: len(exchange.open_sessions) == 1)
        assert subscribed(exchange) >= close_streams("ADAUSDT")


async def test_after_a_cut_it_connects_again_subscribes_again_and_asks_for_all_prices(
    exchange: FakeExchange, follow: Follow
) -> None:
    async with follow(watch=("BTCUSDT",)) as followed:
        await send_quote(exchange.latest, "BTCUSDT", "100.0", "101.0", 7)
        await eventually(lambda: followed.price("BTCUSDT") == Decimal("100.5"))
        await eventually(lambda: "/api/v3/ticker/price" in exchange.rest_calls)
        book = {"symbol": "BTCUSDT", "bidPrice": "110.0", "askPrice": "111.0"}
        exchange.say("/api/v3/ticker/bookTicker", [book])

        exchange.latest.socket.transport.abort()

        await eventually(lambda: followed.price("BTCUSDT") == Decimal("110.5"))
        assert subscribed(exchange) == {"!miniTicker@arr", *close_streams("BTCUSDT")}
        assert len(exchange.sessions) == 2


@pytest.mark.parametrize(
    "farewell",
    [
        '{"e":"serverShutdown","E":1770123456789}',
        '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        '{"event":{"e":"serverShutdown","E":1770123456789}}',
    ],
)
async def test_a_farewell_brings_the_successor_before_the_break(
    exchange: FakeExchange, follow: Follow, farewell: str
) -> None:
    async with follow(watch=("BTCUSDT",)) as followed:
        old = exchange.latest
        exchange.ticks_at_once = False
        await old.send_raw(farewell)
        await eventually(lambda: len(exchange.sessions) == 2 and exchange.latest.streams >= close_streams("BTCUSDT"))
        new = exchange.latest

        # Acknowledged, but without data: the old connection still serves.
        await send_quote(old, "BTCUSDT", "100.0", "101.0", 7)
        await eventually(lambda: followed.price("BTCUSDT") == Decimal("100.5"))
        assert old.is_open

        # Both serve: what the new one repeats or has older is dropped.
        await send_quote(new, "BTCUSDT", "100.0", "101.0", 7)
        await send_quote(new, "BTCUSDT", "90.0", "91.0", 6)
        await eventually(lambda: followed.ticks.rejected["old_update"] == 2)
        await eventually(lambda: not old.is_open)
        await send_quote(new, "BTCUSDT", "102.0", "103.0", 8)
        await eventually(lambda: followed.price("BTCUSDT") == Decimal("102.5"))
        assert new.is_open


async def test_a_connection_is_replaced_before_its_day_is_over(exchange: FakeExchange, follow: Follow) -> None:
    timing = msgspec.structs.replace(QUICK, rotate_after_s=0.3)
    async with follow(timing, watch=("BTCUSDT",)):
        first = exchange.latest
        await eventually(lambda: not first.is_open)

        assert len(exchange.sessions) >= 2
        assert subscribed(exchange) == {"!miniTicker@arr", *close_streams("BTCUSDT")}


async def test_a_successor_that_stays_silent_does_not_cost_the_connection_that_serves(
    exchange: FakeExchange, follow: Follow
) -> None:
    timing = msgspec.structs.replace(QUICK, first_data_s=0.1)
    async with follow(timing, watch=("BTCUSDT",)) as followed:
        old = exchange.latest
        exchange.ticks_at_once = False
        await old.send_raw('{"e":"serverShutdown","E":1}')
        await eventually(lambda: len(exchange.sessions) >= 3)
        await send_quote(old, "BTCUSDT", "100.0", "101.0", 7)

        await eventually(lambda: followed.price("BTCUSDT") == Decimal("100.5"))
        assert old.is_open


async def test_connected_and_silent_is_tried_again_with_backoff(exchange: FakeExchange, follow: Follow) -> None:
    exchange.ticks_at_once = False
    timing = msgspec.structs.replace(QUICK, first_data_s=0.1)
    async with follow(timing) as followed:
        await eventually(lambda: len(exchange.sessions) >= 3)
        exchange.ticks_at_once = True
        await eventually(lambda: followed.spot._lines.states[0] is ConnectionState.LIVE)


async def test_an_exchange_that_refuses_or_is_gone_is_tried_for_ever(exchange: FakeExchange, follow: Follow) -> None:
    async with follow() as followed:
        exchange.refuse = (503, {})
        exchange.latest.socket.transport.abort()
        tried = exchange.attempts
        await eventually(lambda: exchange.attempts >= tried + 3)
        assert not followed.spot.is_connected
        exchange.refuse = None
        await eventually(lambda: followed.spot.is_connected)


async def test_a_handshake_refused_with_a_time_is_not_tried_before(exchange: FakeExchange, follow: Follow) -> None:
    async with follow() as followed:
        exchange.refuse = (429, {"Retry-After": "600"})
        exchange.latest.socket.transport.abort()
        tried = exchange.attempts
        await eventually(lambda: exchange.attempts == tried + 1)
        exchange.refuse = None
        await eventually(lambda: not followed.spot.is_connected)
        await asyncio.sleep(0.3)  # many times the back-off

        assert exchange.attempts == tried + 1


async def test_no_more_connects_than_the_budget_allows(exchange: FakeExchange, follow: Follow) -> None:
    timing = msgspec.structs.replace(QUICK, connects=5, connects_window_s=600.0)
    async with follow(timing):
        exchange.refuse = (503, {})
        exchange.latest.socket.transport.abort()
        await eventually(lambda: exchange.attempts == 5)
        await asyncio.sleep(0.3)  # many times the back-off

        assert exchange.attempts == 5


async def test_ticks_flow_though_rest_does_not_answer(exchange: FakeExchange) -> None:
    for path in exchange.rest:
        exchange.say(path, b"gone", 503)
    followed = Followed(exchange, QUICK, 300)
    async with running(followed.spot.run(followed.ticks, followed.take_listing)):
        await eventually(lambda: subscribed(exchange))
        await send_ticker(exchange.latest, "ADAUSDT", "0.5")
        await eventually(lambda: followed.price("ADAUSDT") == Decimal("0.5"))
        exchange.list_symbols(listed("ADAUSDT"))
        await eventually(lambda: followed.listed)


async def test_impossible_ticks_are_dropped_and_counted(exchange: FakeExchange, follow: Follow) -> None:
    async with follow(watch=("BTCUSDT",)) as followed:
        session = exchange.latest
        await send_quote(session, "BTCUSDT", "100.0", "101.0", 7)
        for sequence, (bid, ask) in enumerate(
            [("0.0", "101.0"), ("-1.0", "101.0"), ("102.0", "101.0"), ("NaN", "NaN"), ("1e2", "1e3")], start=8
        ):
            await send_quote(session, "BTCUSDT", bid, ask, sequence)
        await send_quote(session, "BTCUSDT", "1.0", "2.0", 6)
        await session.send("btcusdt@bookTicker", {"u": 20, "s": "BTCUSDT", "b": 1.0, "a": 2.0})
        await session.send_raw('{"stream":"btcusdt@bookTicker","data":{"u":21,')
        await eventually(lambda: followed.ticks.rejected.total() == 8)

        assert followed.price("BTCUSDT") == Decimal("100.5")
        assert dict(followed.ticks.rejected) == {
            "not_positive": 1,
            "crossed": 1,
            "not_plain": 3,
            "old_update": 1,
            "malformed": 2,
        }


async def test_a_clock_that_is_off_over_there_makes_no_price_old(exchange: FakeExchange, follow: Follow) -> None:
    exchange.say("/api/v3/time", {"serverTime": now_ms() - 30_000})
    async with follow() as followed:
        await eventually(lambda: "/api/v3/time" in exchange.rest_calls)
        old = {"e": "24hrMiniTicker", "E": now_ms() - 30_000, "s": "ADAUSDT", "c": "0.5"}
        await exchange.latest.send("!miniTicker@arr", [old])
        await eventually(lambda: followed.price("ADAUSDT"))

        assert not followed.prices["ADAUSDT"].is_stale(now_ms(), 5_000)


class FakeClock:
    """Starts now, and stands still until told."""

    def __init__(self) -> None:
        self.ms = now_ms()

    def now_ms(self) -> int:
        return self.ms


def book(symbol: str, bid: str, ask: str) -> dict[str, str]:
    return {"symbol": symbol, "bidPrice": bid, "askPrice": ask}


BOOKS = "/api/v3/ticker/bookTicker"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def is_asked(exchange: FakeExchange, symbols: list[str]) -> None:
    """Wait for one more question for exactly these symbols."""
    asked = len(exchange.asked_by_name)
    await eventually(lambda: symbols in exchange.asked_by_name[asked:])


async def settled(exchange: FakeExchange) -> None:
    """Let what a new connection asks for be asked for: the prices and, twice, the listing."""
    await eventually(lambda: "/api/v3/ticker/price" in exchange.rest_calls)
    await asyncio.sleep(3 * QUICK.listing_gap_s)


async def test_a_symbol_whose_book_stands_still_stays_fresh_because_it_is_asked_for(
    exchange: FakeExchange, follow: Follow, clock: FakeClock
) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0"), book("ETHUSDT", "9.0", "9.5")])
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await send_quote(exchange.latest, "BTCUSDT", "100.0", "101.0", 7)
        await eventually(lambda: followed.price("BTCUSDT") and not followed.ticks.silent(["BTCUSDT"], clock.ms))

        for _ in range(4):
            clock.ms += STALE_MS - 1
            await is_asked(exchange, ["BTCUSDT"])
            await eventually(lambda: followed.price("BTCUSDT") and followed.prices["BTCUSDT"].fresh_ms == clock.ms)

        assert followed.price("BTCUSDT") == Decimal("100.5")
        assert exchange.asked_by_name.count(["BTCUSDT"]) == len(exchange.asked_by_name)


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (429, {"Retry-After": "600"})])
async def test_a_symbol_whose_book_stands_still_is_stale_when_rest_does_not_answer(
    exchange: FakeExchange, follow: Follow, clock: FakeClock, status: int, headers: dict[str, str]
) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0")])
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await eventually(lambda: followed.price("BTCUSDT"))
        exchange.say(BOOKS, {"code": -1003}, status, headers)
        asked = len(exchange.rest_calls)
        clock.ms += STALE_MS + 1
        await eventually(lambda: BOOKS in exchange.rest_calls[asked:])
        await asyncio.sleep(0.2)  # many times the pace of asking and the back-off

        assert followed.price("BTCUSDT") == Decimal("100.5")
        assert followed.prices["BTCUSDT"].is_stale(clock.ms, STALE_MS)
        if status == 429:
            assert exchange.rest_calls[asked:].count(BOOKS) == 1, "it was told to wait"


async def test_nothing_is_asked_for_while_the_weight_is_used_up(
    exchange: FakeExchange, follow: Follow, clock: FakeClock
) -> None:
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        used_up = {"X-MBX-USED-WEIGHT-1M": "4198"}
        exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0")], headers=used_up)
        exchange.latest.socket.transport.abort()
        await eventually(lambda: followed.price("BTCUSDT"))
        asked = exchange.rest_calls.count(BOOKS)
        for _ in range(10):
            clock.ms += STALE_MS - 1
            await asyncio.sleep(0.03)  # three times the pace of asking

        # One more if a minute of the exchange, and with it a new allowance, begins meanwhile.
        assert exchange.rest_calls.count(BOOKS) <= asked + 1


async def test_symbols_that_stream_are_not_asked_for(exchange: FakeExchange, follow: Follow, clock: FakeClock) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0"), book("ETHUSDT", "9.0", "9.5")])
    async with follow(watch=("BTCUSDT", "ETHUSDT"), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await eventually(lambda: followed.price("BTCUSDT") and followed.price("ETHUSDT"))
        exchange.asked_by_name.clear()
        clock.ms += STALE_MS // 2
        await send_quote(exchange.latest, "ETHUSDT", "9.1", "9.5", 7)
        await eventually(lambda: followed.price("ETHUSDT") == Decimal("9.3"))
        clock.ms += 1
        await is_asked(exchange, ["BTCUSDT"])

        assert exchange.asked_by_name == [["BTCUSDT"]]


async def test_a_name_that_is_refused_costs_the_others_nothing(
    exchange: FakeExchange, follow: Follow, clock: FakeClock
) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0")])
    async with follow(watch=("BTCUSDT", "ETHUSDT"), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await eventually(lambda: followed.price("BTCUSDT"))
        exchange.refuse_names = True
        clock.ms += STALE_MS - 1
        await eventually(lambda: followed.price("BTCUSDT") and followed.prices["BTCUSDT"].fresh_ms == clock.ms)


@pytest.mark.parametrize("status", ["HALT", "BREAK"])
async def test_a_halt_is_seen_soon_though_nothing_is_streamed_and_its_price_is_not_fresh_any_more(
    exchange: FakeExchange, follow: Follow, clock: FakeClock, status: str
) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0")])
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await eventually(lambda: followed.price("BTCUSDT"))
        exchange.list_symbols(listed("BTCUSDT", status))
        if status == "BREAK":
            exchange.say(BOOKS, [book("BTCUSDT", "0.00000000", "0.00000000")])
        clock.ms += 59_000
        await is_asked(exchange, ["BTCUSDT"])
        await asyncio.sleep(3 * QUICK.listing_gap_s)
        assert [each.status for each in followed.listed if each.symbol == "BTCUSDT"] == ["trading"]
        clock.ms += 1_000
        await eventually(lambda: [each.status for each in followed.listed] == ["halted"])

        assert followed.price("BTCUSDT") == Decimal("100.5")
        assert followed.prices["BTCUSDT"].is_stale(clock.ms, STALE_MS)
        asked = len(exchange.asked_by_name)
        clock.ms += STALE_MS
        await asyncio.sleep(0.1)
        assert len(exchange.asked_by_name) == asked


async def test_a_halted_symbol_that_ticks_again_is_live_once_the_listing_says_so(
    exchange: FakeExchange, follow: Follow, clock: FakeClock
) -> None:
    exchange.list_symbols(listed("BTCUSDT", "HALT"))
    exchange.say(BOOKS, [book("BTCUSDT", "100.0", "101.0")])
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        await eventually(lambda: followed.price("BTCUSDT"))
        assert followed.prices["BTCUSDT"].is_stale(clock.ms, STALE_MS)
        exchange.list_symbols(listed("BTCUSDT"))
        clock.ms += 1
        await send_quote(exchange.latest, "BTCUSDT", "102.0", "103.0", 7)
        await eventually(lambda: followed.listed[0].status == "trading")

        assert followed.price("BTCUSDT") == Decimal("102.5")
        assert not followed.prices["BTCUSDT"].is_stale(clock.ms, STALE_MS)


async def test_prices_go_on_over_rest_while_the_streams_are_down_and_the_market_is_not_live(
    exchange: FakeExchange, follow: Follow, clock: FakeClock
) -> None:
    exchange.say(BOOKS, [book("BTCUSDT", "99.0", "100.0")])
    async with follow(watch=("BTCUSDT",), now_ms=clock.now_ms) as followed:
        await settled(exchange)
        exchange.refuse = (503, {})
        exchange.latest.socket.transport.abort()
        await eventually(lambda: not followed.spot.is_connected)
        streamed_ms = followed.ticks.newest_ms
        for bid, ask in (("100.0", "101.0"), ("102.0", "103.0"), ("102.0", "103.0")):
            exchange.say(BOOKS, [book("BTCUSDT", bid, ask)])
            clock.ms += STALE_MS - 1
            await eventually(lambda: followed.price("BTCUSDT") and followed.prices["BTCUSDT"].fresh_ms == clock.ms)

        assert followed.price("BTCUSDT") == Decimal("102.5")
        assert (followed.ticks.newest_ms, followed.ticks.newest_asked_ms) == (streamed_ms, clock.ms)
