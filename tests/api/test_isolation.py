"""Nobody sees or touches what is another's, and nobody is let in without saying who they are."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest
from fastapi.routing import APIRoute
from redis.asyncio import Redis

from app.main import API_ROUTERS

from .conftest import Api, OpenPosition, running, settings_of

PUBLIC = {"/livez", "/readyz", "/api/health", "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/auth/register"}

BODIES: dict[str, Any] = {
    "open_position": {"symbol": "BTCUSDT", "side": "long", "quantity": "1"},
    "edit_position": {"note": "mine now"},
    "edit_trade": {"price": "2", "reason": "mine now"},
    "record_trade": {"symbol": "BTCUSDT", "side": "buy", "quantity": "1", "price": "1"},
    "create_account": {"name": "Other"},
    "edit_account": {"name": "mine now"},
    "record_transfer": {"kind": "deposit", "asset": "USDT", "amount": "1"},
    "edit_me": {"currency": "BTC"},
    "create_token": {"name": "bot", "scopes": ["read"]},
}

QUERIES: dict[str, Any] = {"delete_trade": {"reason": "mine now"}}


def routes() -> list[tuple[str, APIRoute]]:
    return [
        (method, route)
        for router in API_ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
    ]


async def call(client: httpx2.AsyncClient, method: str, route: APIRoute, ids: dict[str, str]) -> httpx2.Response:
    path = route.path
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", value)
    headers = {"If-Match": "*"} if method in {"PATCH", "DELETE"} else {}
    query = QUERIES.get(route.name)
    return await client.request(method, path, json=BODIES.get(route.name), params=query, headers=headers)


async def test_without_a_session_only_the_public_paths_answer(api: Api) -> None:
    ids = dict.fromkeys(["position_id", "session_id", "token_id", "account_id", "fill_id"], str(uuid4()))
    for method, route in routes():
        if route.path in PUBLIC:
            continue
        answer = await call(api.client(), method, route, ids)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated"), route.path
    for cookie in ("tidemark=", "tidemark=x", "tidemark=" + "A" * 43, "__Host-tidemark=" + "é" * 43):
        answer = await api.client().get("/api/v1/me", headers={"Cookie": cookie.encode("latin-1")})
        assert answer.status_code == 401


async def test_another_users_ids_are_as_absent_as_ids_that_never_were(
    api: Api, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    session = (await alice.get("/api/v1/auth/sessions")).json()["items"][0]
    token = (await alice.post("/api/v1/auth/tokens", json={"name": "t", "scopes": ["read"]})).json()
    file = await alice.post("/api/v1/imports?dry_run=true", content="x", headers={"Content-Type": "text/csv"})
    alices = {
        "import_id": file.json()["import_id"],
        "position_id": position["position_id"],
        "session_id": session["session_id"],
        "token_id": token["token_id"],
        "account_id": position["account_id"],
        "fill_id": (await alice.get("/api/v1/trades")).json()["items"][0]["fill_id"],
    }
    nobodys = dict.fromkeys(alices, str(uuid4()))
    nonsense = dict.fromkeys(alices, "%00")
    before = (await alice.get(f"/api/v1/positions/{position['position_id']}")).json()["version"]

    touched = 0
    for method, route in routes():
        if "{" not in route.path:
            continue
        answers = [await call(bob, method, route, ids) for ids in (alices, nobodys, nonsense)]
        bodies = [{**answer.json(), "request_id": ""} for answer in answers]
        assert [answer.status_code for answer in answers] == [404] * 3, route.path
        assert bodies[0] == bodies[1] == bodies[2]
        touched += 1

    assert touched == 17
    assert (await alice.get(f"/api/v1/positions/{position['position_id']}")).json()["version"] == before
    assert (await alice.get("/api/v1/me")).status_code == 200


async def test_lists_hold_only_what_is_ones_own(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    account = (await alice.get("/api/v1/me")).json()["accounts"][0]["account_id"]

    for path, params in [
        ("/api/v1/positions", {"account_id": account, "status": "all"}),
        ("/api/v1/positions", {"status": "all"}),
        ("/api/v1/trades", {"position_id": position["position_id"]}),
        ("/api/v1/trades", {}),
        ("/api/v1/auth/tokens", {}),
    ]:
        assert (await bob.get(path, params=params)).json()["items"] == []
    assert (await bob.get("/api/v1/pnl")).json()["positions"] == []


@pytest.mark.parametrize("path", ["/api/v1/positions", "/api/v1/trades"])
async def test_nothing_can_be_recorded_into_another_users_account(
    api: Api, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, path: str
) -> None:
    account = (await alice.get("/api/v1/me")).json()["accounts"][0]["account_id"]
    body = BODIES["open_position" if path.endswith("positions") else "record_trade"]

    foreign = await bob.post(path, json={**body, "account_id": account})
    missing = await bob.post(path, json={**body, "account_id": str(uuid4())})

    assert (foreign.status_code, missing.status_code) == (404, 404)
    assert await api.count("trades") == 0


async def test_the_same_idempotency_key_of_two_users_is_two_keys(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    body, headers = BODIES["open_position"], {"Idempotency-Key": "k"}

    hers = await alice.post("/api/v1/positions", json=body, headers=headers)
    his = await bob.post("/api/v1/positions", json=body, headers=headers)

    assert hers.json()["position_id"] != his.json()["position_id"]


async def test_a_page_of_another_origin_can_change_nothing(api: Api, alice: httpx2.AsyncClient) -> None:
    login = {"username": "alice", "password": "x"}
    for headers in [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:81"},
        {"Origin": "http://LOCALHOST"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ]:
        answer = await alice.post("/api/v1/positions", json=BODIES["open_position"], headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin"), headers
        assert (await api.client().post("/api/v1/auth/login", json=login, headers=headers)).status_code == 403
    assert await api.count("trades") == 0


async def test_an_origin_on_the_list_may_change_what_is_ones_own(
    database_url: str, redis_url: str, redis: Redis
) -> None:
    settings = settings_of(database_url, redis_url, public_origins="https://desk.example,https://other.example")
    async with running(settings, redis) as api:
        registration = {"username": "carol", "password": "long enough"}
        client = api.client(Origin="https://desk.example")
        allowed = await client.post("/api/v1/auth/register", json=registration)
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
        preflight = await client.options("/api/v1/positions", headers=asked)
        refused = await client.options("/api/v1/positions", headers={**asked, "Origin": "https://evil.example"})

    assert allowed.status_code == 201
    assert allowed.headers["access-control-allow-origin"] == "https://desk.example"
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in refused.headers


async def test_the_own_page_may_change_what_is_ones_own(alice: httpx2.AsyncClient) -> None:
    headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}

    answer = await alice.post("/api/v1/positions", json=BODIES["open_position"], headers=headers)

    assert answer.status_code == 201
