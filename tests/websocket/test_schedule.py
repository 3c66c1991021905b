"""When connections are looked at: no client awaited, nobody starved, fewer looks under load."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from app.bus.messages import PriceHead
from app.domain.protocol import Close
from app.websocket.admission import Identity
from app.websocket.connection import Connection
from app.websocket.delivery import Delivery
from app.websocket.fanout import Fanout
from app.websocket.outlet import FULL, NOT_DIRECT
from app.websocket.roster import Roster
from app.websocket.schedule import Schedule
from app.websocket.state import StreamState
from tests.websocket.conftest import until
from tests.websocket.market import LIVE, price, price_flush


class KeptFrames:
    """An outlet that reads when told to."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.full = False
        self.close_code: Close | None = None

    def is_full(self) -> bool:
        return self.full

    def send(self, *payloads: bytes) -> None:
        self.frames.extend(payloads)

    def descriptor(self) -> int:
        return FULL if self.full else NOT_DIRECT

    def send_rest(self, data: bytes) -> None:
        raise AssertionError

    def close(self, code: Close, reason: str) -> None:
        self.close_code = code


class CountingDelivery(Delivery):
    """Counts how often anybody is looked at."""

    looks = 0

    def payloads_of(self, connections: Sequence[Connection], now: float) -> list[list[bytes]]:
        self.looks += len(connections)
        return super().payloads_of(connections, now)


class Room:
    """A state, a schedule, and connections that all watch one symbol."""

    def __init__(self) -> None:
        self.state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        self.state.load_prices(PriceHead(7, 0, 1, LIVE), {}, 0.0)
        self.state.offer_prices(price_flush(1), 0.0)
        self.state.commit_overdue(1.0)
        self.state.check_silence(1.5)
        self.delivery = CountingDelivery(self.state)
        self.roster = Roster()
        self.schedule = Schedule(Fanout(self.state, self.roster, self.delivery), self.roster, time.monotonic)
        self.flush_number = 1

    def enter(self, hz: float = 1000, symbol: str = "BTCUSDT") -> tuple[Connection, KeptFrames]:
        outlet = KeptFrames()
        identity = Identity("alice", "s", 2**52)
        connection = Connection("c", identity, None, outlet, hz, self.roster)
        connection.flushes = self.state.flushes
        connection.status = self.state.health.version
        connection.watched[symbol] = self.state.watch(symbol)
        self.schedule.add(connection)
        return connection, outlet

    def flush(self, value: str = "1") -> None:
        self.flush_number += 1
        self.state.offer_prices(price_flush(self.flush_number, [price("BTCUSDT", value)]), 1.6)
        self.schedule.wake()


