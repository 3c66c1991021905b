"""The stream of one web process, put together: what the lifespan opens and the endpoint uses."""

import asyncio
import ctypes
import time
from collections.abc import AsyncIterator, Callable, Collection, Set
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import structlog
from redis.asyncio import Redis

from app.bus.connection import BusUnavailable
from app.bus.messages import SessionEnded
from app.bus.prices import PriceBoard
from app.domain.prices import Feed
from app.domain.shards import Shard
from app.websocket.admission import Sessions
from app.websocket.announcer import Announcer, InterestOutlet
from app.websocket.answers import Answers
from app.websocket.compiled import Unusable, load
from app.websocket.delivery import Delivery
from app.websocket.events import EventNotice, EventRelay, EventSource
from app.websocket.fanout import Fanout
from app.websocket.follower import Follower
from app.websocket.limits import StreamLimits
from app.websocket.manager import ConnectionManager
from app.websocket.roster import Roster
from app.websocket.schedule import Schedule
from app.websocket.state import StreamState
from app.websocket.sweep import SessionSweep

log = structlog.get_logger(__name__)

_HOUSEKEEPING_S = 0.25
_ASK_FIRST_S = 3.0
_ASK_LAST_S = 60.0
"""How often users whose P&L does not come are asked for: at first, and at last."""


