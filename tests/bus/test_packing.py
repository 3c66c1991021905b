"""How commands are written to Redis."""

import hiredis
import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import DataError

from app.bus.pool import packing


async def test_what_is_written_is_what_is_read_whatever_it_is_made_of(redis: Redis) -> None:
    fields = {"text": "±0.5 ₿", "bytes": b"\x00\r\n$5\r\n", "number": -7, "empty": "", "float": 0.1}
    await redis.hset("thing", mapping=fields)  # type: ignore[arg-type]
    assert await redis.hgetall("thing") == {
        b"text": "±0.5 ₿".encode(),
        b"bytes": b"\x00\r\n$5\r\n",
        b"number": b"-7",
        b"empty": b"",
        b"float": b"0.1",
    }


@pytest.mark.parametrize("name", ["OBJECT ENCODING", b"OBJECT ENCODING"])
def test_a_name_of_two_words_is_two_words(name: str | bytes) -> None:
    connection = packing(Connection)()
    assert connection.pack_command(name, "k") == [b"*3\r\n$6\r\nOBJECT\r\n$8\r\nENCODING\r\n$1\r\nk\r\n"]


@pytest.mark.parametrize("size", [16_384, 16_385, 1_000_000])
async def test_a_large_argument_is_written_as_it_is(redis: Redis, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"\r" * (size % 256)
    pipeline = redis.pipeline(transaction=False)
    pipeline.set("before", 1)
    pipeline.set("large", payload)
    pipeline.set("after", payload, ex=60)
    await pipeline.execute()
    assert [await redis.get(name) for name in ("before", "large", "after")] == [b"1", payload, payload]


async def test_a_pipeline_keeps_its_order(redis: Redis) -> None:
    pipeline = redis.pipeline(transaction=True)
    pipeline.set("n", 1)
    pipeline.get("n")
    pipeline.set("n", "2")
    pipeline.get("n")
    assert await pipeline.execute() == [True, b"1", True, b"2"]


@pytest.mark.parametrize("value", [None, object(), ["list"]])
async def test_what_has_no_form_in_redis_is_refused_and_the_connection_goes_on(redis: Redis, value: object) -> None:
    with pytest.raises(DataError):
        await redis.set("n", value)  # type: ignore[arg-type]
    assert await redis.set("n", 1)


@pytest.mark.parametrize("other", ["ü", b"\x00\xff", -7, 0.1, 1e30])
def test_a_large_argument_is_written_as_a_small_one_is(other: str | bytes | float) -> None:
    connection, large = packing(Connection)(), b"\r\n" * 10_000
    small = hiredis.pack_command((b"SET", other, b"payload", other))
    pieces = connection.pack_command("SET", other, large, other)
    assert b"".join(pieces) == small.replace(b"$7\r\npayload", b"$20000\r\n" + large)
    assert any(piece is large for piece in pieces)


async def test_a_large_value_is_read_as_it_was_written(redis: Redis) -> None:
    pipeline = redis.pipeline(transaction=False)
    values = [bytes([number]) * (16_383 + number) for number in range(4)]
    for number, value in enumerate(values):
        pipeline.set(f"large-{number}", value, ex=60)
    assert await pipeline.execute() == [True] * 4
    assert [await redis.get(f"large-{number}") for number in range(4)] == values


@pytest.mark.parametrize("value", [None, object(), ["list"], True])
async def test_what_has_no_form_beside_a_large_argument_is_refused_too(redis: Redis, value: object) -> None:
    with pytest.raises(DataError):
        await redis.execute_command("SET", "n", b"x" * 20_000, "EX", value)
    assert await redis.set("n", 1)
