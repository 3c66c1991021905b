"""An unmodified python-binance, pointed at a local exchange by base URL alone.

Runs in an environment of its own: ``third_party_client.py <rest-url> <ws-url>``.
Prints what it received, a line each, and a summary as JSON on the last line.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp
from binance import AsyncClient, BinanceSocketManager

_STREAMS = ["btcusdt@bookTicker", "btcusdt@trade"]
_ENOUGH = 5


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


async def _receive(socket: Any, counts: dict[str, int]) -> list[str]:
    """Read until enough messages of each stream came; give the types of the errors among them."""
    errors = []
    wanted = {stream: counts.get(stream, 0) + _ENOUGH for stream in _STREAMS}
    while any(counts.get(stream, 0) < number for stream, number in wanted.items()):
        message = await asyncio.wait_for(socket.recv(), timeout=15)
        if message.get("e") == "error":
            errors.append(message["type"])
            _say(f"error of the client itself: {message}")
            continue
        stream = message["stream"]
        counts[stream] = counts.get(stream, 0) + 1
        if counts[stream] <= 2:
            _say(f"{stream}: {json.dumps(message['data'])}")
    return errors


async def main(rest_url: str, ws_url: str) -> None:
    class Client(AsyncClient):
        API_URL = rest_url + "/api"

    class Manager(BinanceSocketManager):
        STREAM_URL = ws_url + "/"

    client = await Client.create()
    try:
        info = await client.get_exchange_info()
        prices = await client.get_all_tickers()
        quote = await client.get_orderbook_ticker(symbol="BTCUSDT")
        day = await client.get_ticker(symbol="BTCUSDT")
        klines = await client.get_klines(symbol="BTCUSDT", interval="1m", limit=5)
        _say(f"exchangeInfo: {len(info['symbols'])} symbols; prices: {len(prices)}; BTCUSDT: {quote}")
        counts: dict[str, int] = {}
        async with Manager(client).multiplex_socket(_STREAMS) as socket:
            await _receive(socket, counts)
            async with aiohttp.ClientSession() as session, session.post(f"{rest_url}/control/close", json={}) as answer:
                _say(f"fault: {await answer.text()}")
            errors = await _receive(socket, counts)
        summary = {
            "symbols": len(info["symbols"]),
            "prices": len(prices),
            "quote": quote,
            "last": day["lastPrice"],
            "klines": len(klines),
            "received": counts,
            "errors": errors,
        }
        _say(json.dumps(summary))
    finally:
        await client.close_connection()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
