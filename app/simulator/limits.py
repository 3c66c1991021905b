"""What the exchange allows: messages and streams per connection, connections per address, weight per minute."""

from collections import Counter, deque

import msgspec


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the spot API, but for what is said to be of futures. Times in seconds."""

    ping_every_s: float = 20.0
    pong_within_s: float = 60.0
    life_s: float = 24 * 3600.0
    shutdown_notice_s: float = 600.0
    messages_per_s: int = 5
    streams_per_connection: int = 1024
    connects_per_5_minutes: int = 300
    weight_per_minute: int = 6000
    futures_weight_per_minute: int = 2400
    """Of USDⓈ-M and COIN-M together."""
    refusals_before_ban: int = 5
    first_ban_s: int = 120
    longest_ban_s: int = 3 * 86_400
    backlog_bytes: int = 16 * 1024 * 1024
    """A client that leaves more than this unread is cut off."""

    def faster(self, scale: float) -> "Rules":
        """The same rules with pings, the pong deadline and the life of a connection ``scale`` times faster."""
        return msgspec.structs.replace(
            self,
            ping_every_s=self.ping_every_s / scale,
            pong_within_s=self.pong_within_s / scale,
            life_s=self.life_s / scale,
            shutdown_notice_s=self.shutdown_notice_s / scale,
        )

    def of_futures(self) -> "Rules":
        """The same rules as the futures markets have them: rarer pings, more messages."""
        return msgspec.structs.replace(
            self,
            ping_every_s=self.ping_every_s * 9,
            pong_within_s=self.pong_within_s * 10,
            messages_per_s=self.messages_per_s * 2,
        )


class RollingCount:
    """How many things happened within the last ``window_s`` seconds, at most ``most`` of them remembered."""

    def __init__(self, most: int, window_s: float) -> None:
        self._most = most
        self._window_s = window_s
        self._moments: deque[float] = deque(maxlen=most + 1)
        self.peak = 0

    def add(self, now: float) -> bool:
        """Count one more; False when that is too many."""
        while self._moments and self._moments[0] <= now - self._window_s:
            self._moments.popleft()
        self._moments.append(now)
        self.peak = max(self.peak, len(self._moments))
        return len(self._moments) <= self._most


class ConnectBudget:
    """Connection attempts per address in any five minutes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._attempts: dict[str, RollingCount] = {}

    def admits(self, address: str, now: float) -> bool:
        """Count an attempt, and say whether it may go on."""
        return self._attempts.setdefault(address, RollingCount(self._most, 300.0)).add(now)

    def clear(self) -> None:
        """Forget all attempts."""
        self._attempts.clear()


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not served: 429, or 418 with a ban."""

    status: int
    retry_after_s: int
    banned_until_ms: int | None = None


class WeightBudget:
    """Request weight per address in fixed minutes; going on after 429 earns a ban that doubles each time."""

    def __init__(self, per_minute: int, rules: Rules) -> None:
        self.per_minute = per_minute
        self._rules = rules
        self._minute = -1
        self._used: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._bans: Counter[str] = Counter()
        self._banned_until_ms: dict[str, int] = {}

    def used(self, address: str, now_ms: int) -> int:
        """The weight used in this minute."""
        self._enter_minute(now_ms)
        return self._used[address]

    def spend(self, address: str, weight: int, now_ms: int) -> Refusal | None:
        """Count a request; the refusal when it is too much."""
        self._enter_minute(now_ms)
        if now_ms < self._banned_until_ms.get(address, 0):
            return self._ban(address, now_ms)
        self._used[address] += weight
        if self._used[address] <= self.per_minute:
            return None
        self._refused[address] += 1
        if self._refused[address] > self._rules.refusals_before_ban:
            ban_s = min(self._rules.longest_ban_s, self._rules.first_ban_s * 2 ** self._bans[address])
            self._bans[address] += 1
            self._banned_until_ms[address] = now_ms + ban_s * 1000
            return self._ban(address, now_ms)
        return Refusal(429, max(1, 60 - now_ms // 1000 % 60))

    def clear(self) -> None:
        """Forget all use and all bans."""
        for counter in (self._used, self._refused, self._bans):
            counter.clear()
        self._banned_until_ms.clear()

    def _ban(self, address: str, now_ms: int) -> Refusal:
        until_ms = self._banned_until_ms[address]
        return Refusal(418, -((now_ms - until_ms) // 1000), until_ms)

    def _enter_minute(self, now_ms: int) -> None:
        minute = now_ms // 60_000
        if minute != self._minute:
            self._minute = minute
            self._used.clear()
            self._refused.clear()
