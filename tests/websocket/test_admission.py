"""Who may connect: decided before the handshake is answered."""

import asyncio

import pytest
from redis.asyncio import Redis
from websockets.exceptions import InvalidStatus

from app.domain.protocol import Close
from app.websocket.limits import StreamLimits
from tests.websocket.conftest import Client, Server, serving, until


async def refused(server: Server, session: str | None = "alice-1", **options: object) -> int:
    """The HTTP status of a refusal."""
    with pytest.raises(InvalidStatus) as caught:
        await server.open(session, **options)
    return caught.value.response.status_code


class TestOrigin:
    async def test_the_servers_own_origin_may(self, server: Server) -> None:
        await server.connect(origin=server.origin)

    async def test_a_configured_origin_may(self, server: Server) -> None:
        await server.connect(origin="https://good.example")

    @pytest.mark.parametrize(
        "origin",
        [
            pytest.param("https://evil.example", id="another site"),
            pytest.param("null", id="null"),
            pytest.param("https://good.example.evil.example", id="suffix"),
            pytest.param("https://evil-good.example", id="prefix"),
            pytest.param("https://good.example:8443", id="another port"),
            pytest.param("http://good.example", id="another scheme"),
            pytest.param("https://GOOD.example", id="another case"),
            pytest.param("https://good.example/", id="with a path"),
            pytest.param("https://sub.good.example", id="subdomain"),
            pytest.param("", id="empty"),
        ],
    )
    async def test_any_other_may_not(self, server: Server, origin: str) -> None:
        assert await refused(server, origin=origin) == 403
        assert len(server.stream.manager) == 0

    async def test_own_host_on_another_port_or_scheme_may_not(self, server: Server) -> None:
        assert await refused(server, origin=f"http://127.0.0.1:{server.port + 1}") == 403
        assert await refused(server, origin=f"https://127.0.0.1:{server.port}") == 403

    async def test_a_cookie_without_an_origin_may_not(self, server: Server) -> None:
        assert await refused(server, origin=None) == 403

    async def test_a_bearer_token_needs_no_origin(self, server: Server) -> None:
        client = await server.open(None, origin=None, additional_headers={"Authorization": "Bearer bob-1"})
        assert (await client.next())["user_id"] == "bob"

    async def test_a_bearer_token_that_may_not_read_may_not(self, server: Server) -> None:
        headers = {"Authorization": "Bearer eve-1"}
        assert await refused(server, None, origin=None, additional_headers=headers) == 403

    async def test_a_bearer_token_from_a_foreign_origin_may_not(self, server: Server) -> None:
        headers = {"Authorization": "Bearer bob-1"}
        assert await refused(server, None, origin="https://evil.example", additional_headers=headers) == 403


class TestIdentity:
    async def test_without_a_session_it_is_401(self, server: Server) -> None:
        assert await refused(server, None) == 401

    async def test_an_unknown_session_is_401(self, server: Server) -> None:
        assert await refused(server, "made-up") == 401

    async def test_an_unknown_token_is_401_even_beside_a_good_cookie(self, server: Server) -> None:
        headers = {"Authorization": "Bearer made-up", "Cookie": "tidemark=alice-1"}
        assert await refused(server, None, additional_headers=headers) == 401

    async def test_where_sessions_cannot_be_checked_it_is_503(self, server: Server) -> None:
        server.sessions.is_reachable = False
        assert await refused(server) == 503

    async def test_the_subprotocol_is_required(self, server: Server) -> None:
        assert await refused(server, subprotocols=None) == 400
        assert await refused(server, subprotocols=["tidemark.v2.json"]) == 400

    async def test_a_refusal_is_a_problem(self, server: Server) -> None:
        with pytest.raises(InvalidStatus) as caught:
            await server.open(None)
        assert caught.value.response.headers["content-type"] == "application/problem+json"
        assert b'"code":"not_authenticated"' in bytes(caught.value.response.body)


class TestLimits:
    async def test_one_connection_too_many_of_a_user_is_told_by_the_close_code(self, redis: Redis) -> None:
        async with serving(redis, limits=StreamLimits(max_connections_per_user=2)) as server:
            first, second = await server.connect("alice-1"), await server.connect("alice-2")
            third = await server.open("alice-1")
            assert await third.closed() == Close.TOO_MANY_CONNECTIONS
            await server.connect("bob-1")
            await first.socket.close()
            await until(lambda: len(server.stream.manager) == 2)
            await server.connect("alice-1")
            assert isinstance(second, Client)

    async def test_one_connection_too_many_of_the_process_is_503(self, redis: Redis) -> None:
        async with serving(redis, limits=StreamLimits(max_connections=1)) as server:
            await server.connect("alice-1")
            assert await refused(server, "bob-1") == 503

    async def test_one_connection_too_many_of_an_address_is_429(self, redis: Redis) -> None:
        async with serving(redis, limits=StreamLimits(max_connections_per_ip=1)) as server:
            await server.connect("alice-1")
            assert await refused(server, "bob-1") == 429

    async def test_a_crowd_at_once_gets_no_more_in_than_one_by_one(self, redis: Redis) -> None:
        async with serving(redis, limits=StreamLimits(max_connections_per_ip=5)) as server:
            server.sessions.answers_after_s = 0.05
            answers = await asyncio.gather(*(server.open("alice-1") for _ in range(20)), return_exceptions=True)

            assert sum(isinstance(answer, Client) for answer in answers) == 5
            assert len(server.stream.manager) == 5

    async def test_a_draining_server_takes_nobody_in(self, server: Server) -> None:
        await server.stream.drain(0)
        assert await refused(server) == 503
