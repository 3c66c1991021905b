"""Frames read without a parser: the same as the parser reads, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from app.websocket.plain_frames import plain_frames

MOST = 4096


def frame(first: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Any frame, also one that the standard forbids."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((first,)) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


firsts = st.sampled_from([0x81, 0x81, 0x81, 0x81, 0x8A, 0x8A, 0x89, 0x88, 0x82, 0x01, 0x80, 0x0A, 0xC1])
frames = st.builds(
    frame, firsts, st.binary(max_size=125) | st.binary(min_size=126, max_size=300), st.binary(min_size=4, max_size=4)
)


def parsed(data: bytes) -> tuple[list[tuple[Opcode, bytes]], bool]:
    """What the parser of the standard makes of it, and whether it has anything to say against it."""
    codec = Protocol(SERVER, state=OPEN, max_size=MOST)
    codec.receive_data(data)
    read = [(frame.opcode, bytes(frame.data)) for frame in codec.events_received() if isinstance(frame, Frame)]
    return read, codec.parser_exc is None


@given(st.lists(frames, max_size=4), st.binary(max_size=3), st.integers(0, 40))
def test_what_is_read_is_what_the_parser_reads(sent: list[bytes], more: bytes, missing: int) -> None:
    whole = b"".join(sent)
    for data in (whole, whole + more, whole[: len(whole) - missing]):
        read = plain_frames(data, MOST)
        if read is not None:
            assert parsed(data) == (read, True)


@given(st.binary(max_size=60))
def test_noise_is_never_read_otherwise_than_by_the_parser(data: bytes) -> None:
    read = plain_frames(data, MOST)
    if read is not None:
        assert parsed(data) == (read, True)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_texts_are_read_without_it(texts: list[str]) -> None:
    data = b"".join(frame(0x81, text.encode()) for text in texts)
    assert plain_frames(data, MOST) == [(Opcode.TEXT, text.encode()) for text in texts]


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x08unmasked",
        frame(0x81, b"x" * (MOST + 1)),
        b"\x81\xff" + (70_000).to_bytes(8, "big") + bytes(4 + 70_000),
        frame(0xC1, b"extended"),
        frame(0x8A, b"")[:-1],
        b"\x8a\xfe\x00\x80" + bytes(4 + 128),
    ],
)
def test_whatever_is_not_plain_is_left_to_it(data: bytes) -> None:
    assert plain_frames(data, MOST) is None
