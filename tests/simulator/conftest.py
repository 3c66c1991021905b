"""A simulator on a free port, and clients that speak to it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from app.simulator.server import SimulatorHandle, serve_simulator
from simulator.client import StreamClient

Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a simulator with given arguments. Nothing ticks unless asked for."""
    async with AsyncExitStack() as stack:

        async def started(**arguments: Any) -> SimulatorHandle:
            return await stack.enter_async_context(serve_simulator(**({"ticks_per_s": 0} | arguments)))

        yield started


@pytest.fixture
async def simulator(start: Start) -> SimulatorHandle:
    """A simulator in which nothing happens by itself."""
    handle: SimulatorHandle = await start()
    return handle


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A session for REST calls and upgrades."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def dial(http: aiohttp.ClientSession) -> AsyncIterator[Callable[..., Any]]:
    """Opens stream connections, and closes them after the test."""
    async with AsyncExitStack() as stack:

        async def dialled(handle: SimulatorHandle, path: str, *, answers_pings: bool = True) -> StreamClient:
            websocket = await stack.enter_async_context(
                http.ws_connect(handle.ws_url + path, autoping=False, timeout=aiohttp.ClientWSTimeout(ws_close=1))
            )
            return StreamClient(websocket, answers_pings=answers_pings)

        yield dialled
