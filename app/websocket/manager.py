"""The connections of one process: who is here, who watches what, and who has to go."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from uuid import uuid4

import structlog

from app.domain.protocol import Close, GoingAway, encode
from app.domain.subscriptions import Subscriptions
from app.websocket.admission import Identity, Refusal
from app.websocket.announcer import Announcer
from app.websocket.connection import Connection, WaitingEvent
from app.websocket.events import EventNotice, EventRelay, event_text
from app.websocket.limits import StreamLimits
from app.websocket.outlet import Outlet
from app.websocket.roster import Roster
from app.websocket.schedule import Schedule
from app.websocket.state import StreamState

log = structlog.get_logger(__name__)

_WAVES_PER_S = 20


class ConnectionManager:
    """Every connection, by user and by symbol. All changes go through here, so the maps stay true."""

    def __init__(
        self,
        state: StreamState,
        schedule: Schedule,
        roster: Roster,
        relay: EventRelay,
        announcer: Announcer,
        limits: StreamLimits,
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._schedule = schedule
        self._roster = roster
        self._relay = relay
        self._announcer = announcer
        self._limits = limits
        self._clock = clock
        self._subscriptions: Subscriptions[Connection] = Subscriptions()
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._connections)

    def connections(self) -> list[Connection]:
        """Everybody who is here."""
        return list(self._connections)

    def symbols(self) -> Set[str]:
        """Every symbol somebody here watches."""
        return self._subscriptions.symbols.all_keys()

    def users_without_view(self) -> set[str]:
        """Users here whose P&L has not come."""
        here = self._subscriptions.users.all_keys()
        return set(here).difference(*(lane.mirror.users for lane in self._state.lanes))

    @contextmanager
    def letting_in(self) -> Iterator[None]:
        """Count somebody who is in his handshake while the block runs."""
        self._schedule.arriving += 1
        try:
            yield
        finally:
            self._schedule.arriving -= 1

    def refusal(self, address: str | None) -> Refusal | None:
        """Why nobody more is taken in, from this address or at all: said before the handshake is answered."""
        if self.is_draining:
            return Refusal(503, "draining", "Shutting down", "This server is shutting down.", 1)
        if len(self._connections) >= self._limits.max_connections:
            return Refusal(503, "too_many_connections", "Full", "This server has no room for more connections.", 5)
        if address is not None and self._per_address[address] >= self._limits.max_connections_per_ip:
            return Refusal(429, "too_many_connections", "Too many", "Too many connections from this address.", 5)
        return None

    def has_room_for(self, user_id: str) -> bool:
        """Whether a user may open another connection. Told by a close code, for a browser sees nothing else."""
        return len(self._subscriptions.users.connections_of(user_id)) < self._limits.max_connections_per_user

    def enter(self, identity: Identity, address: str | None, outlet: Outlet) -> Connection:
        """Take an accepted connection in."""
        connection = Connection(uuid4().hex, identity, address, outlet, self._limits.default_hz, self._roster)
        connection.sent = self._state.ordinal
        connection.flushes = self._state.flushes
        connection.status = -1 if self._state.health.degraded else self._state.health.version
        self._connections.add(connection)
        if address is not None:
            self._per_address[address] += 1
        if self._subscriptions.users.add(identity.user_id, connection):
            self._state.arrive(identity.user_id)
            self._announcer.arrive(identity.user_id)
        return connection

    def begin(self, connection: Connection) -> None:
        """Start to serve a connection that has had its greeting."""
        self._schedule.add(connection)

    def leave(self, connection: Connection) -> None:
        """Clear a connection away, whatever ended it."""
        if connection not in self._connections:
            return
        self._roster.leave(connection)
        self._connections.discard(connection)
        self.unwatch(connection, list(connection.watched))
        self.stop_events(connection)
        if self._subscriptions.users.remove(connection.user_id, connection):
            self._announcer.leave(connection.user_id)
        if connection.address is not None:
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]

    def watch(self, connection: Connection, symbol: str) -> None:
        """Let a connection follow a symbol."""
        if self._subscriptions.symbols.add(symbol, connection):
            self._announcer.change_symbols()
        connection.watched[symbol] = self._state.watch(symbol)
        connection.is_bound = False

    def unwatch(self, connection: Connection, symbols: list[str]) -> None:
        """Let a connection leave symbols."""
        for symbol in symbols:
            if connection.watched.pop(symbol, None) is None:
                continue
            connection.is_bound = False
            if self._subscriptions.symbols.remove(symbol, connection):
                self._state.unwatch(symbol)
                self._announcer.change_symbols()

    def start_events(self, connection: Connection) -> int | None:
        """Let a connection follow its user's events. Gives the number it starts after, if known."""
        view = self._state.view_of(connection.user_id)
        self._relay.open(connection.user_id, None if view is None else view.ledger_seq)
        last = self._relay.last(connection.user_id)
        if not connection.wants_events:
            connection.wants_events = True
            connection.event_seq = last or 0
        return last

    def stop_events(self, connection: Connection) -> None:
        """Let a connection leave its user's events."""
        connection.wants_events = False
        connection.events = None
        others = self._subscriptions.users.connections_of(connection.user_id)
        if not any(other.wants_events for other in others):
            self._relay.close(connection.user_id)

    def deliver(self, notice: EventNotice) -> None:
        """Hand an event to the user's connections that follow events."""
        event = WaitingEvent(notice.user_id, notice.seq, self._clock(), event_text(notice))
        for connection in self._subscriptions.users.connections_of(notice.user_id):
            if connection.wants_events:
                connection.queue_event(event)
                self._schedule.hurry(connection)

    def hurry(self, user_id: str) -> None:
        """A user's P&L has come: whoever was promised a snapshot of it does not wait for his turn."""
        for connection in self._subscriptions.users.connections_of(user_id):
            if connection.awaits_pnl or connection.awaits_positions:
                self._schedule.hurry(connection)

    def give_up_events(self, user_id: str) -> None:
        """A user's events cannot be completed: end the connections that were promised all of them."""
        for connection in list(self._subscriptions.users.connections_of(user_id)):
            if connection.wants_events:
                connection.close(Close.SLOW_CONSUMER, "events were lost; reconnect and resume")

    def end_session(self, user_id: str, session_id: str | None) -> None:
        """Close the sockets of one session, or of all a user's sessions."""
        for connection in list(self._subscriptions.users.connections_of(user_id)):
            if session_id is None or connection.identity.session_id == session_id:
                connection.close(Close.SESSION_ENDED, "session ended")

    def end_expired(self, now_ms: int) -> None:
        """Close the sockets of sessions that have reached their end."""
        for connection in self.connections():
            if connection.identity.expires_ms <= now_ms:
                connection.close(Close.SESSION_ENDED, "session expired")

    async def drain(self, within_s: float) -> None:
        """Send everybody away, in waves spread over a time, each told when to come back."""
        self.is_draining = True
        leaving = self.connections()
        if not leaving:
            return
        random.shuffle(leaving)
        longest_ms = max(int(within_s * 1000), 200)
        for connection in leaving:
            connection.outlet.send(encode(GoingAway(reconnect_after_ms=random.randint(0, longest_ms))))
        waves = max(1, int(within_s * _WAVES_PER_S))
        for wave in range(waves):
            await asyncio.sleep(within_s / waves)
            for connection in leaving[wave::waves]:
                connection.close(Close.DRAINING, "reconnect now")
        log.info("stream.drained", connections=len(leaving))
