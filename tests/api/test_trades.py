"""Recording fills that happened elsewhere."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx2

from .conftest import Api

TRADE = {"symbol": "BTCUSDT", "side": "buy", "quantity": "1", "price": "100"}


async def test_a_trade_answers_with_itself_and_the_position_it_left(api: Api, alice: httpx2.AsyncClient) -> None:
    answer = await alice.post(
        "/api/v1/trades", json={**TRADE, "fee": "0.1", "executed_at": "2026-01-31T12:00:00+01:00"}
    )

    body = answer.json()
    assert answer.status_code == 201
    assert (body["trade"]["executed_at"], body["trade"]["fee_asset"]) == ("2026-01-31T11:00:00.000Z", "USDT")
    assert body["trade"]["position_id"] == body["position"]["position_id"]
    assert (body["position"]["entry_price"], body["position"]["realized_pnl"]) == ("100", "-0.1")
    assert body["position"]["opened_at"] == "2026-01-31T11:00:00.000Z"


async def test_the_same_trade_id_again_has_no_effect(api: Api, alice: httpx2.AsyncClient) -> None:
    first = await alice.post("/api/v1/trades", json={**TRADE, "trade_id": "x-1"})
    again = await alice.post("/api/v1/trades", json={**TRADE, "trade_id": "x-1", "quantity": "5"})
    elsewhere = await alice.post("/api/v1/trades", json={**TRADE, "trade_id": "x-1", "symbol": "ETHUSDT"})

    assert (first.status_code, again.status_code, elsewhere.status_code) == (201, 200, 201)
    assert again.json()["trade"] == first.json()["trade"]
    assert again.json()["position"]["quantity"] == "1"
    assert await api.count("trades") == 2
    assert await api.scalar("SELECT ledger_seq FROM users") == 2


async def test_the_same_trade_id_many_times_at_once_is_recorded_once(api: Api, alice: httpx2.AsyncClient) -> None:
    body = {**TRADE, "trade_id": "x-1"}

    answers = await asyncio.gather(*(alice.post("/api/v1/trades", json=body) for _ in range(20)))

    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["trade"]["fill_id"] for answer in answers}) == 1
    assert await api.count("trades") == 1


async def test_a_third_assets_fee_is_valued_at_the_rate_given(alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/trades", json={**TRADE, "fee": "0.01", "fee_asset": "BNB", "fee_rate": "600"})

    assert answer.json()["trade"]["fee_rate"] == "600"
    assert answer.json()["position"]["fees"] == "6"


async def test_a_third_assets_fee_of_another_day_is_not_valued_at_the_price_of_now(alice: httpx2.AsyncClient) -> None:
    old = {**TRADE, "fee": "0.01", "fee_asset": "BNB", "executed_at": "2026-01-31T12:00:00Z"}

    answer = await alice.post("/api/v1/trades", json=old)

    assert answer.json()["trade"]["fee_rate"] is None
    assert answer.json()["position"]["fees_unpriced"] == {"BNB": "0.01"}


async def test_a_third_assets_fee_without_a_rate_is_valued_at_the_current_price(alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/trades", json={**TRADE, "fee": "0.01", "fee_asset": "BNB"})

    assert answer.json()["trade"]["fee_rate"] == "5"
    assert answer.json()["position"]["fees"] == "0.05"


async def test_a_third_assets_fee_without_any_price_is_kept_unpriced(alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/trades", json={**TRADE, "fee": "0.01", "fee_asset": "SOL"})

    assert answer.json()["position"]["fees"] == "0"
    assert answer.json()["position"]["fees_unpriced"] == {"SOL": "0.01"}
    totals = (await alice.get("/api/v1/pnl")).json()["totals"]
    assert totals["is_complete"] is False


async def test_a_fee_in_the_base_asset_shrinks_the_holding(alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/trades", json={**TRADE, "fee": "0.001", "fee_asset": "BTC"})

    position = answer.json()["position"]
    assert (position["quantity"], position["fees"], position["entry_price"]) == ("0.999", "0.1", "100")


async def test_trades_are_listed_newest_executed_first_in_pages(alice: httpx2.AsyncClient) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for day in (3, 1, 2, 1):
        moment = (start + timedelta(days=day)).isoformat()
        await alice.post("/api/v1/trades", json={**TRADE, "executed_at": moment, "trade_id": None, "strategy": "s"})

    first = (await alice.get("/api/v1/trades", params={"limit": 3})).json()
    rest = (await alice.get("/api/v1/trades", params={"limit": 3, "cursor": first["next_cursor"]})).json()

    days = [trade["executed_at"][8:10] for trade in first["items"] + rest["items"]]
    assert days == ["04", "03", "02", "02"]
    assert len({trade["fill_id"] for trade in first["items"] + rest["items"]}) == 4
    assert rest["next_cursor"] is None
    assert (await alice.get("/api/v1/trades", params={"symbol": "ETHUSDT"})).json()["items"] == []
    assert len((await alice.get("/api/v1/trades", params={"strategy": "s"})).json()["items"]) == 4


async def test_trades_of_a_position_are_those_that_touched_it(alice: httpx2.AsyncClient) -> None:
    opened = (await alice.post("/api/v1/trades", json=TRADE)).json()
    flipped = (await alice.post("/api/v1/trades", json={**TRADE, "side": "sell", "quantity": "2"})).json()

    long = (await alice.get("/api/v1/trades", params={"position_id": opened["position"]["position_id"]})).json()
    short = (await alice.get("/api/v1/trades", params={"position_id": flipped["position"]["position_id"]})).json()

    assert [trade["fill_id"] for trade in long["items"]] == [
        flipped["trade"]["fill_id"],
        opened["trade"]["fill_id"],
    ]
    assert [trade["fill_id"] for trade in short["items"]] == [flipped["trade"]["fill_id"]]


async def test_writes_faster_than_allowed_are_slowed_down(api: Api, alice: httpx2.AsyncClient) -> None:
    object.__setattr__(api.web.policy, "writes_per_second_per_user", 1)

    answers = [await alice.post("/api/v1/trades", json=TRADE) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[-1].headers["retry-after"] == "1"
    assert await api.count("trades") == 2
