"""GET /pnl: exact, complete or saying what is missing, from the cache only while it is current."""

from contextlib import aclosing
from decimal import Decimal
from typing import Any

import httpx2
import msgspec
import pytest

from app.bus import keys
from app.bus.subscription import Message, Resync, Subscription

from .conftest import Api, OpenPosition


async def get_pnl(client: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/api/v1/pnl")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_user_without_positions_has_zero_of_everything(api: Api, alice: httpx2.AsyncClient) -> None:
    pnl = await get_pnl(alice)

    assert pnl["positions"] == []
    assert {pnl["totals"][name] for name in ("unrealized_pnl", "realized_pnl", "total_pnl", "day_pnl")} == {"0"}
    assert pnl["totals"]["is_complete"] is True


async def test_totals_are_the_sum_of_rows_and_of_what_is_closed(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    closed = await open_position(price="90", quantity="2", fee="0.5")
    await alice.post(f"/api/v1/positions/{closed['position_id']}/close", json={"price": "95", "fee": "0.25"})
    await open_position(price="80", quantity="0.3", fee="0.1")
    await open_position(symbol="ETHUSDT", side="short", price="11", quantity="7")
    await api.market.move(BTCUSDT="101.5", ETHUSDT="10.25")

    pnl = await get_pnl(alice)

    rows = pnl["positions"]
    totals = pnl["totals"]
    assert sum(Decimal(row["unrealized_pnl"]) for row in rows) == Decimal(totals["unrealized_pnl"]) == Decimal("11.7")
    assert Decimal(totals["realized_pnl_gross"]) == 10
    assert Decimal(totals["fees"]) == Decimal("0.85")
    assert Decimal(totals["total_pnl"]) == Decimal("11.7") + 10 - Decimal("0.85")
    assert totals["day_pnl"] == totals["total_pnl"]
    assert Decimal(totals["gross_exposure"]) == Decimal("102.20")
    assert Decimal(totals["net_exposure"]) == Decimal("-41.30")
    assert (pnl["epoch"], pnl["currency"], pnl["ledger_seq"]) == (1, "USDT", 4)
    assert pnl["accounts"] == [{"account_id": closed["account_id"], "name": "Main", "totals": totals}]


async def test_what_has_no_price_is_named_and_left_out(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    await open_position(price="90")
    await open_position(symbol="SOLUSDT", price="20")
    await open_position(symbol="ETHBTC", price="0.05")

    totals = (await get_pnl(alice))["totals"]

    assert totals["unrealized_pnl"] == "10"
    assert totals["unpriced"] == ["ETHBTC", "SOLUSDT"]
    assert totals["is_complete"] is False


async def test_a_stale_price_makes_the_totals_stale(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position(symbol="SOLUSDT", price="20")
    await api.market.move(age_ms=9000, SOLUSDT="21")

    pnl = await get_pnl(alice)

    assert (pnl["totals"]["unrealized_pnl"], pnl["totals"]["is_stale"]) == ("1", True)
    assert pnl["positions"][0]["is_stale"] is True


@pytest.mark.parametrize(
    ("ledger_seq", "age_ms", "is_used"),
    [(1, 0, True), (1, 1500, True), (1, 5000, False), (0, 0, False), (2, 0, True)],
)
async def test_the_cache_counts_while_it_knows_the_last_change_and_is_new(
    api: Api,
    alice: httpx2.AsyncClient,
    open_position: OpenPosition,
    ledger_seq: int,
    age_ms: int,
    is_used: bool,
) -> None:
    await open_position()
    user_id = (await alice.get("/api/v1/me")).json()["user_id"]
    cached = {"ledger_seq": ledger_seq, "as_of_ms": api.web.market.as_of_ms - age_ms, "from": "cache"}
    await api.web.redis.set(keys.pnl_cache(user_id), msgspec.json.encode(cached))

    assert ("from" in await get_pnl(alice)) is is_used


async def test_an_answer_that_had_to_be_reckoned_is_asked_for_and_one_that_was_ready_is_not(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position()
    user_id = (await alice.get("/api/v1/me")).json()["user_id"]
    subscription = Subscription(api.web.redis, [keys.ASKED_CHANNEL], silence_s=5.0)
    async with aclosing(subscription.events()) as events:
        assert await anext(events) == Resync()
        await get_pnl(alice)
        assert await anext(events) == Message(keys.ASKED_CHANNEL, user_id.encode())
        ready = {"ledger_seq": 1, "as_of_ms": api.web.market.as_of_ms}
        await api.web.redis.set(keys.pnl_cache(user_id), msgspec.json.encode(ready))
        await get_pnl(alice)
        await api.web.redis.publish(keys.ASKED_CHANNEL, "the next one")
        assert await anext(events) == Message(keys.ASKED_CHANNEL, b"the next one")


async def test_a_cache_that_cannot_be_read_is_done_without(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    user_id = (await alice.get("/api/v1/me")).json()["user_id"]
    await api.web.redis.set(keys.pnl_cache(user_id), b"{not json")

    assert [row["position_id"] for row in (await get_pnl(alice))["positions"]] == [position["position_id"]]
