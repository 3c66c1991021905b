"""From a tick to a browser with each worker real, on a Redis of several servers, before and after one of them dies."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import connect
from app.repositories.database import create_engine
from tests.redis_servers import Servers, everywhere
from tests.websocket.conftest import Client, serving
from tests.workers.desk import Trader, working
from tests.workers.test_price_worker import RunningClock, System, at_work


@pytest.fixture
async def redis(servers: Servers) -> AsyncIterator[Redis]:
    client = connect(servers.url, 1.0)
    await everywhere(client, "FLUSHALL")
    yield client
    await client.aclose()


async def shown(client: Client, price: str, total: str) -> None:
    """Read until a frame shows this price, and the P&L that belongs to it: never one without the other."""
    async with asyncio.timeout(20):
        while True:
            frame = await client.next(within_s=20)
            prices = [row["price"] for row in frame.get("prices", [])]
            if frame["type"] == "update" and price in prices:
                assert frame["pnl"]["unrealized_pnl"] == total
                return


async def test_a_tick_reaches_the_browser_with_its_profit_and_does_so_again_after_a_failover(
    servers: Servers, redis: Redis, database_url: str
) -> None:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    trader = await Trader.register(engine, redis, "ada")
    await trader.trade("buy", "2", "90")
    async with (
        at_work(System(redis, flush_s=0.1, clock=RunningClock())) as system,
        working(engine, redis),
        serving(redis) as server,
    ):
        server.sessions.users["alice-1"] = trader.user_id
        system.feed.tick("BTCUSDT", "100.0", "101.0")
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="pnl")
        await client.ask("subscribed", type="subscribe", id=2, channel="prices", symbols=["BTCUSDT"])
        async with asyncio.timeout(10):
            while (await client.next("snapshot"))["channel"] != "pnl":
                pass
        system.feed.tick("BTCUSDT", "102.0", "103.0")
        await shown(client, "102.5", "25")

        servers.master_of(keys.PRICES).stop()
        flushes = len(system.flushes)
        async with asyncio.timeout(15):
            while len(system.flushes) < flushes + 10:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(15):
            while server.stream.degraded:
                await asyncio.sleep(0.05)

        system.feed.tick("BTCUSDT", "104.0", "105.0")
        await shown(client, "104.5", "29")
    await engine.dispose()
