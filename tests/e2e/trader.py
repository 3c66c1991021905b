"""A client as a bot would write one: REST with a session cookie, the stream with a model of what it was told."""

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Self

import httpx2
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.system import System

PASSWORD = "correct horse battery staple"
Frame = dict[str, Any]


class Trader:
    """One user: his REST calls, his stream, every frame he got and the state they add up to."""

    def __init__(self, system: System, username: str | None = None) -> None:
        self.system = system
        self.username = username or f"trader-{secrets.token_hex(4)}"
        self.rest = httpx2.AsyncClient(base_url=system.url, timeout=10)
        self.frames: list[Frame] = []
        self.rows: dict[str, Frame] = {}
        self.totals: Frame = {}
        self.prices: dict[str, Frame] = {}
        self.place = (0, 0)
        self.events: list[Frame] = []
        self.closed_with: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._symbols: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()
        await self.rest.aclose()

    async def register(self) -> None:
        answer = await self.rest.post("/api/v1/auth/register", json={"username": self.username, "password": PASSWORD})
        assert answer.status_code == 201, answer.text

    async def login(self) -> None:
        answer = await self.rest.post("/api/v1/auth/login", json={"username": self.username, "password": PASSWORD})
        assert answer.status_code == 200, answer.text

    async def open(self, symbol: str, side: str, quantity: str, **more: str) -> Frame:
        body = {"symbol": symbol, "side": side, "quantity": quantity, **more}
        return await self._created("/api/v1/positions", body, 201)

    async def close(self, position_id: str, **more: str) -> Frame:
        return await self._created(f"/api/v1/positions/{position_id}/close", more, 200)

    async def _created(self, path: str, body: Frame, expected: int) -> Frame:
        answer = await self.rest.post(path, json=body)
        assert answer.status_code == expected, answer.text
        result: Frame = answer.json()
        return result

    async def pnl(self) -> Frame:
        answer = await self.rest.get("/api/v1/pnl")
        assert answer.status_code == 200, answer.text
        result: Frame = answer.json()
        return result

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.rest.cookies.items())

    async def listen(self, *symbols: str) -> None:
        """Stream for ever in the background: reconnect as the close codes and plain sense say."""
        self._symbols = list(symbols)
        self._task = asyncio.create_task(self._stream())
        seen = len(self.frames)
        await self.until(
            lambda: any(frame["type"] == "subscribed" and frame["channel"] == "events" for frame in self.frames[seen:]),
            what="the subscription to events",
        )

    async def hang_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _stream(self) -> None:
        while True:
            with suppress(OSError, websockets.InvalidHandshake, websockets.ConnectionClosed):
                await self._session()
            await asyncio.sleep(0.2)

    async def _session(self) -> None:
        async with connect(
            self.system.stream_url,
            origin=self.system.url,  # type: ignore[arg-type]
            additional_headers={"Cookie": self.cookie},
            subprotocols=["tidemark.v1.json"],  # type: ignore[list-item]
            open_timeout=5,
        ) as socket:
            await self._subscribe(socket)
            try:
                async for message in socket:
                    self._take(json.loads(message))
            finally:
                self.closed_with = socket.close_code

    async def _subscribe(self, socket: ClientConnection) -> None:
        wanted: list[Frame] = [{"channel": "pnl"}, {"channel": "positions"}, {"channel": "events"}]
        if self._symbols:
            wanted.append({"channel": "prices", "symbols": self._symbols})
        for number, request in enumerate(wanted):
            await socket.send(json.dumps({"type": "subscribe", "id": number, **request}))

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        match frame["type"]:
            case "snapshot":
                self._take_snapshot(frame)
            case "update":
                self._take_update(frame)
            case "event":
                self.events.append(frame)

    def _take_snapshot(self, frame: Frame) -> None:
        self.place = (frame["epoch"], frame["seq"])
        match frame["channel"]:
            case "pnl":
                self.totals = frame["pnl"]
            case "positions":
                self.rows = {row["position_id"]: row for row in frame["positions"]}
            case "prices":
                self.prices.update((price["symbol"], price) for price in frame["prices"])

    def _take_update(self, frame: Frame) -> None:
        place = (frame["epoch"], frame["seq"])
        assert place > self.place, f"{place} after {self.place}"
        self.place = place
        self.prices.update((price["symbol"], price) for price in frame.get("prices", []))
        self.totals = {**self.totals, **frame.get("pnl", {})}
        for row in frame.get("positions", []):
            merged = {**self.rows.get(row["position_id"], {}), **row}
            self.rows[row["position_id"]] = merged
            if merged.get("status") == "closed":
                del self.rows[row["position_id"]]
        self.check(frame)

    def check(self, frame: Frame) -> None:
        """What must hold after every single frame: rows are exact, and they add up to the total."""
        for row in self.rows.values():
            if row["mark_price"] is None:
                assert row["unrealized_pnl"] is None
                continue
            expected = Decimal(row["signed_qty"]) * Decimal(row["mark_price"]) - Decimal(row["cost_basis"])
            assert Decimal(row["unrealized_pnl"]) == expected, (row, frame)
        if self.totals and len(self.rows) == sum("entry_price" in row for row in self.rows.values()):
            added = sum((Decimal(row["unrealized_pnl"] or 0) for row in self.rows.values()), Decimal(0))
            assert Decimal(self.totals["unrealized_pnl"]) == added, frame

    async def until(self, condition: Callable[[], bool], within_s: float = 20, what: str = "condition") -> None:
        """Wait for a condition on what the stream said; a broken stream fails at once, not at the deadline."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    if self._task is not None and self._task.done():
                        self._task.result()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            tail = json.dumps(self.frames[-3:], indent=1)
            raise AssertionError(f"not within {within_s:g} s: {what}; last frames: {tail}") from None

    async def fresh_update(self, within_s: float = 20) -> Frame:
        """The next update whose totals are live."""
        seen = len(self.frames)

        def live() -> bool:
            return any(
                frame["type"] == "update" and "pnl" in frame and not frame["pnl"]["is_stale"]
                for frame in self.frames[seen:]
            )

        await self.until(live, within_s, "a live update")
        return next(f for f in reversed(self.frames) if f["type"] == "update" and "pnl" in f)
