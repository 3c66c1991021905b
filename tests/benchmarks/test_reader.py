"""The load client's reader, in C and in Python: both must see the same."""

import socket
import time
from collections.abc import Iterator

import pytest

from benchmarks.native import library
from benchmarks.reader import Reader, open_reader


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + length + payload


def text(payload: str) -> bytes:
    return frame(1, payload.encode())


def update(*, flushed_ago_ms: int, event_ago_ms: int, merged: int = 1, rows: int = 0) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    priced = ",".join(f'{{"symbol":"S{n}","event_ms":{now_ms - event_ago_ms}}}' for n in range(rows))
    return text(
        f'{{"type":"update","epoch":1,"seq":7,"as_of_ms":{now_ms - flushed_ago_ms},'
        f'"event_ms":{now_ms - event_ago_ms},"merged":{merged},"prices":[{priced}]}}'
    )


class Line:
    """One connection: the server's end, and the reader that has the client's."""

    def __init__(self, reader: Reader, server: socket.socket) -> None:
        self.reader = reader
        self.server = server

    def say(self, *frames: bytes) -> None:
        self.server.sendall(b"".join(frames))
        self.reader.pump(0.05)


@pytest.fixture(params=["native", "python"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    if request.param == "native" and library() is None:
        pytest.skip("no C compiler here")
    reader = open_reader(4, native=request.param == "native")
    server, client = _connected_pair()
    reader.add(client, b"")
    with server:
        yield Line(reader, server)
        server.close()
        reader.pump(0.02)  # so that it lets go of its end


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


def test_an_update_is_counted_with_its_latencies(line: Line) -> None:
    line.say(update(flushed_ago_ms=100, event_ago_ms=150, merged=3))
    reading = line.reader.read()
    assert reading.counters["updates"] == 1
    assert reading.counters["merged"] == 3
    assert reading.per_connection[0] == 1
    assert sum(reading.histograms["flush"][100:200]) == 1
    assert sum(reading.histograms["newest"][150:250]) == 1


def test_a_frame_in_pieces_is_one_frame(line: Line) -> None:
    whole = update(flushed_ago_ms=0, event_ago_ms=0, rows=30)
    for start in range(0, len(whole), 100):
        line.say(whole[start : start + 100])
    counters = line.reader.read().counters
    assert (counters["updates"], counters["broken"]) == (1, 0)


def test_several_frames_in_one_write_are_told_apart(line: Line) -> None:
    line.say(*(update(flushed_ago_ms=0, event_ago_ms=0) for _ in range(20)), text('{"type":"pong","id":1}'))
    counters = line.reader.read().counters
    assert (counters["updates"], counters["others"]) == (20, 1)


def test_every_eighth_update_gives_the_latency_of_each_price_that_ticked(line: Line) -> None:
    line.say(*(update(flushed_ago_ms=80, event_ago_ms=70, rows=5) for _ in range(16)))
    assert sum(line.reader.read().histograms["price"][70:170]) == 2 * 5


def test_a_row_whose_price_is_older_than_the_frame_before_is_no_tick(line: Line) -> None:
    line.say(*(update(flushed_ago_ms=10, event_ago_ms=70, rows=5) for _ in range(16)))
    assert sum(line.reader.read().histograms["price"]) == 0


def test_what_is_shown_ages_until_the_next_frame(line: Line) -> None:
    line.say(update(flushed_ago_ms=0, event_ago_ms=300))
    line.say(update(flushed_ago_ms=0, event_ago_ms=0))
    assert sum(line.reader.read().histograms["shown"][300:500]) == 1


def test_a_connection_is_ready_once_both_snapshots_came(line: Line) -> None:
    line.say(text('{"type":"snapshot","channel":"pnl","epoch":1}'))
    assert line.reader.ready == 0
    line.say(text('{"type":"snapshot","channel":"positions","epoch":1}'))
    line.say(text('{"type":"snapshot","channel":"positions","epoch":2}'))
    assert line.reader.ready == 1


def test_a_ping_is_answered_with_its_payload(line: Line) -> None:
    line.say(frame(9, b"abcd"))
    line.server.settimeout(5)
    answer = line.server.recv(100)
    assert answer[:2] == bytes((0x8A, 0x80 | 4))
    mask, masked = answer[2:6], answer[6:]
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked)) == b"abcd"


def test_a_close_is_counted_by_its_code(line: Line) -> None:
    line.say(frame(8, (4100).to_bytes(2, "big") + b"not reading"))
    assert line.reader.closed == 1
    assert line.reader.read().codes == {4100: 1}


def test_a_cut_connection_is_counted_without_a_code(line: Line) -> None:
    line.server.close()
    line.reader.pump(0.05)
    assert line.reader.read().codes == {0: 1}


def test_an_update_without_its_times_is_counted_as_unreadable(line: Line) -> None:
    line.say(text('{"type":"update","epoch":1}'))
    assert line.reader.read().counters["broken"] == 1


def test_a_reset_forgets_figures_but_not_who_is_ready(line: Line) -> None:
    line.say(text('{"type":"snapshot","channel":"pnl"}'), text('{"type":"snapshot","channel":"positions"}'))
    line.say(update(flushed_ago_ms=0, event_ago_ms=0))
    line.reader.reset()
    reading = line.reader.read()
    assert reading.counters["updates"] == sum(reading.histograms["flush"]) == reading.per_connection[0] == 0
    assert line.reader.ready == 1
