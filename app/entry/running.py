"""The servers of a Tidemark that runs: those of the settings, or the embedded ones in its data folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from app.embedded.sockets import SocketDirectory
from app.settings import Settings
from app.supervision.problems import StartProblem

_POSTGRES_SOCKET = ".s.PGSQL.5432"
_REDIS_SOCKET = "redis.sock"


@contextmanager
def running_servers(settings: Settings) -> Iterator[tuple[str, str]]:
    """The URLs of PostgreSQL and Redis. Raises StartProblem where none are set and none run here."""
    data_dir = settings.data_dir.absolute()
    postgres = SocketDirectory(data_dir / "postgres", f"{_POSTGRES_SOCKET}.lock")
    redis = SocketDirectory(data_dir / "redis", _REDIS_SOCKET)
    try:
        database_url, redis_url = settings.database_url, settings.redis_url
        if database_url is None:
            database_url = f"postgresql://postgres@/postgres?host={_found(postgres, _POSTGRES_SOCKET, data_dir)}"
        if redis_url is None:
            redis_url = f"unix://{quote(str(_found(redis, _REDIS_SOCKET, data_dir) / _REDIS_SOCKET))}"
        yield database_url, redis_url
    finally:
        postgres.close()
        redis.close()


def _found(sockets: SocketDirectory, name: str, data_dir: Path) -> Path:
    directory = sockets.open()
    if not (directory / name).exists():
        raise StartProblem(
            f"no Tidemark runs in {data_dir}: start it, say where it runs with --data-dir, "
            "or set DATABASE_URL and REDIS_URL"
        )
    return directory
