"""A tiny exchange on a real socket, whose every move a test decides."""

import asyncio
import http
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "ADAUSDT", "XRPUSDT")


def listed(symbol: str, status: str = "TRADING") -> dict[str, Any]:
    return {
        "symbol": symbol,
        "status": status,
        "baseAsset": symbol.removesuffix("USDT"),
        "baseAssetPrecision": 8,
        "quoteAsset": "USDT",
        "quotePrecision": 8,
        "permissions": [],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01000000"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.0", "stepSize": "0.00001000"},
        ],
    }


class Session:
    """One connection, as the exchange sees it."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.streams: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.control_times: list[float] = []
        self.is_open = True

    async def send(self, stream: str, data: object) -> None:
        await self.send_raw(json.dumps({"stream": stream, "data": data}))

    async def send_raw(self, message: str | bytes) -> None:
        await self.socket.send(message)


class FakeExchange:
    """REST and streams on one port. By default it lists six symbols, acknowledges, and ticks at once."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.rest: dict[str, tuple[int, dict[str, str], object]] = {}
        self.rest_calls: list[str] = []
        self.asked_by_name: list[list[str]] = []
        self.refuse_names = False
        self.attempts = 0
        self.refuse: tuple[int, dict[str, str]] | None = None
        self.ticks_at_once = True
        self.answer: Callable[[Session, dict[str, Any]], dict[str, Any] | None] = _acknowledge
        self._server: Server | None = None
        self.list_symbols(*(listed(symbol) for symbol in SYMBOLS))
        self.say("/api/v3/ticker/bookTicker", [])
        self.say("/api/v3/ticker/price", [])
        self.say("/api/v3/time", {"serverTime": 0})

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def open_sessions(self) -> list[Session]:
        return [session for session in self.sessions if session.is_open]

    @property
    def latest(self) -> Session:
        return self.sessions[-1]

    def say(self, path: str, body: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.rest[path] = (status, headers or {}, body)

    def list_symbols(self, *symbols: dict[str, Any]) -> None:
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}]
        self.say("/api/v3/exchangeInfo", {"rateLimits": limits, "symbols": list(symbols)})

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator["FakeExchange"]:
        async with serve(
            self._serve, "127.0.0.1", port, process_request=self._admit, ping_interval=None, close_timeout=0.2
        ) as server:
            self._server = server
            yield self

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path.startswith(("/api/", "/fapi/", "/dapi/")):
            return self._answer_rest(path, parse_qs(query))
        self.attempts += 1
        if self.refuse is not None:
            status, headers = self.refuse
            return _response(status, headers, b"no")
        return None

    def _answer_rest(self, path: str, query: dict[str, list[str]]) -> Response:
        self.rest_calls.append(path)
        status, headers, body = self.rest[path]
        if "symbols" in query:
            names = json.loads(query["symbols"][0])
            self.asked_by_name.append(names)
            if self.refuse_names:
                return _response(400, {}, b'{"code":-1121,"msg":"Invalid symbol."}')
            if status == 200 and isinstance(body, list):
                body = [entry for entry in body if entry["symbol"] in names]
        return _response(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode())

    async def _serve(self, socket: ServerConnection) -> None:
        session = Session(socket)
        self.sessions.append(session)
        try:
            async for message in socket:
                session.control_times.append(asyncio.get_running_loop().time())
                await self._take(session, json.loads(message))
        except ConnectionClosed:
            pass
        finally:
            session.is_open = False

    async def _take(self, session: Session, request: dict[str, Any]) -> None:
        session.requests.append(request)
        answer = self.answer(session, request)
        if answer is None:
            return
        await session.send_raw(json.dumps(answer))
        if self.ticks_at_once and request["method"] == "SUBSCRIBE":
            now_ms = time.time_ns() // 1_000_000
            await session.send("!miniTicker@arr", [{"e": "24hrMiniTicker", "E": now_ms, "s": "NEWUSDT", "c": "1.0"}])


def _acknowledge(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    change = session.streams.update if request["method"] == "SUBSCRIBE" else session.streams.difference_update
    change(request["params"])
    return {"result": None, "id": request["id"]}


def _response(status: int, headers: dict[str, str], body: bytes) -> Response:
    head = Headers({**headers, "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status, http.HTTPStatus(status).phrase, head, body)
