"""The whole web application in this process, on real servers, with a market that the test moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import structlog
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

from app.api.context import Web
from app.api.market import Market
from app.bus.messages import PriceFlush
from app.bus.prices import PricePublisher, write_instruments
from app.domain.instruments import Instrument
from app.domain.prices import Feed, Price
from app.lifespan import web_lifespan
from app.main import create_app
from app.repositories.database import transaction
from app.settings import Settings

# Without the values of variables, which are long and no test reads.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])

PASSWORD = "correct horse battery"

INSTRUMENTS = [
    Instrument(
        symbol=f"{base}{quote}",
        market="spot",
        base=base,
        quote=quote,
        settle=quote,
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.00001"),
        status="halted" if base == "LUNA" else "trading",
    )
    for base, quote in [
        ("BTC", "USDT"),
        ("ETH", "USDT"),
        ("BNB", "USDT"),
        ("LUNA", "USDT"),
        ("SOL", "USDT"),
        ("ETH", "BTC"),
        ("币安人生", "USDT"),
    ]
]


class MovingMarket:
    """Publishes prices as a price worker does, and sees to it that they arrived."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publisher = PricePublisher(redis, 5.0)
        self._flush = 0
        self.web: Web | None = None
        self.now_ms = time.time_ns() // 1_000_000

    async def list_instruments(self, *more: Instrument) -> None:
        await write_instruments(self._redis, [*INSTRUMENTS, *more], 5.0)
        if self.web is not None:
            await self.web.market.listings.refresh()

    async def move(self, *, age_ms: int = 0, **prices: str) -> None:
        """Set prices, by symbol, that are ``age_ms`` old."""
        self.now_ms = time.time_ns() // 1_000_000
        fresh = self.now_ms - age_ms
        await self._publish(
            [
                Price(symbol, Decimal(price), "mid", None, None, None, None, fresh, fresh, fresh)
                for symbol, price in prices.items()
            ]
        )
        if self.web is not None:
            await self._arrive(self.web.market)

    async def repeat(self, prices: list[Price]) -> None:
        """Say again what is known, as of now."""
        self.now_ms = time.time_ns() // 1_000_000
        await self._publish([msgspec.structs.replace(price, fresh_ms=self.now_ms) for price in prices])
        if self.web is not None:
            await self._arrive(self.web.market)

    async def quote(self, symbol: str, *, bid: str, ask: str, last: str) -> None:
        """Set a whole quote of a symbol."""
        fresh = self.now_ms = time.time_ns() // 1_000_000
        sides = [Decimal(side) for side in (bid, ask, last)]
        await self._publish([Price(symbol, (sides[0] + sides[1]) / 2, "mid", *sides, None, fresh, fresh, fresh)])
        if self.web is not None:
            await self._arrive(self.web.market)

    async def _arrive(self, market: Market) -> None:
        """Go on as a price worker does, for who subscribed a moment too late hears only the next flush."""
        async with asyncio.timeout(10):
            while market.board.flush < self._flush or market.is_silent:
                try:
                    await until(lambda: market.board.flush >= self._flush and not market.is_silent, within_s=0.5)
                except TimeoutError:
                    await self._publish([])

    async def _publish(self, prices: list[Price]) -> None:
        self._flush += 1
        feed = Feed(state="simulated", source="test", age_ms=0, simulated=True)
        await self._publisher.publish(PriceFlush(1, self._flush, self.now_ms, len(prices), feed, prices))


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait for a condition that other tasks bring about."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


class WithState:
    """Gives requests the state of a lifespan, as a server does."""

    def __init__(self, app: FastAPI, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = dict(self._state)
        await self._app(scope, receive, send)


@dataclass
class Api:
    """A running application, and clients of it."""

    app: FastAPI
    state: dict[str, Any]
    market: MovingMarket

    @property
    def web(self) -> Web:
        web: Web = self.state["web"]
        return web

    def client(self, **headers: str) -> httpx2.AsyncClient:
        """A client of its own: no cookie, no token."""
        return self.client_at("http://localhost", headers)

    def client_at(self, base_url: str, headers: dict[str, str] | None = None) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(WithState(self.app, self.state))  # type: ignore[arg-type]
        return httpx2.AsyncClient(transport=transport, base_url=base_url, headers=headers, timeout=30.0)

    async def user(self, username: str) -> httpx2.AsyncClient:
        """A client that is logged in as a new user."""
        client = self.client()
        answer = await client.post("/api/v1/auth/register", json={"username": username, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return client

    async def count(self, table: str) -> int:
        return await self.scalar(f"SELECT count(*) FROM {table}")

    async def scalar(self, query: str) -> Any:
        async with transaction(self.web.database) as connection:
            return await connection.scalar(text(query))

    async def execute(self, statement: str) -> None:
        async with transaction(self.web.database) as connection:
            await connection.execute(text(statement))


Opener = Callable[..., Any]


def settings_of(database_url: str, redis_url: str, **changes: Any) -> Settings:
    """Settings that owe nothing to the environment."""
    return Settings(_env_file=None, DATABASE_URL=database_url, REDIS_URL=redis_url, **changes)  # type: ignore[call-arg]


@asynccontextmanager
async def running(settings: Settings, redis: Redis) -> AsyncIterator[Api]:
    """An application from the start of its lifespan to the end."""
    crashes: list[str] = []
    app = create_app(settings, web_lifespan(settings, on_crash=lambda: crashes.append("crashed")))
    async with app.router.lifespan_context(app) as state:
        yield Api(app, dict(state or {}), MovingMarket(redis))
    assert crashes == []


@pytest.fixture
async def api(database_url: str, redis_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[Api]:
    """The application with a live market: BTC at 100, ETH at 10, BNB at 5, SOL without a price."""
    market = MovingMarket(redis)
    await market.list_instruments()
    generous = {"logins_per_minute_per_ip": 1000, "writes_per_second_per_user": 1000}
    settings = settings_of(database_url, redis_url, import_dir=tmp_path / "imports", **generous)
    async with running(settings, redis) as opened:
        opened.market = market
        market.web = opened.web
        web = opened.web
        await until(lambda: bool(web.market.listings.listed))
        beating = asyncio.create_task(_beat(market))
        await market.move(BTCUSDT="100", ETHUSDT="10", BNBUSDT="5", LUNAUSDT="1")
        yield opened
        beating.cancel()
        await asyncio.wait([beating])


async def _beat(market: MovingMarket) -> None:
    """Flush now and then, so that no price goes stale because a test takes long."""
    while True:
        await asyncio.sleep(1.0)
        web = market.web
        assert web is not None
        await market.repeat(list(web.market.board.prices.values()))


@pytest.fixture
async def alice(api: Api) -> AsyncIterator[httpx2.AsyncClient]:
    client = await api.user("alice")
    yield client
    await client.aclose()


@pytest.fixture
async def bob(api: Api) -> AsyncIterator[httpx2.AsyncClient]:
    client = await api.user("bob")
    yield client
    await client.aclose()


OpenPosition = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def open_position(alice: httpx2.AsyncClient) -> OpenPosition:
    """Open (or change) a position of Alice's; the position afterwards."""

    async def open_(symbol: str = "BTCUSDT", side: str = "long", quantity: str = "1", **more: Any) -> dict[str, Any]:
        body = {"symbol": symbol, "side": side, "quantity": quantity, **more}
        answer = await alice.post("/api/v1/positions", json=body)
        assert answer.status_code == 201, answer.text
        position: dict[str, Any] = answer.json()
        return position

    return open_
