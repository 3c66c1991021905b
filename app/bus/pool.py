"""Connections to one server, as the bus wants them.

redis-py retries by itself, and its timeouts are not deadlines: a command on a
stopped server can block many times its ``socket_timeout``. So its retries are
off, and every command runs under a deadline of ours.
"""

from functools import cache
from typing import Any, Final

import hiredis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import DataError

_LARGE: Final = 16_384
"""Bytes of an argument that are not copied into the command."""
_READ_BYTES: Final = 2**20


def open_pool(url: str, timeout_s: float, max_connections: int) -> "BlockingConnectionPool":
    """Connections to the server of a ``redis://``, ``rediss://`` or ``unix://`` URL, made when needed."""
    # A pool that waits: the plain one refuses the moment it is empty, and a burst of requests is no outage.
    pool = BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=timeout_s, **connection_options(timeout_s)
    )
    pool.connection_class = packing(pool.connection_class)  # type: ignore[arg-type]
    return pool


class _Packing:
    """Writes commands with hiredis, as redis-py's blocking client does and its asyncio one does not (8.1).

    A flush of 2,000 prices is one command of 4,000 arguments, which takes Python as long as all else about it.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        name, *rest = args
        # Names of two words, like CONFIG SET, are two arguments.
        words = name.split() if isinstance(name, bytes) else name.encode().split()
        try:
            if isinstance(rest[-1] if rest else None, bytes) and len(rest[-1]) > _LARGE:
                return _around(rest[-1], hiredis.pack_command((*words, *rest[:-1])))
            return [hiredis.pack_command((*words, *rest))]
        except TypeError as error:
            raise DataError(str(error)) from error


def _around(payload: bytes, packed: bytes) -> list[bytes]:
    """A command with one argument more than was packed: a large one, which so is copied by nobody."""
    count, _, others = packed.partition(b"\r\n")
    return [b"*%d\r\n%b$%d\r\n" % (int(count[1:]) + 1, others, len(payload)), payload, b"\r\n"]


@cache
def packing(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection, which writes commands faster."""
    return type(f"Packing{connection_class.__name__}", (_Packing, connection_class), {})


def connection_options(timeout_s: float) -> dict[str, Any]:
    """What every connection is made with."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        # Anything else than 0, and a new connection to a stalled server hangs for ever.
        "health_check_interval": 0,
        "protocol": 3,
        # A message of ten thousand users' P&L has 400 kB, which would be read in a dozen pieces.
        "socket_read_size": _READ_BYTES,
    }
