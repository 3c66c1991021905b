"""The WebSocket under a connection: gives all messages that have come at once.

Nearly everything that arrives is a short text frame, hundreds of them in one
read, and taking each through the library's parser and queue costs several times
what decoding it does. So whole text frames are cut out here; every other frame
goes to the library as it is: the handshake, pings, closes, fragments, and what is
wrong. The library is only ever given whole frames, so it always stands between two.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event, State

MAX_MESSAGE_BYTES: Final = 8 * 2**20
"""The array of all tickers is about 400 kB."""

_TEXT: Final = 0x81
"""The first byte of a text message in one frame."""
_HEAD_END: Final = b"\r\n\r\n"
_MOST_FRAGMENTS: Final = 1000
_TWO_BYTES: Final = 126
"""In the second byte of a header: the length is in the two that follow."""
_WAITING_BYTES: Final = 256 * 1024
"""More than this unread, and reading pauses."""


class StreamSocket(ClientConnection):
    """``on_frame`` is called when frames came, of any kind; ``on_ping`` for each ping."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_frame: Callable[[], None] = _nothing
        self.on_ping: Callable[[], None] = _nothing
        self._rest = b""
        self._messages: list[bytes] = []
        self._fragments: list[bytes] = []
        self._waiting_bytes = 0
        self._is_paused = False
        self._head_end = b""
        self._came = asyncio.Event()
        self._is_lost = False

    async def receive(self) -> list[bytes]:
        """All messages since the last call, at least one. Raises ConnectionClosed."""
        while not self._messages:
            if self._is_lost:
                raise self.protocol.close_exc from self.connection_exc
            self._came.clear()
            await self._came.wait()
        taken, self._messages = self._messages, []
        self._waiting_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()
        return taken

    def data_received(self, data: bytes) -> None:
        if self.response is None:
            data = self._take_head(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self.state is State.OPEN:
            data = self._take_frames(data)
        if self.state is State.OPEN:
            self._rest = data
        elif data:
            super().data_received(data)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            if event.opcode is Opcode.PING:
                self.on_ping()
            elif event.opcode in DATA_OPCODES:
                self._take_fragment(event)
                return
        super().process_event(event)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_lost = True
        self._came.set()

    def _take_head(self, data: bytes) -> bytes:
        """Give the library the answer to the handshake; what is behind it are frames."""
        seen = self._head_end + data
        end = seen.find(_HEAD_END)
        cut = len(data) if end < 0 else end + len(_HEAD_END) - len(self._head_end)
        self._head_end = seen[1 - len(_HEAD_END) :]
        super().data_received(data[:cut])
        return data[cut:]

    def _take_frames(self, data: bytes) -> bytes:
        """Take the whole frames off the front, and give what is left."""
        at, size, messages, fragments = 0, len(data), self._messages, self._fragments
        while size - at >= 2:
            # The usual frame, 126 to 65,535 bytes of text, is told apart without a call.
            if data[at] == _TEXT and data[at + 1] == _TWO_BYTES and size - at >= 4 and not fragments:
                end = at + 4 + (data[at + 2] << 8 | data[at + 3])
                if end > size:
                    break
                messages.append(data[at + 4 : end])
            else:
                end = self._take_other(data, at)
                if not end or self.state is not State.OPEN:
                    at = end or at
                    break
            at = end
        if at:
            self._note_arrival(at)
        return data[at:]

    def _take_other(self, data: bytes, at: int) -> int:
        """Take a frame of any kind; gives where it ends, 0 if it has not come whole."""
        start, end = _payload(data, at)
        if end - start > MAX_MESSAGE_BYTES:
            # Too long, or masked: the library refuses it, and closes. What follows does not matter.
            super().data_received(data[at:])
            return len(data)
        if end > len(data):
            return 0
        if data[at] == _TEXT and not self._fragments:
            self._messages.append(data[start:end])
        else:
            super().data_received(data[at:end])
        return end

    def _note_arrival(self, size: int) -> None:
        self.on_frame()
        self._waiting_bytes += size
        if self._messages:
            self._came.set()
            if self._waiting_bytes > _WAITING_BYTES and not self._is_paused:
                self._is_paused = True
                self.transport.pause_reading()

    def _take_fragment(self, frame: Frame) -> None:
        """Put a message together that came in fragments, or in one frame of bytes."""
        if self.state is not State.OPEN:
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            self._messages.append(b"".join(self._fragments))
            self._fragments.clear()
        elif len(self._fragments) > _MOST_FRAGMENTS:
            self.transport.abort()


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Where the payload of a frame begins and ends, as far as its header has come. One that is masked has no end."""
    length = data[at + 1]
    if length & 0x80:
        return at, sys.maxsize
    if length < _TWO_BYTES:
        return at + 2, at + 2 + length
    start = at + (4 if length == _TWO_BYTES else 10)
    stated = int.from_bytes(data[at + 2 : start], "big") if len(data) >= start else 0
    return start, start + stated


def _nothing() -> None:
    return
