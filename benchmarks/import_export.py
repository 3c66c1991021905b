"""Time and memory of importing and exporting many fills: ``python -m benchmarks.import_export --rows 1000000``.

An embedded PostgreSQL with its own durable settings, a web process under its own
server, and files made from a seed. Peak memory is what the kernel counted for
the process that does the work (VmHWM).
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil

from app.bus.connection import connect
from app.bus.prices import write_instruments
from app.domain.instruments import Instrument
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.repositories.migrate import upgrade

_SYMBOLS = 20
_PASSWORD = "a password for measuring"
_PROJECT = Path(__file__).resolve().parents[1]


def instruments() -> list[Instrument]:
    from decimal import Decimal

    return [
        Instrument(
            symbol=f"COIN{number}USDT",
            market="spot",
            base=f"COIN{number}",
            quote="USDT",
            settle="USDT",
            tick_size=Decimal("0.01"),
            step_size=Decimal("0.00001"),
        )
        for number in range(_SYMBOLS)
    ]


def write_fills(path: Path, rows: int, *, as_ccxt: bool = False) -> None:
    """A file of fills over twenty symbols, with ids, half of them fees."""
    chance = random.Random(7)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    with path.open("w") as file:
        if not as_ccxt:
            file.write("symbol,side,quantity,price,fee,fee_asset,executed_at,trade_id,strategy\n")
        for number in range(rows):
            at += timedelta(milliseconds=chance.randint(1, 20_000))
            symbol = chance.randrange(_SYMBOLS)
            side = chance.choice(("buy", "sell"))
            quantity, price = chance.randint(1, 99_999) / 1000, chance.randint(100_00, 120_00) / 100
            if as_ccxt:
                file.write(
                    f'{{"id": "{number}", "timestamp": {int(at.timestamp() * 1000)}, "symbol": "COIN{symbol}/USDT", '
                    f'"side": "{side}", "price": {price}, "amount": {quantity}, "takerOrMaker": "taker", '
                    f'"fee": {{"cost": {quantity / 1000:.6f}, "currency": "USDT"}}}}\n'
                )
            else:
                file.write(
                    f"COIN{symbol}USDT,{side},{quantity},{price},{quantity / 1000:.6f},USDT,"
                    f"{at.isoformat(timespec='milliseconds')},{number},\n"
                )


@asynccontextmanager
async def server(database_url: str, redis_url: str, folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """One web process on a Unix socket."""
    socket = folder / "web.sock"
    environment = {
        **os.environ,
        "TIDEMARK_DATABASE_URL": database_url,
        "TIDEMARK_REDIS_URL": redis_url,
        "TIDEMARK_DATA_DIR": str(folder),
        "TIDEMARK_LOGINS_PER_MINUTE_PER_IP": "1000",
    }
    command = (sys.executable, "-m", "uvicorn", "app.main:app", "--uds", str(socket), "--log-level", "warning")
    process = await asyncio.create_subprocess_exec(*command, cwd=_PROJECT, env=environment)
    try:
        while not socket.exists():
            await asyncio.sleep(0.1)
        yield str(socket), psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def peak_mib(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


async def import_over_rest(client: httpx2.AsyncClient, path: Path, web: psutil.Process) -> dict[str, Any]:
    """Upload and wait; what it took."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    media_type = "text/csv" if path.suffix == ".csv" else "application/x-ndjson"
    began = time.monotonic()
    headers = {"Content-Type": media_type, "Content-Length": str(path.stat().st_size)}
    answer = await client.post("/api/v1/imports", content=stream(), headers=headers)
    answer.raise_for_status()
    uploaded = time.monotonic()
    url = answer.headers["location"]
    peak, read_s = 0.0, 0.0
    while True:
        one = (await client.get(url)).json()
        if one["rows_total"] is not None and not read_s:
            read_s = time.monotonic() - uploaded
        if one["finished_at"]:
            break
        for child in web.children():
            try:
                peak = max(peak, peak_mib(child))
            except (psutil.Error, OSError):
                pass
        await asyncio.sleep(0.2)
    return {
        "state": one["state"],
        "rows": one["rows_booked"],
        "file_mib": round(path.stat().st_size / 2**20),
        "upload_s": round(uploaded - began, 1),
        "read_s": round(read_s, 1),
        "total_s": round(time.monotonic() - began, 1),
        "worker_peak_mib": round(peak),
        "web_peak_mib": round(peak_mib(web)),
        "reason": one["reason"],
    }


async def measure(rows: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tm-")))
        folder.chmod(0o755)
        postgres, redis = EmbeddedPostgres(folder), EmbeddedRedis(folder)
        stack.callback(postgres.stop)
        stack.callback(redis.stop)
        database_url, redis_url = postgres.start(), redis.start()
        await upgrade(database_url)
        bus = connect(redis_url, 5.0)
        await write_instruments(bus, instruments(), 5.0)
        await bus.aclose()
        csv, lines = folder / "fills.csv", folder / "fills.ndjson"
        write_fills(csv, rows)
        write_fills(lines, rows, as_ccxt=True)
        socket, web = await stack.enter_async_context(server(database_url, redis_url, folder))
        await asyncio.sleep(3)
        transport = httpx2.AsyncHTTPTransport(uds=socket)
        for path in (csv, lines):
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=600) as client:
                body = {"username": path.suffix[1:], "password": _PASSWORD}
                (await client.post("/api/v1/auth/register", json=body)).raise_for_status()
                print(path.name, await import_over_rest(client, path, web), flush=True)
                print(path.name, "again", await import_over_rest(client, path, web), flush=True)
                if path is csv:
                    await measure_exports(client, web, folder)
            transport = httpx2.AsyncHTTPTransport(uds=socket)
        connection = await asyncpg.connect(database_url)
        print("database_mib", await connection.fetchval("SELECT pg_database_size('postgres') / 1048576"))
        await connection.close()


async def measure_exports(client: httpx2.AsyncClient, web: psutil.Process, folder: Path) -> None:
    for kind in ("csv", "json", "parquet"):
        target = folder / f"trades.{kind}"
        began = time.monotonic()
        async with client.stream("GET", "/api/v1/exports/trades", params={"format": kind}) as answer:
            if answer.status_code != 200:
                return
            with target.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)
        took = round(time.monotonic() - began, 1)
        size = round(target.stat().st_size / 2**20)
        print("export", kind, {"total_s": took, "file_mib": size, "web_peak_mib": round(peak_mib(web))}, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asyncio.run(measure(parser.parse_args().rows))
