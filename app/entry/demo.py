"""The demonstration: a local exchange to wait for, and a trader with a few positions."""

import asyncio
import os
import secrets
import time
from pathlib import Path

import httpx2

from app.supervision.problems import StartProblem

_USERNAME = "demo"
_START_TIMEOUT_S = 30.0
_PRICES_TIMEOUT_S = 15.0
_RETRY_S = 0.1

_POSITIONS = (
    {"symbol": "BTCUSDT", "side": "long", "quantity": "0.25", "strategy": "trend"},
    {"symbol": "ETHUSDT", "side": "long", "quantity": "4", "strategy": "trend"},
    {"symbol": "SOLUSDT", "side": "short", "quantity": "60", "strategy": "mean-reversion"},
    {"symbol": "BNBUSDT", "side": "long", "quantity": "8", "strategy": "trend"},
    {"symbol": "XRPUSDT", "side": "short", "quantity": "5000", "strategy": "mean-reversion"},
    {"symbol": "DOGEUSDT", "side": "long", "quantity": "25000", "strategy": "breakout"},
    {"symbol": "BTCUSDT_PERP", "side": "short", "quantity": "0.2", "strategy": "carry"},
)


async def until_exchange_answers(url: str) -> None:
    """Wait for the local exchange. Raises StartProblem when it does not come up."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    async with httpx2.AsyncClient(base_url=url, timeout=2.0, trust_env=False) as client:
        while True:
            try:
                if (await client.get("/api/v3/ping")).is_success:
                    return
            except httpx2.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise StartProblem(f"the local exchange at {url} did not answer within {_START_TIMEOUT_S:g} s")
            await asyncio.sleep(_RETRY_S)


async def seed(url: str, data_dir: Path) -> str:
    """Make sure that the demo trader exists and holds something; returns how to log in.

    Done over the public API, as any client would. Starting again adds nothing.
    """
    password = _password(data_dir / "demo-password")
    login = {"username": _USERNAME, "password": password}
    # The server refuses writes that do not come from its own origin.
    async with httpx2.AsyncClient(base_url=url, timeout=10.0, trust_env=False, headers={"Origin": url}) as client:
        answer = await client.post("/api/v1/auth/login", json=login)
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            answer = await client.post("/api/v1/auth/register", json=login)
        if not answer.is_success:
            raise StartProblem(f"the demo trader cannot log in: {answer.status_code} {answer.text[:200]}")
        opened = await _open_positions(client)
    return f"log in as {_USERNAME} with password {password}" + (f", {opened} positions opened" if opened else "")


async def _open_positions(client: httpx2.AsyncClient) -> int:
    held = await client.get("/api/v1/positions", params={"status": "open", "limit": 1})
    if held.is_success and held.json()["items"]:
        return 0
    deadline = time.monotonic() + _PRICES_TIMEOUT_S
    opened = 0
    for position in _POSITIONS:
        while True:
            answer = await client.post("/api/v1/positions", json=position)
            # Only a price that has not arrived yet is worth waiting for.
            if answer.status_code != httpx2.codes.CONFLICT or time.monotonic() > deadline:
                break
            await asyncio.sleep(_RETRY_S)
        opened += answer.is_success
    return opened


def _password(path: Path) -> str:
    """The demo trader's password: made once, kept with the demo's data."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        password = f"tide-{secrets.token_hex(5)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{password}\n")
        return password
