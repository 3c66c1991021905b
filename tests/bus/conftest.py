"""Redis in each of its shapes: a test that takes ``redis`` runs with one server, with Sentinels and with a cluster."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.bus.connection import connect
from app.embedded.redis import EmbeddedRedis
from tests.redis_servers import Servers, everywhere


@pytest.fixture(scope="session")
def single_redis_url(server_dir: Path) -> Iterator[str]:
    server = EmbeddedRedis(server_dir)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session", params=["single", "sentinel", "cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of each shape in turn."""
    if request.param == "single":
        url: str = request.getfixturevalue("single_redis_url")
        return url
    servers: Servers = request.getfixturevalue(f"{request.param}_servers")
    return servers.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis."""
    client = connect(redis_url, 5.0)
    await everywhere(client, "FLUSHALL")
    yield client
    await client.aclose()


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Several servers of which a test may stop some."""
    running: Servers = request.getfixturevalue(f"{request.param}_servers")
    yield running
    running.restore()
