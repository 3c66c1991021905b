"""Follow ticks from the exchange to a socket: latency at each hop, on a running system.

    make demo                                                       (in one shell)
    .venv/bin/python -m benchmarks.trace --url http://127.0.0.1:8000 --redis unix://$PWD/.tidemark/demo/redis/redis.sock

All processes must share this machine's clock. Hops: the exchange's event time →
the price worker received it → its flush → the flush seen on Redis → the P&L of
that flush seen on Redis → the frame on the socket. A quote has no event time of
the exchange, so its first hop counts as nothing.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, Final

import httpx2
import msgspec
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from app.bus import keys
from app.bus.interest import live_instances, online_users
from app.bus.messages import PnlFlush
from app.bus.prices import decode_flush
from app.domain.prices import REVISIONS_PER_FLUSH, Price
from benchmarks.histogram import quantiles_of

HOPS: Final = (
    "exchange → price worker",
    "→ flush",
    "→ on the bus",
    "→ P&L on the bus",
    "→ socket",
    "exchange → socket",
)
_KEPT_FLUSHES: Final = 1000
_REDIS_TIMEOUT_S: Final = 10.0


def now_ms() -> float:
    return time.time_ns() / 1e6


class Trace:
    """When each flush was seen where, by (epoch, flush); and what all flushes held."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.prices: dict[tuple[int, int], tuple[float, Price, int]] = {}
        self.pnl: dict[tuple[int, int], float] = {}
        self.rows: list[tuple[float, ...]] = []
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.rows.clear()
        self.flushes = self.ticks = self.changed_prices = self.price_bytes = self.pnl_bytes = 0

    def on_bus(self, channel: str, payload: bytes) -> None:
        at = now_ms()
        if channel != keys.PRICE_CHANNEL:
            self.pnl_bytes += len(payload)
            position = msgspec.msgpack.decode(payload, type=PnlFlush).position
            self.pnl.setdefault((position.epoch, position.flush), at)
            return
        flush = decode_flush(payload)
        self.flushes += 1
        self.ticks += flush.ticks
        self.changed_prices += len(flush.prices)
        self.price_bytes += len(payload)
        for price in flush.prices:
            if price.symbol == self.symbol:
                self.prices[flush.epoch, flush.flush] = (at, price, flush.as_of_ms)
        _forget_oldest(self.prices)
        _forget_oldest(self.pnl)

    def on_frame(self, frame: dict[str, Any]) -> None:
        at = now_ms()
        if frame["type"] != "update" or not frame.get("positions"):
            return
        place = frame["epoch"], frame["seq"] // REVISIONS_PER_FLUSH
        if place not in self.prices or place not in self.pnl:
            return
        seen, price, flushed = self.prices[place]
        stamps = (price.event_ms, price.received_ms, flushed, seen, self.pnl[place], at)
        hops = tuple(after - before for before, after in pairwise(stamps))
        self.rows.append((*hops, at - price.event_ms))

    def hops(self) -> dict[str, dict[str, float]]:
        """Quantiles by hop, in milliseconds."""
        if not self.rows:
            return {}
        return {name: quantiles_of(values) for name, values in zip(HOPS, zip(*self.rows, strict=True), strict=True)}


def _forget_oldest(seen: dict[tuple[int, int], Any]) -> None:
    while len(seen) > _KEPT_FLUSHES:
        del seen[next(iter(seen))]


@asynccontextmanager
async def watching_bus(redis: "Redis", trace: Trace, user_id: str) -> AsyncIterator[None]:
    """Let the trace see, while the block runs, the prices on the bus and the P&L for the instance a user is at."""
    async with redis.pubsub() as pubsub:

        async def follow() -> None:
            await pubsub.subscribe(keys.PRICE_CHANNEL)
            await pubsub.subscribe(keys.pnl_channel(await _instance_of(redis, user_id)))
            async for message in pubsub.listen():
                if message["type"] == "message":
                    trace.on_bus(message["channel"].decode(), message["data"])

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def _instance_of(redis: "Redis", user_id: str) -> str:
    """Where a user is connected; waits until he is."""
    while True:
        for instance_id in await live_instances(redis, _REDIS_TIMEOUT_S):
            if user_id in await online_users(redis, instance_id, _REDIS_TIMEOUT_S):
                return instance_id
        await asyncio.sleep(0.1)


async def follow_frames(url: str, cookie: str, trace: Trace) -> None:
    """Let the trace see one user's frames until cancelled."""
    async with connect(
        url.replace("http", "ws", 1) + "/api/v1/stream",
        origin=url,  # type: ignore[arg-type]
        additional_headers={"Cookie": cookie},
        subprotocols=["tidemark.v1.json"],  # type: ignore[list-item]
    ) as socket:
        prices: dict[str, Any] = {"channel": "prices", "symbols": [trace.symbol]}
        for number, request in enumerate((prices, {"channel": "pnl"}, {"channel": "positions"})):
            await socket.send(json.dumps({"type": "subscribe", "id": number, **request}))
        async for message in socket:
            trace.on_frame(json.loads(message))


async def _open_position(url: str, symbol: str) -> tuple[str, str]:
    """A new user who holds the symbol: the id and the cookie."""
    async with httpx2.AsyncClient(base_url=url, headers={"Origin": url}) as client:
        credentials = {"username": f"trace-{secrets.token_hex(4)}", "password": secrets.token_hex(12)}
        registered = (await client.post("/api/v1/auth/register", json=credentials)).raise_for_status().json()
        opened = {"symbol": symbol, "side": "long", "quantity": "1"}
        (await client.post("/api/v1/positions", json=opened)).raise_for_status()
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return registered["user_id"], cookie


async def _trace(url: str, redis_url: str, symbol: str, seconds: float) -> Trace:
    trace = Trace(symbol)
    user_id, cookie = await _open_position(url, symbol)
    async with Redis.from_url(redis_url) as redis, watching_bus(redis, trace, user_id):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await follow_frames(url, cookie, trace)
    return trace


def main() -> None:
    """Trace and print."""
    parser = argparse.ArgumentParser(description="Follow ticks from the exchange to a socket.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--redis", required=True)
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--seconds", type=float, default=10)
    chosen = parser.parse_args()
    trace = asyncio.run(_trace(chosen.url, chosen.redis, chosen.symbol, chosen.seconds))
    print(f"{len(trace.rows)} frames, {statistics.fmean(row[-1] for row in trace.rows):.1f} ms on average")
    print(f"{'ms':28}{'p50':>8}{'p99':>8}{'max':>8}")
    for name, found in trace.hops().items():
        print(f"{name:28}{found['p50']:8.1f}{found['p99']:8.1f}{found['max']:8.1f}")


if __name__ == "__main__":
    main()
