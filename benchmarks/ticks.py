"""How many ticks a price worker takes in: the real process, sockets, decoding, checks, Redis and all.

The blaster sends frames of Binance's protocol over as many connections as the
price worker opens for 2,000 symbols. First at 100,000 a second, then as many as
are taken. CPU is that of the price worker's process alone, so the figure of what
one core takes holds on a busy machine too.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from app.bus import keys
from app.bus.prices import decode_flush
from benchmarks.histogram import quantiles_of
from benchmarks.processes import family, usage
from benchmarks.system import System

SYMBOLS: Final = 2_000
PACE: Final = 100_000
_AS_FAST_AS_TAKEN: Final = -1
_WARM_UP_S: Final = 2.0
_MEASURE_S: Final = 5.0


@dataclass
class _Heard:
    """What the price worker has published so far."""

    ticks: int = 0
    flushes: int = 0
    prices: int = 0
    gaps_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    _last_s: float | None = None

    def take(self, payload: bytes) -> None:
        flush, now = decode_flush(payload), time.monotonic()
        self.ticks += flush.ticks
        self.flushes += 1
        self.prices += len(flush.prices)
        self.late_ms.append(time.time_ns() / 1e6 - flush.as_of_ms)
        if self._last_s is not None:
            self.gaps_ms.append((now - self._last_s) * 1000)
        self._last_s = now


class _Phase(NamedTuple):
    ticks_per_s: float
    cpu_share: float
    us_per_tick: float
    made_per_s: float
    heard: _Heard


def figures() -> dict[str, float]:
    """Ticks a second, and what one costs, at a given pace and without one."""
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> dict[str, float]:
    load = os.getloadavg()[0]
    with System(folder, ticks_per_s=0, web_workers=1, hz=1) as system:
        await system.start_blaster(SYMBOLS)
        paced = await _phase(system, PACE)
        free = await _phase(system, _AS_FAST_AS_TAKEN)
        system.check()
    return {
        "load average": load,
        "paced: ticks made/s": paced.made_per_s,
        "paced: ticks taken in/s": paced.ticks_per_s,
        "paced: CPU of the price worker, cores": paced.cpu_share,
        "paced: prices a flush": paced.heard.prices / max(paced.heard.flushes, 1),
        "paced: ticks a price stands for": paced.heard.ticks / max(paced.heard.prices, 1),
        "paced: ms between flushes, p50": quantiles_of(paced.heard.gaps_ms).get("p50", 0.0),
        "paced: ms between flushes, p99": quantiles_of(paced.heard.gaps_ms).get("p99", 0.0),
        "paced: ms from the flush to its reader, p50": quantiles_of(paced.heard.late_ms).get("p50", 0.0),
        "as fast as taken: ticks taken in/s": free.ticks_per_s,
        "as fast as taken: CPU of the price worker, cores": free.cpu_share,
        "as fast as taken: µs CPU a tick, flushes included": free.us_per_tick,
        "as fast as taken: ticks/s of a whole core": 1e6 / free.us_per_tick,
    }


async def _phase(system: System, pace: int) -> _Phase:
    worker = family(system.roles()["price-worker"])
    await system.set_blaster_rate(pace)
    async with _listening(system) as heard:
        await asyncio.sleep(_WARM_UP_S)
        before, spent, (made, _) = time.monotonic(), usage(worker), await system.tick_counts()
        heard.ticks = heard.flushes = heard.prices = 0
        heard.gaps_ms.clear()
        heard.late_ms.clear()
        await asyncio.sleep(_MEASURE_S)
        cpu_s, seconds = usage(worker).since(spent).cpu_s, time.monotonic() - before
        ticks, sent = heard.ticks, (await system.tick_counts())[0] - made
    await system.set_blaster_rate(0)
    return _Phase(ticks / seconds, cpu_s / seconds, cpu_s / max(ticks, 1) * 1e6, sent / seconds, heard)


@asynccontextmanager
async def _listening(system: System) -> AsyncIterator[_Heard]:
    heard = _Heard()
    redis = system.connect_redis()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.PRICE_CHANNEL)

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "message":
                    heard.take(message["data"])

        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.wait([task])
    await redis.aclose()
