"""Every key and channel of Redis: the only place where one is spelled.

In a Redis Cluster the part in braces decides which shard a key is on, and one
operation reaches the keys of one shard only. So the keys that one operation
needs share a brace, and all others are left to spread.
"""

PREFIX = "tm1"
"""Product and schema version: a change of any payload changes it, so old and new never mix."""

PRICES = f"{PREFIX}:{{price}}"
"""Hash, field per symbol: the newest price, JSON of :class:`app.domain.prices.Price`."""

PRICE_HEAD = f"{PREFIX}:{{price}}:head"
"""The flush that last wrote the hash: JSON of :class:`app.bus.messages.PriceHead`."""

PRICE_EPOCH = f"{PREFIX}:{{price}}:epoch"
"""The highest epoch that ever flushed: fences out a price worker that lost its lease."""

INSTRUMENTS = f"{PREFIX}:{{price}}:instruments"
"""JSON list of :class:`app.domain.instruments.Instrument`: what the exchange lists."""

PRICE_CHANNEL = f"{PREFIX}:{{price}}:flushes"
"""Channel: one :class:`app.bus.messages.PriceFlush` per flush, also when nothing changed.

On the shard of the hash, so that whoever hears a flush finds it in the hash.
"""

EVENT_CHANNEL = f"{PREFIX}:events"
"""Channel: :class:`app.bus.messages.LedgerEvent` after each commit, for P&L workers and web."""

SESSION_CHANNEL = f"{PREFIX}:session-ends"
"""Channel: :class:`app.bus.messages.SessionEnded`, for web processes to close sockets."""

INTEREST_CHANNEL = f"{PREFIX}:{{interest}}"
"""Channel: :class:`app.bus.messages.Interest`, from web instances to P&L workers."""

ASKED_CHANNEL = f"{PREFIX}:{{interest}}:asked"
"""Channel: the id of a user whose P&L was asked for over REST and was not at hand, from web to P&L workers."""

INSTANCES = f"{PREFIX}:{{interest}}:instances"
"""Sorted set: web instance ids, scored by when they expire (Unix milliseconds)."""

HELD_BY = f"{PREFIX}:held:by"
"""Sorted set: names of the shards that keep a set of held symbols, scored by when they expire (Unix milliseconds)."""


def pnl_channel(instance_id: str) -> str:
    """Channel: one :class:`app.bus.messages.PnlFlush` per flush for one web instance."""
    return f"{PREFIX}:pnl:to:{instance_id}"


def held_symbols(shard: str) -> str:
    """Set with TTL: symbols of open positions of one shard (``0/1``), kept by its P&L worker for the price worker."""
    return f"{PREFIX}:held:{shard}"


def pnl_cache(user_id: str) -> str:
    """String with TTL: the JSON body of ``GET /api/v1/pnl``, kept by the P&L worker."""
    return f"{PREFIX}:pnl:{user_id}"


def online(instance_id: str) -> str:
    """Set with TTL: ids of users connected to a web instance."""
    return f"{PREFIX}:online:{{{instance_id}}}"


def watched(instance_id: str) -> str:
    """Set with TTL: symbols that connections of a web instance watch."""
    return f"{PREFIX}:watched:{{{instance_id}}}"


def session(token_hash: str) -> str:
    """Hash with TTL: a session, by the SHA-256 of its token."""
    return f"{PREFIX}:session:{token_hash}"


def user_sessions(user_id: str) -> str:
    """Set: token hashes of a user's sessions."""
    return f"{PREFIX}:user-sessions:{user_id}"


def rate_limit(scope: str, subject: str) -> str:
    """Hash with TTL: a token bucket."""
    return f"{PREFIX}:limit:{scope}:{subject}"
