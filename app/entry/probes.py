"""Asking a running Tidemark how it is, over its own API."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from app.supervision.problems import StartProblem

_REQUEST_TIMEOUT_S = 2.0
_RETRY_S = 0.05


def host_for_clients(host: str) -> str:
    """An address at which a server listening on ``host`` can be reached from this machine."""
    if host in {"", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


class Probe:
    """A client of one server's health endpoints."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> "AsyncIterator[Probe]":
        """A probe of the server at ``url``."""
        # No proxy of the environment stands between a machine and itself.
        async with httpx2.AsyncClient(base_url=url, timeout=_REQUEST_TIMEOUT_S, trust_env=False) as client:
            yield cls(client)

    async def until_alive(self, timeout_s: float) -> None:
        """Wait for the first answer. Raises StartProblem when there is none in time."""
        deadline = time.monotonic() + timeout_s
        while not await self._is_alive():
            if time.monotonic() > deadline:
                raise StartProblem(f"the web server did not answer within {timeout_s:g} s")
            await asyncio.sleep(_RETRY_S)

    async def until_feed_is_live(self, timeout_s: float) -> None:
        """Wait until prices flow, or until it has taken long enough."""
        deadline = time.monotonic() + timeout_s
        while True:
            if await self.feed_state() in {"live", "simulated"} or time.monotonic() > deadline:
                return
            await asyncio.sleep(_RETRY_S)

    async def feed_state(self) -> str | None:
        """``live``, ``simulated``, ``stale`` or ``down``; None when the server does not say."""
        try:
            answer = await self._client.get("/api/health", params={"verbose": "true"})
            feed = answer.json().get("feed")
        except (httpx2.HTTPError, ValueError, AttributeError):
            return None
        state = feed.get("state") if isinstance(feed, dict) else feed
        return str(state) if state is not None else None

    async def _is_alive(self) -> bool:
        try:
            return (await self._client.get("/livez")).is_success
        except httpx2.HTTPError:
            return False
