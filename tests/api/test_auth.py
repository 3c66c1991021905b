"""Registering, logging in and out, sessions and tokens."""

import asyncio
import re
from http.cookies import SimpleCookie

import httpx2
import msgspec
import pytest
from passlib.hash import argon2
from redis.asyncio import Redis
from sqlalchemy import text

from app.api.passwords import PasswordHasher, TooBusy
from app.bus import keys
from app.bus.messages import SessionEnded
from app.bus.subscription import Message, Resync, Subscription
from app.repositories.database import transaction
from app.websocket.sources import StoredSessions

from .conftest import PASSWORD, Api

LOGIN = {"username": "alice", "password": PASSWORD}


def morsel(answer: httpx2.Response) -> tuple[str, dict[str, str]]:
    """The name and attributes of the cookie that an answer sets."""
    [(name, found)] = SimpleCookie(answer.headers["set-cookie"]).items()
    return name, {key: str(value) for key, value in found.items() if value}


async def test_a_new_user_has_an_account_and_a_session(api: Api) -> None:
    client = api.client()

    answer = await client.post("/api/v1/auth/register", json={"username": "Alice", "password": PASSWORD})
    me = (await client.get("/api/v1/me")).json()

    assert answer.status_code == 201
    assert me["user_id"] == answer.json()["user_id"]
    assert me["username"] == "Alice"
    assert [(account["kind"], account["currency"]) for account in me["accounts"]] == [("manual", "USDT")]


async def test_names_are_taken_whatever_their_letter_case(api: Api, alice: httpx2.AsyncClient) -> None:
    body = {"username": "ALICE", "password": PASSWORD}

    answers = await asyncio.gather(
        *(api.client().post("/api/v1/auth/register", json=body) for _ in range(3)),
        *(api.client().post("/api/v1/auth/register", json={**body, "username": "carol"}) for _ in range(3)),
    )

    assert [answer.status_code for answer in answers[:3]] == [409] * 3
    assert sorted(answer.status_code for answer in answers[3:]) == [201, 409, 409]
    assert answers[0].json()["code"] == "username_taken"
    assert await api.count("users") == await api.count("accounts") == 2


async def test_a_session_cookie_is_opaque_and_out_of_reach_of_scripts(api: Api, alice: httpx2.AsyncClient) -> None:
    local = await api.client().post("/api/v1/auth/login", json=LOGIN)
    secure = await api.client_at("https://tidemark.example").post("/api/v1/auth/login", json=LOGIN)

    name, attributes = morsel(local)
    assert (name, attributes["httponly"], attributes["samesite"], attributes["path"]) == (
        "tidemark",
        "True",
        "lax",
        "/",
    )
    name, attributes = morsel(secure)
    assert (name, attributes["secure"], attributes["httponly"]) == ("__Host-tidemark", "True", "True")
    assert "domain" not in attributes


async def test_in_production_no_cookie_travels_in_the_clear(api: Api, alice: httpx2.AsyncClient) -> None:
    object.__setattr__(api.web.policy, "is_production", True)

    answer = await api.client_at("http://tidemark.example").post("/api/v1/auth/login", json=LOGIN)

    name, attributes = morsel(answer)
    assert (name, attributes["secure"]) == ("__Host-tidemark", "True")


async def test_a_wrong_user_and_a_wrong_password_get_the_same_answer(api: Api, alice: httpx2.AsyncClient) -> None:
    wrong_user = await api.client().post("/api/v1/auth/login", json={**LOGIN, "username": "nobody"})
    wrong_password = await api.client().post("/api/v1/auth/login", json={**LOGIN, "password": "wrong password"})

    bodies = [{**answer.json(), "request_id": ""} for answer in (wrong_user, wrong_password)]
    assert (wrong_user.status_code, wrong_password.status_code) == (401, 401)
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == "wrong_credentials"


async def test_a_log_in_replaces_the_session_presented_and_adopts_none(api: Api, alice: httpx2.AsyncClient) -> None:
    before = alice.cookies["tidemark"]

    await alice.post("/api/v1/auth/login", json=LOGIN)

    after = alice.cookies["tidemark"]
    stale = await api.client(Cookie=f"tidemark={before}").get("/api/v1/me")
    assert after != before
    assert stale.status_code == 401
    made_up = api.client(Cookie="tidemark=" + "A" * 43)
    answer = await made_up.post("/api/v1/auth/login", json=LOGIN)
    assert SimpleCookie(answer.headers["set-cookie"])["tidemark"].value != "A" * 43


