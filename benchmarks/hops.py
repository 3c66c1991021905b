"""Where the time of a tick goes, under load and over all users.

What is on the bus is seen here; when a frame came to a client's socket, the load
clients sample for every eighth frame, with the kernel's time stamp; the place in
the stream joins the two. Exchanges do not say when a quote was made, so for the
first hop some prices are set by hand, and looked for on the bus. All processes
share this machine's clock.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx2
import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.prices import decode_flush
from app.domain.prices import REVISIONS_PER_FLUSH, StreamPosition
from benchmarks.histogram import quantiles_of
from benchmarks.population import Quoted
from benchmarks.reader import Sampled

INGEST: Final = "exchange → price worker"
FLUSH: Final = "→ flush (waits for the interval)"
BUS: Final = "→ prices on the bus"
PNL: Final = "→ P&L on the bus"
WEB: Final = "→ web wrote it to the socket"
SOCKET: Final = "→ client read it"
TOTAL: Final = "flush → client"

_KEPT_FLUSHES: Final = 1000
_MARK_EVERY_S: Final = 0.25

Place = tuple[int, int]


class _PnlHead(msgspec.Struct):
    """Only what is needed of a P&L flush, which may be a megabyte."""

    position: StreamPosition


_pnl_heads: Final = msgspec.msgpack.Decoder(_PnlHead)


class _Flush(NamedTuple):
    as_of_ms: int
    seen_ms: float


class Bus:
    """What came over the bus since the last reset, and when."""

    def __init__(self) -> None:
        self._flushes: dict[Place, _Flush] = {}
        self._pnl: dict[Place, float] = {}
        self._marked_ms: dict[Decimal, float] = {}
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.flushes = self.ticks = self.prices = self.price_bytes = self.pnl_bytes = 0
        self._waits_ms: list[float] = []
        self._ingest_ms: list[float] = []

    def mark(self, bid: Decimal, made_ms: float) -> None:
        """A bid like no other was made then."""
        self._marked_ms[bid] = made_ms

    def on_prices(self, payload: bytes) -> None:
        """Take a price flush."""
        at_ms = _now_ms()
        flush = decode_flush(payload)
        self.flushes += 1
        self.ticks += flush.ticks
        self.prices += len(flush.prices)
        self.price_bytes += len(payload)
        self._flushes[flush.epoch, flush.flush] = _Flush(flush.as_of_ms, at_ms)
        if self._marked_ms:
            for price in flush.prices:
                made_ms = None if price.bid is None else self._marked_ms.pop(price.bid, None)
                if made_ms is not None:
                    self._ingest_ms.append(price.received_ms - made_ms)
                    self._waits_ms.append(flush.as_of_ms - price.received_ms)
        _forget_oldest(self._flushes)

    def on_pnl(self, payload: bytes) -> None:
        """Take a P&L flush to one of the web instances."""
        at_ms = _now_ms()
        self.pnl_bytes += len(payload)
        position = _pnl_heads.decode(payload).position
        self._pnl.setdefault((position.epoch, position.flush), at_ms)
        _forget_oldest(self._pnl)

    def hops(self, samples: Iterable[Sampled]) -> dict[str, dict[str, float]]:
        """Quantiles of each hop, in milliseconds."""
        found: dict[str, list[float]] = {INGEST: self._ingest_ms, FLUSH: self._waits_ms}
        for flush in self._flushes.values():
            found.setdefault(BUS, []).append(flush.seen_ms - flush.as_of_ms)
        for place, seen_ms in self._pnl.items():
            if place in self._flushes:
                found.setdefault(PNL, []).append(seen_ms - self._flushes[place].seen_ms)
        for sample in samples:
            self._add_frame(found, sample)
        return {name: quantiles_of(values) for name, values in found.items() if values}

    def _add_frame(self, found: dict[str, list[float]], sample: Sampled) -> None:
        number, revision = divmod(sample.seq, REVISIONS_PER_FLUSH)
        place = sample.epoch, number
        if revision or place not in self._flushes or place not in self._pnl:
            return
        found.setdefault(WEB, []).append(sample.arrived_us / 1000 - self._pnl[place])
        found.setdefault(SOCKET, []).append((sample.read_us - sample.arrived_us) / 1000)
        found.setdefault(TOTAL, []).append(sample.read_us / 1000 - self._flushes[place].as_of_ms)


def _now_ms() -> float:
    return time.time_ns() / 1e6


def _forget_oldest(seen: dict[Place, Any]) -> None:
    while len(seen) > _KEPT_FLUSHES:
        del seen[next(iter(seen))]


@asynccontextmanager
async def watching(redis: "Redis", bus: Bus, instance_id: str) -> AsyncIterator[None]:
    """Let ``bus`` see, while the block runs, prices and the P&L for one web instance."""
    channel = keys.pnl_channel(instance_id).encode()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.PRICE_CHANNEL, channel)

        async def follow() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    take = bus.on_pnl if message["channel"] == channel else bus.on_prices
                    take(message["data"])

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@asynccontextmanager
async def marking(exchange_url: str, bus: Bus, quoted: Quoted) -> AsyncIterator[None]:
    """Give one symbol prices that can be found again, while the block runs; chance no longer moves it.

    It has to be one that is held or watched: of others the price worker does not follow the book.
    """

    async def mark() -> None:
        tick = quoted.instrument.tick_size
        first = quoted.price // tick * tick
        async with httpx2.AsyncClient(base_url=exchange_url, timeout=10.0, trust_env=False) as client:
            for number in itertools.count(1):
                bid = first + number * tick
                asked = {"symbol": quoted.instrument.symbol, "bid": f"{bid:f}"}
                answer = (await client.post("/control/price", json=asked)).raise_for_status().json()
                bus.mark(bid, answer["made_us"] / 1000)
                await asyncio.sleep(_MARK_EVERY_S)

    task = asyncio.create_task(mark())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
