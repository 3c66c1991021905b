"""A stream client of few words, for tests."""

import asyncio
from typing import Any

import aiohttp
import msgspec
from aiohttp import WSMsgType

DEADLINE_S = 5.0


class Ended(Exception):
    """The connection ended while something was awaited."""


class StreamClient:
    """Reads messages one by one; answers pings with their payload unless told not to."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, *, answers_pings: bool = True) -> None:
        self.websocket = websocket
        self.pings: list[bytes] = []
        self._answers_pings = answers_pings

    async def text(self) -> str:
        """The next text message. Raises Ended."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self.websocket.receive()
                match message.type:
                    case WSMsgType.TEXT:
                        return str(message.data)
                    case WSMsgType.PING:
                        self.pings.append(bytes(message.data))
                        if self._answers_pings:
                            await self.websocket.pong(message.data)
                    case WSMsgType.PONG:
                        return "pong:" + bytes(message.data).decode()
                    case WSMsgType.BINARY:
                        return "binary"
                    case _:
                        raise Ended(self.websocket.close_code)

    async def json(self) -> Any:
        """The next text message, decoded."""
        return msgspec.json.decode(await self.text())

    async def ask(self, request: str) -> str:
        """Send a request, and give the reply to it as it came."""
        await self.websocket.send_str(request)
        while True:
            text = await self.text()
            if text.startswith(('{"result"', '{"error"')):
                return text

    async def nothing_for(self, seconds: float) -> bool:
        """Whether no message comes for a while."""
        try:
            async with asyncio.timeout(seconds):
                await self.text()
        except TimeoutError:
            return True
        return False

    async def close_code(self) -> int | None:
        """Read until the connection ends, and tell how."""
        try:
            while True:
                await self.text()
        except Ended:
            return self.websocket.close_code
