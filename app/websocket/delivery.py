"""What a connection is due: everything it has not seen, as one write.

The order in it is the contract: status, snapshots that were owed, the one
update, then the events whose effect that update (or one before it) has shown.
"""

from collections.abc import Sequence
from typing import NamedTuple

from app.domain import protocol
from app.websocket import frames
from app.websocket.connection import Connection, IsolationBreach
from app.websocket.health import DEGRADED_AFTER_S
from app.websocket.lane import Lane
from app.websocket.mirror import UserView
from app.websocket.state import StreamState

EVENT_WAITS_S = 1.0
"""How long an event waits for the state it depends on, before it goes out alone."""

SNAPSHOT_DEADLINE_S = 3.0
"""How long a first snapshot may be owed before the client is told that P&L is missing."""


class _Due(NamedTuple):
    """What a connection is about to be sent: frames that are written, and the update that is not yet."""

    connection: Connection
    view: UserView | None
    texts: list[str]
    interest: frames.Interest | None


class Delivery:
    """Builds what connections are due from the process's state. ``now`` is the monotonic clock."""

    def __init__(self, state: StreamState) -> None:
        self._state = state
        self._said: tuple[int, bool, int] | None = None
        self._status_said = ""
        self.updates = 0
        self.merged = 0

    @property
    def ordinal(self) -> int:
        """The newest commit."""
        return self._state.ordinal

    def count(self, updates: int, merged: int) -> None:
        """Note updates that were written elsewhere, and how many price flushes they stand for."""
        self.updates += updates
        self.merged += merged

    def payloads_of(self, connections: Sequence[Connection], now: float) -> list[list[bytes]]:
        """For each everything that it has not seen, as frames in order; marks it as seen. Often nothing.

        Many together cost less than one after the other.
        """
        due = [self._due(connection, now) for connection in connections]
        updating = [one for one in due if one.interest is not None]
        found = frames.updates([one.interest for one in updating if one.interest is not None])
        for one, text in zip(updating, found, strict=True):
            if text is not None:
                self._append_update(one, text)
        for one in due:
            if one.connection.events:
                self._append_events(one, now)
        return [[text.encode() for text in one.texts] for one in due]

    def _due(self, connection: Connection, now: float) -> "_Due":
        """What comes before the update, and what the update is to hold."""
        user_id = connection.identity.user_id
        lane = self._state.lane_of(user_id)
        view = lane.mirror.users.get(user_id)
        texts: list[str] = []
        if view is None or connection.is_overdue or connection.status != self._state.health.version:
            texts = self._status(connection, view, now)
        if view is not None:
            if view.user_id != user_id:
                raise IsolationBreach("a frame was built from another user's view")
            self.check_base(connection, view)
        if connection.awaits_pnl or connection.awaits_positions or connection.awaits_prices:
            owed = self._owed_snapshots(connection, lane, view)
            if owed:
                # A place in the stream is used once, so what else changed goes out with the next.
                connection.step = lane.step
                return _Due(connection, view, [*texts, *owed], None)
        if connection.sent == self._state.ordinal or connection.step == lane.step:
            return _Due(connection, view, texts, None)
        return _Due(connection, view, texts, self._interest(connection, lane, view))

    def _interest(self, connection: Connection, lane: Lane, view: UserView | None) -> frames.Interest:
        state, visible, since = self._state, connection.visible, connection.sent
        interest = frames.Interest(
            lane,
            connection.watched.values() if visible else (),
            view,
            connection.wants_pnl and not connection.awaits_pnl,
            connection.wants_positions and visible and not connection.awaits_positions,
            since,
            max(since, connection.pnl_sent),
            max(since, connection.positions_sent),
            state.flushes - connection.flushes,
        )
        connection.sent = state.ordinal
        connection.flushes = state.flushes
        return interest

    def snapshots(self, connection: Connection) -> list[bytes]:
        """The snapshots that a connection waits for and that can be built now, as frames."""
        lane = self._state.lane_of(connection.user_id)
        view = lane.mirror.users.get(connection.user_id)
        texts = self._owed_snapshots(connection, lane, view)
        if texts:
            connection.step = lane.step
        if view is not None and view.user_id != connection.user_id:
            raise IsolationBreach("a snapshot was built from another user's view")
        return [text.encode() for text in texts]

    def _owed_snapshots(self, connection: Connection, lane: Lane, view: UserView | None) -> list[str]:
        texts: list[str] = []
        if connection.awaits_prices:
            connection.awaits_prices = False
            if connection.watched:
                texts.append(frames.prices_snapshot(lane, connection.watched.values()))
        if view is None or not (connection.awaits_pnl or connection.awaits_positions):
            return texts
        if connection.awaits_pnl:
            connection.awaits_pnl = False
            connection.pnl_sent = self._state.ordinal
            texts.append(frames.pnl_snapshot(self._state, view))
        if connection.awaits_positions and connection.visible:
            connection.awaits_positions = False
            connection.positions_sent = self._state.ordinal
            texts.append(frames.positions_snapshot(self._state, view))
        connection.waits_since = None
        return texts

    def check_base(self, connection: Connection, view: UserView) -> None:
        """Owe snapshots where what the connection knows of its user is no base for changes any more."""
        if view.reset != connection.reset:
            connection.reset = view.reset
            connection.awaits_pnl = connection.wants_pnl
            connection.awaits_positions = connection.wants_positions
        elif view.closed_unkept > connection.sent:
            # Too far behind to be told of each close.
            connection.awaits_positions = connection.wants_positions
            connection.sent = view.closed_unkept

    def _append_update(self, due: "_Due", text: str) -> None:
        connection, _, texts, interest = due
        assert interest is not None
        connection.step = interest.lane.step
        self.updates += 1
        self.merged += interest.merged
        texts.append(text)

    def _append_events(self, due: "_Due", now: float) -> None:
        connection, view, texts, _ = due
        if connection.is_replaying:
            return
        while connection.events:
            event = connection.events[0]
            if not self._is_shown(connection, view, event.seq) and now - event.since < EVENT_WAITS_S:
                return
            if event.user_id != connection.user_id:
                raise IsolationBreach("an event of another user was queued")
            connection.events.popleft()
            texts.append(event.text)
        connection.events = None

    def _is_shown(self, connection: Connection, view: UserView | None, seq: int) -> bool:
        """Whether the state that an event led to has gone out to this connection."""
        if not (connection.wants_pnl or connection.wants_positions):
            return True
        return view is not None and view.ledger_seq >= seq and view.changed <= max(connection.sent, view.reset)

    def _status(self, connection: Connection, view: UserView | None, now: float) -> list[str]:
        health = self._state.health
        is_waiting = view is None and (connection.wants_pnl or connection.wants_positions)
        if is_waiting and connection.waits_since is None:
            connection.waits_since = now
        # Whoever has been shown figures takes them for current until told otherwise.
        has_figures = connection.pnl_sent or connection.positions_sent
        patience_s = DEGRADED_AFTER_S if has_figures else SNAPSHOT_DEADLINE_S
        is_overdue = is_waiting and now - (connection.waits_since or now) > patience_s
        if connection.status == health.version and connection.is_overdue == is_overdue:
            return []
        connection.status, connection.is_overdue = health.version, is_overdue
        return [self._status_text(is_overdue=is_overdue)]

    def _status_text(self, *, is_overdue: bool) -> str:
        """The frame, encoded once for all who are told the same."""
        health = self._state.health
        said = (health.version, is_overdue, self._state.ordinal)
        if self._said != said:
            degraded = health.degraded
            if is_overdue and "pnl" not in degraded:
                degraded.append("pnl")
            self._said = said
            self._status_said = protocol.encode(protocol.Status(feed=health.feed(), degraded=degraded)).decode()
        return self._status_said
