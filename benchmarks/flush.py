"""What one price flush of 2,000 symbols to Redis costs, through the price worker's own publisher."""

import asyncio
import os
import random
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Final

from app.bus.connection import connect
from app.bus.messages import PriceFlush
from app.bus.prices import PricePublisher
from app.domain.prices import Feed, Price
from app.embedded.redis import EmbeddedRedis
from benchmarks.histogram import quantiles_of
from benchmarks.processes import usage

_SYMBOLS: Final = 2_000
_FLUSHES: Final = 200
_PAUSE_S: Final = 0.01


def figures() -> dict[str, float]:
    """Milliseconds a flush: as it takes, and of CPU here and in Redis."""
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as folder:
        server = EmbeddedRedis(Path(folder))
        url = server.start()
        assert server.process is not None
        try:
            return asyncio.run(_measure(url, server.process.pid))
        finally:
            server.stop()


async def _measure(url: str, server: int) -> dict[str, float]:
    chance = random.Random(1)
    redis = connect(url, 10.0)
    publisher = PricePublisher(redis, 10.0)
    took: list[float] = []
    here = 0.0
    there = usage([server]).cpu_s
    for number in range(1, _FLUSHES + 1):
        flush = _flush(number, chance)
        cpu, began = time.process_time(), time.perf_counter()
        await publisher.publish(flush)
        took.append((time.perf_counter() - began) * 1000)
        here += time.process_time() - cpu
        await asyncio.sleep(_PAUSE_S)
    there = usage([server]).cpu_s - there
    await redis.aclose()
    found = quantiles_of(took)
    return {
        "load average": os.getloadavg()[0],
        "ms a flush of 2,000 symbols, p50": found["p50"],
        "ms a flush of 2,000 symbols, p99": found["p99"],
        "ms of CPU here": here / _FLUSHES * 1000,
        "ms of CPU in Redis": there / _FLUSHES * 1000,
    }


def _flush(number: int, chance: random.Random) -> PriceFlush:
    now_ms = time.time_ns() // 1_000_000
    prices = []
    for place in range(_SYMBOLS):
        bid = Decimal(chance.randrange(10**6, 10**12)).scaleb(-8)
        ask = bid + Decimal("0.00000010")
        prices.append(Price(f"S{place}USDT", (bid + ask) / 2, "mid", bid, ask, bid, None, now_ms, now_ms, now_ms))
    return PriceFlush(1, number, now_ms, _SYMBOLS * 3, Feed("live", "binance", 12), prices)
