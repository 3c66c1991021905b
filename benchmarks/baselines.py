"""What the same frames cost others, measured in the same minute on the same machine.

``raw`` writes the bytes to each socket and does nothing else: below that no
server can get. ``gather`` is what one writes first with FastAPI: encode, then
``asyncio.gather`` over ``send_text`` of every connection. ``node`` is what one
writes first with Node: the ws library, one ``send`` for each. All are one process,
on the same connections and clients as the system, at the same rate of frames.
"""

import argparse
import array
import asyncio
import ctypes
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Literal

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from app.domain.protocol import SUBPROTOCOL
from app.supervision.claims import free_port
from app.supervision.keeper import python_command
from benchmarks.client import Client, Load
from benchmarks.histogram import merged, quantiles
from benchmarks.native import library
from benchmarks.node_ws import NodeMissing, installed_server
from benchmarks.population import Member
from benchmarks.processes import family, usage
from benchmarks.profiles import raise_descriptor_limit

Kind = Literal["raw", "gather", "node"]
KINDS: Final[tuple[Kind, ...]] = ("raw", "gather", "node")

_PROJECT: Final = Path(__file__).resolve().parents[1]
_MOST_CONNECTIONS: Final = 5_000
_WARM_UP_S: Final = 2.0
_MEASURE_S: Final = 6.0
_START_S: Final = 20.0
_TURNS_PER_ROUND: Final = 20
"""The raw sender spreads a round over the interval, as the system does."""


def measure_baselines(
    *, connections: int, frames_per_s: float, frame_bytes: int, native: bool
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Figures by kind, and why one is missing. Fewer connections than the system had get as many frames in all."""
    count = min(connections, _MOST_CONNECTIONS)
    found: dict[str, dict[str, float]] = {}
    missing: list[str] = []
    for kind in KINDS:
        try:
            found[kind] = _measure(kind, count, frames_per_s / count, frame_bytes, native=native)
        except NodeMissing as reason:
            missing.append(f"no baseline of {kind}: {reason}")
    return found, missing


def _measure(kind: Kind, count: int, hz: float, frame_bytes: int, *, native: bool) -> dict[str, float]:
    port = free_port("127.0.0.1")
    with _server(kind, port, hz, frame_bytes) as pid:
        client = Client(Load(0, port, [Member("", "", [])] * count, subscribe=False, native=native))
        try:
            client.ask("connect")
            time.sleep(_WARM_UP_S)
            client.ask("reset")
            began, spent = time.monotonic(), usage(family(pid))
            time.sleep(_MEASURE_S)
            cpu_s = usage(family(pid)).since(spent).cpu_s
            seconds = time.monotonic() - began
            reading = client.read()
        finally:
            client.stop()
    frames = reading.counters["updates"]
    found = quantiles(merged([reading.histograms["newest"]]))
    return {
        "connections": count,
        "frames_per_s": frames / seconds,
        "us_per_frame": cpu_s / max(frames, 1) * 1e6,
        "p50_ms": found.get("p50", 0),
        "p99_ms": found.get("p99", 0),
    }


@contextmanager
def _server(kind: Kind, port: int, hz: float, frame_bytes: int) -> Iterator[int]:
    ours = nullcontext(python_command("-m", "benchmarks.baselines", kind))
    with installed_server() if kind == "node" else ours as command:
        process = subprocess.Popen(
            [*command, str(port), str(hz), str(frame_bytes)],
            cwd=_PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _until_listening(port)
            yield process.pid
        finally:
            process.kill()
            process.wait()


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise TimeoutError("a baseline server did not start")
        time.sleep(0.05)


def _frame_text(size: int) -> str:
    """An update of about that size, made now."""
    now_ms = time.time_ns() // 1_000_000
    head = f'{{"type":"update","epoch":1,"seq":1,"as_of_ms":{now_ms},"event_ms":{now_ms},"merged":1,"pad":"'
    return head + "x" * max(0, size - len(head) - 6) + '"}'


# The raw sender


def _serve_raw(port: int, hz: float, size: int) -> None:
    sockets = library()
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    accepted: list[socket.socket] = []
    descriptors = array.array("i")
    turn, turn_s = 0, 1 / hz / _TURNS_PER_ROUND
    due = time.monotonic()
    while True:
        _accept_all(listener, accepted, descriptors)
        chosen = descriptors[turn % _TURNS_PER_ROUND :: _TURNS_PER_ROUND]
        payload = _frame_text(size).encode()
        frame = b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
        if sockets is None:
            _send_to_each(accepted[turn % _TURNS_PER_ROUND :: _TURNS_PER_ROUND], frame)
        elif chosen:
            pointer = (ctypes.c_int * len(chosen)).from_buffer(chosen)
            sockets.send_to_each(pointer, len(chosen), frame, len(frame))
        turn += 1
        due = max(due + turn_s, time.monotonic() - turn_s)
        time.sleep(max(0.0, due - time.monotonic()))


def _accept_all(listener: socket.socket, accepted: list[socket.socket], descriptors: "array.array[int]") -> None:
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(5)
            if not connection.recv(4096):
                connection.close()
                continue
            connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            connection.setblocking(False)
            accepted.append(connection)
            descriptors.append(connection.fileno())


def _send_to_each(connections: list[socket.socket], frame: bytes) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.send(frame)


# What one writes first


def _serve_gather(port: int, hz: float, size: int) -> None:
    app = FastAPI()
    connections: set[WebSocket] = set()

    @app.websocket("/api/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol=SUBPROTOCOL)
        connections.add(websocket)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            connections.discard(websocket)

    async def broadcast() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            text = _frame_text(size)
            await asyncio.gather(*(each.send_text(text) for each in list(connections)), return_exceptions=True)
            due = max(due + 1 / hz, loop.time())
            await asyncio.sleep(due - loop.time())

    async def serve() -> None:
        config = uvicorn.Config(app, port=port, log_level="critical", ws_per_message_deflate=False, backlog=4096)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(broadcast())
            tasks.create_task(uvicorn.Server(config).serve())

    asyncio.run(serve())


def main() -> None:
    """Serve one baseline until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("raw", "gather"))
    parser.add_argument("port", type=int)
    parser.add_argument("hz", type=float)
    parser.add_argument("bytes", type=int)
    chosen = parser.parse_args()
    raise_descriptor_limit()
    serve: Callable[[int, float, int], None] = {"raw": _serve_raw, "gather": _serve_gather}[chosen.kind]
    serve(chosen.port, chosen.hz, chosen.bytes)


if __name__ == "__main__":
    main()
