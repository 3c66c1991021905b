"""Container health checks: ``python -m app.entry.health web``, ``pnl``, or the role of another worker.

A worker is well when somebody holds the lease of its role: itself, or the one it stands by for.
``pnl`` stands for the roles of all shards.
"""

import asyncio
import sys
from collections.abc import Sequence
from urllib.error import URLError
from urllib.request import urlopen

import asyncpg

from app.domain.shards import shards_of
from app.entry.configuration import external_servers, load_settings
from app.entry.probes import host_for_clients
from app.repositories.layouts import role_of
from app.supervision.problems import StartProblem

_TIMEOUT_S = 2.0


def main(subject: str) -> None:
    """Exit with code 1 and a line when the subject is not well."""
    settings = load_settings()
    if subject == "web":
        _ask_web(f"http://{host_for_clients(settings.host)}:{settings.port}/livez")
    else:
        roles = [role_of(shard) for shard in shards_of(settings.pnl_shards)] if subject == "pnl" else [subject]
        asyncio.run(_look_for_leases(external_servers(settings)[0], roles))


def _ask_web(url: str) -> None:
    try:
        with urlopen(url, timeout=_TIMEOUT_S):  # noqa: S310 - a fixed http URL
            return
    except (URLError, OSError) as error:
        raise StartProblem(f"{url} does not answer: {error}") from None


async def _look_for_leases(database_url: str, roles: Sequence[str]) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", "", 1), timeout=_TIMEOUT_S)
    try:
        held = await connection.fetch("SELECT role FROM leases WHERE role = ANY($1) AND expires_at > now()", roles)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    free = sorted(set(roles) - {role for (role,) in held})
    if free:
        raise StartProblem(f"nobody holds the lease {', '.join(free)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "web")
    except (StartProblem, OSError, TimeoutError, asyncpg.PostgresError) as problem:
        sys.exit(f"unhealthy: {problem}")
