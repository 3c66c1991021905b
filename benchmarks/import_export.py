"""Time and memory of importing and exporting many fills: ``python -m benchmarks.import_export --rows 1000000``.

An embedded PostgreSQL with its own durable settings, a web process under its own
server, and files made from a seed. Peak memory is what the kernel counted for
the process that does the work (VmHWM).
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

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
async def server(environment: dict[str, str], folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """One web process on a Unix socket."""
    socket = folder / "web.sock"
    command = (sys.executable, "-m", "uvicorn", "app.main:app", "--uds", str(socket), "--log-level", "warning")
    process = await asyncio.create_subprocess_exec(*command, cwd=_PROJECT, env=environment)
    try:
        while not socket.exists():  # noqa: ASYNC110
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
    media_type = "text/csv" if path.suffix == ".csv" else "application/x-ndjson"
    size = path.stat().st_size  # noqa: ASYNC240
    began = time.monotonic()
    headers = {"Content-Type": media_type, "Content-Length": str(size)}
    answer = await client.post("/api/v1/imports", content=pieces(path), headers=headers)
    answer.raise_for_status()
    uploaded = time.monotonic()
    one, read_s, peak = await until_finished(client, answer.headers["location"], web)
    return {
        "state": one["state"],
        "rows": one["rows_booked"],
        "file_mib": round(size / 2**20),
        "upload_s": round(uploaded - began, 1),
        "read_s": round(read_s, 1),
        "total_s": round(time.monotonic() - began, 1),
        "worker_peak_mib": round(peak),
        "web_peak_mib": round(peak_mib(web)),
    }


async def pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


async def until_finished(
    client: httpx2.AsyncClient, url: str, web: psutil.Process
) -> tuple[dict[str, Any], float, float]:
    """The finished import, the seconds until the file was read, and the worker's peak memory in MiB."""
    began = time.monotonic()
    peak = read_s = 0.0
    while True:
        one: dict[str, Any] = (await client.get(url)).json()
        if one["rows_total"] is not None and not read_s:
            read_s = time.monotonic() - began
        if one["finished_at"]:
            return one, read_s, peak
        for child in web.children():
            with suppress(psutil.Error, OSError):
                peak = max(peak, peak_mib(child))
        await asyncio.sleep(0.2)


def import_by_command(environment: dict[str, str], path: Path, username: str) -> dict[str, Any]:
    """The same by ``run.py import``."""
    began = time.monotonic()
    command = (sys.executable, str(_PROJECT / "run.py"), "import", str(path), "--user", username)
    process = psutil.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        with suppress(psutil.Error, OSError):
            peak = max(peak, peak_mib(process))
        time.sleep(0.2)
    return {"total_s": round(time.monotonic() - began, 1), "peak_mib": round(peak), "exit_code": process.returncode}


async def measure(rows: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tm-")))
        folder.chmod(0o755)  # noqa: ASYNC240
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
        environment = {
            **os.environ,
            "TIDEMARK_DATABASE_URL": database_url,
            "TIDEMARK_REDIS_URL": redis_url,
            "TIDEMARK_DATA_DIR": str(folder),
        }
        socket, web = await stack.enter_async_context(server(environment, folder))
        for path in (csv, lines):
            async with client_of(socket, path.suffix[1:]) as client:
                show(f"import {path.name}", await import_over_rest(client, path, web))
                show(f"import {path.name} again", await import_over_rest(client, path, web))
        async with client_of(socket, "command"):
            show("run.py import fills.csv", import_by_command(environment, csv, "command"))
        async with client_of(socket, "csv") as client:
            for file_format in ("csv", "json", "parquet"):
                show(f"export trades as {file_format}", await export(client, file_format, web))


@asynccontextmanager
async def client_of(socket: str, username: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that is logged in."""
    transport = httpx2.AsyncHTTPTransport(uds=socket)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=600) as client:
        body = {"username": username, "password": _PASSWORD}
        answer = await client.post("/api/v1/auth/register", json=body)
        if answer.status_code == httpx2.codes.CONFLICT:
            answer = await client.post("/api/v1/auth/login", json=body)
        answer.raise_for_status()
        yield client


async def export(client: httpx2.AsyncClient, file_format: str, web: psutil.Process) -> dict[str, Any]:
    began = time.monotonic()
    size = 0
    async with client.stream("GET", "/api/v1/exports/trades", params={"format": file_format}) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_bytes():
            size += len(piece)
    took = round(time.monotonic() - began, 1)
    return {"total_s": took, "file_mib": round(size / 2**20), "web_peak_mib": round(peak_mib(web))}


def show(what: str, figures: dict[str, Any]) -> None:
    print(f"{what}: {', '.join(f'{name} {figure}' for name, figure in figures.items())}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asyncio.run(measure(parser.parse_args().rows))
