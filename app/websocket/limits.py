"""The bounds of the stream, and how one client's messages are held to them."""

import msgspec

_WINDOW_S = 1.0
_PATIENCE_S = 60.0
_MOST_MALFORMED = 10
_MOST_WINDOWS_OVER = 3


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection, a user, an address and a process may have."""

    max_hz: float = 10.0
    default_hz: float = 10.0
    heartbeat_ms: int = 15_000
    max_symbols: int = 200
    max_message_bytes: int = 4096
    max_messages_per_s: int = 20
    max_connections: int = 20_000
    max_connections_per_user: int = 10
    max_connections_per_ip: int = 1000
    backlog_bytes: int = 65_536
    stall_s: float = 5.0


class MessageBudget:
    """Counts one client's messages. ``now`` is the monotonic clock in seconds.

    Over the limit in a second, messages are refused with an error; far over it,
    or over it again and again, the client is to be sent away.
    """

    __slots__ = ("_count", "_malformed", "_malformed_since", "_most", "_since", "_windows_over")

    def __init__(self, messages_per_s: int) -> None:
        self._most = messages_per_s
        self._since = self._malformed_since = float("-inf")
        self._count = self._malformed = self._windows_over = 0

    def take(self, now: float) -> bool:
        """Count a message. Whether it may be carried out."""
        if now - self._since >= _WINDOW_S:
            self._windows_over = self._windows_over + 1 if self._count > self._most else 0
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= self._most

    @property
    def is_first_refusal(self) -> bool:
        """Whether this second's refusal has not been told yet: one error a second says it."""
        return self._count == self._most + 1

    @property
    def is_abused(self) -> bool:
        """Whether the client does not heed refusals."""
        return self._count > 2 * self._most or self._windows_over >= _MOST_WINDOWS_OVER

    def take_malformed(self, now: float) -> bool:
        """Count a message that is not in the protocol. False when there were too many within a minute."""
        if now - self._malformed_since >= _PATIENCE_S:
            self._malformed_since, self._malformed = now, 0
        self._malformed += 1
        return self._malformed <= _MOST_MALFORMED
