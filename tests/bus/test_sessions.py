"""Sessions: found by their token, known by its hash, ended by time or by hand."""

import asyncio

import pytest
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable
from app.bus.sessions import Session, SessionStore
from tests.redis_servers import all_keys


class Clock:
    """The wall clock in milliseconds, as far as the store knows."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000 * 100  # Far ahead, so that Redis's own clock ends nothing.

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(redis: Redis, clock: Clock) -> SessionStore:
    return SessionStore(redis, timeout_s=5.0, idle_s=100, absolute_s=1000, now_ms=clock)


async def test_a_token_leads_to_its_session(store: SessionStore) -> None:
    token, session = await store.create("u1", "alice", "browser")

    assert await store.resolve(token) == session
    assert (session.user_id, session.username, session.client) == ("u1", "alice", "browser")
    assert session.session_id != token


@pytest.mark.parametrize("token", ["", "x", "A" * 43, "A" * 44, "é" * 43, "{" * 43, "A" * 42 + "\n"])
async def test_what_was_never_given_out_leads_nowhere(store: SessionStore, token: str) -> None:
    await store.create("u1", "alice")

    assert await store.resolve(token) is None


async def test_a_session_ends_at_its_time_however_much_it_is_used(store: SessionStore, clock: Clock) -> None:
    token, session = await store.create("u1", "alice")
    while clock.ms < session.expires_ms - 60_000:
        clock.ms += 50_000
        assert await store.resolve(token) is not None

    clock.ms = session.expires_ms
    assert await store.resolve(token) is None
    assert await store.of_user("u1") == []


async def test_use_postpones_the_idle_end_and_looking_does_not(redis: Redis) -> None:
    now = [SessionStore(redis, timeout_s=5.0, idle_s=1, absolute_s=2)._now_ms()]
    store = SessionStore(redis, timeout_s=5.0, idle_s=100, absolute_s=1000, now_ms=lambda: now[0])
    token, session = await store.create("u1", "alice")
    key = keys.session(session.session_id)
    first = await redis.pexpiretime(key)

    now[0] += 40_000
    await store.peek(session.session_id)
    assert await redis.pexpiretime(key) == first
    await store.resolve(token)
    assert await redis.pexpiretime(key) == first + 40_000


async def test_an_ended_session_is_not_brought_back_by_a_late_use(store: SessionStore, clock: Clock) -> None:
    token, session = await store.create("u1", "alice")
    clock.ms += 60_000

    await asyncio.gather(store.resolve(token), store.end("u1", session.session_id), store.resolve(token))

    assert await store.resolve(token) is None


async def test_only_the_owner_ends_a_session(store: SessionStore) -> None:
    token, session = await store.create("u1", "alice")

    assert not await store.end("u2", session.session_id)
    assert not await store.end("u1", "*")
    assert await store.resolve(token) is not None
    assert await store.end("u1", session.session_id)
    assert await store.resolve(token) is None


async def test_all_of_a_users_sessions_end_together(store: SessionStore, redis: Redis) -> None:
    tokens = [(await store.create("u1", "alice"))[0] for _ in range(3)]
    other, _ = await store.create("u2", "bob")

    assert await store.end_all("u1") == 3
    assert [await store.resolve(token) for token in tokens] == [None] * 3
    assert await store.resolve(other) is not None
    assert not await redis.exists(keys.user_sessions("u1"))


async def test_the_oldest_of_too_many_sessions_gives_way(store: SessionStore, clock: Clock) -> None:
    tokens = []
    for _ in range(52):
        clock.ms += 1
        tokens.append((await store.create("u1", "alice"))[0])

    assert len(await store.of_user("u1")) == 50
    assert await store.resolve(tokens[1]) is None
    assert await store.resolve(tokens[2]) is not None


async def test_every_key_of_a_session_ends_by_itself(store: SessionStore, redis: Redis) -> None:
    await store.create("u1", "alice")

    for key in await all_keys(redis):
        assert await redis.pttl(key) > 0, key


async def test_many_sessions_are_found_together_and_one_that_cannot_be_read_fails_alone(
    store: SessionStore, redis: Redis
) -> None:
    tokens = [(await store.create(f"u{number}", "someone"))[0] for number in range(5)]
    broken = (await store.of_user("u3"))[0].session_id
    await redis.hset(keys.session(broken), "expires_ms", "soon")

    found = await store.resolve_all([*tokens, "x", "A" * 43])

    assert [None if session is None else type(session) for session in found] == [
        *[Session] * 3,
        BusUnavailable,
        Session,
        None,
        None,
    ]
    with pytest.raises(BusUnavailable):
        await store.resolve(tokens[3])


async def test_a_key_of_another_kind_fails_alone_too(store: SessionStore, redis: Redis) -> None:
    tokens = [(await store.create(f"u{number}", "someone"))[0] for number in range(2)]
    spoilt = keys.session((await store.of_user("u0"))[0].session_id)
    await redis.delete(spoilt)
    await redis.set(spoilt, b"text")

    found = await store.resolve_all(tokens)

    assert [type(session) for session in found] == [BusUnavailable, Session]


async def test_looking_many_up_together_postpones_the_idle_end_of_each(
    store: SessionStore, clock: Clock, redis: Redis
) -> None:
    made = [await store.create(f"u{number}", "someone") for number in range(3)]
    clock.ms += 60_000
    await store.resolve_all([token for token, _ in made])

    seen = [await redis.hget(keys.session(session.session_id), "seen_ms") for _, session in made]
    assert seen == [str(clock.ms).encode()] * 3
