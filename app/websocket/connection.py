"""One client's place in the stream: what it wants, and how far it has come."""

from collections import deque
from typing import NamedTuple

from app.domain.protocol import Channel, Close
from app.websocket.admission import Identity
from app.websocket.outlet import Outlet
from app.websocket.roster import Roster
from app.websocket.state import WatchedPrice

_HIDDEN_INTERVAL_S = 5.0

MOST_EVENTS_WAITING = 2000
"""Events kept for a connection that does not take them; one more and it is closed, to resume later."""


class IsolationBreach(RuntimeError):
    """Data of one user was about to go to another. The process must end: nothing in it can be trusted."""


class WaitingEvent(NamedTuple):
    """An event not sent yet. ``since`` is the monotonic time at which it came."""

    user_id: str
    seq: int
    since: float
    text: str


class _Whole:
    """A number of a connection, kept in its column of the roster."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, connection: "Connection", owner: type) -> int:
        number: int = connection.roster.columns[self._name].item(connection.seat)
        return number

    def __set__(self, connection: "Connection", number: int) -> None:
        connection.roster.columns[self._name][connection.seat] = number


class _Flag(_Whole):
    """The same of a truth."""

    def __get__(self, connection: "Connection", owner: type) -> bool:
        return bool(super().__get__(connection, owner))


class Connection:
    """What one client subscribed to, was granted and has been sent. Everything here is synchronous.

    What the fan-out asks of all of them at once stands in the columns of the roster.
    """

    __slots__ = (
        "_events",
        "_max_hz",
        "_visible",
        "address",
        "connection_id",
        "event_seq",
        "identity",
        "is_replaying",
        "outlet",
        "roster",
        "seat",
        "waits_since",
        "wants_events",
        "watched",
    )

    sent = _Whole()
    """The ordinal of the last commit whose changes it has."""
    step = _Whole()
    """That of the last place in the stream it was given, so that no place is used twice."""
    pnl_sent = _Whole()
    positions_sent = _Whole()
    """As ``sent``, of the last snapshot of each, where that is newer."""
    flushes = _Whole()
    """How many price flushes there were when it was last up to date."""
    reset = _Whole()
    """The base of the user's rows that it knows, see ``UserView.reset``."""
    status = _Whole()
    """The version of the stream's health that it was told."""
    wants_pnl = _Flag()
    wants_positions = _Flag()
    awaits_prices = _Flag()
    awaits_pnl = _Flag()
    awaits_positions = _Flag()
    """Which snapshots are owed."""
    is_overdue = _Flag()
    """Whether it was told that its P&L is missing."""
    is_closed = _Flag()
    lane = _Whole()
    user = _Whole()
    serial = _Whole()
    """Where its user sits, and the number of his view."""
    is_bound = _Flag()
    """Whether the roster has its user, and what it watches, as they are."""

    def __init__(
        self,
        connection_id: str,
        identity: Identity,
        address: str | None,
        outlet: Outlet,
        max_hz: float,
        roster: Roster,
    ) -> None:
        self.connection_id = connection_id
        self.identity = identity
        self.address = address
        self.outlet = outlet
        self.roster = roster
        self.seat = roster.enter(self)
        self._max_hz = max_hz
        self._visible = True
        self._pace()

        self.watched: dict[str, WatchedPrice] = {}
        self.wants_events = False
        self.waits_since: float | None = None
        """Since when a snapshot of P&L or positions is owed that cannot be built yet."""

        self._events: deque[WaitingEvent] | None = None
        self.event_seq = 0
        self.is_replaying = False

    @property
    def user_id(self) -> str:
        return self.identity.user_id

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for its user's P&L, which nobody here has yet."""
        return self.waits_since is not None

    @property
    def max_hz(self) -> float:
        """How many updates a second it is sent at most."""
        return self._max_hz

    @max_hz.setter
    def max_hz(self, hz: float) -> None:
        self._max_hz = hz
        self._pace()

    @property
    def visible(self) -> bool:
        """Whether anybody looks at it: a hidden tab gets its totals, now and then."""
        return self._visible

    @visible.setter
    def visible(self, is_so: bool) -> None:
        self._visible = is_so
        self._pace()

    def _pace(self) -> None:
        rest = 1 / self._max_hz
        self.roster.rest[self.seat] = rest if self._visible else max(rest, _HIDDEN_INTERVAL_S)
        self.roster.columns["visible"][self.seat] = self._visible

    @property
    def events(self) -> "deque[WaitingEvent] | None":
        """None where there are none: most connections never have any, and an empty deque takes 600 bytes."""
        return self._events

    @events.setter
    def events(self, events: "deque[WaitingEvent] | None") -> None:
        self._events = events
        self.roster.columns["has_events"][self.seat] = events is not None

    def wants(self, channel: Channel) -> bool:
        """Whether it is subscribed to a channel."""
        if channel == "prices":
            return bool(self.watched)
        return bool(getattr(self, f"wants_{channel}"))

    def queue_event(self, event: WaitingEvent) -> None:
        """Keep an event until the state it depends on has gone out."""
        if event.seq <= self.event_seq:
            return
        if self.events is None:
            self.events = deque()
        if len(self.events) >= MOST_EVENTS_WAITING:
            self.close(Close.SLOW_CONSUMER, "too many events unread; reconnect and resume")
            return
        self.event_seq = event.seq
        self.events.append(event)

    def close(self, code: Close, reason: str) -> None:
        """End the conversation; what is left of it is cleared away by its endpoint."""
        self.is_closed = True
        self.events = None
        self.roster.end(self.seat)
        self.outlet.close(code, reason)
