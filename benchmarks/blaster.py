"""An exchange that only sends: Binance's protocol for made-up symbols, as fast as a socket takes it.

    python -m benchmarks.blaster PORT SYMBOLS

The simulator makes a market and some ten thousand ticks a second of it; this
makes frames, hundreds of thousands, to measure who reads them. Each is
well-formed and newer than the one before: seven quotes to three trades, in turn
over all symbols that are subscribed. ``POST /control/rate?ticks_per_s=…`` sets
the pace: 0 is silence, -1 whatever the readers take.
"""

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import uvloop
from aiohttp import WSMsgType, web

from app.simulator.frames import TEXT, frame

_TURN_S: Final = 0.004
_PER_TURN: Final = 4_000
"""Frames a turn when there is no pace."""
_ARRAY_EVERY_S: Final = 1.0
_FULL_BYTES: Final = 512 * 1024
"""A connection with so much unsent is left out until it has been read."""
_KINDS: Final = (True, True, False) * 2 + (True, True, False, True)
"""Which of ten frames are quotes."""
_PRICES: Final = 997
_FIRST_ID: Final = 1_000_000_000
"""Ids, times and prices are of constant width, so a frame's length is known before it is filled in."""

_QUOTE: Final = (
    '{"stream":"%(stream)s@bookTicker","data":{"u":%%d,"s":"%(symbol)s",'
    '"b":"%%b","B":"31.21000000","a":"%%b","A":"40.66000000"}}'
)
_TRADE: Final = (
    '{"stream":"%(stream)s@aggTrade","data":{"e":"aggTrade","E":%%d,"s":"%(symbol)s","a":%%d,'
    '"p":"%%b","q":"0.12300000","f":100,"l":105,"T":%%d,"m":true,"M":true}}'
)
_EXAMPLE_MS: Final = 1_800_000_000_000


class Frames:
    """Frames of some symbols, in turn."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        chance = random.Random(len(self.symbols))
        # A price that has not changed is cheaper to check, so every one has.
        prices = [chance.randrange(10**9, 10**10 - 10) for _ in range(_PRICES)]
        self._prices = itertools.cycle([(_amount(price), _amount(price + 3)) for price in prices])
        self._ids = itertools.count(_FIRST_ID)
        self._turn = itertools.cycle([self._templates(symbol) for symbol in self.symbols])
        self._kinds = itertools.cycle(_KINDS)

    def take(self, count: int) -> bytes:
        """The next frames, as they go over the wire."""
        return b"".join(itertools.islice(self._each(time.time_ns() // 1_000_000), count))

    def _each(self, now_ms: int) -> Iterator[bytes]:
        for number, is_quote, (quote, trade), (bid, ask) in zip(
            self._ids, self._kinds, self._turn, self._prices, strict=False
        ):
            yield quote % (number, bid, ask) if is_quote else trade % (now_ms, number, bid, now_ms)

    @staticmethod
    def _templates(symbol: str) -> tuple[bytes, bytes]:
        names = {"stream": symbol.lower(), "symbol": symbol}
        price = _amount(10**9)
        return (
            _template(_QUOTE % names, (_FIRST_ID, price, price)),
            _template(_TRADE % names, (_EXAMPLE_MS, _FIRST_ID, price, _EXAMPLE_MS)),
        )


def _template(text: str, example: tuple[Any, ...]) -> bytes:
    """A frame to fill in by ``%``, its header for the length that an example gives."""
    size = len(text.encode() % example)
    header = frame(TEXT, bytes(size))[:-size]
    return header.replace(b"%", b"%%") + text.encode()


def _amount(units: int) -> bytes:
    return b"%d.%08d" % divmod(units, 10**8)


class _Line:
    """One connection and its frames."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.streams: set[str] = set()
        self._frames: Frames | None = None

    @property
    def is_open(self) -> bool:
        return not self.transport.is_closing()

    @property
    def is_full(self) -> bool:
        return self.transport.get_write_buffer_size() > _FULL_BYTES

    @property
    def frames(self) -> Frames | None:
        """What comes next; None while nothing of its own is subscribed."""
        symbols = sorted({name.partition("@")[0].upper() for name in self.streams if name.endswith("@bookTicker")})
        if symbols and (self._frames is None or self._frames.symbols != symbols):
            self._frames = Frames(symbols)
        return self._frames if symbols else None


