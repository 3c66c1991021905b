"""When each connection is looked at: spread over time, as often as it asked and the process can bear.

A connection that was sent something rests for its interval. Then it is ready;
if there is nothing new for it, it is parked until the next commit. Ready connections
are served in the order in which they became so, a few hundred at a time between
turns of the event loop, so under load the sweep over all of them turns into an
even flow, each frame built from the newest state at its own moment.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from app.websocket.connection import PARKED, READY, Connection
from app.websocket.delivery import Delivery

TURN_S = 0.005
"""The grain of the schedule."""

TOGETHER = 200
"""Connections served between two turns of the event loop."""

_TOGETHER_IN_A_STORM = 60
"""The same while others are being let in, of whom each turn takes a handful: that leaves the fan-out about
a quarter of the process until they are in."""

_FEW_ARRIVING = 8
"""So many at once are no storm."""

_STORM_S = 0.25
"""How long one lasts after there were more: those who come in waves are between two of them."""

_BUSY_SHARE = 0.7
"""The part of a core that the fan-out may use before everybody's interval grows."""

_EAGERNESS = 0.2
"""The part of an interval by which a connection is ready early, so that a flush of the
same interval never finds it resting a moment longer and costs it a whole flush."""

_HIDDEN_INTERVAL_S = 5.0
_FIRST_COST_S = 15e-6
_FIRST_LOOK_S = 3e-6
_LOWEST_COST_S, _HIGHEST_COST_S = 1e-6, 200e-6
_NEW_WEIGHT = 0.05


class Schedule:
    """Serves connections for as long as :meth:`run` runs. Awaits no client."""

    def __init__(self, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._delivery = delivery
        self._clock = clock
        self._ready: deque[Connection] = deque()
        self._parked: list[Connection] = []
        self._resting: dict[int, list[Connection]] = {}
        self._turns: list[int] = []
        self._woken = asyncio.Event()
        self.connections = 0
        self.cost_s = _FIRST_COST_S
        """What serving one connection costs, as measured lately."""
        self.look_s = _FIRST_LOOK_S
        """What it costs to find that there is nothing for a connection."""
        self.arriving = 0
        """How many are in their handshakes."""
        self._storm_until = float("-inf")
        self.skipped = 0
        """Times a connection was passed over because its client was behind."""

    def add(self, connection: Connection) -> None:
        """Begin to serve a connection. It leaves by itself once it is closed."""
        self.connections += 1
        self._ready.append(connection)
        self._woken.set()

    def wake(self) -> None:
        """Something was committed: look at everybody who waits for that."""
        parked, self._parked = self._parked, []
        woken = [connection for connection in parked if connection.due == PARKED]
        for connection in woken:
            connection.due = READY
        self._ready.extend(woken)
        if woken:
            self._woken.set()

    def hurry(self, connection: Connection) -> None:
        """There is something for one connection that should not wait for its turn."""
        if connection.due != READY:
            self._make_ready(connection)

    def _make_ready(self, connection: Connection) -> None:
        connection.due = READY
        self._ready.append(connection)
        self._woken.set()

    def interval_s(self, connection: Connection) -> float:
        """How long a connection rests after a frame: its own interval, or longer under load."""
        return max(_own_interval_s(connection), self._shortest_s())

    def _shortest_s(self) -> float:
        """The interval at which the fan-out uses no more than its share."""
        return self.connections * self.cost_s / _BUSY_SHARE

    async def run(self) -> NoReturn:
        """Serve for ever."""
        while True:
            self._end_rests()
            if self._ready:
                self._serve_some()
                await asyncio.sleep(0)
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Until a commit, a newcomer, or the end of somebody's rest."""
        self._woken.clear()
        timer = None
        if self._turns:
            delay = max(0.0, self._turns[0] * TURN_S - self._clock())
            timer = asyncio.get_running_loop().call_later(delay, self._woken.set)
        await self._woken.wait()
        if timer is not None:
            timer.cancel()

    def _end_rests(self) -> None:
        turn = int(self._clock() / TURN_S)
        while self._turns and self._turns[0] <= turn:
            ended = heapq.heappop(self._turns)
            for connection in self._resting.pop(ended):
                if connection.due == ended:
                    self._make_ready(connection)

    def _serve_some(self) -> None:
        """Build the frames of some connections, then send them.

        In turns, one by one, the interpreter's code and the kernel's would drive
        each other out of the processor's caches, which costs a sixth of the whole.
        """
        started = self._clock()
        taken = [self._ready.popleft() for _ in range(min(self._most_at(started), len(self._ready)))]
        willing = [connection for connection in taken if self._is_willing(connection, started)]
        shortest_s = self._shortest_s()
        sent = 0
        for connection, payloads in zip(willing, self._delivery.payloads_of(willing, started), strict=True):
            if payloads:
                connection.outlet.send(*payloads)
                sent += 1
                self._rest(connection, started + max(_own_interval_s(connection), shortest_s))
            else:
                self._pause(connection, started)
        took = self._clock() - started
        if sent:
            self.cost_s = _smooth(self.cost_s, took / sent)
        else:
            self.look_s = _smooth(self.look_s, took / len(taken))

    def _most_at(self, now: float) -> int:
        """How many connections a turn may serve."""
        if self.arriving > _FEW_ARRIVING:
            self._storm_until = now + _STORM_S
        return TOGETHER if now >= self._storm_until else _TOGETHER_IN_A_STORM

    def _is_willing(self, connection: Connection, now: float) -> bool:
        """Whether a connection can take something."""
        if connection.is_closed:
            self.connections -= 1
            return False
        if connection.outlet.is_full():
            self.skipped += 1
            self._rest(connection, now + self.interval_s(connection))
            return False
        return True

    def _pause(self, connection: Connection, now: float) -> None:
        """There was nothing for a connection: park it. With many, looking at all of them
        at each commit is work as well, so then they rest between looks.
        """
        rest_s = self.connections * self.look_s / _BUSY_SHARE
        if rest_s < TURN_S or connection.looked == self._delivery.ordinal:
            connection.due = PARKED
            self._parked.append(connection)
        else:
            self._rest(connection, now + rest_s)
        connection.looked = self._delivery.ordinal

    def _rest(self, connection: Connection, until: float) -> None:
        turn = max(1, int(until / TURN_S))
        connection.due = turn
        resting = self._resting.get(turn)
        if resting is None:
            resting = self._resting[turn] = []
            heapq.heappush(self._turns, turn)
        resting.append(connection)


def _own_interval_s(connection: Connection) -> float:
    own = connection.interval_s if connection.visible else max(connection.interval_s, _HIDDEN_INTERVAL_S)
    return own * (1 - _EAGERNESS)


def _smooth(known: float, measured: float) -> float:
    return known + (min(max(measured, _LOWEST_COST_S), _HIGHEST_COST_S) - known) * _NEW_WEIGHT
