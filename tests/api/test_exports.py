"""Exports: what the ledger says, as files that spreadsheets, programs and imports read."""

import asyncio
import csv
import io
import json
from decimal import Decimal
from typing import Any

import httpx2
import pyarrow.parquet as pq
import pytest

from app.api import exports

from .conftest import Api

FORMULA = '=HYPERLINK("http://evil.example")'
TRADES: list[dict[str, Any]] = [
    {"symbol": "BTCUSDT", "side": "buy", "quantity": "2", "price": "100", "fee": "0.002", "fee_asset": "BTC"},
    {"symbol": "BTCUSDT", "side": "sell", "quantity": "0.998", "price": "110.000000000000000001", "trade_id": "-1"},
    {"symbol": "ETHUSDT", "side": "sell", "quantity": "3", "price": "9", "strategy": FORMULA, "trade_id": "@x"},
    {"symbol": "ETHUSDT", "side": "buy", "quantity": "5", "price": "8", "strategy": FORMULA, "fee": "0.5"},
    {"symbol": "ETHBTC", "side": "buy", "quantity": "1", "price": "0.05", "fee": "0.01", "fee_asset": "BNB"},
]


async def record(client: httpx2.AsyncClient) -> None:
    """Trades a second apart, to the microsecond."""
    for number, trade in enumerate(TRADES):
        body = {**trade, "executed_at": f"2024-05-01T12:00:0{number}.123456Z"}
        answer = await client.post("/api/v1/trades", json=body)
        assert answer.status_code == 201, answer.text


async def export(client: httpx2.AsyncClient, table: str, **query: str) -> httpx2.Response:
    answer = await client.get(f"/api/v1/exports/{table}", params=query)
    assert answer.status_code == 200, answer.text
    return answer


async def take_in(client: httpx2.AsyncClient, exported: httpx2.Response) -> dict[str, Any]:
    """Import what was exported."""
    headers = {"Content-Type": exported.headers["content-type"]}
    answer = await client.post("/api/v1/imports", content=exported.content, headers=headers)
    async with asyncio.timeout(30):
        while True:
            one: dict[str, Any] = (await client.get(answer.headers["location"])).json()
            if one["finished_at"] is not None:
                return one
            await asyncio.sleep(0.05)


def rows_of(answer: httpx2.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_trades_are_exported_exactly_in_every_format(api: Api, alice: httpx2.AsyncClient) -> None:
    await record(alice)

    as_csv = rows_of(await export(alice, "trades"))
    as_json = (await export(alice, "trades", format="json")).json()
    parquet = await export(alice, "trades", format="parquet")
    table = pq.read_table(io.BytesIO(parquet.content))

    assert [row["price"] for row in as_csv] == ["100", "110.000000000000000001", "9", "8", "0.05"]
    assert [row["executed_at"] for row in as_csv][:1] == ["2024-05-01T12:00:00.123456Z"]
    assert [row["price"] for row in as_json] == [row["price"] for row in as_csv]
    assert as_json[2]["strategy"] == FORMULA
    assert as_json[0]["trade_id"] is None
    assert str(table.schema.field("price").type) == "decimal128(38, 18)"
    assert table.column("price").to_pylist() == [Decimal(row["price"]) for row in as_csv]
    assert table.column("executed_at").to_pylist()[0].isoformat() == "2024-05-01T12:00:00.123456+00:00"
    assert table.column_names == list(as_csv[0]) == list(as_json[0])


async def test_no_cell_of_a_csv_is_a_formula(api: Api, alice: httpx2.AsyncClient) -> None:
    await record(alice)

    rows = rows_of(await export(alice, "trades"))

    assert rows[2]["strategy"] == f"'{FORMULA}"
    assert [row["trade_id"] for row in rows] == ["", "'-1", "'@x", "", ""]
    for table in ("trades", "positions", "pnl"):
        for row in rows_of(await export(alice, table)):
            for column, cell in row.items():
                assert cell[:1] not in {"=", "+", "@", "\t"}, (table, column)
                assert not cell.startswith("-") or Decimal(cell)


async def test_exported_trades_imported_again_make_the_same_ledger(
    api: Api, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    await record(alice)

    elsewhere = await take_in(bob, await export(alice, "trades", format="csv"))
    # Into the ledger that they are from, nothing comes twice.
    again = await take_in(alice, await export(alice, "trades", format="json"))

    assert (elsewhere["rows_booked"], elsewhere["error_count"]) == (len(TRADES), 0)
    assert (again["rows_booked"], again["repeated_in_ledger"]) == (0, len(TRADES))
    same = ("symbol", "strategy", "status", "signed_qty", "entry_price", "cost_basis", "realized_pnl", "opened_at")
    ledgers = [
        [[row[name] for name in same] for row in rows_of(await export(client, "positions"))] for client in (alice, bob)
    ]
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0]) == 4


