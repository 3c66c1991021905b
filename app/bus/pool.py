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

_READ_BYTES: Final = 2**20
_FEW: Final = 8
_LARGE: Final = 16_384
_PLAIN: Final = (bytes, str, int, float)


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
        if _is_large(rest):
            return _in_pieces([*words, *rest])
        try:
            return [hiredis.pack_command((*words, *rest))]
        except TypeError as error:
            raise DataError(str(error)) from error


def _is_large(arguments: list[Any]) -> bool:
    """Whether there are few arguments, all plain, and one of them is long."""
    if len(arguments) > _FEW or not any(isinstance(one, bytes) and len(one) > _LARGE for one in arguments):
        return False
    return all(type(one) in _PLAIN for one in arguments)


def _in_pieces(arguments: list[Any]) -> list[bytes]:
    """The command with long arguments as they are: hiredis takes 3 ms to copy 2 MB, which a flush to many users has."""
    pieces = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        pieces += [b"$%d\r\n" % len(data), data, b"\r\n"]
    return pieces


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