async def test_logging_out_ends_the_session_and_tells_every_process(api: Api, alice: httpx2.AsyncClient) -> None:
    token = alice.cookies["tidemark"]
    [session] = (await alice.get("/api/v1/auth/sessions")).json()["items"]
    ready, told = asyncio.Event(), asyncio.Queue[SessionEnded]()

    async def listen() -> None:
        async for event in Subscription(api.web.redis, [keys.SESSION_CHANNEL], silence_s=None).events():
            if isinstance(event, Resync):
                ready.set()
            elif isinstance(event, Message):
                told.put_nowait(msgspec.msgpack.decode(event.payload, type=SessionEnded))
                return

    listening = asyncio.create_task(listen())
    await ready.wait()
    answer = await alice.post("/api/v1/auth/logout")
    notice = await asyncio.wait_for(told.get(), 5)
    await listening

    assert answer.status_code == 204
    assert notice.session_id == session["session_id"]
    assert (await api.client(Cookie=f"tidemark={token}").get("/api/v1/me")).status_code == 401
    assert (await alice.post("/api/v1/auth/logout")).status_code == 204


async def test_sessions_are_listed_and_ended_one_by_one(api: Api, alice: httpx2.AsyncClient) -> None:
    other = api.client(**{"User-Agent": "phone"})
    await other.post("/api/v1/auth/login", json=LOGIN)

    sessions = (await alice.get("/api/v1/auth/sessions")).json()["items"]
    [phone] = [session for session in sessions if session["client"] == "phone"]
    ended = await alice.delete(f"/api/v1/auth/sessions/{phone['session_id']}")

    assert [session["is_current"] for session in sessions if session != phone] == [True]
    assert ended.status_code == 204
    assert (await other.get("/api/v1/me")).status_code == 401
    assert (await alice.get("/api/v1/me")).status_code == 200
    assert (await alice.delete(f"/api/v1/auth/sessions/{phone['session_id']}")).status_code == 404


async def test_redis_holds_no_token_and_no_unfilled_key(api: Api, alice: httpx2.AsyncClient, redis: Redis) -> None:
    await alice.post("/api/v1/positions", json={"symbol": "BTCUSDT", "side": "long", "quantity": "1"})
    token = (await alice.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["read"]})).json()["token"]

    names = [name async for name in redis.scan_iter()]
    stored = b"\n".join([name + b"=" + await redis.dump(name) for name in names])

    assert names
    # Braces say which shard of a cluster a key is on; nothing else may stand in them.
    tag = rb"\{(price|interest|[0-9a-f]{32})\}"
    assert all(re.fullmatch(rb"tm1:[^{}]*(%b)?[^{}]*" % tag, name) for name in names)
    assert alice.cookies["tidemark"].encode() not in stored
    assert token.encode() not in stored


async def test_a_token_does_what_its_scopes_say(api: Api, alice: httpx2.AsyncClient) -> None:
    made = await alice.post("/api/v1/auth/tokens", json={"name": "watcher", "scopes": ["read"]})
    reader = api.client(Authorization=f"Bearer {made.json()['token']}")
    made = await alice.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["trade", "read"]})
    trader = api.client(Authorization=f"Bearer {made.json()['token']}")
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": "1"}

    refused = await reader.post("/api/v1/positions", json=body)

    assert (await reader.get("/api/v1/positions")).status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (await trader.post("/api/v1/positions", json=body)).status_code == 201
    assert (await trader.get("/api/v1/auth/tokens")).status_code == 403
    assert await api.scalar("SELECT bool_and(length(token_hash) = 64) FROM api_tokens")


@pytest.mark.parametrize(("scope", "may_read"), [("read", True), ("trade", False)])
async def test_the_stream_is_told_whether_a_token_may_read(
    api: Api, alice: httpx2.AsyncClient, scope: str, may_read: bool
) -> None:
    made = await alice.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": [scope]})

    identity = await StoredSessions(api.web.sessions, api.web.database).by_token(made.json()["token"])

    assert identity is not None
    assert identity.may_read is may_read


