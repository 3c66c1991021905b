"""When each connection is looked at: spread over time, as often as it asked and the process can bear.

A connection that was sent something rests for its interval. Then it is ready;
if there is nothing new for it, it waits until something is. Ready connections
are served in the order in which they became so, a few hundred at a time between
turns of the event loop, so under load the sweep over all of them turns into an
even flow, each frame built from the newest state at its own moment.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from app.websocket.connection import Connection
from app.websocket.fanout import Fanout, Turn
from app.websocket.roster import NEVER, Roster

TURN_S = 0.005
"""The grain of the schedule: so far apart are two rounds over those who are ready."""

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

_EARLY_S = 0.08
"""By so much a connection that kept to its interval lately may be early: a commit out of turn is shown at once, and the
flush after it not much later."""

_TOLERANCE = 0.05
"""By so much a connection may get more than it asked for: flushes that come a little quicker than that would otherwise
find it resting a little longer each time, until it misses one."""

_FIRST_COST_S = 15e-6
_FIRST_LOOK_S = 3e-6
_LOWEST_COST_S, _HIGHEST_COST_S = 1e-6, 200e-6
_NEW_WEIGHT = 0.05

_NONE: Final[NDArray[np.intp]] = np.zeros(0, np.intp)


class Schedule:
    """Serves the connections of a roster for as long as :meth:`run` runs. Awaits no client."""

    def __init__(self, fanout: Fanout, roster: Roster, clock: Callable[[], float]) -> None:
        self._fanout = fanout
        self._roster = roster
        self._clock = clock
        self._ready = _NONE
        """Seats in the order in which they are served next."""
        self._next_round = 0.0
        """Before that, nobody more is looked at."""
        self._woken = asyncio.Event()
        self._committed_at = 0.0
        self._wakes = 0
        """How often everybody was to be looked at."""
        self.cost_s = _FIRST_COST_S
        """What serving one connection costs, as measured lately."""
        self.look_s = _FIRST_LOOK_S
        """What it costs to find that there is nothing for a connection."""
        self.arriving = 0
        """How many are in their handshakes."""
        self._storm_until = float("-inf")
        self.skipped = 0
        """Times a connection was passed over because its client was behind."""

    @property
    def connections(self) -> int:
        """How many are served."""
        return self._roster.serving

    def add(self, connection: Connection) -> None:
        """Begin to serve a connection, until it is closed."""
        self._roster.begin(connection.seat)
        self._woken.set()

    def wake(self) -> None:
        """Something was committed: look at everybody who waits for that."""
        self._committed_at = self._clock()
        self.look_again()

    def look_again(self) -> None:
        """Look at everybody who has rested, for what time alone brings."""
        self._wakes += 1
        self._woken.set()

    def hurry(self, connection: Connection) -> None:
        """There is something for one connection that should not wait for its turn."""
        self._roster.hurry(connection.seat)
        self._woken.set()

    def interval_s(self, connection: Connection) -> float:
        """How long a connection rests after a frame: its own interval, or longer under load."""
        return max(float(self._roster.rest[connection.seat]) * (1 - _TOLERANCE), self._shortest_s())

    def _shortest_s(self) -> float:
        """The interval at which the fan-out uses no more than its share."""
        return self.connections * self.cost_s / _BUSY_SHARE

    async def run(self) -> NoReturn:
        """Serve for ever."""
        while True:
            now = self._clock()
            if not len(self._ready):
                if now < self._next_round:
                    # Whoever becomes ready in between is served with the others: a turn for a handful costs as much.
                    await asyncio.sleep(self._next_round - now)
                    now = self._clock()
                self._ready = self._all_ready(now)
                self._next_round = now + TURN_S
            if len(self._ready):
                self._serve_some(now)
                await asyncio.sleep(0)
            else:
                await self._wait(now)

    def _all_ready(self, now: float) -> NDArray[np.intp]:
        """Who has rested and was not yet looked at since the last call, who waited longest first."""
        due = self._roster.due
        ready = np.flatnonzero((due <= now) & (self._roster.looked != self._wakes))
        return ready[np.argsort(due[ready], kind="stable")]

    async def _wait(self, now: float) -> None:
        """Until a commit, a newcomer, or the end of somebody's rest."""
        self._woken.clear()
        due = self._roster.due
        first = float(due[due > now].min(initial=NEVER))
        timer = None
        if first != NEVER:
            timer = asyncio.get_running_loop().call_later(first - now, self._woken.set)
        await self._woken.wait()
        if timer is not None:
            timer.cancel()

    def _serve_some(self, started: float) -> None:
        most = self._most_at(started)
        taken, self._ready = self._ready[:most], self._ready[most:]
        # Who was closed, or hurried and served, since they were put in order.
        taken = taken[self._roster.due[taken] <= started]
        if not len(taken):
            return
        turn = self._fanout.serve(taken, started)
        if turn.left:
            self._ready = np.concatenate([taken[-turn.left :], self._ready])
        self._rest(turn.served, started)
        self._pause(turn.idle, started)
        self._pass_over(turn.full, started)
        self._note_cost(turn, self._clock() - started)

    def _most_at(self, now: float) -> int:
        """How many connections a turn may serve."""
        if self.arriving > _FEW_ARRIVING:
            self._storm_until = now + _STORM_S
        return TOGETHER if now >= self._storm_until else _TOGETHER_IN_A_STORM

    def _rest(self, seats: NDArray[np.intp], now: float) -> None:
        """They were sent something. On average none gets noticeably more than it asked for.

        They rest from the commit on, not from when their turn came: so who rests for as long as a flush takes is ready
        at the next one, instead of keeping behind each as far as it was behind the first. This is the generic cell rate
        algorithm (ITU-T I.371, annex A) with commits for arrivals.
        """
        roster = self._roster
        seats = seats[roster.due[seats] != NEVER]
        rest = roster.rest[seats] * (1 - _TOLERANCE)
        early = np.minimum(rest, _EARLY_S)
        own = np.maximum(roster.due[seats], self._committed_at - early) + rest
        roster.due[seats] = np.maximum(own, now + self._shortest_s())

    def _pause(self, seats: NDArray[np.intp], now: float) -> None:
        """There was nothing for them: they wait for the next call. With many, looking at all of them
        each time is work as well, so then they rest between looks.
        """
        roster = self._roster
        rest_s = self.connections * self.look_s / _BUSY_SHARE
        if rest_s >= TURN_S:
            roster.due[seats[roster.due[seats] != NEVER]] = now + rest_s
        roster.looked[seats] = self._wakes

    def _pass_over(self, seats: NDArray[np.intp], now: float) -> None:
        """Their clients are behind."""
        if len(seats):
            self.skipped += len(seats)
            self._rest(seats, now)

    def _note_cost(self, turn: Turn, took: float) -> None:
        if len(turn.served):
            self.cost_s = _smooth(self.cost_s, took, len(turn.served))
        elif len(turn.idle):
            self.look_s = _smooth(self.look_s, took, len(turn.idle))


def _smooth(known: float, took: float, count: int) -> float:
    """What one costs, where so many took so long. Many tell more than few, whose turn costs as much as itself."""
    measured = min(max(took / count, _LOWEST_COST_S), _HIGHEST_COST_S)
    return known + (measured - known) * _NEW_WEIGHT * min(1.0, count / TOGETHER)
