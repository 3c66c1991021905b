"""The private Redis: one socket, bounded memory, nothing on disk."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError

from app.bus.connection import connect
from app.embedded.redis import EmbeddedRedis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    yield server
    server.stop()


async def test_it_answers_on_a_socket_that_only_its_owner_can_open(server: EmbeddedRedis, tmp_path: Path) -> None:
    client = connect(server.start(), 5.0)

    assert await client.ping()
    assert (await client.config_get("port"))["port"] == "0"
    assert stat.S_IMODE((tmp_path / "redis").stat().st_mode) == 0o700
    await client.aclose()


async def test_it_starts_again_empty_at_the_same_url_after_a_kill(server: EmbeddedRedis) -> None:
    url = server.start()
    client = connect(url, 5.0)
    await client.set("key", "value")
    await client.aclose()
    assert server.process is not None
    server.process.kill()
    server.process.wait()

    assert server.start() == url
    client = connect(url, 5.0)
    assert await client.get("key") is None
    await client.aclose()


async def test_a_write_beyond_its_memory_is_refused_and_nothing_is_dropped(server: EmbeddedRedis) -> None:
    client = connect(server.start(), 5.0)
    await client.set("kept", "value")
    await client.config_set("maxmemory", 1)

    with pytest.raises(OutOfMemoryError):
        await client.set("key", "value")

    assert await client.get("kept") == b"value"
    await client.aclose()


async def test_its_folder_may_be_deeper_than_a_socket_path_can_be(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / ("deep" * 30) / "with space")
    client = connect(server.start(), 5.0)
    try:
        assert await client.ping()
    finally:
        await client.aclose()
        server.stop()


def test_it_writes_nothing_but_its_log(server: EmbeddedRedis, tmp_path: Path) -> None:
    server.start()
    server.stop()

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["redis.log"]
