"""Rate limits shared by all processes: token buckets in Redis, by Redis's own clock."""

from typing import Final

from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import deadline

# Returns how many milliseconds are missing until enough tokens are there; 0 means they were taken.
_TAKE: Final = """
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local capacity, per_ms, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at_ms')
local tokens, at_ms = tonumber(bucket[1]) or capacity, tonumber(bucket[2]) or now_ms
tokens = math.min(capacity, tokens + math.max(0, now_ms - at_ms) * per_ms)
local missing_ms = 0
if tokens >= cost then tokens = tokens - cost else missing_ms = math.ceil((cost - tokens) / per_ms) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at_ms', now_ms)
redis.call('PEXPIRE', KEYS[1], math.ceil(capacity / per_ms) + 1000)
return missing_ms
"""


class RateLimiter:
    """Takes tokens from buckets that refill steadily. Raises BusUnavailable."""

    def __init__(self, redis: "Redis", *, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def take(self, scope: str, subject: str, *, capacity: float, per_second: float, cost: float = 1) -> float:
        """Take ``cost`` tokens of the subject's bucket: 0, or the seconds to wait when there are too few."""
        arguments = (str(capacity), str(per_second / 1000), str(cost))
        command = self._redis.eval(_TAKE, 1, keys.rate_limit(scope, subject), *arguments)
        missing_ms: int = await deadline(command, self._timeout_s)
        return missing_ms / 1000