class Stream:
    """One process's stream. Made by :func:`open_stream`."""

    def __init__(
        self,
        *,
        library: ctypes.CDLL | None,
        redis: "Redis",
        instance_id: str,
        limits: StreamLimits,
        prices_stale_after_ms: int,
        redis_timeout_s: float,
        sessions: Sessions,
        events: EventSource,
        interest: InterestOutlet,
        is_listed: Callable[[str], bool],
        origins: Collection[str],
        on_crash: Callable[[], None],
        sweep_s: float,
    ) -> None:
        clock = time.monotonic
        self.limits = limits
        self.crash = on_crash
        """Ends the process in good order: for what must never happen."""
        self.sessions = sessions
        self.origins = frozenset(origins)
        self._clock = clock
        self.state = StreamState(stale_after_ms=prices_stale_after_ms, is_wanted=self._is_wanted, now=clock())
        self._delivery = Delivery(self.state)
        roster = Roster()
        self.schedule = Schedule(Fanout(self.state, roster, self._delivery, library), roster, clock)
        self._relay = EventRelay(events, self._deliver, self._give_up)
        self._announcer = Announcer(
            interest,
            symbols=self._watched_symbols,
            on_gone=self.state.drop,
            on_bus=lambda is_down: self.state.health.note_bus(is_down=is_down),
            clock=clock,
        )
        self.manager = ConnectionManager(self.state, self.schedule, roster, self._relay, self._announcer, limits, clock)
        self.answers = Answers(
            state=self.state,
            delivery=self._delivery,
            schedule=self.schedule,
            manager=self.manager,
            source=events,
            limits=limits,
            is_listed=is_listed,
            clock=clock,
        )
        self._follower = Follower(redis, instance_id, self.state, self, timeout_s=redis_timeout_s, clock=clock)
        self._sweep = SessionSweep(sessions, self.manager.connections, self.manager.end_session, round_s=sweep_s)
        self._missing: set[str] = set()
        self._ask_every_s = _ASK_FIRST_S
        self._ask_at = clock() + _ASK_FIRST_S

    @property
    def board(self) -> PriceBoard:
        """The newest prices, for REST."""
        return self.state.board

    @property
    def feed(self) -> Feed:
        """The exchange connection, as clients see it."""
        return self.state.health.feed()

    @property
    def degraded(self) -> list[str]:
        """What this process does without at the moment."""
        return self.state.health.degraded

    @property
    def is_draining(self) -> bool:
        """Whether everybody is being sent away."""
        return self.manager.is_draining

    def figures(self) -> dict[str, int]:
        """Counts for metrics: what is here now, and what has happened since the start."""
        return {
            "connections": len(self.manager),
            "watched_symbols": len(self.state.watched),
            "users": sum(len(lane.mirror.users) for lane in self.state.lanes),
            "updates": self._delivery.updates,
            "merged_flushes": self._delivery.merged,
            "skipped": self.schedule.skipped,
            "price_gaps": self.state.price_gaps,
            "pnl_holes": sum(lane.mirror.holes for lane in self.state.lanes),
            "old_epochs": sum(lane.mirror.old_epochs for lane in self.state.lanes),
            "event_holes": self._relay.holes,
            "unreadable": self._follower.unreadable,
        }

    async def drain(self, within_s: float) -> None:
        """Send everybody away within a time, before the server closes what is left."""
        await self.manager.drain(within_s)

    async def run(self) -> None:
        """Follow the bus and serve connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follower.run(), name="stream.follower")
            tasks.create_task(self.schedule.run(), name="stream.schedule")
            tasks.create_task(self._announcer.run(), name="stream.announcer")
            tasks.create_task(self._relay.run(), name="stream.events")
            tasks.create_task(self._sweep.run(), name="stream.sessions")
            tasks.create_task(self._keep_house(), name="stream.housekeeping")

    # What the follower reports.

    def committed(self) -> None:
        for lane in self.state.lanes:
            for user_id in lane.mirror.take_arrived():
                self.manager.hurry(user_id)
        self.schedule.wake()

    def ask_again(self, shard: Shard | None) -> None:
        self._announcer.ask_again(shard)

    def happened(self, notice: EventNotice) -> None:
        self._relay.offer(notice)

    def session_ended(self, notice: SessionEnded) -> None:
        self.manager.end_session(notice.user_id, notice.session_id)

    def resynchronised(self) -> None:
        self._announcer.ask_again(None)
        self._relay.suspect_all()

    def _watched_symbols(self) -> Set[str]:
        return self.manager.symbols()

    def _is_wanted(self, user_id: str) -> bool:
        return self._announcer.is_wanted(user_id)

    def _deliver(self, notice: EventNotice) -> None:
        self.manager.deliver(notice)

    def _give_up(self, user_id: str) -> None:
        self.manager.give_up_events(user_id)

    async def _keep_house(self) -> NoReturn:
        """Notice what does not happen: silence, missing users, lost events."""
        turn = 0
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            now = self._clock()
            self.state.commit_overdue(now)
            self.state.check_silence(now)
            self.schedule.look_again()
            turn += 1
            if turn % 2 == 0:
                self._relay.check(self._shown_seq)
                self._miss_users(now)
            if turn % 4 == 0:
                self.manager.end_expired(time.time_ns() // 1_000_000)

    def _shown_seq(self, user_id: str) -> int | None:
        view = self.state.view_of(user_id)
        return None if view is None else view.ledger_seq

    def _miss_users(self, now: float) -> None:
        """Ask again for users whose P&L has not come for a while, less and less often."""
        if now < self._ask_at:
            return
        missing = self.manager.users_without_view()
        if not missing:
            self._ask_at, self._ask_every_s = now + _ASK_FIRST_S, _ASK_FIRST_S
            self._missing = missing
            return
        self._announcer.ask_for(missing & self._missing)
        self._missing = missing
        self._ask_at = now + self._ask_every_s
        self._ask_every_s = min(self._ask_every_s * 2, _ASK_LAST_S)


def _compiled() -> ctypes.CDLL | None:
    """The compiled part of the fan-out; where there is none, all is done without, at more CPU."""
    try:
        return load()
    except Unusable as error:
        log.warning("stream.not_compiled", reason=str(error))
        return None


@asynccontextmanager
async def open_stream(
    *,
    redis: "Redis",
    instance_id: str,
    limits: StreamLimits,
    prices_stale_after_ms: int,
    redis_timeout_s: float,
    sessions: Sessions,
    events: EventSource,
    interest: InterestOutlet,
    is_listed: Callable[[str], bool],
    origins: Collection[str] = (),
    on_crash: Callable[[], None],
    sweep_s: float = 25.0,
) -> AsyncIterator[Stream]:
    """Run a stream for as long as the block runs.

    A crash inside it does not end the block, for the server would keep serving
    with everything closed: it calls ``on_crash``, which is to end the process
    in good order.
    """
    library = _compiled()
    stream = Stream(
        library=library,
        redis=redis,
        instance_id=instance_id,
        limits=limits,
        prices_stale_after_ms=prices_stale_after_ms,
        redis_timeout_s=redis_timeout_s,
        sessions=sessions,
        events=events,
        interest=interest,
        is_listed=is_listed,
        origins=origins,
        on_crash=on_crash,
        sweep_s=sweep_s,
    )

    async def guarded() -> None:
        try:
            await stream.run()
        except Exception:
            log.exception("stream.crashed")
            on_crash()

    task = asyncio.create_task(guarded(), name="stream")
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.wait([task])
        with suppress(BusUnavailable):
            await interest.leave()
