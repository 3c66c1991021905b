"""Bounds on the wire: clients that do not read, or send what no browser sends."""

import asyncio
import base64
import json
import logging
import os
import socket

import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from app.domain.protocol import SUBPROTOCOL, Close
from app.websocket.limits import StreamLimits
from app.websocket.transport import RawWebSocket, bounded
from tests.websocket.conftest import Client, Server, serving, until

SYMBOLS = [f"S{n}USDT" for n in range(200)]


class RawClient:
    """A client that speaks TCP, and WebSocket only as far as the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server, session: str = "alice-1", receive_buffer: int = 4096) -> "RawClient":
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**20)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: {server.origin}\r\n"
            f"Cookie: tidemark={session}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """A masked frame (the mask is zero, which is a mask)."""
        assert len(payload) < 65_536
        length = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.writer.write(bytes(((0x80 if fin else 0) | opcode,)) + length + bytes(4) + payload)

    def say(self, **message: object) -> None:
        self.send(1, json.dumps(message).encode())

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def is_cut(self, within_s: float = 5.0) -> bool:
        """Whether the server ends the connection, whatever it still says."""
        try:
            async with asyncio.timeout(within_s):
                while await self.reader.read(65_536):
                    pass
        except (ConnectionError, TimeoutError) as error:
            return isinstance(error, ConnectionError)
        return True

    def close(self) -> None:
        self.writer.transport.abort()


async def flood_prices(server: Server, rounds: int) -> None:
    """Flushes that make a frame of about 40 kB for who watches everything."""
    for step in range(rounds):
        await server.market.flush({symbol: f"{1000 + step}.123456789012" for symbol in SYMBOLS})
        await asyncio.sleep(0.02)


async def watch_everything(client: Client) -> None:
    await client.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=SYMBOLS)


@pytest.fixture
def limits() -> StreamLimits:
    return StreamLimits(max_hz=50, default_hz=50)


async def test_a_client_that_does_not_read_is_closed_and_moves_nobody(
    redis: Redis, slow_consumer_protocol: type[RawWebSocket], limits: StreamLimits
) -> None:
    async with serving(redis, ws=slow_consumer_protocol, limits=limits) as server:
        healthy = await server.connect("bob-1")
        await healthy.ask("subscribed", type="subscribe", id=1, channel="prices", symbols=[SYMBOLS[0]])
        stuck = await RawClient.connect(server)
        stuck.say(type="subscribe", id=1, channel="prices", symbols=SYMBOLS)
        await until(lambda: len(server.stream.state.watched) == 200)
        stuck.stop_reading()
        flood = asyncio.create_task(flood_prices(server, 90))
        await until(lambda: len(server.stream.manager) == 1, 10)
        await flood
        assert server.stream.schedule.skipped > 0
        last = ""
        while last != "1089.123456789012":
            last = (await healthy.next("update"))["prices"][0]["price"]
        received = sum(frame["type"] == "update" for frame in healthy.frames)
        assert received > 60
        stuck.close()


async def test_a_slow_client_that_wakes_up_is_told_why_it_was_closed(
    redis: Redis, slow_consumer_protocol: type[RawWebSocket], limits: StreamLimits
) -> None:
    async with serving(redis, ws=slow_consumer_protocol, limits=limits) as server:
        slow = await server.connect(max_queue=1)
        await watch_everything(slow)
        flood = asyncio.create_task(flood_prices(server, 200))
        await until(lambda: len(server.stream.manager) == 0, 10)
        assert await slow.closed() == Close.SLOW_CONSUMER
        flood.cancel()


async def test_a_client_that_is_only_slow_stays_and_gets_newer_values(redis: Redis, limits: StreamLimits) -> None:
    async with serving(redis, ws=bounded(16_384, 5.0), limits=limits) as server:
        slow = await server.connect(max_queue=1)
        await watch_everything(slow)
        await flood_prices(server, 60)
        seen: list[str] = []
        while not seen or seen[-1] != "1059.123456789012":
            update = await slow.next("update")
            seen.append(update["prices"][0]["price"])
        assert len(seen) < 50
        assert len(server.stream.manager) == 1


@pytest.mark.parametrize(
    "header", [b"X: " + b"y" * 10_000, b"\r\n".join([b"X: y"] * 200)], ids=["a long line", "many lines"]
)
async def test_a_handshake_that_cannot_be_read_is_refused(server: Server, header: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + header)
    writer.write(b"\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()


async def test_a_refused_handshake_is_no_error_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidStatus), caplog.at_level(logging.ERROR, logger="uvicorn.error"):
        await server.open("nobody")
    assert caplog.records == []


async def test_a_ping_flood_is_cut_off(server: Server) -> None:
    client = await RawClient.connect(server)
    for _ in range(1000):
        client.send(9, b"x" * 100)
    assert await client.is_cut()
    await until(lambda: len(server.stream.manager) == 0)
    client.close()


async def test_a_few_pings_are_answered(server: Server) -> None:
    client = await server.connect()
    for _ in range(5):
        await (await client.socket.ping())
    assert (await client.ask("pong", type="ping", id=1))["id"] == 1


async def test_a_pong_flood_is_cut_off(server: Server) -> None:
    client = await RawClient.connect(server)
    for _ in range(1000):
        client.send(10, b"x")
    assert await client.is_cut()
    client.close()


async def test_endless_fragments_are_cut_off(server: Server) -> None:
    client = await RawClient.connect(server)
    client.send(1, b"", fin=False)
    for _ in range(5000):
        client.send(0, b"", fin=False)
    assert await client.is_cut()
    await until(lambda: len(server.stream.manager) == 0)
    client.close()


async def test_a_message_in_a_few_fragments_is_read(server: Server) -> None:
    client = await server.connect()
    await client.socket.send(['{"type":"pi', 'ng","id":', "3}"])
    assert (await client.next("pong"))["id"] == 3


async def test_an_unmasked_frame_ends_the_connection(server: Server) -> None:
    client = await RawClient.connect(server)
    client.writer.write(b"\x81\x02{}")
    assert await client.is_cut()
    client.close()


async def test_what_a_client_that_does_not_read_asks_for_is_not_carried_out(
    redis: Redis, slow_consumer_protocol: type[RawWebSocket]
) -> None:
    limits = StreamLimits(max_messages_per_s=100_000)
    async with serving(redis, ws=slow_consumer_protocol, limits=limits) as server:
        await server.market.flush({symbol: "1000.123456789012" for symbol in SYMBOLS})
        await until(lambda: len(server.stream.state.prices) == 200)
        client = await RawClient.connect(server)
        client.stop_reading()
        for number in range(400):
            client.say(type="subscribe", id=number, channel="prices", symbols=SYMBOLS)
        connection = next(iter(server.stream.manager.connections()))
        socket_of = connection.outlet
        assert isinstance(socket_of, RawWebSocket)
        most = 0
        while len(server.stream.manager):
            most = max(most, socket_of.transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert 16_384 < most < 200_000
        client.close()
