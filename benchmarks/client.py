"""The load: one process that holds many authenticated, subscribed WebSocket connections.

Open loop: it asks for nothing once it has subscribed, so a server that stalls
cannot slow the load down. Handshakes are done hundreds at a time in plain
blocking calls; then everything is left to a :class:`benchmarks.reader.Reader`.
"""

import json
import multiprocessing
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

from app.supervision.problems import StartProblem
from benchmarks.population import Member
from benchmarks.profiles import raise_descriptor_limit
from benchmarks.reader import Reading, open_reader

_TOGETHER: Final = 500
"""Handshakes in flight per process: everybody who comes back at once."""
_PER_ADDRESS: Final = 250
"""Connections per source address: below the server's limit, and below what ports allow."""
_HANDSHAKE_S: Final = 20.0
_CONNECT_S: Final = 120.0
_BEFORE_RETRY_S: Final = 1.0
_TURN_S: Final = 0.05
_BIND_WITHOUT_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT, missing in Python 3.11

Command = Literal["connect", "reset", "read", "state", "stop"]


@dataclass(frozen=True)
class Load:
    """What one client process is to do. ``number`` keeps the source addresses of several apart."""

    number: int
    port: int
    members: Sequence[Member]
    subscribe: bool = True
    native: bool = True


@dataclass(frozen=True)
class _Failure:
    """Sent in place of an answer by a process that ends."""

    reason: str


class Client:
    """The process as its parent sees it."""

    def __init__(self, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(load, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, command: Command) -> Any:
        """Have a command carried out, and wait for its answer. Raises StartProblem with what went wrong there."""
        self.send(command)
        return self.answer()

    def send(self, command: Command) -> None:
        """Have a command carried out; :meth:`answer` waits for it."""
        self._pipe.send(command)

    def answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, _Failure):
            raise StartProblem(f"the load client failed: {answer.reason}")
        return answer

    def read(self) -> Reading:
        """The figures since the last ``reset``."""
        return Reading(*self.ask("read"))

    def stop(self) -> None:
        """Close every connection and end the process."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()


def _run(load: Load, pipe: Connection) -> None:
    raise_descriptor_limit()
    try:
        _Process(load).serve(pipe)
    except (EOFError, BrokenPipeError):
        return  # The parent is done.
    except OSError as error:
        pipe.send(_Failure(f"{type(error).__name__}: {error}"))


class _Process:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._reader = open_reader(len(load.members), native=load.native)
        self.refused = 0
        self.refusal = ""

    def serve(self, pipe: Connection) -> None:
        """Read what comes, and now and then look for a command."""
        while True:
            self._reader.pump(_TURN_S)
            while pipe.poll():
                command: Command = pipe.recv()
                if command == "stop":
                    return
                pipe.send(self._carry_out(command))

    def _carry_out(self, command: Command) -> Any:
        if command == "connect":
            return self._connect()
        if command == "reset":
            self._reader.reset()
            return None
        if command == "read":
            return tuple(self._reader.read())
        return self._reader.ready, self._reader.closed, self.refused

    def _connect(self) -> float:
        """Open every connection; how long that took, in seconds."""
        started = time.monotonic()
        waiting = deque(enumerate(self._load.members))
        while waiting:
            batch = [waiting.popleft() for _ in range(min(_TOGETHER, len(waiting)))]
            sockets = [self._begin(index, member) for index, member in batch]
            refused = [
                each for each, connection in zip(batch, sockets, strict=True) if not self._finish(connection, each[1])
            ]
            self.refused += len(refused)
            waiting.extend(refused)
            # Those that are connected already have to be read, or they would count as stalled.
            self._reader.pump(_BEFORE_RETRY_S if refused else 0)
            if time.monotonic() - started > _CONNECT_S:
                raise OSError(f"{len(waiting)} are not let in after {_CONNECT_S:g} s: {self.refusal}")
        return time.monotonic() - started

    def _finish(self, connection: socket.socket, member: Member) -> bool:
        """Wait for the answer to a handshake. False: the server is busy, to be asked again."""
        head, rest = _answer(connection)
        if head.startswith(b"HTTP/1.1 503"):
            self.refusal = rest.decode(errors="replace")
            connection.close()
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            raise OSError(f"no upgrade: {head.splitlines()[0].decode()} {rest.decode(errors='replace')}")
        if self._load.subscribe:
            connection.sendall(_subscriptions(member))
        self._reader.add(connection, rest)
        return True

    def _begin(self, index: int, member: Member) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(_HANDSHAKE_S)
        connection.setsockopt(socket.IPPROTO_IP, _BIND_WITHOUT_PORT, 1)
        connection.bind((_source(self._load.number, index), 0))
        connection.connect(("127.0.0.1", self._load.port))
        connection.sendall(_request(self._load.port, member.token))
        return connection


def _source(process: int, index: int) -> str:
    """One of many loopback addresses."""
    return f"127.{10 + process}.{index // _PER_ADDRESS // 250}.{index // _PER_ADDRESS % 250 + 1}"


def _request(port: int, token: str) -> bytes:
    lines = (
        "GET /api/v1/stream HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Origin: http://127.0.0.1:{port}",
        f"Cookie: tidemark={token}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGlkZW1hcmsgYmVuY2htYQ==",
        "Sec-WebSocket-Protocol: tidemark.v1.json",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def _answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head of the answer to a handshake, and what was received after it. Raises OSError."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            raise OSError("the server hung up during the handshake")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _subscriptions(member: Member) -> bytes:
    messages: tuple[dict[str, Any], ...] = (
        {"type": "subscribe", "id": 1, "channel": "prices", "symbols": member.symbols},
        {"type": "subscribe", "id": 2, "channel": "pnl"},
        {"type": "subscribe", "id": 3, "channel": "positions"},
    )
    return b"".join(_masked_text(json.dumps(message).encode()) for message in messages)


def _masked_text(payload: bytes) -> bytes:
    """A client's frame. The mask is zero, which is a mask like any other."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + payload
