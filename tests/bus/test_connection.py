"""What a client of each topology is made of."""

import pytest
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from app.bus.connection import connect
from app.bus.topology import RedisUrlError


@pytest.mark.parametrize(
    ("url", "connection_class"),
    [
        ("rediss://a:1", SSLConnection),
        ("rediss+sentinel://a:1/desk", SentinelManagedSSLConnection),
        ("rediss+cluster://a:1,b:2", SSLConnection),
    ],
)
async def test_tls_is_spoken_where_the_url_says_so(url: str, connection_class: type) -> None:
    client = connect(f"{url}?ssl_cert_reqs=none&client_name=web", 1.0)

    connection = client.connection_pool.make_connection()

    assert isinstance(connection, connection_class)
    assert connection.client_name == "web"
    await client.aclose()


def test_a_url_that_names_nothing_is_said_before_anything_is_connected_to() -> None:
    with pytest.raises(RedisUrlError):
        connect("redis+cluster://a:1/1", 1.0)
