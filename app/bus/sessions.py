"""Sessions: opaque random tokens, known to Redis only by their hash.

A dump of Redis is no login, and no session depends on PostgreSQL. A session
ends by logging out, after some time without a request (*idle*), and at a fixed
time after its start (*absolute*). Ending one is announced, so that every web
process closes its sockets.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable, deadline
from app.bus.messages import SessionEnded

COOKIE: Final = "__Host-tidemark"
"""The session cookie over https: bound to this host, not to be set by a neighbour."""

INSECURE_COOKIE: Final = "tidemark"
"""The same over plain http in development, where browsers refuse the other."""

_TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SESSION_ID: Final = re.compile(r"[0-9a-f]{64}")
_TOUCH_EVERY_MS: Final = 30_000
_MOST_PER_USER: Final = 50

_Field: TypeAlias = "bytes | bytearray | memoryview[int] | str | int | float"

# Postpones the idle end of a session that still exists: a plain HSET could bring an ended one back.
_TOUCH: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'seen_ms', ARGV[1])
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return 1
"""


class Session(msgspec.Struct, frozen=True):
    """One login. ``session_id`` is the hash of its token: it may be shown. ``expires_ms`` is the absolute end."""

    session_id: str
    user_id: str
    username: str
    created_ms: int
    expires_ms: int
    seen_ms: int
    client: str


Looked: TypeAlias = Session | BusUnavailable | None
"""What is known of one session among many that were asked for: the error is about this one alone."""


def answered(looked: Looked) -> Session | None:
    """The session, if there is one. Raises BusUnavailable where that could not be read."""
    if isinstance(looked, BusUnavailable):
        raise looked
    return looked


def session_token(cookies: Mapping[str, str]) -> str | None:
    """The session token among a request's cookies."""
    return cookies.get(COOKIE) or cookies.get(INSECURE_COOKIE)


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class SessionStore:
    """The sessions of everybody. Every method raises BusUnavailable."""

    def __init__(
        self,
        redis: "Redis",
        *,
        timeout_s: float,
        idle_s: int,
        absolute_s: int,
        now_ms: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._idle_ms = idle_s * 1000
        self._absolute_ms = absolute_s * 1000
        self._now_ms = now_ms

    async def create(self, user_id: str, username: str, client: str = "") -> tuple[str, Session]:
        """Start a session: its token, for the cookie alone, and what is known of it.

        The oldest sessions of a user give way to more than fifty.
        """
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        now = self._now_ms()
        session = Session(_hash(token), user_id, username, now, now + self._absolute_ms, now, client[:200])
        for old in (await self.of_user(user_id))[_MOST_PER_USER - 1 :]:
            await self.end(user_id, old.session_id)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(keys.session(session.session_id), mapping=_fields(session))
        pipeline.pexpireat(keys.session(session.session_id), self._idle_end(session, now))
        pipeline.sadd(keys.user_sessions(user_id), session.session_id)
        pipeline.pexpire(keys.user_sessions(user_id), self._absolute_ms)
        await deadline(pipeline.execute(), self._timeout_s)
        return token, session

    async def resolve(self, token: str) -> Session | None:
        """The live session of a token, or None. Using it postpones its idle end."""
        (session,) = await self.resolve_all([token])
        return answered(session)

    async def resolve_all(self, tokens: Sequence[str]) -> list[Looked]:
        """The same for many tokens, in as many round trips as for one."""
        sessions = await self.peek_all([_hash(token) if _TOKEN.fullmatch(token) else "" for token in tokens])
        now = self._now_ms()
        due = [session for session in sessions if isinstance(session, Session) and self._is_due(session, now)]
        if due:
            pipeline = self._redis.pipeline(transaction=False)
            for session in due:
                pipeline.eval(_TOUCH, 1, keys.session(session.session_id), str(now), str(self._idle_end(session, now)))
            await deadline(pipeline.execute(), self._timeout_s)
        return sessions

    async def peek(self, session_id: str) -> Session | None:
        """The live session with an id, or None. Looking does not keep it alive."""
        (session,) = await self.peek_all([session_id])
        return answered(session)

    async def peek_all(self, session_ids: Sequence[str]) -> list[Looked]:
        """The same for many ids, in one round trip. One that cannot be read says so in its own place."""
        asked = [session_id for session_id in session_ids if _SESSION_ID.fullmatch(session_id)]
        pipeline = self._redis.pipeline(transaction=False)
        for session_id in asked:
            pipeline.hgetall(keys.session(session_id))
        found = await deadline(pipeline.execute(raise_on_error=False), self._timeout_s) if asked else []
        known = {session_id: self._read(session_id, fields) for session_id, fields in zip(asked, found, strict=True)}
        return [known.get(session_id) for session_id in session_ids]

    def _read(self, session_id: str, found: Mapping[bytes, bytes] | Exception) -> Looked:
        if isinstance(found, Exception):
            return BusUnavailable(f"{session_id}: {found}")
        try:
            return self._live(session_id, found)
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            return BusUnavailable(f"{session_id}: {error}")

    def _is_due(self, session: Session, now: int) -> bool:
        """Whether the idle end is to be postponed: not with every request."""
        return now - session.seen_ms >= _TOUCH_EVERY_MS

    async def of_user(self, user_id: str) -> list[Session]:
        """The user's live sessions, newest first. Forgets those that ran out."""
        members = await deadline(self._redis.smembers(keys.user_sessions(user_id)), self._timeout_s)
        ids = [cast("bytes", member).decode() for member in members]
        if not ids:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for session_id in ids:
            pipeline.hgetall(keys.session(session_id))
        found = await deadline(pipeline.execute(), self._timeout_s)
        sessions = [self._live(session_id, fields) for session_id, fields in zip(ids, found, strict=True)]
        live = [session for session in sessions if session is not None]
        over = set(ids) - {session.session_id for session in live}
        if over:
            await deadline(self._redis.srem(keys.user_sessions(user_id), *over), self._timeout_s)
        return sorted(live, key=lambda session: session.created_ms, reverse=True)

    async def end(self, user_id: str, session_id: str) -> bool:
        """End one session and announce it. Whether the user had it."""
        session = await self.peek(session_id)
        if session is None or session.user_id != user_id:
            return False
        await self._end([session], SessionEnded(user_id, session_id))
        return True

    async def end_all(self, user_id: str) -> int:
        """End every session of a user and announce it; how many there were."""
        sessions = await self.of_user(user_id)
        await self._end(sessions, SessionEnded(user_id, None))
        return len(sessions)

    async def _end(self, sessions: list[Session], notice: SessionEnded) -> None:
        pipeline = self._redis.pipeline(transaction=True)
        for session in sessions:
            pipeline.delete(keys.session(session.session_id))
            pipeline.srem(keys.user_sessions(session.user_id), session.session_id)
        pipeline.publish(keys.SESSION_CHANNEL, msgspec.msgpack.encode(notice))
        await deadline(pipeline.execute(), self._timeout_s)

    def _live(self, session_id: str, fields: Mapping[bytes, bytes]) -> Session | None:
        if not fields:
            return None
        text = {name.decode(): value.decode() for name, value in fields.items()}
        session = msgspec.convert({**text, "session_id": session_id}, Session, strict=False)
        return session if self._now_ms() < session.expires_ms else None

    def _idle_end(self, session: Session, now: int) -> int:
        return min(now + self._idle_ms, session.expires_ms)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _fields(session: Session) -> dict[_Field, _Field]:
    return {name: value for name, value in msgspec.structs.asdict(session).items() if name != "session_id"}