@asynccontextmanager
async def running(room: Room) -> AsyncIterator[None]:
    task = asyncio.create_task(room.schedule.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_everybody_gets_each_flush_at_once() -> None:
    room = Room()
    outlets = [room.enter()[1] for _ in range(500)]
    async with running(room):
        for number in range(1, 4):
            room.flush()
            await until(lambda number=number: all(len(outlet.frames) == number for outlet in outlets))  # type: ignore[misc]


async def test_a_full_client_is_passed_over_and_gets_only_the_newest_value_later() -> None:
    room = Room()
    _, slow = room.enter()
    _, healthy = room.enter()
    slow.full = True
    async with running(room):
        for number in range(1, 6):
            room.flush(str(number))
            await until(lambda number=number: len(healthy.frames) == number)  # type: ignore[misc]
        assert slow.frames == []
        slow.full = False
        await until(lambda: len(slow.frames) == 1)
        assert b'"price":"5"' in slow.frames[0]
        assert b'"merged":5' in slow.frames[0]


async def test_a_closed_connection_is_forgotten() -> None:
    room = Room()
    connection, outlet = room.enter()
    room.enter()
    async with running(room):
        connection.close(Close.NORMAL, "")
        room.flush()
        await until(lambda: room.schedule.connections == 1)
        assert outlet.frames == []


async def test_one_that_wants_less_is_sent_less() -> None:
    room = Room()
    _, fast = room.enter(hz=1000)
    _, slow = room.enter(hz=1)
    async with running(room):
        for number in range(1, 11):
            room.flush(str(number))
            await until(lambda number=number: len(fast.frames) == number)  # type: ignore[misc]
        assert len(slow.frames) == 1


async def test_who_came_between_two_flushes_is_soon_served_right_behind_each() -> None:
    """Else what he sees would be old by as much as he came late, for as long as he stays."""
    room = Room()
    behind: list[float] = []
    async with running(room):
        room.flush("1")
        await asyncio.sleep(0.05)
        _, outlet = room.enter(hz=10)
        for number in range(2, 8):
            room.flush(str(number))
            began, before = time.monotonic(), len(outlet.frames)
            await until(lambda before=before: len(outlet.frames) > before)  # type: ignore[misc]
            behind.append(time.monotonic() - began)
            await asyncio.sleep(0.1 - behind[-1])
    # Of a phase that is kept, each would be.
    assert min(behind[2:]) < 0.04


async def test_nobody_is_sent_more_than_he_asked_for_however_often_prices_move() -> None:
    room = Room()
    _, outlet = room.enter(hz=40)
    began = time.monotonic()
    async with running(room):
        while len(outlet.frames) < 30:
            room.flush(str(room.flush_number))
            await asyncio.sleep(0.004)
    took = time.monotonic() - began
    # The first needs no rest, and one that was early is made up for by the next.
    assert len(outlet.frames) <= 40 / 0.95 * took + 2


async def test_a_hurried_connection_does_not_wait_for_its_turn() -> None:
    room = Room()
    connection, outlet = room.enter(hz=0.1)
    async with running(room):
        room.flush("1")
        await until(lambda: len(outlet.frames) == 1)
        room.flush("2")
        room.schedule.hurry(connection)
        await until(lambda: len(outlet.frames) == 2)


async def test_the_interval_grows_with_the_load() -> None:
    room = Room()
    connection, _ = room.enter(hz=10)
    alone = room.schedule.interval_s(connection)
    room.roster.serving = 20_000
    assert alone < 0.1
    assert room.schedule.interval_s(connection) > 0.4


async def test_with_many_idle_connections_not_each_commit_looks_at_all_of_them() -> None:
    room = Room()
    idle = [room.enter(symbol="ETHUSDT")[0] for _ in range(300)]
    room.schedule.look_s = 1e-4
    async with running(room):
        for _ in range(50):
            room.flush()
            await asyncio.sleep(0)
        assert room.delivery.looks < 50 * len(idle) / 4
        room.state.watch("ETHUSDT")
        await until(lambda: all(connection.sent == room.state.ordinal for connection in idle))


async def test_while_a_crowd_is_let_in_a_turn_is_shorter_and_everybody_is_still_served() -> None:
    room = Room()
    outlets = [room.enter()[1] for _ in range(500)]
    room.schedule.arriving = 1000
    turns: list[int] = []
    room.flush()
    async with running(room):
        while not all(outlet.frames for outlet in outlets):
            await asyncio.sleep(0)
            turns.append(sum(len(outlet.frames) for outlet in outlets))
    longest = max(later - earlier for earlier, later in pairwise([0, *turns]))
    assert longest < 100


async def test_who_has_figures_is_told_sooner_that_no_more_come_than_who_waits_for_the_first() -> None:
    state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
    state.load_prices(PriceHead(7, 0, 1, LIVE), {}, 0.0)
    state.offer_prices(price_flush(1), 0.0)
    delivery = Delivery(state)
    told: dict[str, list[float]] = {"shown before": [], "first": []}
    connections = {
        name: Connection(name, Identity("alice", "s", 2**52), None, KeptFrames(), 10, Roster()) for name in told
    }
    for connection in connections.values():
        connection.wants_pnl = True
        connection.status = state.health.version
    connections["shown before"].pnl_sent = 1
    for tick in range(40):
        for name, connection in connections.items():
            if any(b'"degraded":["pnl"]' in frame for frame in delivery.payloads_of([connection], 10 + tick / 10)[0]):
                told[name].append(tick / 10)
    assert told == {"shown before": [1.1], "first": [3.1]}
