"""PgBouncer before the test server: few connections to it, changed after every transaction."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import asyncpg

from app.embedded.tether import spawn

PROGRAM = Path("/usr/sbin/pgbouncer")
SERVERS = 3
"""Connections to the server, for all clients of one database together."""

_UNPRIVILEGED_USER = "nobody"
_START_TIMEOUT_S = 10.0

_CONFIGURATION = f"""\
[databases]
* = host=/proc/self/cwd user=postgres

[pgbouncer]
listen_addr =
unix_socket_dir = {{directory}}
listen_port = 5432
auth_type = any
pool_mode = transaction
default_pool_size = {SERVERS}
max_client_conn = 300
query_wait_timeout = 10
log_connections = 0
log_disconnections = 0
"""


class PgBouncer:
    """One PgBouncer in transaction mode. ``server_url`` is of a server on a socket in a folder."""

    def __init__(self, server_url: str) -> None:
        self.server_directory = Path(_socket_directory(server_url)).resolve()
        # A folder of its own, for the user it runs as may not enter that of the tests.
        self.directory = Path(tempfile.mkdtemp(prefix="tidemark-pool-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        user = _UNPRIVILEGED_USER if os.geteuid() == 0 else None
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text(_CONFIGURATION.format(directory=self.directory))
        if user is not None:
            shutil.chown(self.directory, user)
        log_path = self.directory / "log"
        with log_path.open("wb") as log:
            self._process = spawn(
                [PROGRAM, configuration],
                # The server's folder is reached as the working directory: its parents are closed to others.
                directory=self.server_directory,
                death_signal=signal.SIGTERM,
                user=user,
                log=log.fileno(),
                env={"PATH": os.defpath},
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"PgBouncer did not start: {log_path.read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def url_of(self, database_url: str) -> str:
        """The same database, by way of the pooler."""
        return database_url.replace(f"host={_socket_directory(database_url)}", f"host={quote(str(self.directory))}")

    async def server_connections(self, database_url: str) -> int:
        """How many connections to the server the pooler has opened for a database."""
        name = database_url.partition("?")[0].rpartition("/")[2]
        connection = await asyncpg.connect(database_url)
        try:
            count = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", name
            )
        finally:
            await connection.close()
        return int(count)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.directory / ".s.PGSQL.5432"))
            except OSError:
                return False
        return True


def _socket_directory(url: str) -> str:
    return url.partition("?host=")[2].partition("&")[0]
