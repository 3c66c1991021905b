"""The same stream on a server that does not offer raw frames."""

import asyncio

from redis.asyncio import Redis

from app.domain.protocol import Close
from app.websocket.limits import StreamLimits
from tests.websocket.conftest import serving, until
from tests.websocket.test_guard import SYMBOLS, RawClient, flood_prices


async def test_snapshot_update_events_and_close(redis: Redis) -> None:
    async with serving(redis, ws="websockets-sansio") as server:
        await server.settle()
        client = await server.connect()
        await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=["BTCUSDT"])
        await client.ask("subscribed", type="subscribe", id=2, channel="events")
        await server.market.flush({"BTCUSDT": "67000.15"})
        update = await client.next("update")
        assert update["prices"][0]["price"] == "67000.15"
        await server.market.event("alice", 3)
        assert (await client.next("event"))["seq"] == 3
        error = await client.ask("error", type="subscribe", id=4, channel="orders")
        assert error["code"] == "unknown_channel"
        await server.market.end_session("alice", None)
        assert await client.closed() == Close.SESSION_ENDED
        await until(lambda: len(server.stream.manager) == 0)


async def test_a_client_that_does_not_read_moves_nobody(redis: Redis) -> None:
    limits = StreamLimits(max_hz=50, default_hz=50, stall_s=0.5)
    async with serving(redis, ws="websockets-sansio", limits=limits) as server:
        healthy = await server.connect("bob-1")
        await healthy.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=[SYMBOLS[0]])
        stuck = await RawClient.connect(server)
        stuck.say(type="subscribe", id=1, channel="prices", symbols=SYMBOLS)
        await until(lambda: len(server.stream.state.watched) == 200)
        stuck.stop_reading()
        flood = asyncio.create_task(flood_prices(server, 90))
        await until(lambda: len(server.stream.manager) == 1, 10)
        await flood
        last = ""
        while last != "1089.123456789012":
            last = (await healthy.next("update"))["prices"][0]["price"]
        stuck.close()


async def test_a_client_that_leaves_is_cleared_away(redis: Redis) -> None:
    async with serving(redis, ws="websockets-sansio") as server:
        client = await server.connect()
        client.socket.transport.abort()
        await until(lambda: len(server.stream.manager) == 0)
