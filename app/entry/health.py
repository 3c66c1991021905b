"""Container health checks: ``python -m app.entry.health web`` or the role of a worker.

A worker is well when somebody holds the lease of its role: itself, or the one it stands by for.
"""

import asyncio
import sys
from urllib.error import URLError
from urllib.request import urlopen

import asyncpg

from app.entry.configuration import external_servers, load_settings
from app.entry.probes import host_for_clients
from app.supervision.problems import StartProblem

_TIMEOUT_S = 2.0


def main(subject: str) -> None:
    """Exit with code 1 and a line when the subject is not well."""
    settings = load_settings()
    if subject == "web":
        _ask_web(f"http://{host_for_clients(settings.host)}:{settings.port}/livez")
    else:
        asyncio.run(_look_for_lease(external_servers(settings)[0], subject))


def _ask_web(url: str) -> None:
    try:
        with urlopen(url, timeout=_TIMEOUT_S):  # noqa: S310 - a fixed http URL
            return
    except (URLError, OSError) as error:
        raise StartProblem(f"{url} does not answer: {error}") from None


async def _look_for_lease(database_url: str, role: str) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", "", 1), timeout=_TIMEOUT_S)
    try:
        is_held = await connection.fetchval("SELECT expires_at > now() FROM leases WHERE role = $1", role)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    if not is_held:
        raise StartProblem(f"nobody holds the lease {role!r}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "web")
    except (StartProblem, OSError, TimeoutError, asyncpg.PostgresError) as problem:
        sys.exit(f"unhealthy: {problem}")
