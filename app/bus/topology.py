"""What ``REDIS_URL`` names: one server, the master that Sentinels know, or a cluster. Does no I/O.

=============================================================  ==================================
``redis://``, ``rediss://`` (TLS), ``unix://``                 one server
``redis+sentinel://host:port,host:port/service?db=0``          the service's master; hosts are Sentinels
``redis+cluster://host:port,host:port``                        a cluster; hosts are some of its nodes
=============================================================  ==================================

``rediss+sentinel`` and ``rediss+cluster`` speak TLS with every server. A user
and a password before the hosts are those of the servers; Sentinels that want
some take ``sentinel_username`` and ``sentinel_password`` as options.
"""

from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

Address: TypeAlias = tuple[str, int]
"""Host and port."""

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_TLS_OPTIONS: Final = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_SERVER_OPTIONS: Final = _TLS_OPTIONS | {"client_name", "username", "password"}
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_FORMS: Final = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"


class RedisUrlError(ValueError):
    """``REDIS_URL`` names nothing that can be connected to; the message is one line without the URL."""


@dataclass(frozen=True)
class Server:
    """One server, or how each of several is spoken to: everything but the address."""

    url: str

    def at(self, address: Address) -> "Server":
        """The same at another address."""
        host, port = address
        parts = urlsplit(self.url)
        login = parts.netloc.rpartition("@")[0]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return Server(urlunsplit(parts._replace(netloc=f"{login}@{place}" if login else place)))

    def logged_in_as(self, username: str | None, password: str | None) -> "Server":
        """The same with other credentials, and none where they are None; in no particular database."""
        parts = urlsplit(self.url)
        login = quote(username or "", safe="")
        if password is not None:
            login += f":{quote(password, safe='')}"
        place = parts.netloc.rpartition("@")[2]
        netloc = f"{login}@{place}" if login else place
        return Server(urlunsplit(parts._replace(netloc=netloc, path="")))


@dataclass(frozen=True)
class SentinelService:
    """A master that moves; the Sentinels at ``sentinels`` know where it is."""

    service: str
    sentinels: tuple[Address, ...]
    master: Server
    sentinel: Server


@dataclass(frozen=True)
class Cluster:
    """Shards; the nodes at ``seeds`` say which others there are."""

    seeds: tuple[Address, ...]
    node: Server


Topology: TypeAlias = Server | SentinelService | Cluster


def parse_redis_url(url: str) -> Topology:
    """What a URL names. Raises RedisUrlError."""
    parts = _split(url)
    base, _, kind = parts.scheme.partition("+")
    if kind == "" and base == "unix":
        _check_unix(parts)
        return Server(url)
    if base not in {"redis", "rediss"} or kind not in {"", "sentinel", "cluster"} or "://" not in url:
        raise RedisUrlError(f"must start with {_FORMS}")
    if parts.fragment:
        raise RedisUrlError("has a '#': write it as %23")
    if kind == "":
        _check_server(parts)
        return Server(url)
    if kind == "sentinel":
        return _sentinel(parts._replace(scheme=base))
    return _cluster(parts._replace(scheme=base))


def _split(url: str) -> SplitResult:
    """The parts of a URL. Hosts are set aside: newer releases of Python refuse several with an IPv6 address."""
    scheme, separator, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    try:
        return urlsplit(f"{scheme}{separator}{rest[end:]}")._replace(netloc=rest[:end])
    except ValueError:
        raise RedisUrlError("is not a URL") from None


def _check_unix(parts: SplitResult) -> None:
    if not parts.path.strip("/"):
        raise RedisUrlError("names no socket: unix:///path/to/redis.sock")
    _number(_options(parts, _SERVER_OPTIONS | {"db"}).get("db", "0"))


def _check_server(parts: SplitResult) -> None:
    if len(_addresses(parts, REDIS_PORT)) != 1:
        raise RedisUrlError("names several hosts: say redis+cluster:// or redis+sentinel://")
    options = _options(parts, _SERVER_OPTIONS | {"db"})
    _number(options.get("db", parts.path.strip("/") or "0"))


def _sentinel(parts: SplitResult) -> SentinelService:
    service = unquote(parts.path.strip("/"))
    if not service or "/" in service:
        raise RedisUrlError("names no service: redis+sentinel://host:26379/service")
    options = _options(parts, _SERVER_OPTIONS | _SENTINEL_OPTIONS | {"db"})
    database = _number(options.pop("db", "0"))
    username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    sentinels = _addresses(parts, SENTINEL_PORT)
    master = _one_of_many(parts, sentinels[0], options)
    credentials = {"username", "password"}
    plain = {name: value for name, value in options.items() if name not in credentials}
    sentinel = _one_of_many(parts, sentinels[0], plain).logged_in_as(username, password)
    return SentinelService(service, sentinels, _in_database(master, database), sentinel)


def _cluster(parts: SplitResult) -> Cluster:
    if parts.path.strip("/") not in {"", "0"}:
        raise RedisUrlError("names a database, and a cluster has none but 0")
    seeds = _addresses(parts, REDIS_PORT)
    return Cluster(seeds, _one_of_many(parts, seeds[0], _options(parts, _SERVER_OPTIONS)))


def _one_of_many(parts: SplitResult, address: Address, options: dict[str, str]) -> Server:
    login = parts.netloc.rpartition("@")[0]
    return Server(urlunsplit(parts._replace(netloc=f"{login}@", path="", query=urlencode(options)))).at(address)


def _in_database(server: Server, database: int) -> Server:
    return replace(server, url=urlunsplit(urlsplit(server.url)._replace(path=f"/{database}")))


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2]
    return tuple(_address(each, default_port) for each in hosts.split(","))


def _address(text: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        # Without what was there: it may be half a password, one with a character to be written as %2F or the like.
        raise RedisUrlError("has a host:port that is none, or a password that is not percent-encoded")
    return host, default_port if port is None else port


def _options(parts: SplitResult, known: frozenset[str]) -> dict[str, str]:
    """Only what is known: redis-py would take the rest as arguments, and some undo what the bus relies on."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - known)
    if unknown:
        raise RedisUrlError(f"has an unknown option {unknown[0]!r}")
    return options


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise RedisUrlError("names a database by something else than a number")
    return int(text)
