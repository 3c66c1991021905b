"""The WebSocket under a connection, against a server that decides over every byte."""

import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.exchanges.binance.socket import MAX_MESSAGE_BYTES, StreamSocket
from tests.exchanges.waiting import eventually

TEXT, BINARY, CONTINUED, CLOSE, PING = 0x1, 0x2, 0x0, 0x8, 0x9


def frame(opcode: int, payload: bytes, *, is_last: bool = True) -> bytes:
    head, size = opcode | (0x80 if is_last else 0), len(payload)
    if size < 126:
        return struct.pack("!BB", head, size) + payload
    if size < 65_536:
        return struct.pack("!BBH", head, 126, size) + payload
    return struct.pack("!BBQ", head, 127, size) + payload


class Server:
    """Accepts one connection; ``greeting`` goes out in one write with the answer to the handshake."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self.received = b""
        self.is_over = False
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + self._greeting
        )
        self._writer = writer
        while data := await reader.read(65_536):
            self.received += data
        self.is_over = True
        writer.close()

    def say(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()

    def cut(self) -> None:
        assert self._writer is not None
        self._writer.transport.abort()


@asynccontextmanager
async def conversation(greeting: bytes = b"") -> AsyncIterator[tuple[Server, StreamSocket]]:
    server = Server(greeting)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        socket = await connect(
            f"ws://127.0.0.1:{port}",
            create_connection=StreamSocket,
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=0.2,
            max_size=MAX_MESSAGE_BYTES,
        )
        assert isinstance(socket, StreamSocket)
        try:
            yield server, socket
        finally:
            await socket.close()
    finally:
        listening.close()
        await listening.wait_closed()


async def taken(socket: StreamSocket, count: int) -> list[bytes]:
    messages: list[bytes] = []
    async with asyncio.timeout(5):
        while len(messages) < count:
            messages += await socket.receive()
    return messages


MIXED = b"".join(
    (
        frame(TEXT, b"short"),
        frame(TEXT, b"a" * 200),
        frame(PING, b""),
        frame(TEXT, b""),
        frame(TEXT, b"b" * 70_000),
        frame(BINARY, b"\x00\xff"),
        frame(TEXT, b"in ", is_last=False),
        frame(PING, b"between"),
        frame(CONTINUED, b"three ", is_last=False),
        frame(CONTINUED, b"parts"),
        frame(TEXT, b"c" * 126),
    )
)
MESSAGES = [b"short", b"a" * 200, b"", b"b" * 70_000, b"\x00\xff", b"in three parts", b"c" * 126]


async def test_messages_come_whole_and_in_order_however_they_are_framed() -> None:
    async with conversation() as (server, socket):
        server.say(MIXED)
        assert await taken(socket, len(MESSAGES)) == MESSAGES


@pytest.mark.parametrize("piece", [1, 3, 7, 127, 4096])
async def test_it_does_not_matter_where_the_network_cuts(piece: int) -> None:
    """Fed by hand: what a network makes of small writes cannot be relied on."""
    short = MIXED.replace(frame(TEXT, b"b" * 70_000), frame(TEXT, b"b" * 300))
    async with conversation() as (_, socket):
        for start in range(0, len(short), piece):
            socket.data_received(short[start : start + piece])
        assert await taken(socket, len(MESSAGES)) == [*MESSAGES[:3], b"b" * 300, *MESSAGES[4:]]


async def test_frames_in_one_write_with_the_handshake_are_not_lost() -> None:
    async with conversation(MIXED[:-5]) as (server, socket):
        server.say(MIXED[-5:])
        assert await taken(socket, len(MESSAGES)) == MESSAGES


async def test_pings_are_answered_and_told() -> None:
    async with conversation() as (server, socket):
        told: list[str] = []
        socket.on_ping = lambda: told.append("ping")
        server.say(frame(TEXT, b"x") + frame(PING, b"1234"))
        await eventually(lambda: len(server.received) == 6 + 4)
        mask, masked = server.received[2:6], server.received[6:]
        assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked)) == b"1234"
        assert told == ["ping"]


async def test_what_came_before_a_close_is_still_given() -> None:
    async with conversation() as (server, socket):
        server.say(frame(TEXT, b"last") + frame(CLOSE, struct.pack("!H", 1001)))
        server.hang_up()
        assert await taken(socket, 1) == [b"last"]
        with pytest.raises(ConnectionClosed, match="1001"):
            await taken(socket, 1)


async def test_a_cut_in_the_middle_of_a_message_is_an_end() -> None:
    async with conversation() as (server, socket):
        server.say(frame(TEXT, b"x" * 500)[:100])
        server.cut()
        with pytest.raises(ConnectionClosed):
            await taken(socket, 1)


def masked() -> bytes:
    return bytes((0x81, 0x80 | 2)) + bytes(4) + b"hi"


def too_long() -> bytes:
    return struct.pack("!BBQ", 0x81, 127, MAX_MESSAGE_BYTES + 1) + b"x" * 100


def text_within_fragments() -> bytes:
    return frame(TEXT, b"begun", is_last=False) + frame(TEXT, b"another")


def reserved_bit() -> bytes:
    return b"\xc1\x02hi"


def too_many_fragments() -> bytes:
    return frame(TEXT, b"", is_last=False) + frame(CONTINUED, b"", is_last=False) * 2000


@pytest.mark.parametrize("wrong", [masked, too_long, text_within_fragments, reserved_bit, too_many_fragments])
async def test_what_the_protocol_forbids_ends_the_connection(wrong: Callable[[], bytes]) -> None:
    async with conversation() as (server, socket):
        server.say(wrong() + frame(TEXT, b"must not be believed") * 3)
        server.hang_up()
        with pytest.raises(ConnectionClosed):
            await taken(socket, 1)


async def test_nobody_reading_stops_the_sender_and_reading_lets_it_go_on() -> None:
    async with conversation() as (server, socket):
        whole = frame(TEXT, b"z" * 60_000)
        count = 1000
        server.say(whole * count)
        await asyncio.sleep(0)
        await eventually(lambda: not socket.transport.is_reading())
        assert len(await taken(socket, count)) == count
        assert socket.transport.is_reading()


async def test_closing_is_quick_though_data_keeps_coming() -> None:
    async with conversation() as (server, socket):
        server.say(frame(TEXT, b"z" * 60_000) * 200)
        await eventually(lambda: not socket.transport.is_reading())
        async with asyncio.timeout(5):
            await socket.close()
