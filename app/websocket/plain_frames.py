"""What nearly every client sends nearly always, read without a parser: whole text frames, and answers to pings."""

from typing import Final

from websockets.frames import Opcode, apply_mask  # type: ignore[attr-defined]

_OPCODES: Final = {0x80 | Opcode.TEXT: Opcode.TEXT, 0x80 | Opcode.PONG: Opcode.PONG}
"""By the first byte of a frame that is neither fragmented nor extended."""

_MASKED: Final = 0x80
_LENGTH_FOLLOWS: Final = 126
_SHORTEST: Final = 6


def plain_frames(data: bytes, most_bytes: int) -> list[tuple[Opcode, bytes]] | None:
    """The frames that make up ``data``, unmasked.

    None where it is anything but texts of at most ``most_bytes`` and pongs, each masked, whole and in one
    piece: that is for who knows all of the standard.
    """
    frames: list[tuple[Opcode, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _SHORTEST:
            return None
        opcode = _OPCODES.get(data[at])
        # Without a mask this is far too long.
        length, body = data[at + 1] ^ _MASKED, at + _SHORTEST
        if opcode is Opcode.TEXT and length == _LENGTH_FOLLOWS:
            length, body = int.from_bytes(data[at + 2 : at + 4], "big"), body + 2
        elif length >= _LENGTH_FOLLOWS:
            return None
        at = body + length
        if opcode is None or at > end or length > most_bytes:
            return None
        frames.append((opcode, apply_mask(data[body:at], data[body - 4 : body])))
    return frames
