"""Correcting the ledger over REST: late fills, edits, deletions; each is told with before, after and reason."""

import asyncio
from decimal import Decimal
from typing import Any

import httpx2

from .conftest import Api

TRADE = {"symbol": "BTCUSDT", "side": "buy", "quantity": "1", "price": "100"}
EARLY = "2026-02-01T10:00:00Z"
LATER = "2026-02-01T12:00:00Z"


async def record(client: httpx2.AsyncClient, **changes: str) -> dict[str, Any]:
    answer = await client.post("/api/v1/trades", json={**TRADE, **changes})
    assert answer.status_code == 201, answer.text
    recorded: dict[str, Any] = answer.json()
    return recorded


async def events(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await api.scalar(
        "SELECT json_agg(json_build_object('seq', seq, 'kind', kind, 'data', data) ORDER BY seq) FROM events"
    )
    return found


def url(recorded: dict[str, Any]) -> str:
    return f"/api/v1/trades/{recorded['trade']['fill_id']}"


class TestALateFill:
    async def test_is_told_beside_the_correction_that_it_made(self, api: Api, alice: httpx2.AsyncClient) -> None:
        await record(alice, executed_at=EARLY)
        await record(alice, side="sell", price="130", executed_at=LATER)

        late = await record(alice, price="110", executed_at="2026-02-01T11:00:00Z")

        correction, fill = (await events(api))[-2:]
        assert [one["seq"] for one in await events(api)] == list(range(1, fill["seq"] + 1))
        assert (correction["kind"], correction["data"]["cause"], fill["kind"]) == ("correction", "late_fill", "fill")
        [before], [after] = (correction["data"][side]["positions"] for side in ("before", "after"))
        assert (before["status"], before["realized_pnl"]) == ("closed", "30")
        assert (after["status"], after["realized_pnl"]) == ("open", "25")
        assert correction["data"]["after"]["trade"] == late["trade"]
        assert late["position"]["realized_pnl"] == "25"

    async def test_of_today_and_in_order_is_no_correction(self, api: Api, alice: httpx2.AsyncClient) -> None:
        await record(alice)

        assert [one["kind"] for one in await events(api)] == ["fill"]


class TestAnEdit:
    async def test_changes_what_follows_and_is_told_with_its_reason(self, api: Api, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)
        await record(alice, side="sell", price="130")

        answer = await alice.patch(
            url(first), json={"price": "120", "fee": "1", "reason": "price of another day"}, headers={"If-Match": '"1"'}
        )

        assert answer.status_code == 200, answer.text
        assert answer.headers["ETag"] == '"2"'
        assert (answer.json()["trade"]["price"], answer.json()["trade"]["revision"]) == ("120", 2)
        assert answer.json()["position"]["realized_pnl"] == "9"
        correction = (await events(api))[-1]
        assert (correction["kind"], correction["data"]["reason"]) == ("correction", "price of another day")
        assert [correction["data"][side]["trade"]["price"] for side in ("before", "after")] == ["100", "120"]

    async def test_the_earlier_forms_can_be_read(self, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)
        for revision, price in [(1, "110"), (2, "120")]:
            edit = {"price": price, "reason": f"to {price}"}
            answer = await alice.patch(url(first), json=edit, headers={"If-Match": f'"{revision}"'})
            assert answer.status_code == 200

        read = await alice.get(url(first))
        revisions = (await alice.get(url(first) + "/revisions")).json()["items"]

        assert (read.json()["price"], read.headers["ETag"]) == ("120", '"3"')
        assert [(one["trade"]["price"], one["reason"], one["event_seq"]) for one in revisions] == [
            ("100", "to 110", 2),
            ("110", "to 120", 3),
        ]

    async def test_that_cannot_be_is_refused_and_changes_nothing(self, api: Api, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)
        huge = {"quantity": "9" * 18, "price": "9" * 18}
        for tag, body, status, code in [
            (None, {"price": "1", "reason": "r"}, 428, "if_match_required"),
            ('"7"', {"price": "1", "reason": "r"}, 412, "version_mismatch"),
            ('"1"', {"price": "1"}, 422, "invalid_request"),
            ('"1"', {"reason": "r"}, 422, "invalid_request"),
            ('"1"', {"price": None, "reason": "r"}, 422, "invalid_request"),
            ('"1"', {"quantity": "0", "reason": "r"}, 422, "invalid_request"),
            ('"1"', {"executed_at": "2999-01-01T00:00:00Z", "reason": "r"}, 422, "invalid_request"),
            ('"1"', {"trade_id": "x", "reason": "r"}, 422, "invalid_request"),
            ('"1"', {**huge, "reason": "r"}, 422, "out_of_range"),
        ]:
            answer = await alice.patch(url(first), json=body, headers={} if tag is None else {"If-Match": tag})

            assert (answer.status_code, answer.json()["code"]) == (status, code), (body, answer.text)
        assert (await alice.get(url(first))).json() == first["trade"]
        assert await api.scalar("SELECT ledger_seq FROM users") == 1

    async def test_of_what_an_exchange_executed_is_refused(self, api: Api, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)
        await api.execute("UPDATE trades SET source = 'paper'")

        answer = await alice.patch(url(first), json={"price": "1", "reason": "r"}, headers={"If-Match": '"1"'})

        assert (answer.status_code, answer.json()["code"]) == (409, "not_editable")

    async def test_of_two_at_once_one_wins(self, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)

        answers = await asyncio.gather(
            *(
                alice.patch(url(first), json={"price": f"{price}", "reason": "r"}, headers={"If-Match": '"1"'})
                for price in range(1, 11)
            )
        )

        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9

    async def test_with_an_idempotency_key_happens_once(self, api: Api, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)
        headers = {"If-Match": '"1"', "Idempotency-Key": "k"}

        answers = [await alice.patch(url(first), json={"price": "5", "reason": "r"}, headers=headers) for _ in range(2)]

        assert answers[0].json() == answers[1].json()
        assert await api.count("trade_revisions") == 1

    async def test_of_anothers_trade_is_as_if_there_were_none(
        self, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient
    ) -> None:
        first = await record(alice)
        headers = {"If-Match": '"1"'}

        answers = [
            await bob.get(url(first)),
            await bob.get(url(first) + "/revisions"),
            await bob.patch(url(first), json={"price": "1", "reason": "r"}, headers=headers),
            await bob.delete(url(first), params={"reason": "r"}, headers=headers),
            await bob.get("/api/v1/trades/nonsense"),
        ]

        assert [answer.status_code for answer in answers] == [404] * 5


class TestADeletion:
    async def test_takes_the_trade_and_what_followed_from_it(self, api: Api, alice: httpx2.AsyncClient) -> None:
        first = await record(alice, trade_id="x-1")

        answer = await alice.delete(url(first), params={"reason": "entered twice"}, headers={"If-Match": '"1"'})

        assert (answer.status_code, answer.json()["trade"]) == (200, first["trade"])
        assert (await alice.get(url(first))).status_code == 404
        assert (await alice.get("/api/v1/positions", params={"status": "all"})).json()["items"] == []
        [revision] = (await alice.get(url(first) + "/revisions")).json()["items"]
        assert (revision["change"], revision["reason"], revision["trade"]["price"]) == (
            "deleted",
            "entered twice",
            "100",
        )
        again = await alice.post("/api/v1/trades", json={**TRADE, "trade_id": "x-1"})
        assert (again.status_code, again.json()["code"]) == (409, "trade_deleted")

    async def test_without_a_reason_is_refused(self, alice: httpx2.AsyncClient) -> None:
        first = await record(alice)

        answer = await alice.delete(url(first), headers={"If-Match": '"1"'})

        assert answer.status_code == 422


async def test_another_strategy_moves_the_trades_of_a_position(alice: httpx2.AsyncClient) -> None:
    first = await record(alice)
    position_id = first["position"]["position_id"]

    answer = await alice.patch(
        f"/api/v1/positions/{position_id}", json={"strategy": "swing", "note": "n"}, headers={"If-Match": '"1"'}
    )

    assert (answer.json()["strategy"], answer.json()["note"]) == ("swing", "n")
    assert (await alice.get(url(first))).json()["strategy"] == "swing"
    more = await record(alice, strategy="swing")
    assert more["position"]["position_id"] == position_id


class TestTheRealizedReport:
    async def test_by_each_method(self, alice: httpx2.AsyncClient) -> None:
        for side, quantity, price, moment in [
            ("buy", "1", "100", "2026-02-01T10:00:00Z"),
            ("buy", "1", "200", "2026-02-02T10:00:00Z"),
            ("sell", "1", "300", "2026-02-03T10:00:00Z"),
        ]:
            await record(alice, side=side, quantity=quantity, price=price, fee="1", executed_at=moment)

        asked = {"from": "2026-02-03T00:00:00Z", "to": "2026-02-04T00:00:00Z"}
        reports = {
            method: (await alice.get("/api/v1/pnl/realized", params={**asked, "method": method})).json()
            for method in ("fifo", "lifo", "average")
        }

        gross = {method: report["items"][0]["realized_pnl_gross"] for method, report in reports.items()}
        assert gross == {"fifo": "200", "lifo": "100", "average": "150"}
        [row], [total] = reports["fifo"]["items"], reports["fifo"]["totals"]
        assert (row["symbol"], row["cost"], row["proceeds"], row["quantity_closed"]) == ("BTCUSDT", "100", "300", "1")
        assert (total["settle_asset"], total["fees"], total["realized_pnl"]) == ("USDT", "1", "199")

    async def test_outside_the_period_there_is_nothing(self, alice: httpx2.AsyncClient) -> None:
        await record(alice)

        answer = await alice.get("/api/v1/pnl/realized", params={"to": EARLY})

        assert (answer.json()["items"], answer.json()["totals"]) == ([], [])

    async def test_over_everything_at_average_cost_it_is_what_the_positions_say(
        self, alice: httpx2.AsyncClient
    ) -> None:
        for number in range(12):
            side = "sell" if number % 3 else "buy"
            amounts = {"quantity": f"{number % 4 + 1}", "price": f"{90 + number}"}
            await record(alice, side=side, strategy=f"s{number % 2}", **amounts)
        await record(alice, symbol="ETHBTC", price="0.05")
        await record(alice, symbol="ETHBTC", side="sell", price="0.06")

        report = (await alice.get("/api/v1/pnl/realized")).json()
        positions = (await alice.get("/api/v1/positions", params={"status": "all"})).json()["items"]

        for row in report["items"]:
            own = [Decimal(one["realized_pnl"]) for one in positions if one["symbol"] == row["symbol"]]
            assert abs(Decimal(row["realized_pnl"]) - sum(own)) <= Decimal("1e-17")
        assert [total["settle_asset"] for total in report["totals"]] == ["BTC", "USDT"]

    async def test_a_period_that_ends_before_it_begins_is_refused(self, alice: httpx2.AsyncClient) -> None:
        answer = await alice.get("/api/v1/pnl/realized", params={"from": LATER, "to": EARLY})

        assert answer.status_code == 422


async def test_fifty_closes_at_once_are_one_closing_trade(api: Api, alice: httpx2.AsyncClient) -> None:
    first = await record(alice)
    close = f"/api/v1/positions/{first['position']['position_id']}/close"

    answers = await asyncio.gather(*(alice.post(close) for _ in range(50)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 49
    assert await api.count("trades") == 2
    assert await api.scalar("SELECT ledger_seq FROM users") == 2


async def test_closes_edits_and_deletions_at_once_leave_a_ledger_that_adds_up(
    api: Api, alice: httpx2.AsyncClient
) -> None:
    recorded = [await record(alice, quantity=f"{number}") for number in range(1, 6)]
    close = f"/api/v1/positions/{recorded[0]['position']['position_id']}/close"
    match = {"If-Match": '"1"'}

    answers = await asyncio.gather(
        *(alice.post(close, json={"quantity": "1"}) for _ in range(5)),
        alice.patch(url(recorded[0]), json={"quantity": "10", "reason": "r"}, headers=match),
        alice.delete(url(recorded[4]), params={"reason": "r"}, headers=match),
        *(record(alice, executed_at=EARLY) for _ in range(3)),
    )

    assert all(getattr(answer, "status_code", 201) in {200, 201} for answer in answers)
    [position] = (await alice.get("/api/v1/positions")).json()["items"]
    assert position["quantity"] == str(10 + 2 + 3 + 4 - 5 + 3)
