"""Opening, changing and closing positions over REST."""

import asyncio
from typing import Any

import httpx2
import msgspec
import pytest
from sqlalchemy import event as engine_events

from app.bus import keys
from app.bus.events import decode_event
from app.bus.subscription import Message, Resync, Subscription

from .conftest import Api, OpenPosition


async def test_opening_without_a_price_records_a_fill_at_the_current_price(api: Api, alice: httpx2.AsyncClient) -> None:
    answer = await alice.post("/api/v1/positions", json={"symbol": "BTCUSDT", "side": "long", "quantity": "0.5"})

    position = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/positions/{position['position_id']}"
    assert answer.headers["etag"] == '"1"'
    assert position["entry_price"] == "100"
    assert position["signed_qty"] == "0.5"
    assert position["unrealized_pnl"] == "0"
    trades = (await alice.get("/api/v1/trades")).json()["items"]
    assert [(trade["side"], trade["quantity"], trade["price"]) for trade in trades] == [("buy", "0.5", "100")]


async def test_a_short_is_a_sale_and_gains_as_the_price_falls(api: Api, open_position: OpenPosition) -> None:
    await api.market.move(BTCUSDT="90")
    position = await open_position(side="short", price="100", quantity="2")

    assert (position["side"], position["signed_qty"], position["unrealized_pnl"]) == ("short", "-2", "20")
    assert position["unrealized_pnl_pct"] == "0.100000"


async def test_opening_where_a_position_stands_adds_to_it(api: Api, open_position: OpenPosition) -> None:
    first = await open_position(price="100")
    second = await open_position(price="200")

    assert second["position_id"] == first["position_id"]
    assert (second["quantity"], second["entry_price"], second["version"]) == ("2", "150", 2)
    assert await api.count("positions") == 1


async def test_another_strategy_is_another_position(api: Api, open_position: OpenPosition) -> None:
    first = await open_position(strategy="grid")
    second = await open_position(strategy="trend")

    assert first["position_id"] != second["position_id"]


