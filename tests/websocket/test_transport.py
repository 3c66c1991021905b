"""A socket after its handshake: what it still holds, what was sent too early, and who is refused."""

import asyncio
import contextlib
import json

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.sessions import SessionStore
from app.domain.protocol import SUBPROTOCOL
from app.repositories.database import create_engine
from app.websocket.admission import SessionsUnavailable
from app.websocket.handshake import BadHandshake, denial, read_opening, switching
from app.websocket.sources import StoredSessions
from app.websocket.transport import RawWebSocket
from tests.websocket.conftest import Server, until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def head(server: Server, *, session: str = "alice-1", path: str = "/api/v1/stream") -> bytes:
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        f"Origin: {server.origin}",
        f"Cookie: tidemark={session}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def masked(text: str) -> bytes:
    payload = text.encode()
    return b"\x81" + bytes((0x80 | len(payload),)) + bytes(4) + payload


class TestOpening:
    def test_the_key_is_answered_as_in_the_standard(self) -> None:
        opening = read_opening(
            f"GET /a%20b?x=1 HTTP/1.1\r\nSec-WebSocket-Key:{KEY}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: one, two\r\nSEC-websocket-protocol: three".encode()
        )
        assert opening.accept == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (opening.path, opening.raw_path, opening.query) == ("/a b", b"/a%20b", b"x=1")
        assert opening.subprotocols == ["one", "two", "three"]
        answer = switching(opening.accept, "two", [(b"x-more", b"1")])
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert answer.endswith(b"\r\nSec-WebSocket-Protocol: two\r\nx-more: 1\r\n\r\n")

    @pytest.mark.parametrize(
        ("lines", "status"),
        [
            (("Sec-WebSocket-Version: 13",), 400),
            (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"), 400),
            (("Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"), 400),
            (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: ####################=="), 400),
            (("Sec-WebSocket-Version: 8", f"Sec-WebSocket-Key: {KEY}"), 426),
            ((f"Sec-WebSocket-Key: {KEY}",), 426),
        ],
    )
    def test_what_is_no_opening_is_refused(self, lines: tuple[str, ...], status: int) -> None:
        with pytest.raises(BadHandshake) as refused:
            read_opening("\r\n".join(("GET / HTTP/1.1", *lines)).encode())
        assert refused.value.status == status

    def test_a_refusal_names_the_version_and_closes(self) -> None:
        answer = denial(426, [], b"no")
        assert b"sec-websocket-version: 13\r\n" in answer
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\nno")


async def test_an_open_connection_holds_no_task_and_nothing_of_its_handshake(server: Server) -> None:
    await server.connect()
    before = len(asyncio.all_tasks())
    clients = [await server.connect() for _ in range(5)]
    await until(lambda: len(asyncio.all_tasks()) == before + len(clients))  # Those of the clients themselves.

    for connection in server.stream.manager.connections():
        socket_of = connection.outlet
        assert isinstance(socket_of, RawWebSocket)
        assert socket_of._handshake is None
        assert socket_of._inbox is None
        assert connection.events is None
        assert not hasattr(socket_of, "__dict__")
        assert not hasattr(connection, "__dict__")


async def test_what_is_sent_before_the_answer_is_read_after_it(server: Server) -> None:
    server.sessions.answers_after_s = 0.2
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(server))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(masked('{"type":"ping","id":8}') + masked('{"type":"ping","id":9}'))
    answer = b""
    async with asyncio.timeout(5):
        while b'"id":9' not in answer:
            answer += await reader.read(65_536)
    assert answer.index(b"101 Switching") < answer.index(b'"hello"') < answer.index(b'"id":8') < answer.index(b'"id":9')
    writer.transport.abort()


async def test_who_sends_much_before_the_answer_is_cut_off(server: Server) -> None:
    server.sessions.answers_after_s = 0.5
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(server))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"x" * 100_000)
    async with asyncio.timeout(2):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.transport.abort()


async def test_who_leaves_during_the_handshake_leaves_nothing(server: Server) -> None:
    server.sessions.answers_after_s = 0.1
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(server))
        await writer.drain()
        writer.transport.abort()
    await asyncio.sleep(0.2)
    server.sessions.answers_after_s = 0
    client = await server.connect("bob-1")
    await until(lambda: len(server.stream.manager) == 1)
    assert server.stream.schedule.arriving == 0
    assert (await client.ask("pong", type="ping", id=1))["id"] == 1


async def test_another_path_is_no_stream(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(server, path="/api/v1/elsewhere"))
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
    writer.close()


async def test_one_message_is_carried_out_after_the_other_also_where_one_takes_time(server: Server) -> None:
    client = await server.connect()
    await client.ask("subscribed", type="subscribe", id=1, channel="events")
    resume = json.dumps({"type": "resume", "id": 2, "events": {"epoch": "1", "seq": 0}})
    await client.socket.send(resume)
    for number in (3, 4, 5):
        await client.socket.send(json.dumps({"type": "ping", "id": number}))
    ids = []
    while len(ids) < 4:
        frame = await client.next()
        if frame["type"] in {"resumed", "resync", "pong", "error"}:
            ids.append(frame["id"])
    assert ids == [2, 3, 4, 5]


async def test_a_crowd_waits_for_a_redis_that_stops_for_a_moment_and_is_let_in(redis: Redis, database_url: str) -> None:
    store = SessionStore(redis, timeout_s=0.3, idle_s=60, absolute_s=60)
    tokens = [(await store.create(f"u{number}", "someone"))[0] for number in range(50)]
    engine = create_engine(database_url, pool_size=1, timeout_s=1.0)
    sessions = StoredSessions(store, engine)
    await redis.execute_command("CLIENT", "PAUSE", 1000, "ALL")

    found = await asyncio.gather(*(sessions.by_cookie({"tidemark": token}) for token in tokens))

    assert [identity and identity.user_id for identity in found] == [f"u{number}" for number in range(50)]
    await engine.dispose()


async def test_a_session_that_cannot_be_read_refuses_its_own_client_only(redis: Redis, database_url: str) -> None:
    store = SessionStore(redis, timeout_s=2.0, idle_s=60, absolute_s=60)
    made = [await store.create(f"u{number}", "someone") for number in range(3)]
    await redis.hset(keys.session(made[1][1].session_id), "expires_ms", "soon")
    engine = create_engine(database_url, pool_size=1, timeout_s=1.0)
    sessions = StoredSessions(store, engine)

    found = await asyncio.gather(
        *(sessions.by_cookie({"tidemark": token}) for token, _ in made), return_exceptions=True
    )

    kinds = [type(answer).__name__ for answer in found]
    assert kinds == ["Identity", SessionsUnavailable.__name__, "Identity"]
    await engine.dispose()