async def test_a_removed_token_is_worthless_at_once(api: Api, alice: httpx2.AsyncClient) -> None:
    made = (await alice.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["read"]})).json()
    bot = api.client(Authorization=f"Bearer {made['token']}")

    listed = (await alice.get("/api/v1/auth/tokens")).json()["items"]
    removed = await alice.delete(f"/api/v1/auth/tokens/{made['token_id']}")
    answer = await bot.get("/api/v1/me")

    assert [set(token) for token in listed] == [{"token_id", "name", "scopes", "created_at"}]
    assert removed.status_code == 204
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert (await alice.delete(f"/api/v1/auth/tokens/{made['token_id']}")).status_code == 404


async def test_a_repeated_request_for_a_token_makes_one_and_shows_it_once(api: Api, alice: httpx2.AsyncClient) -> None:
    body, headers = {"name": "bot", "scopes": ["read"]}, {"Idempotency-Key": "t1"}

    first = await alice.post("/api/v1/auth/tokens", json=body, headers=headers)
    again = await alice.post("/api/v1/auth/tokens", json=body, headers=headers)

    assert again.status_code == 201
    assert again.json() == {**first.json(), "token": None}
    assert await api.count("api_tokens") == 1


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer wrong", "Basic YTpi", "Bearer " + "é" * 5, "Bearer \x00"])
async def test_a_wrong_token_is_refused_even_beside_a_good_cookie(
    alice: httpx2.AsyncClient, authorization: str
) -> None:
    answer = await alice.get("/api/v1/me", headers={"Authorization": authorization.encode("latin-1")})

    assert answer.status_code == 401


async def test_guesses_are_slowed_down_by_user_and_by_address(api: Api, alice: httpx2.AsyncClient) -> None:
    wrong = {**LOGIN, "password": "wrong password"}

    answers = [await api.client().post("/api/v1/auth/login", json=wrong) for _ in range(12)]

    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert answers[-1].json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 7
    other = await api.client().post("/api/v1/auth/login", json={**wrong, "username": "nobody"})
    assert other.status_code == 401


async def test_a_closed_registration_takes_nobody(api: Api) -> None:
    object.__setattr__(api.web.policy, "registration_open", False)

    answer = await api.client().post("/api/v1/auth/register", json=LOGIN)

    assert (answer.status_code, answer.json()["code"]) == (403, "registration_closed")


async def test_a_user_who_was_switched_off_can_neither_log_in_nor_trade(api: Api, alice: httpx2.AsyncClient) -> None:

    async with transaction(api.web.database) as connection:
        await connection.execute(text("UPDATE users SET is_active = false"))

    login = await api.client().post("/api/v1/auth/login", json=LOGIN)
    trade = await alice.post("/api/v1/positions", json={"symbol": "BTCUSDT", "side": "long", "quantity": "1"})

    assert (login.status_code, login.json()["code"]) == (401, "wrong_credentials")
    assert (trade.status_code, trade.json()["code"]) == (401, "not_authenticated")


async def test_an_old_hash_is_replaced_at_the_next_log_in(api: Api, alice: httpx2.AsyncClient) -> None:

    weak = argon2.using(type="ID", memory_cost=1024, time_cost=1, parallelism=1).hash(PASSWORD)
    async with transaction(api.web.database) as connection:
        await connection.execute(text("UPDATE users SET password_hash = :weak"), {"weak": weak})

    first = await api.client().post("/api/v1/auth/login", json=LOGIN)
    stored = await api.scalar("SELECT password_hash FROM users")
    second = await api.client().post("/api/v1/auth/login", json=LOGIN)

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (first.status_code, second.status_code) == (200, 200)


@pytest.mark.parametrize("password", ["x" * 128, "with\0nul \U0001f511 and spaces "])
async def test_long_and_unusual_passwords_count_to_the_last_character(api: Api, password: str) -> None:
    body = {"username": "carol", "password": password}
    await api.client().post("/api/v1/auth/register", json=body)

    right = await api.client().post("/api/v1/auth/login", json=body)
    wrong = await api.client().post("/api/v1/auth/login", json={**body, "password": password[:-1]})

    assert (right.status_code, wrong.status_code) == (200, 401)


async def test_passwords_beyond_the_room_are_turned_away_not_queued() -> None:
    hasher = PasswordHasher(at_once=1, waiting=2)
    try:
        outcomes = await asyncio.gather(*(hasher.hash("password") for _ in range(5)), return_exceptions=True)
        later = await hasher.hash("password")
    finally:
        hasher.close()

    assert [isinstance(outcome, TooBusy) for outcome in outcomes] == [False, False, False, True, True]
    assert later.startswith("$argon2id$")
