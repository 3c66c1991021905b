"""What clients are told while PostgreSQL or Redis is away, and that nothing is said to be done that is not."""

from pathlib import Path

import httpx2
from redis.asyncio import Redis
from sqlalchemy import text

from app.bus.connection import connect
from app.embedded.redis import EmbeddedRedis
from app.repositories.database import transaction

from .conftest import PASSWORD, Api, MovingMarket, OpenPosition, running, settings_of, until

OPENING = {"symbol": "BTCUSDT", "side": "long", "quantity": "1"}


async def test_a_process_starts_without_its_servers_and_says_what_is_missing(tmp_path: Path) -> None:
    missing = tmp_path / "nobody.sock"
    settings = settings_of(f"postgresql://postgres@/postgres?host={tmp_path}", f"unix://{missing}")
    redis = connect(f"unix://{missing}", 0.5)
    async with running(settings, redis) as api:
        alive = await api.client().get("/livez")
        ready = await api.client().get("/readyz")
        verbose = await api.client().get("/api/health?verbose")
        login = await api.client().post("/api/v1/auth/login", json={"username": "alice", "password": PASSWORD})
    await redis.aclose()

    assert alive.status_code == 200
    assert (ready.status_code, ready.json()["failing"]) == (503, ["postgres", "redis"])
    assert ready.json()["feed"]["state"] == "down"
    assert set(verbose.json()["checks"]) == {"postgres", "redis", "instruments", "draining"}
    assert (login.status_code, login.json()["code"]) == (503, "unavailable")
    assert login.headers["retry-after"]


async def test_a_running_process_is_ready(api: Api) -> None:
    ready = await api.client().get("/readyz?verbose=true")

    assert (ready.status_code, ready.json()["status"], ready.json()["failing"]) == (200, "ready", [])
    assert ready.json()["feed"]["state"] == "simulated"
    assert set(ready.json()["checks"].values()) == {"ok"}


async def test_a_database_without_migrations_is_not_ready(
    empty_database_url: str, redis_url: str, redis: Redis
) -> None:
    async with running(settings_of(empty_database_url, redis_url), redis) as api:
        ready = await api.client().get("/readyz?verbose")

    assert (ready.status_code, ready.json()["failing"]) == (503, ["postgres"])
    assert ready.json()["checks"]["postgres"] == "migrations are missing"


async def test_without_redis_nobody_logs_in_but_programs_go_on(database_url: str, tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    url = server.start()
    redis = connect(url, 1.0)
    market = MovingMarket(redis)
    await market.list_instruments()
    async with running(settings_of(database_url, url), redis) as api:
        market.web = api.web
        await until(lambda: bool(api.web.market.listings.listed))
        await market.move(BTCUSDT="100")
        alice = await api.user("alice")
        made = (await alice.post("/api/v1/auth/tokens", json={"name": "bot", "scopes": ["read", "trade"]})).json()
        bot = api.client(Authorization=f"Bearer {made['token']}")
        server.stop()

        login = await api.client().post("/api/v1/auth/login", json={"username": "alice", "password": PASSWORD})
        browser = await alice.get("/api/v1/positions")
        opened = await bot.post("/api/v1/positions", json={**OPENING, "price": "100"})
        pnl = await bot.get("/api/v1/pnl")
        ready = await api.client().get("/readyz")
    await redis.aclose()

    assert (login.status_code, browser.status_code) == (503, 503)
    assert opened.status_code == 201
    assert [row["position_id"] for row in pnl.json()["positions"]] == [opened.json()["position_id"]]
    assert ready.json()["failing"] == ["redis"]


async def test_a_change_whose_commit_fails_is_never_said_to_have_happened(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    await _forbid_commits(api)

    answers = [
        await alice.post("/api/v1/positions", json=OPENING, headers={"Idempotency-Key": "k"}),
        await alice.post("/api/v1/trades", json={**OPENING, "side": "buy", "price": "1"}),
        await alice.post(f"/api/v1/positions/{position['position_id']}/close"),
    ]

    assert [answer.status_code for answer in answers] == [500] * 3
    assert {answer.json()["code"] for answer in answers} == {"internal_error"}
    assert await api.count("trades") == 1
    assert await api.count("idempotency_keys") == 0


async def test_a_commit_that_breaks_off_is_told_as_unknown(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position()
    await _forbid_commits(api, "PERFORM pg_terminate_backend(pg_backend_pid());")

    answer = await alice.post("/api/v1/positions", json=OPENING)
    after = await alice.get("/api/v1/positions")

    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert "Idempotency-Key" in answer.json()["detail"]
    assert after.json()["items"][0]["version"] == 1


async def _forbid_commits(api: Api, act: str = "RAISE EXCEPTION 'no';") -> None:
    """Make every commit of a fill fail at its very end."""
    async with transaction(api.web.database) as connection:
        await connection.execute(
            text(f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {act} RETURN NULL; END$$")
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON trades DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )


async def test_a_bug_is_a_problem_with_an_id_and_without_details(api: Api, alice: httpx2.AsyncClient) -> None:
    async with transaction(api.web.database) as connection:
        await connection.execute(text("ALTER TABLE trades RENAME TO trades_gone"))

    answer = await alice.get("/api/v1/trades")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "trades" not in answer.text


async def test_a_database_that_is_too_slow_is_told_apart_from_a_bug(
    api: Api, alice: httpx2.AsyncClient, database_url: str, redis_url: str, redis: Redis
) -> None:
    settings = settings_of(database_url, redis_url, database_timeout_s=0.2)
    async with running(settings, redis) as impatient:
        client = impatient.client(Cookie=f"tidemark={alice.cookies['tidemark']}")
        async with transaction(api.web.database) as connection:
            await connection.execute(text("LOCK TABLE trades IN ACCESS EXCLUSIVE MODE"))
            answer = await client.get("/api/v1/trades")
        afterwards = await client.get("/api/v1/trades")

    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert afterwards.status_code == 200
