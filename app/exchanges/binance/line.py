"""A line to the exchange that outlives its connections.

A connection ends by itself: after a day, when the exchange restarts, when a
network breaks. Where the end is foreseen the successor comes first, and the old
connection is closed once the new one brings data for every stream. What both
bring in between is told apart by its sequence, behind the door of the domain.
"""

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import structlog

from app.exchanges.binance.backoff import Backoff
from app.exchanges.binance.connection import ConnectionLost, StreamConnection, StreamReceiver
from app.exchanges.binance.liveness import ConnectionState
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.subscriptions import Refusals
from app.exchanges.binance.timing import Timing

log = structlog.get_logger(__name__)


class _Generation(NamedTuple):
    connection: StreamConnection
    task: "asyncio.Task[ConnectionLost]"


class Line:
    """Connections one after another, all for the same streams.

    ``connects`` is shared by all lines of this address. ``on_ready`` is called
    whenever everything wanted is confirmed and data flows: prices asked for from
    then on, together with the stream, leave no gap.
    """

    def __init__(
        self,
        base_url: str,
        timing: Timing,
        connects: RollingLimit,
        backoff: Backoff,
        new_receiver: Callable[[], StreamReceiver],
        on_ready: Callable[[], None],
    ) -> None:
        self._base_url = base_url
        self._timing = timing
        self._connects = connects
        self._new_receiver = new_receiver
        self._on_ready = on_ready
        self._backoff = backoff
        self._refusals = Refusals()
        self._streams: frozenset[str] = frozenset()
        self._current: _Generation | None = None
        self._newest: _Generation | None = None

    @property
    def state(self) -> ConnectionState:
        """The state of the connection that serves, or of the attempt to get one."""
        for generation in (self._current, self._newest):
            if generation is not None and not generation.task.done():
                return generation.connection.state
        return ConnectionState.CLOSED

    def follow(self, streams: frozenset[str]) -> None:
        """Want exactly these streams from now on."""
        if streams == self._streams:
            return
        self._streams = streams
        for generation in (self._current, self._newest):
            if generation is not None:
                generation.connection.wake()

    async def run(self) -> NoReturn:
        """Keep the line up until cancelled. Network errors end attempts, nothing else."""
        async with asyncio.TaskGroup() as tasks:
            delay_s = 0.0
            while True:
                await self._turn(delay_s)
                delay_s = await self._serve(tasks)

    async def _turn(self, delay_s: float) -> None:
        """Wait out the back-off, then until the address may connect once more."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(delay_s)
        delay_s = self._connects.delay_s(loop.time())
        while delay_s > 0:
            await asyncio.sleep(delay_s)
            delay_s = self._connects.delay_s(loop.time())
        self._connects.spend(loop.time())

    async def _serve(self, tasks: asyncio.TaskGroup) -> float:
        """Bring up a connection and stay with it until it needs a successor; gives the wait before that."""
        successor = self._newest = self._open(tasks)
        await _first_of(successor.task, successor.connection.ready)
        if not successor.task.done():
            self._take_over(successor)
            await _first_of(successor.task, successor.connection.going_away, self._rotate_after_s())
        if successor.connection.live.is_set():
            self._backoff.reset()
        if successor.task.done():
            return self._after(successor.task.result())
        log.info("binance.rotating", announced=successor.connection.going_away.is_set())
        return 0.0

    def _open(self, tasks: asyncio.TaskGroup) -> _Generation:
        connection = StreamConnection(
            self._base_url,
            lambda: self._streams,
            self._new_receiver(),
            self._timing,
            self._refusals,
            self._on_ready,
        )
        return _Generation(connection, tasks.create_task(connection.run(), name="binance.connection"))

    def _take_over(self, successor: _Generation) -> None:
        if self._current is not None:
            self._current.task.cancel()
        self._current = successor
        log.info("binance.connected", streams=len(self._streams))

    def _after(self, lost: ConnectionLost) -> float:
        delay_s = self._backoff.next_delay_s(lost.retry_after_s)
        log.warning("binance.connection_lost", reason=str(lost), retry_in_s=round(delay_s, 2))
        return delay_s

    def _rotate_after_s(self) -> float:
        # Jitter, so that the lines of one process, and of many, do not all move at once.
        return self._timing.rotate_after_s * random.uniform(1 - self._timing.rotate_jitter, 1)


async def _first_of(task: "asyncio.Task[ConnectionLost]", event: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait until the task is done, the event is set, or the time is over."""
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiter}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
