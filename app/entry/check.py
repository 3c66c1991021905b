"""``run.py check``: the settings in effect, and whether what they name answers."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import httpx2
from redis.exceptions import RedisError
from rich.console import Console

from app.bus.cluster import ClusterRedis
from app.bus.connection import connect
from app.domain.instruments import Market
from app.entry.configuration import effective_values, redacted
from app.exchanges.binance.endpoints import is_loopback
from app.settings import Settings
from app.supervision.problems import StartProblem
from app.websocket.compiled import Unusable, load

_TIMEOUT_S = 5.0
_PROBLEMS = (OSError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError, httpx2.HTTPError, ValueError)


def check_settings(settings: Settings) -> None:
    """Print both. Raises StartProblem when something does not answer."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for variable, (value, is_set) in effective_values(settings).items():
        console.print(f"{variable:<43} {value:<36} {'set' if is_set else 'default'}")
    console.print()
    console.print(f"  {_fanout()}")
    failed = asyncio.run(_check_all(settings, console))
    if failed:
        raise StartProblem(f"no answer from {', '.join(failed)}")


def _fanout() -> str:
    try:
        load()
    except Unusable as error:
        return f"– fan-out: not compiled ({error}); frames are written by Python, at more CPU"
    return "✓ fan-out: compiled"


async def _check_all(settings: Settings, console: Console) -> list[str]:
    checks: list[tuple[str, str | None, Callable[[str], Awaitable[str]]]] = [
        ("PostgreSQL", settings.database_url, _postgres),
        ("Redis", settings.redis_url, _redis),
        *((f"exchange ({market})", urls.rest, _EXCHANGES[market]) for market, urls in settings.binance_urls.items()),
    ]
    failed = []
    for name, url, ask in checks:
        if not url:
            console.print(f"  – {name}: no URL; `run.py all` brings its own")
            continue
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                console.print(f"  ✓ {name}: {await ask(url)} at {redacted(url)}")
        except TimeoutError:
            failed.append(name)
            console.print(f"  ✗ {name}: no answer within {_TIMEOUT_S:g} s from {redacted(url)}")
        except _PROBLEMS as error:
            failed.append(name)
            console.print(f"  ✗ {name}: {type(error).__name__} from {redacted(url)}")
    return failed


async def _postgres(url: str) -> str:
    connection = await asyncpg.connect(url.replace("+asyncpg", "", 1))
    try:
        return f"PostgreSQL {str(await connection.fetchval('SHOW server_version')).split()[0]}"
    finally:
        await connection.close()


async def _redis(url: str) -> str:
    client = connect(url, _TIMEOUT_S)
    try:
        if not isinstance(client, ClusterRedis):
            return f"Redis {(await client.info('server'))['redis_version']}"
        primaries = await client.primaries()
        await client.ping()
        version = (await client.node(primaries[0]).info("server"))["redis_version"]
        return f"Redis {version} in {len(primaries)} shards"
    finally:
        await client.aclose()


async def _exchange(path: str, url: str) -> str:
    async with httpx2.AsyncClient(base_url=url, trust_env=not is_loopback(url)) as client:
        (await client.get(path)).raise_for_status()
    return "answers"


_EXCHANGES: dict[Market, Callable[[str], Awaitable[str]]] = {
    "spot": partial(_exchange, "/api/v3/ping"),
    "linear": partial(_exchange, "/fapi/v1/ping"),
    "inverse": partial(_exchange, "/dapi/v1/ping"),
}
