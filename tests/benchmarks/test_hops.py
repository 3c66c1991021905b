"""Where the bench says that the time of a tick went."""

import time
from decimal import Decimal

import msgspec

from app.bus.messages import PnlFlush, PriceFlush
from app.bus.pnl import encode_pnl_flush
from app.domain.prices import Feed, Price, StreamPosition
from benchmarks.hops import BUS, FLUSH, INGEST, PNL, SOCKET, TOTAL, WEB, Bus
from benchmarks.reader import Sampled

FEED = Feed("simulated", "binance", 0, simulated=True)


def price_flush(number: int, as_of_ms: int, received_ms: int) -> bytes:
    bid = Decimal("0.00000048")
    price = Price("SUSDT", bid, "mid", bid, bid, None, None, received_ms, received_ms, received_ms)
    encoder = msgspec.msgpack.Encoder(decimal_format="string")
    return encoder.encode(PriceFlush(3, number, as_of_ms, 40, FEED, [price]))


def pnl_flush(number: int) -> bytes:
    place = StreamPosition(3, number)
    return encode_pnl_flush(PnlFlush(0, 1, number, place, 0, 0, [], [], ([], []), ([], [])))  # type: ignore[arg-type]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_every_hop_of_a_marked_price_and_of_a_sampled_frame_is_told() -> None:
    bus, now = Bus(), now_ms()
    bus.mark(Decimal("0.00000048"), now - 90)
    bus.on_prices(price_flush(7, as_of_ms=now - 20, received_ms=now - 70))
    bus.on_pnl(pnl_flush(7))
    arrived_us = (now + 30) * 1000
    hops = bus.hops([Sampled(3, 700, arrived_us, arrived_us + 4000)])
    assert hops.keys() == {INGEST, FLUSH, BUS, PNL, WEB, SOCKET, TOTAL}
    assert hops[INGEST]["p50"] == 20
    assert hops[FLUSH]["p50"] == 50
    assert hops[BUS]["p50"] >= 20
    assert hops[SOCKET]["p50"] == 4
    assert hops[TOTAL]["p50"] == 54


def test_a_frame_of_a_flush_that_was_not_seen_or_of_a_change_between_two_counts_for_nothing() -> None:
    bus, now = Bus(), now_ms()
    bus.on_prices(price_flush(7, as_of_ms=now, received_ms=now))
    bus.on_pnl(pnl_flush(7))
    assert TOTAL not in bus.hops([Sampled(3, 800, 1, 2), Sampled(3, 701, 1, 2), Sampled(2, 700, 1, 2)])


def test_a_reset_forgets_what_was_counted_but_not_what_is_awaited() -> None:
    bus, now = Bus(), now_ms()
    bus.mark(Decimal("0.00000048"), now)
    bus.on_prices(price_flush(6, as_of_ms=now, received_ms=now))
    bus.reset()
    assert (bus.ticks, bus.prices, bus.flushes) == (0, 0, 0)
    assert INGEST not in bus.hops([])
