"""One client's place in the stream: what it wants, and how far it has come."""

from collections import deque
from typing import NamedTuple

from app.domain.protocol import Channel, Close
from app.websocket.admission import Identity
from app.websocket.outlet import Outlet
from app.websocket.state import WatchedPrice

MOST_EVENTS_WAITING = 2000
"""Events kept for a connection that does not take them; one more and it is closed, to resume later."""

READY = 0
PARKED = -1


class IsolationBreach(RuntimeError):
    """Data of one user was about to go to another. The process must end: nothing in it can be trusted."""


class WaitingEvent(NamedTuple):
    """An event not sent yet. ``since`` is the monotonic time at which it came."""

    user_id: str
    seq: int
    since: float
    text: str


class Connection:
    """What one client subscribed to, was granted and has been sent. Everything here is synchronous.

    ``sent`` is the ordinal of the last commit whose changes it has; ``step`` that
    of the last place in the stream it was given, so that no place is used twice.
    """

    __slots__ = (
        "address",
        "awaits_pnl",
        "awaits_positions",
        "awaits_prices",
        "connection_id",
        "due",
        "event_seq",
        "events",
        "flushes",
        "identity",
        "interval_s",
        "is_closed",
        "is_overdue",
        "is_replaying",
        "looked",
        "max_hz",
        "outlet",
        "pnl_sent",
        "positions_sent",
        "reset",
        "sent",
        "status",
        "step",
        "visible",
        "waits_since",
        "wants_events",
        "wants_pnl",
        "wants_positions",
        "watched",
    )

    def __init__(
        self, connection_id: str, identity: Identity, address: str | None, outlet: Outlet, max_hz: float
    ) -> None:
        self.connection_id = connection_id
        self.identity = identity
        self.address = address
        self.outlet = outlet
        self.max_hz = max_hz
        self.interval_s = 1 / max_hz
        self.visible = True
        self.is_closed = False

        self.watched: dict[str, WatchedPrice] = {}
        self.wants_pnl = self.wants_positions = self.wants_events = False
        self.awaits_prices = self.awaits_pnl = self.awaits_positions = False
        self.waits_since: float | None = None
        """Since when a snapshot of P&L or positions is owed that cannot be built yet."""
        self.is_overdue = False

        self.sent = self.step = 0
        self.pnl_sent = self.positions_sent = 0
        """The same of the last snapshot of each, where that is newer."""
        self.flushes = 0
        """How many price flushes there were when it was last up to date."""
        self.reset = 0
        """The base of the user's rows that it knows, see ``UserView.reset``."""
        self.status = 0
        """The version of the stream's health that it was told."""
        self.due = 0
        """Where the schedule has it: the turn at which its rest ends, or ``READY`` or ``PARKED``."""
        self.looked = -1
        """The commit at which it was last looked at and nothing was due."""

        self.events: deque[WaitingEvent] | None = None
        """None until the first: most connections never have any, and an empty deque takes 600 bytes."""
        self.event_seq = 0
        self.is_replaying = False

    @property
    def user_id(self) -> str:
        return self.identity.user_id

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
        self.outlet.close(code, reason)
