"""How long the event loop of each web process makes others wait.

A request that does nothing, over a connection that stays, is answered when the
loop comes round to it. There is one connection to each process, found by whose
socket the other end is; the answer's time is the kernel's, so that delays of this
program do not count.
"""

import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_TIMESTAMPNS: Final = 35  # SO_TIMESTAMPNS, and the type of its message; missing in Python
_MOST_CONNECTIONS: Final = 64
_ANSWER_S: Final = 10.0
_EVERY_S: Final = 0.1
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class LoopLag:
    """Asks every process ten times a second while the block runs, in a thread of its own."""

    def __init__(self, port: int, processes: Iterable[int]) -> None:
        self._port = port
        self._processes = set(processes)
        self._lines: dict[int, socket.socket] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="loop-lag", daemon=True)
        self._lags_ms: list[float] = []

    def __enter__(self) -> Self:
        self._lines = _one_to_each(self._port, self._processes)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(2 * _ANSWER_S)
        for line in self._lines.values():
            line.close()

    @property
    def heard(self) -> int:
        """How many of the processes are asked."""
        return len(self._lines)

    def take(self) -> list[float]:
        """What was found since the last call, of all processes together, in milliseconds."""
        taken, self._lags_ms = self._lags_ms, []
        return taken

    def _ask_on(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            for pid, line in list(self._lines.items()):
                try:
                    self._lags_ms.append(_ask(line, self._port))
                except OSError:
                    del self._lines[pid]
                    line.close()


def _one_to_each(port: int, processes: set[int]) -> dict[int, socket.socket]:
    """A connection to each process; one that accepts none of many is left out."""
    found: dict[int, socket.socket] = {}
    spare: list[socket.socket] = []
    while processes - found.keys() and len(spare) < _MOST_CONNECTIONS:
        line = socket.create_connection(("127.0.0.1", port), _ANSWER_S)
        line.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        _ask(line, port)  # now somebody has accepted it
        pid = _owner(port, line.getsockname()[1], processes)
        if pid is None or pid in found:
            spare.append(line)
        else:
            found[pid] = line
    for line in spare:
        line.close()
    return found


def _ask(line: socket.socket, port: int) -> float:
    """How long an answer takes until it is at our socket, in milliseconds. Raises OSError."""
    asked_ns = time.time_ns()
    line.sendall(f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"}"):
        data, ancillary, _, _ = line.recvmsg(4096, 64)
        if not data:
            raise ConnectionResetError("the server hung up")
        answer += data
    return (_arrival_ns(ancillary) - asked_ns) / 1e6


def _arrival_ns(ancillary: Iterable[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("qq", data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def _owner(port: int, peer_port: int, processes: set[int]) -> int | None:
    """The process that has the server's end of a connection."""
    inodes = {inode for local, remote, inode in _connections() if (local, remote) == (port, peer_port)}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in processes:
        with suppress(*_GONE):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(*_GONE):
                    if str(descriptor.readlink()) in wanted:
                        return pid
    return None


def _connections() -> Iterable[tuple[int, int, str]]:
    """The TCP connections of this machine: local port, remote port, inode."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        yield int(fields[1].rpartition(":")[2], 16), int(fields[2].rpartition(":")[2], 16), fields[9]
