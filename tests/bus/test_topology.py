"""What a REDIS_URL names, and what is said of one that names nothing."""

import pytest

from app.bus.topology import Cluster, RedisUrlError, SentinelService, Server, parse_redis_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://:secret@redis",
        "rediss://user:se%40cret@redis.example:6380/3?ssl_cert_reqs=none",
        "redis://[::1]:6379/1",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_one_server_is_spoken_to_as_its_url_says(url: str) -> None:
    assert parse_redis_url(url) == Server(url)


def test_sentinels_are_named_with_the_service_whose_master_is_meant() -> None:
    named = parse_redis_url("redis+sentinel://user:se%40cret@a:1,b/desk?db=2&sentinel_password=wa%26tch")

    assert named == SentinelService(
        service="desk",
        sentinels=(("a", 1), ("b", 26379)),
        master=Server("redis://user:se%40cret@a:1/2"),
        sentinel=Server("redis://:wa%26tch@a:1"),
    )


def test_sentinels_without_a_password_are_asked_without_one() -> None:
    named = parse_redis_url("redis+sentinel://:secret@a:1/desk")

    assert isinstance(named, SentinelService)
    assert named.master == Server("redis://:secret@a:1/0")
    assert named.sentinel == Server("redis://a:1")


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    named = parse_redis_url("redis+cluster://:secret@a:7000,b,[::1]:7002")

    assert named == Cluster((("a", 7000), ("b", 6379), ("::1", 7002)), Server("redis://:secret@a:7000"))
    assert isinstance(named, Cluster)
    assert named.node.at(("::1", 7002)) == Server("redis://:secret@[::1]:7002")


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_tls_is_for_every_server(kind: str) -> None:
    named = parse_redis_url(f"rediss+{kind}://a:1,b:2/{'desk' if kind == 'sentinel' else ''}?ssl_ca_certs=/ca.pem")

    servers = [named.master, named.sentinel] if isinstance(named, SentinelService) else [named.node]  # type: ignore[union-attr]
    assert all(server.url.startswith("rediss://a:1") and "ssl_ca_certs=%2Fca.pem" in server.url for server in servers)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must start with"),
        ("redis:6379", "must start with"),
        ("localhost:6379", "must start with"),
        ("http://redis:6379", "must start with"),
        ("redis+magic://redis:6379", "must start with"),
        ("redis://", "host:port"),
        ("redis://host:port", "host:port"),
        ("redis://:hid/den@host", "percent-encoded"),
        ("redis://host:99999", "host:port"),
        ("redis://a:1,b:2", r"redis\+cluster:// or redis\+sentinel://"),
        ("redis://host/desk", "database"),
        ("redis://host?decode_responses=true", "unknown option 'decode_responses'"),
        ("unix://", "socket"),
        ("redis+sentinel://a:1", "service"),
        ("redis+sentinel://a:1/desk/0", "service"),
        ("redis+sentinel://a:1/desk?db=x", "database"),
        ("redis+sentinel:///desk", "host:port"),
        ("redis+cluster://a:1,,b:2", "host:port"),
        ("redis+cluster://a:1/3", "database"),
        ("redis+cluster://a:1?db=1", "unknown option 'db'"),
        ("redis+cluster://:hid#den@a:1", "%23"),
        ("redis://[::1", "host:port"),
    ],
)
def test_a_url_that_names_nothing_is_refused_with_a_reason_and_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(RedisUrlError, match=said) as refused:
        parse_redis_url(url)

    assert "hid" not in str(refused.value)
    assert "\n" not in str(refused.value)