async def test_a_fill_through_zero_ends_one_position_and_opens_the_next(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    long = await open_position(price="100", quantity="1")
    short = await open_position(side="short", price="110", quantity="3", fee="3")

    assert short["position_id"] != long["position_id"]
    assert (short["signed_qty"], short["entry_price"], short["fees"]) == ("-2", "110", "2")
    closed = (await alice.get(f"/api/v1/positions/{long['position_id']}")).json()
    assert (closed["status"], closed["realized_pnl_gross"], closed["fees"]) == ("closed", "10", "1")
    [trade, _] = (await alice.get("/api/v1/trades")).json()["items"]
    assert (trade["position_id"], trade["opened_position_id"]) == (long["position_id"], short["position_id"])
    assert (trade["quantity"], trade["fee"]) == ("3", "3")


async def test_a_fee_in_the_base_asset_never_leaves_a_flip_half_closed(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    short = await open_position(side="short", price="100", quantity="1")
    long = await open_position(side="long", price="100", quantity="3", fee="0.003", fee_asset="BTC")

    closed = (await alice.get(f"/api/v1/positions/{short['position_id']}")).json()
    assert (closed["status"], closed["signed_qty"]) == ("closed", "0")
    assert (long["signed_qty"], long["fees"]) == ("1.997", "0.3")


async def test_closing_updates_the_row_and_makes_none(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(price="100", quantity="2")
    before = await api.count("positions")

    answer = await alice.post(f"/api/v1/positions/{position['position_id']}/close", json={"price": "130", "fee": "1"})

    closed = answer.json()
    assert answer.status_code == 200
    assert closed["position_id"] == position["position_id"]
    assert (closed["status"], closed["quantity"], closed["side"], closed["entry_price"]) == (
        "closed",
        "0",
        "flat",
        None,
    )
    assert (closed["realized_pnl_gross"], closed["fees"], closed["realized_pnl"]) == ("60", "1", "59")
    assert (closed["unrealized_pnl"], closed["total_pnl"], closed["mark_price"]) == ("0", "59", None)
    assert closed["closed_at"] is not None
    assert closed["version"] == 2
    assert await api.count("positions") == before


async def test_closing_the_whole_leaves_nothing_however_many_digits_it_has(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(price="1", quantity="12345678901.123456789012345678")

    closed = (await alice.post(f"/api/v1/positions/{position['position_id']}/close", json={"price": "1"})).json()

    assert (closed["status"], closed["quantity"]) == ("closed", "0")
    assert await api.count("positions") == 1


async def test_closing_a_part_keeps_the_entry_price(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position(price="100", quantity="3")

    url = f"/api/v1/positions/{position['position_id']}/close"
    reduced = (await alice.post(url, json={"quantity": "1", "price": "110"})).json()

    assert (reduced["status"], reduced["quantity"], reduced["entry_price"]) == ("open", "2", "100")
    assert reduced["realized_pnl_gross"] == "10"


async def test_closing_needs_no_body(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position(price="90")

    closed = (await alice.post(f"/api/v1/positions/{position['position_id']}/close")).json()

    assert (closed["status"], closed["realized_pnl_gross"]) == ("closed", "10")


async def test_closing_more_than_is_open_changes_nothing(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(quantity="1")

    answer = await alice.post(f"/api/v1/positions/{position['position_id']}/close", json={"quantity": "1.000001"})

    assert (answer.status_code, answer.json()["code"]) == (422, "exceeds_position")
    assert answer.json()["errors"][0]["pointer"] == "#/quantity"
    assert (await alice.get(f"/api/v1/positions/{position['position_id']}")).json()["version"] == 1


async def test_of_fifty_closes_at_once_exactly_one_happens(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(price="100")
    url = f"/api/v1/positions/{position['position_id']}/close"

    answers = await asyncio.gather(*(alice.post(url, json={"price": "101"}) for _ in range(50)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"position_closed"}
    assert await api.count("trades") == 2
    assert await api.count("positions") == 1


async def test_first_fills_at_once_make_one_position(api: Api, alice: httpx2.AsyncClient) -> None:
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": "0.1", "price": "100"}

    answers = await asyncio.gather(*(alice.post("/api/v1/positions", json=body) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["position_id"] for answer in answers}) == 1
    [position] = (await alice.get("/api/v1/positions")).json()["items"]
    assert (position["quantity"], position["version"]) == ("2", 20)
    assert await api.scalar("SELECT array_agg(seq ORDER BY seq) FROM events") == list(range(1, 21))


async def test_one_of_thirty_repetitions_at_once_happens_and_the_rest_get_its_answer(
    api: Api, alice: httpx2.AsyncClient
) -> None:
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": "0.1"}
    headers = {"Idempotency-Key": "k1"}

    answers = await asyncio.gather(*(alice.post("/api/v1/positions", json=body, headers=headers) for _ in range(30)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 29
    assert await api.count("trades") == 1
    assert await api.scalar("SELECT ledger_seq FROM users") == 1


async def test_the_same_key_for_another_request_is_refused(api: Api, alice: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": "0.1"}
    await alice.post("/api/v1/positions", json=body, headers=headers)

    answer = await alice.post("/api/v1/positions", json={**body, "quantity": "0.2"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert await api.count("trades") == 1


async def test_a_repeated_close_gets_the_first_answer(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position(price="100")
    url = f"/api/v1/positions/{position['position_id']}/close"

    first = await alice.post(url, headers={"Idempotency-Key": "close-1"})
    again = await alice.post(url, headers={"Idempotency-Key": "close-1"})

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.content == again.content


async def test_a_repeated_opening_gets_the_first_answer_also_when_there_is_no_price_any_more(
    api: Api, alice: httpx2.AsyncClient
) -> None:
    await api.market.move(SOLUSDT="20")
    headers = {"Idempotency-Key": "k1"}
    body = {"symbol": "SOLUSDT", "side": "long", "quantity": "1"}
    first = await alice.post("/api/v1/positions", json=body, headers=headers)
    await api.market.move(SOLUSDT="20", age_ms=60_000)

    again = await alice.post("/api/v1/positions", json=body, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content


async def test_a_refused_request_does_not_use_its_key_up(api: Api, alice: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k1"}
    body = {"symbol": "SOLUSDT", "side": "long", "quantity": "1"}
    refused = await alice.post("/api/v1/positions", json=body, headers=headers)
    await api.market.move(SOLUSDT="20")

    accepted = await alice.post("/api/v1/positions", json=body, headers=headers)

    assert (refused.status_code, accepted.status_code) == (409, 201)


@pytest.mark.parametrize(
    ("symbol", "age_ms", "reason"),
    [("SOLUSDT", None, "no price"), ("SOLUSDT", 6000, "6.0 s old"), ("LUNAUSDT", 0, "not trading")],
)
async def test_without_a_live_price_there_is_no_opening_at_the_current_price(
    api: Api, alice: httpx2.AsyncClient, symbol: str, age_ms: int | None, reason: str
) -> None:
    if age_ms is not None:
        await api.market.move(age_ms=age_ms, **{symbol: "20"})
    body = {"symbol": symbol, "side": "long", "quantity": "1"}

    answer = await alice.post("/api/v1/positions", json=body)

    assert (answer.status_code, answer.json()["code"]) == (409, "price_unavailable")
    assert reason in answer.json()["detail"]
    assert await api.count("trades") == 0
    assert (await alice.post("/api/v1/positions", json={**body, "price": "20"})).status_code == 201


async def test_a_position_without_a_price_has_no_unrealized_profit(open_position: OpenPosition) -> None:
    position = await open_position(symbol="SOLUSDT", price="20")

    assert position["mark_price"] is None
    assert position["unrealized_pnl"] is None
    assert position["total_pnl"] is None
    assert position["realized_pnl"] == "0"


async def test_a_stale_price_marks_the_position_stale(api: Api, open_position: OpenPosition) -> None:
    await api.market.move(age_ms=6000, SOLUSDT="21")

    position = await open_position(symbol="SOLUSDT", price="20")

    assert (position["unrealized_pnl"], position["is_stale"]) == ("1", True)
    assert position["mark_age_ms"] == 6000


async def test_editing_needs_the_version_it_is_based_on(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    url = f"/api/v1/positions/{position['position_id']}"

    without = await alice.patch(url, json={"note": "x"})
    edited = await alice.patch(url, json={"note": "swing", "take_profit": "150"}, headers={"If-Match": '"1"'})
    stale = await alice.patch(url, json={"note": "y"}, headers={"If-Match": '"1"'})

    assert (without.status_code, without.json()["code"]) == (428, "if_match_required")
    assert (edited.status_code, edited.headers["etag"]) == (200, '"2"')
    assert (edited.json()["note"], edited.json()["take_profit"], edited.json()["version"]) == ("swing", "150", 2)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_mismatch")
    assert (await alice.get(url)).json()["note"] == "swing"


async def test_of_two_edits_at_once_one_is_told_that_it_is_late(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    url = f"/api/v1/positions/{position['position_id']}"

    answers = await asyncio.gather(
        *(alice.patch(url, json={"note": str(n)}, headers={"If-Match": '"1"'}) for n in range(10))
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9


async def test_null_takes_a_value_away_and_absence_leaves_it(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(strategy="grid")
    url = f"/api/v1/positions/{position['position_id']}"
    await alice.patch(url, json={"note": "n", "stop_loss": "90"}, headers={"If-Match": "*"})

    edited = (await alice.patch(url, json={"stop_loss": None, "strategy": None}, headers={"If-Match": "*"})).json()

    assert (edited["note"], edited["stop_loss"], edited["strategy"]) == ("n", None, None)


async def test_a_strategy_that_another_open_position_has_is_refused(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position(strategy="grid")
    other = await open_position(strategy="trend")

    url = f"/api/v1/positions/{other['position_id']}"
    answer = await alice.patch(url, json={"strategy": "grid"}, headers={"If-Match": "*"})

    assert (answer.status_code, answer.json()["code"]) == (409, "position_exists")


async def test_a_closed_position_may_be_annotated_but_has_no_targets(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position()
    url = f"/api/v1/positions/{position['position_id']}"
    await alice.post(f"{url}/close")

    noted = await alice.patch(url, json={"note": "well done"}, headers={"If-Match": '"2"'})
    targeted = await alice.patch(url, json={"stop_loss": "1"}, headers={"If-Match": '"3"'})

    assert noted.status_code == 200
    assert (targeted.status_code, targeted.json()["code"]) == (409, "position_closed")


async def test_positions_are_listed_by_status_newest_first_in_pages(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    opened = [await open_position(strategy=f"s{n}") for n in range(5)]
    await alice.post(f"/api/v1/positions/{opened[2]['position_id']}/close")

    seen: list[str] = []
    cursor: dict[str, Any] = {}
    for _ in range(2):
        page = (await alice.get("/api/v1/positions", params={"limit": 2, **cursor})).json()
        seen += [position["strategy"] for position in page["items"]]
        cursor = {"cursor": page["next_cursor"]}

    assert seen == ["s4", "s3", "s1", "s0"]
    assert page["next_cursor"] is None
    closed = (await alice.get("/api/v1/positions", params={"status": "closed"})).json()["items"]
    assert [position["strategy"] for position in closed] == ["s2"]
    everything = (await alice.get("/api/v1/positions", params={"status": "all"})).json()["items"]
    assert len(everything) == 5
    found = (await alice.get("/api/v1/positions", params={"strategy": "s1", "symbol": "BTCUSDT"})).json()["items"]
    assert [position["position_id"] for position in found] == [opened[1]["position_id"]]


async def test_more_open_positions_than_allowed_are_refused(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    most = api.web.policy.max_open_positions
    object.__setattr__(api.web.policy, "max_open_positions", 1)
    await open_position()

    refused = await alice.post("/api/v1/positions", json={"symbol": "ETHUSDT", "side": "long", "quantity": "1"})
    added = await alice.post("/api/v1/positions", json={"symbol": "BTCUSDT", "side": "long", "quantity": "1"})

    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_positions")
    assert added.status_code == 201
    assert most == 2000


async def test_a_position_too_large_to_be_summed_is_refused(api: Api, alice: httpx2.AsyncClient) -> None:
    body = {"symbol": "BTCUSDT", "side": "long", "quantity": "999999999999999999"}

    at_market = await alice.post("/api/v1/positions", json=body)
    for_nothing = await alice.post("/api/v1/positions", json={**body, "price": "0.000000000000000001"})

    assert (at_market.status_code, at_market.json()["code"]) == (422, "out_of_range")
    assert (for_nothing.status_code, for_nothing.json()["code"]) == (422, "out_of_range")
    assert await api.count("positions") == 0


async def test_amounts_come_back_to_the_last_digit(api: Api, open_position: OpenPosition) -> None:
    position = await open_position(symbol="SOLUSDT", price="0.123456789012345678", quantity="3.000000000000000001")

    assert position["quantity"] == "3.000000000000000001"
    assert position["cost_basis"] == "0.370370367037037034"
    cost = await api.scalar("SELECT cost::text FROM positions")
    assert cost == "0.370370367037037034123456789012345678"


async def test_every_change_is_told_on_the_bus_in_order(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    told: list[bytes] = []
    ready = asyncio.Event()

    async def listen() -> None:
        async for event in Subscription(api.web.redis, [keys.EVENT_CHANNEL], silence_s=None).events():
            if isinstance(event, Resync):
                ready.set()
            elif isinstance(event, Message):
                told.append(event.payload)
                if len(told) == 3:
                    return

    listening = asyncio.create_task(listen())
    await ready.wait()
    position = await open_position(price="100")
    url = f"/api/v1/positions/{position['position_id']}"
    await alice.patch(url, json={"note": "n"}, headers={"If-Match": '"1"'})
    await open_position(side="short", quantity="2", price="110")
    await asyncio.wait_for(listening, 10)

    events = [decode_event(payload) for payload in told]
    assert [(event.seq, event.kind) for event in events] == [(1, "fill"), (2, "position"), (3, "fill")]
    assert [[each.status for each in event.positions] for event in events] == [["open"], ["open"], ["closed", "open"]]
    assert [each["status"] for each in events[2].data["positions"]] == ["closed", "open"]
    assert events[2].data["trade"]["quantity"] == "2"
    stored = await api.scalar("SELECT data::text FROM events WHERE seq = 3")
    assert msgspec.json.decode(stored)["trade"] == events[2].data["trade"]


async def test_a_longer_list_takes_no_more_statements(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    counts: list[int] = []

    def count(*_: object) -> None:
        counts[-1] += 1

    engine_events.listen(api.web.database.sync_engine, "before_cursor_execute", count)
    for n in range(2):
        for path in ("/api/v1/positions", "/api/v1/trades", "/api/v1/pnl"):
            counts.append(0)
            await alice.get(path)
        counts.append(0)
        for k in range(5):
            await open_position(strategy=f"s{n}{k}")

    lists = [*counts[0:3], *counts[4:7]]
    assert lists[:3] == lists[3:]
    assert lists[:2] == [3, 2]  # The statement timeout, the list, and what values positions: the accounts.
