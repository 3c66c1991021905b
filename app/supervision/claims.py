"""Claiming what two copies of Tidemark cannot share: the data folder and the port."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.supervision.problems import StartProblem


@contextmanager
def claimed_folder(directory: Path) -> Iterator[bool]:
    """Hold the data folder, making it if needed. The lock goes with the process, however it ends.

    Yields whether the one before was killed, so that what it left may still be ending.
    Raises StartProblem when the folder cannot be written to or another copy holds it.
    """
    descriptor = _open_lock(directory)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise StartProblem(
                f"another Tidemark (process {holder or 'unknown'}) already uses {directory}: "
                "stop it, or choose another folder with --data-dir or TIDEMARK_DATA_DIR"
            ) from None
        was_killed = os.fstat(descriptor).st_size > 0
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield was_killed
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _open_lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(directory / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable_folder(directory, error) from None


def unusable_folder(directory: Path, error: OSError) -> StartProblem:
    """The one line for a data folder that cannot be made, read or written."""
    where = f" ({error.filename})" if error.filename and str(error.filename) != str(directory) else ""
    return StartProblem(
        f"the data folder {directory} cannot be used: {error.strerror or error}{where}. "
        "Make it writable, or choose another with --data-dir or TIDEMARK_DATA_DIR"
    )


def ensure_port_is_free(host: str, port: int, *, option: str, variable: str, patience_s: float = 0.0) -> None:
    """Raise StartProblem when nobody could listen there; ``option`` and ``variable`` say how to choose another.

    ``patience_s`` is how long to wait for a port in use to become free.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and _is_in_use(host, port):
        time.sleep(0.1)
    other = f"choose another with {option} or {variable}"
    try:
        _bind(host, port)
    except socket.gaierror as error:
        raise StartProblem(f"{host!r} is no address to listen on ({error.strerror}): set TIDEMARK_HOST") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartProblem(f"port {port} on {host} is in use: stop what uses it, or {other}") from None
        raise StartProblem(f"cannot listen on {host} port {port} ({error.strerror}): {other}") from None


def _bind(host: str, port: int) -> None:
    """Listen there and stop again. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: a port left in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _is_in_use(host: str, port: int) -> bool:
    try:
        _bind(host, port)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
