"""Imports over REST: a file goes in as a body, is worked on beside, and can be asked about."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from app.repositories.import_files import ImportFolder

from .conftest import Api, MovingMarket, running, settings_of, until

CSV = {"Content-Type": "text/csv"}
FILLS = (
    "symbol,side,quantity,price,fee,executed_at,trade_id\n"
    "BTCUSDT,buy,2,100,0.1,2024-05-01T10:00:00Z,a\n"
    "BTCUSDT,sell,1,110,0.1,2024-05-01T11:00:00Z,b\n"
    "ETHUSDT,sell,3,10,,2024-05-01T12:00:00Z,c\n"
)


@pytest.fixture
async def api(database_url: str, redis_url: str, redis: Redis, tmp_path: Path) -> AsyncIterator[Api]:
    """The application with instruments and a folder of its own, where files of 10,000 bytes are taken."""
    market = MovingMarket(redis)
    await market.list_instruments()
    settings = settings_of(database_url, redis_url, import_dir=tmp_path, import_max_bytes=10_000)
    async with running(settings, redis) as opened:
        await until(lambda: bool(opened.web.market.listings.listed))
        yield opened


async def finished(client: httpx2.AsyncClient, answer: httpx2.Response) -> dict[str, Any]:
    """What came of an import."""
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(30):
        while True:
            one: dict[str, Any] = (await client.get(answer.headers["location"])).json()
            if one["finished_at"] is not None:
                return one
            await asyncio.sleep(0.05)


async def test_a_file_is_imported_once_however_often_it_comes(
    api: Api, alice: httpx2.AsyncClient, tmp_path: Path
) -> None:
    first = await finished(alice, await alice.post("/api/v1/imports", content=FILLS, headers=CSV))
    again = await finished(alice, await alice.post("/api/v1/imports", content=FILLS, headers=CSV))

    counts = ("state", "format", "rows_total", "rows_booked", "repeated_in_ledger", "error_count")
    assert [first[name] for name in counts] == ["done", "generic", 3, 3, 0, 0]
    assert [again[name] for name in counts] == ["done", "generic", 3, 0, 3, 0]
    positions = (await alice.get("/api/v1/positions", params={"status": "open"})).json()["items"]
    assert {one["symbol"]: (one["signed_qty"], one["entry_price"], one["realized_pnl"]) for one in positions} == {
        "BTCUSDT": ("1", "100", "9.8"),
        "ETHUSDT": ("-3", "10", "0"),
    }
    trades = (await alice.get("/api/v1/trades")).json()["items"]
    assert [(trade["trade_id"], trade["source"]) for trade in trades] == [
        ("c", "import"),
        ("b", "import"),
        ("a", "import"),
    ]
    await until(lambda: ImportFolder(tmp_path).kept() == {})
    listed = (await alice.get("/api/v1/imports", params={"limit": 1})).json()
    assert listed["items"][0]["import_id"] == again["import_id"]
    assert listed["next_cursor"]
    # One event for all of a file, also where that was nothing new.
    kinds = "SELECT string_agg(kind || (data -> 'import' ->> 'rows_booked'), ' ' ORDER BY seq) FROM events"
    assert await api.scalar(kinds) == "account3 account0"


async def test_a_file_with_errors_is_refused_whole_and_says_where(api: Api, alice: httpx2.AsyncClient) -> None:
    wrong = FILLS + "DOGEUSDT,buy,1,1,,2024-05-01T12:00:00Z,d\nBTCUSDT,hold,1,1,,2024-05-01T12:00:00Z,=e\n"

    one = await finished(alice, await alice.post("/api/v1/imports", content=wrong, headers=CSV))

    assert (one["state"], one["rows_booked"], one["error_count"]) == ("refused", 0, 2)
    assert await api.count("trades") == 0
    url = f"/api/v1/imports/{one['import_id']}/errors"
    page = (await alice.get(url, params={"limit": 1})).json()
    assert page["items"] == [
        {"row": 5, "column": "symbol", "reason": "'DOGEUSDT' is not listed by the exchange"},
    ]
    rest = (await alice.get(url, params={"cursor": page["next_cursor"]})).json()
    assert rest == {
        "items": [{"row": 6, "column": "side", "reason": "'hold' is not buy or sell"}],
        "next_cursor": None,
    }
    as_csv = await alice.get(url, params={"format": "csv"})
    assert as_csv.headers["content-type"].startswith("text/csv")
    assert as_csv.text.splitlines() == [
        "row,column,reason",
        "5,symbol,''DOGEUSDT' is not listed by the exchange",
        "6,side,''hold' is not buy or sell",
    ]


async def test_rows_with_errors_are_left_out_where_that_is_wanted(api: Api, alice: httpx2.AsyncClient) -> None:
    wrong = FILLS + "DOGEUSDT,buy,1,1,,2024-05-01T12:00:00Z,d\n"

    url = "/api/v1/imports?skip_errors=true"
    one = await finished(alice, await alice.post(url, content=wrong, headers=CSV))

    assert (one["state"], one["rows_booked"], one["error_count"]) == ("done", 3, 1)


async def test_a_dry_run_finds_what_an_import_would_and_books_nothing(api: Api, alice: httpx2.AsyncClient) -> None:
    url = "/api/v1/imports?dry_run=true&strategy=grid"
    one = await finished(alice, await alice.post(url, content=FILLS, headers=CSV))

    assert (one["state"], one["dry_run"], one["rows_booked"]) == ("done", True, 3)
    assert [await api.count(table) for table in ("trades", "positions", "events")] == [0, 0, 0]


async def test_a_user_has_one_import_at_a_time_and_may_cancel_it(api: Api, alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/imports", content=FILLS, headers=CSV)
    one = answer.json()
    # As if another host had it: nobody here finishes it.
    await api.scalar(
        "UPDATE imports SET state = 'running', finished_at = NULL, holder = 'elsewhere',"
        " held_until = now() + interval '1 hour' RETURNING 1"
    )

    refused = await alice.post("/api/v1/imports", content=FILLS, headers=CSV)
    cancelled = await alice.delete(f"/api/v1/imports/{one['import_id']}")
    again = await alice.delete(f"/api/v1/imports/{one['import_id']}")

    assert (refused.status_code, refused.json()["code"]) == (409, "import_running")
    assert cancelled.status_code == 204
    assert (again.status_code, again.json()["code"]) == (409, "import_finished")
    assert (await alice.get(f"/api/v1/imports/{one['import_id']}")).json()["state"] == "cancelled"


async def test_an_import_that_broke_off_is_taken_up_again(
    database_url: str, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    await MovingMarket(redis).list_instruments()
    settings = settings_of(database_url, redis_url, import_dir=tmp_path)
    async with running(settings, redis) as opened:
        await until(lambda: bool(opened.web.market.listings.listed))
        client = await opened.user("alice")
        answer = await client.post("/api/v1/imports", content=FILLS, headers=CSV)
        # The process goes before its import is done; the file stays.
    async with running(settings, redis) as opened:
        # The session outlived it, for Redis did.
        cookies = dict(client.cookies)
        again = opened.client()
        again.cookies.update(cookies)
        one = await finished(again, answer)

    assert (one["state"], one["rows_booked"]) == ("done", 3)


async def test_what_is_no_file_of_fills_is_refused_at_the_door(api: Api, alice: httpx2.AsyncClient) -> None:
    token = {"name": "reader", "scopes": ["read"]}
    reader = (await alice.post("/api/v1/auth/tokens", json=token)).json()["token"]
    answers = {
        "text": await alice.post("/api/v1/imports", content=FILLS, headers={"Content-Type": "text/html"}),
        "empty": await alice.post("/api/v1/imports", content="", headers=CSV),
        "large": await alice.post("/api/v1/imports", content="x" * 10_001, headers=CSV),
        "option": await alice.post("/api/v1/imports?formt=csv", content=FILLS, headers=CSV),
        "account": await alice.post(
            "/api/v1/imports?account_id=00000000-0000-0000-0000-000000000000", content=FILLS, headers=CSV
        ),
        "anonymous": await api.client().post("/api/v1/imports", content=FILLS, headers=CSV),
        "reader": await api.client(Authorization=f"Bearer {reader}").post(
            "/api/v1/imports", content=FILLS, headers=CSV
        ),
        "elsewhere": await alice.post(
            "/api/v1/imports", content=FILLS, headers={**CSV, "Origin": "https://evil.example"}
        ),
    }

    assert {name: answer.json()["code"] for name, answer in answers.items()} == {
        "text": "unsupported_media_type",
        "empty": "malformed_request",
        "large": "too_large",
        "option": "invalid_request",
        "account": "not_found",
        "anonymous": "not_authenticated",
        "reader": "forbidden",
        "elsewhere": "wrong_origin",
    }
    assert await api.count("imports") == 0
    assert (await alice.get("/api/v1/trades")).json()["items"] == []


async def test_a_body_that_grows_too_large_unannounced_leaves_nothing(
    api: Api, alice: httpx2.AsyncClient, tmp_path: Path
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    answer = await alice.post("/api/v1/imports", content=endless(), headers=CSV)

    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert ImportFolder(tmp_path).kept() == {}
    # Other paths keep their bound.
    small = await alice.post("/api/v1/trades", content="x" * 70_000, headers={"Content-Type": "application/json"})
    assert small.status_code == 413


async def test_imports_of_others_are_not_there(api: Api, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> None:
    url = (await alice.post("/api/v1/imports", content=FILLS, headers=CSV)).headers["location"]

    answers = [
        await bob.get(url),
        await bob.get(f"{url}/errors"),
        await bob.delete(url),
        await bob.get("/api/v1/imports/x"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 404]
    assert (await bob.get("/api/v1/imports")).json() == {"items": [], "next_cursor": None}
