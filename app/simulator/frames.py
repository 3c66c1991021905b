"""WebSocket frames of a server, built by hand: many of them leave in one write, and faults may spoil them."""

import struct

TEXT = 0x1
BINARY = 0x2
PING = 0x9
PONG = 0xA


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole, unmasked frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def payload_of(whole: bytes) -> bytes:
    """The payload of a frame built by :func:`frame`."""
    size = whole[1]
    return whole[{126: 4, 127: 10}.get(size, 2) :]