class Blaster:
    """The exchange."""

    def __init__(self, symbols: int) -> None:
        self.symbols = [f"S{number:04d}USDT" for number in range(symbols)]
        self.ticks_per_s = 0
        self.ticks = 0
        self.skipped_ticks = 0
        self._lines: list[_Line] = []
        self._shared: list[tuple[_Line, Frames]] = []

    def application(self) -> web.Application:
        """Everything it answers."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/stream", self._serve),
                web.get("/api/v3/time", self._time),
                web.get("/api/v3/ping", self._time),
                web.get("/api/v3/exchangeInfo", self._listing),
                web.get("/api/v3/ticker/bookTicker", self._books),
                web.get("/api/v3/ticker/price", self._last_prices),
                web.get("/control/state", self._state),
                web.post("/control/rate", self._set_rate),
            ]
        )
        return application

    async def run(self) -> None:
        """Send at the pace that is set, until cancelled."""
        loop = asyncio.get_running_loop()
        before, array_at = loop.time(), 0.0
        while True:
            now = loop.time()
            if now >= array_at:
                self._send_array()
                array_at = now + _ARRAY_EVERY_S
            self._send(_PER_TURN if self.ticks_per_s < 0 else round(self.ticks_per_s * (now - before)))
            before = now
            await asyncio.sleep(0 if self.ticks_per_s < 0 else _TURN_S)

    def _send(self, count: int) -> None:
        total = sum(len(frames.symbols) for _, frames in self._shared)
        for line, frames in self._shared if count else ():
            share = -(-count * len(frames.symbols) // total)
            if line.is_full or not line.is_open:
                self.skipped_ticks += share if self.ticks_per_s > 0 else 0
                continue
            line.transport.write(frames.take(share))
            self.ticks += share

    def _send_array(self) -> None:
        """``!miniTicker@arr``, as each second."""
        self._lines = [line for line in self._lines if line.is_open]
        self._shared = [(line, frames) for line in self._lines if (frames := line.frames) is not None]
        now_ms = time.time_ns() // 1_000_000
        entries = [{"e": "24hrMiniTicker", "E": now_ms, "s": symbol, "c": "12.34000000"} for symbol in self.symbols]
        whole = frame(TEXT, msgspec.json.encode({"stream": "!miniTicker@arr", "data": entries}))
        for line in self._lines:
            if "!miniTicker@arr" in line.streams and not line.is_full:
                line.transport.write(whole)
                self.ticks += len(entries)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        assert request.transport is not None
        line = _Line(request.transport)
        self._lines.append(line)
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                asked = msgspec.json.decode(message.data)
                change = line.streams.update if asked["method"] == "SUBSCRIBE" else line.streams.difference_update
                change(asked["params"])
                await websocket.send_str(f'{{"result":null,"id":{asked["id"]}}}')
        return websocket

    async def _time(self, _: web.Request) -> web.Response:
        return _json({"serverTime": time.time_ns() // 1_000_000})

    async def _listing(self, _: web.Request) -> web.Response:
        filters = [
            {"filterType": "PRICE_FILTER", "tickSize": "0.00000001"},
            {"filterType": "LOT_SIZE", "stepSize": "0.00001000"},
        ]
        return _json(
            {
                "symbols": [
                    {
                        "symbol": symbol,
                        "status": "TRADING",
                        "baseAsset": symbol.removesuffix("USDT"),
                        "quoteAsset": "USDT",
                        "filters": filters,
                    }
                    for symbol in self.symbols
                ]
            }
        )

    async def _books(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(request.query.get("symbols", "[]")) or self.symbols
        return _json([{"symbol": each, "bidPrice": "12.34000000", "askPrice": "12.35000000"} for each in asked])

    async def _last_prices(self, _: web.Request) -> web.Response:
        return _json([{"symbol": each, "price": "12.34000000"} for each in self.symbols])

    async def _state(self, _: web.Request) -> web.Response:
        subscribed = sum(len(frames.symbols) for _, frames in self._shared)
        return _json({"ticks": self.ticks, "skipped_ticks": self.skipped_ticks, "subscribed": subscribed})

    async def _set_rate(self, request: web.Request) -> web.Response:
        self.ticks_per_s = int(request.query["ticks_per_s"])
        return _json({})


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _main(port: int, symbols: int) -> None:
    blaster = Blaster(symbols)
    runner = web.AppRunner(blaster.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await blaster.run()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("symbols", type=int)
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(chosen.port, chosen.symbols))


if __name__ == "__main__":
    main()