async def test_positions_and_pnl_add_up(api: Api, alice: httpx2.AsyncClient) -> None:
    await record(alice)

    positions = rows_of(await export(alice, "positions"))
    pnl = rows_of(await export(alice, "pnl"))

    for row in [*positions, *pnl]:
        parts = [Decimal(row[name]) for name in ("realized_pnl_gross", "fees", "funding", "realized_pnl")]
        assert parts[0] - parts[1] + parts[2] == parts[3]
    assert [row["status"] for row in positions] == ["open", "closed", "open", "open"]
    by_symbol = {row["symbol"]: row for row in pnl}
    bitcoin, ether, cross = (by_symbol[symbol] for symbol in ("BTCUSDT", "ETHUSDT", "ETHBTC"))
    assert (bitcoin["signed_qty"], bitcoin["mark_price"], bitcoin["unrealized_pnl"]) == ("1", "100", "0")
    assert (ether["closed_positions"], ether["signed_qty"], ether["unrealized_pnl"]) == ("1", "2", "4")
    assert Decimal(ether["total_pnl"]) == Decimal(ether["realized_pnl"]) + 4
    assert (cross["mark_price"], cross["unrealized_pnl"], cross["fees_complete"]) == ("", "", "false")
    assert (cross["reporting_currency"], cross["reported_complete"]) == ("USDT", "true")


async def test_bounds_of_time_and_account_choose_rows(api: Api, alice: httpx2.AsyncClient) -> None:
    await record(alice)
    bounds = {"from": "2024-05-01T12:00:01.123456Z", "to": "2024-05-01T12:00:03.123456Z"}

    assert [row["trade_id"] for row in rows_of(await export(alice, "trades", **bounds))] == ["'-1", "'@x"]
    before = {"to": "2024-05-01T12:00:00Z"}
    assert rows_of(await export(alice, "positions", **before)) == []
    assert rows_of(await export(alice, "pnl", **before)) == []
    assert (await export(alice, "trades", format="json", **before)).json() == []
    assert pq.read_table(io.BytesIO((await export(alice, "trades", format="parquet", **before)).content)).num_rows == 0
    account = (await alice.get("/api/v1/me")).json()["accounts"][0]["account_id"]
    assert len(rows_of(await export(alice, "trades", account_id=account))) == len(TRADES)


async def test_an_export_is_the_callers_own(api: Api, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> None:
    await record(alice)
    account = (await alice.get("/api/v1/me")).json()["accounts"][0]["account_id"]

    assert rows_of(await export(bob, "trades")) == []
    others = await bob.get("/api/v1/exports/trades", params={"account_id": account})
    assert (others.status_code, others.json()["code"]) == (404, "not_found")
    assert (await api.client().get("/api/v1/exports/trades")).status_code == 401
    assert (await alice.get("/api/v1/exports/users")).status_code == 404
    assert (await alice.get("/api/v1/exports/trades", params={"format": "xml"})).status_code == 422


async def test_an_export_of_many_pages_is_whole(api: Api, alice: httpx2.AsyncClient) -> None:
    await record(alice)
    await api.scalar(
        "WITH more AS (INSERT INTO trades (id, user_id, account_id, symbol, position_id, side, quantity, price,"
        " executed_at, source) SELECT gen_random_uuid(), user_id, account_id, symbol, position_id, side, quantity,"
        " price, executed_at, source FROM (SELECT * FROM trades LIMIT 1) t, generate_series(1, 1200)) SELECT 1"
    )

    for file_format, count in (
        ("csv", lambda body: len(body.splitlines()) - 1),
        ("json", lambda body: len(json.loads(body))),
        ("parquet", lambda body: pq.read_table(io.BytesIO(body)).num_rows),
    ):
        answer = await export(alice, "trades", format=file_format)
        assert count(answer.content) == 1200 + len(TRADES), file_format


async def test_a_client_that_takes_nothing_gives_its_place_back(
    api: Api, alice: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_LONGEST_SEND_S", 0.05)
    await record(alice)
    cookie = "; ".join(f"{name}={value}" for name, value in alice.cookies.items())
    scope = {
        **{"type": "http", "method": "GET", "path": "/api/v1/exports/trades", "query_string": b"", "scheme": "http"},
        **{"headers": [(b"cookie", cookie.encode())], "state": dict(api.state), "client": ("127.0.0.1", 1)},
        **{"http_version": "1.1", "raw_path": b"/api/v1/exports/trades", "server": ("localhost", 80)},
    }
    stands_still = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not stands_still.is_set():
            stands_still.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        return await asyncio.Future()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Future()

    with pytest.raises(TimeoutError):
        await api.app(scope, receive, send)

    assert not api.web.exports.places.locked()
    assert api.web.exports.database.pool.checkedout() == 0  # type: ignore[attr-defined]
