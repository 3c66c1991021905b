"""Accounts, transfers, hedge mode, reporting in one currency, and the tree of it all."""

from decimal import Decimal
from typing import Any

import httpx2
import pytest

from app.domain.instruments import Instrument

from .conftest import Api, OpenPosition

BTC_USDT = {"BTCUSDT": "100", "ETHUSDT": "10", "ETHBTC": "0.1"}


async def create_account(client: httpx2.AsyncClient, name: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/api/v1/accounts", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    account: dict[str, Any] = answer.json()
    return account


async def default_account(client: httpx2.AsyncClient) -> str:
    account_id: str = (await client.get("/api/v1/accounts")).json()["items"][0]["account_id"]
    return account_id


async def transfer(client: httpx2.AsyncClient, account_id: str, **body: Any) -> httpx2.Response:
    return await client.post(f"/api/v1/accounts/{account_id}/transfers", json={"asset": "USDT", **body})


async def totals_of(client: httpx2.AsyncClient) -> dict[str, Any]:
    totals: dict[str, Any] = (await client.get("/api/v1/pnl")).json()["totals"]
    return totals


def check_sums(node: dict[str, Any]) -> None:
    """Every node is the sum of its children, to the last digit."""
    if not node["children"]:
        return
    for name in ("unrealized_pnl", "realized_pnl", "realized_pnl_gross", "fees", "funding", "total_pnl"):
        assert Decimal(node[name]) == sum(Decimal(child[name]) for child in node["children"]), (node["name"], name)
    assert node["open_positions"] == sum(child["open_positions"] for child in node["children"])
    for child in node["children"]:
        check_sums(child)


async def test_a_user_has_several_accounts_in_one_currency(alice: httpx2.AsyncClient) -> None:
    created = await create_account(alice, "Grid", kind="paper", position_mode="hedge", valuation="exit")

    listed = (await alice.get("/api/v1/accounts")).json()["items"]

    assert [account["name"] for account in listed] == ["Main", "Grid"]
    assert {account["currency"] for account in listed} == {"USDT"}
    assert (await alice.get(f"/api/v1/accounts/{created['account_id']}")).json() == created == listed[1]
    assert (await alice.get("/api/v1/me")).json()["accounts"] == listed


async def test_a_name_is_taken_once_per_user(alice: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> None:
    await create_account(alice, "Grid")
    await create_account(bob, "Grid")

    answer = await alice.post("/api/v1/accounts", json={"name": "Grid"})
    renamed = await alice.patch(f"/api/v1/accounts/{await default_account(alice)}", json={"name": "Grid"})

    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
    assert (renamed.status_code, renamed.json()["code"]) == (409, "name_taken")


async def test_the_same_symbol_stands_once_in_each_account(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    other = await create_account(alice, "Other")
    first = await open_position(price="90")
    second = await open_position(price="95", account_id=other["account_id"])

    pnl = (await alice.get("/api/v1/pnl")).json()

    assert first["position_id"] != second["position_id"]
    by_account = {part["account_id"]: part["totals"]["unrealized_pnl"] for part in pnl["accounts"]}
    assert by_account == {first["account_id"]: "10", other["account_id"]: "5"}
    assert pnl["totals"]["unrealized_pnl"] == "15"


async def test_hedge_mode_keeps_a_long_and_a_short_leg_apart(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    hedge = (await create_account(alice, "Hedge", position_mode="hedge"))["account_id"]
    long = await open_position(price="90", quantity="2", account_id=hedge)
    short = await open_position(price="90", quantity="2", side="short", account_id=hedge)

    assert [long["position_side"], short["position_side"]] == ["long", "short"]
    assert [long["unrealized_pnl"], short["unrealized_pnl"]] == ["20", "-20"]
    trade = {"symbol": "BTCUSDT", "side": "sell", "quantity": "3", "price": "90", "account_id": hedge}
    turned = await alice.post("/api/v1/trades", json={**trade, "position_side": "long"})
    nameless = await alice.post("/api/v1/trades", json=trade)
    reduced = await alice.post("/api/v1/trades", json={**trade, "quantity": "1", "position_side": "long"})
    closed = await alice.post(f"/api/v1/positions/{short['position_id']}/close", json={"price": "80"})

    assert (turned.status_code, turned.json()["code"]) == (422, "exceeds_position")
    assert (nameless.status_code, nameless.json()["errors"][0]["field"]) == (422, "position_side")
    assert (reduced.status_code, reduced.json()["position"]["signed_qty"]) == (201, "1")
    assert (closed.json()["status"], closed.json()["realized_pnl"]) == ("closed", "20")


async def test_one_way_mode_knows_no_legs_and_changes_only_while_nothing_is_open(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    account_id = await default_account(alice)
    trade = {"symbol": "BTCUSDT", "side": "buy", "quantity": "1", "price": "90", "position_side": "long"}
    refused = await alice.post("/api/v1/trades", json=trade)
    position = await open_position()
    in_use = await alice.patch(f"/api/v1/accounts/{account_id}", json={"position_mode": "hedge"})
    await alice.post(f"/api/v1/positions/{position['position_id']}/close")
    changed = await alice.patch(f"/api/v1/accounts/{account_id}", json={"position_mode": "hedge"})

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "position_side")
    assert (in_use.status_code, in_use.json()["code"]) == (409, "account_in_use")
    assert (changed.status_code, changed.json()["position_mode"]) == (200, "hedge")


async def test_deposits_and_withdrawals_change_equity_and_no_profit(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    account_id = await default_account(alice)
    await open_position(price="90")
    assert (await transfer(alice, account_id, kind="deposit", amount="1000")).status_code == 201
    assert (await transfer(alice, account_id, kind="withdrawal", amount="250.5")).status_code == 201

    totals = await totals_of(alice)

    assert (totals["net_deposits"], totals["total_pnl"], totals["equity"]) == ("749.5", "10", "759.5")
    listed = (await alice.get(f"/api/v1/accounts/{account_id}/transfers")).json()["items"]
    assert [one["amount"] for one in listed] == ["-250.5", "1000"]


async def test_an_adjustment_is_profit(alice: httpx2.AsyncClient) -> None:
    account_id = await default_account(alice)
    await transfer(alice, account_id, kind="adjustment", direction="out", amount="3", note="as the exchange has it")

    totals = await totals_of(alice)
    tree = (await alice.get("/api/v1/pnl/tree")).json()["root"]

    assert (totals["net_deposits"], totals["realized_pnl"], totals["equity"]) == ("0", "-3", "-3")
    assert [child["kind"] for child in tree["children"][0]["children"]] == ["adjustments"]
    check_sums(tree)


async def test_a_transfer_between_own_accounts_is_no_flow_of_the_user(alice: httpx2.AsyncClient) -> None:
    first, second = await default_account(alice), (await create_account(alice, "Second"))["account_id"]
    await transfer(alice, first, kind="deposit", amount="100")
    await transfer(alice, first, kind="internal", amount="40", to_account_id=second)

    pnl = (await alice.get("/api/v1/pnl")).json()

    assert pnl["totals"]["equity"] == "100"
    assert {part["account_id"]: part["totals"]["equity"] for part in pnl["accounts"]} == {first: "60", second: "40"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "internal", "amount": "1"}, "to_account_id"),
        ({"kind": "deposit", "amount": "1", "direction": "in"}, "direction"),
        ({"kind": "adjustment", "amount": "1"}, "direction"),
        ({"kind": "deposit", "amount": "0"}, "amount"),
        ({"kind": "deposit", "amount": "-1"}, "amount"),
        ({"kind": "deposit", "amount": "1", "asset": "NOPE"}, "asset"),
        ({"kind": "deposit", "amount": "1", "at": "2999-01-01T00:00:00Z"}, "executed_at"),
        ({"kind": "deposit", "amount": "100000000000000000"}, "amount"),
        ({"kind": "gift", "amount": "1"}, "kind"),
    ],
)
async def test_a_transfer_that_makes_no_sense_is_refused_by_name(
    alice: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await transfer(alice, await default_account(alice), **body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert (await totals_of(alice))["equity"] == "0"


async def test_a_repeated_transfer_happens_once(api: Api, alice: httpx2.AsyncClient) -> None:
    account_id = await default_account(alice)
    body = {"kind": "deposit", "asset": "USDT", "amount": "5"}
    path, headers = f"/api/v1/accounts/{account_id}/transfers", {"Idempotency-Key": "once"}

    first = await alice.post(path, json=body, headers=headers)
    second = await alice.post(path, json=body, headers=headers)

    assert first.json() == second.json()
    assert await api.count("transfers") == 1


async def test_what_settles_elsewhere_counts_at_the_rate_of_now_and_its_profit_at_that_of_its_time(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    """pnl.md's example in another size: bought at 0.05, worth 0.1, while a coin goes from 100 to 120."""
    await api.market.move(**BTC_USDT)
    coins = await open_position(symbol="ETHBTC", price="0.05", quantity="4")
    assert (coins["unrealized_pnl"], coins["rate_to_reporting"], coins["unrealized_pnl_reported"]) == (
        "0.2",
        "100",
        "20",
    )
    sold = await alice.post(f"/api/v1/positions/{coins['position_id']}/close", json={"quantity": "2", "price": "0.1"})
    assert (sold.json()["realized_pnl"], sold.json()["realized_pnl_reported"]) == ("0.1", "10")

    await api.market.move(**{**BTC_USDT, "BTCUSDT": "120"})
    pnl = (await alice.get("/api/v1/pnl")).json()

    totals = pnl["totals"]
    assert (totals["unrealized_pnl"], totals["realized_pnl"], totals["total_pnl"]) == ("12", "10", "22")
    assert totals["fx_pnl"] == "2"  # 0.1 coins realised at 100 are worth 12 now.
    assert totals["equity"] == "24"
    assert (totals["is_complete"], totals["unpriced"]) == (True, [])
    reported = sum(Decimal(row["unrealized_pnl_reported"]) for row in pnl["positions"])
    assert reported == Decimal(totals["unrealized_pnl"])


async def test_a_deposit_in_a_coin_gains_with_its_rate_and_that_is_no_trading_profit(
    api: Api, alice: httpx2.AsyncClient
) -> None:
    account_id = await default_account(alice)
    await transfer(alice, account_id, kind="deposit", asset="BTC", amount="2")
    await api.market.move(BTCUSDT="130")

    totals = await totals_of(alice)

    assert (totals["net_deposits"], totals["fx_pnl"], totals["total_pnl"], totals["equity"]) == (
        "200",
        "60",
        "0",
        "260",
    )


async def test_a_rate_of_the_past_is_given_or_unknown_and_never_that_of_now(alice: httpx2.AsyncClient) -> None:
    account_id = await default_account(alice)
    past = {"kind": "deposit", "asset": "BTC", "amount": "1", "at": "2025-01-01T00:00:00Z"}
    unknown = await transfer(alice, account_id, **past)
    incomplete = await totals_of(alice)
    given = await transfer(alice, account_id, **past, rate_to_reporting="40")

    assert unknown.json()["rate_to_reporting"] is None
    assert (incomplete["net_deposits"], incomplete["is_complete"]) == ("0", False)
    assert given.json()["rate_to_reporting"] == "40"


async def test_an_asset_without_a_rate_is_named_and_never_taken_for_one(api: Api, alice: httpx2.AsyncClient) -> None:
    account_id = await default_account(alice)
    await transfer(alice, account_id, kind="deposit", asset="SOL", amount="7", rate_to_reporting="3")

    totals = await totals_of(alice)

    assert (totals["unpriced"], totals["is_complete"], totals["fx_pnl"]) == (["SOL"], False, "0")


async def test_the_currency_is_chosen_before_the_first_trade(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    chosen = await alice.patch("/api/v1/me", json={"currency": "BTC"})
    position = await open_position(price="90", quantity="2")
    late = await alice.patch("/api/v1/me", json={"currency": "USDT"})

    assert chosen.status_code == 200, chosen.text
    assert (position["unrealized_pnl"], position["unrealized_pnl_reported"]) == ("20", "0.2")
    assert (late.status_code, late.json()["code"]) == (409, "account_in_use")
    assert (await totals_of(alice))["currency"] == "BTC"


async def test_exit_valuation_takes_what_closing_would_meet(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    exits = (await create_account(alice, "Exit", valuation="exit", position_mode="hedge"))["account_id"]
    await api.market.quote("BTCUSDT", bid="99", ask="101", last="100.5")
    long = await open_position(price="90", account_id=exits)
    short = await open_position(price="90", side="short", account_id=exits)

    assert (long["mark_price"], long["price_source"], long["unrealized_pnl"]) == ("99", "bid", "9")
    assert (short["mark_price"], short["price_source"], short["unrealized_pnl"]) == ("101", "ask", "-11")
    await alice.patch(f"/api/v1/accounts/{exits}", json={"valuation": "last"})
    again = (await alice.get(f"/api/v1/positions/{long['position_id']}")).json()
    assert (again["mark_price"], again["price_source"], again["unrealized_pnl"]) == ("100.5", "last", "10.5")


async def test_the_tree_adds_up_over_accounts_strategies_symbols_and_what_is_closed(
    api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await api.market.move(**BTC_USDT)
    other = (await create_account(alice, "Other"))["account_id"]
    await open_position(price="90", strategy="grid", fee="0.3")
    gone = await open_position(symbol="ETHUSDT", price="9", quantity="3", strategy="grid")
    await alice.post(f"/api/v1/positions/{gone['position_id']}/close", json={"price": "9.7", "fee": "0.01"})
    await open_position(symbol="ETHBTC", price="0.07", quantity="0.3", account_id=other)
    await open_position(symbol="ETHUSDT", side="short", price="11", account_id=other)
    await transfer(alice, other, kind="deposit", amount="50")
    await transfer(alice, other, kind="adjustment", direction="in", amount="1")

    tree = (await alice.get("/api/v1/pnl/tree")).json()
    totals = await totals_of(alice)

    root = tree["root"]
    check_sums(root)
    for name in ("unrealized_pnl", "realized_pnl", "total_pnl", "fx_pnl", "net_deposits", "equity", "gross_exposure"):
        assert root[name] == totals[name], name
    main, second = root["children"]
    assert [(node["kind"], node["name"]) for node in main["children"]] == [("strategy", "grid")]
    assert [node["name"] for node in main["children"][0]["children"]] == ["BTCUSDT", "ETHUSDT"]
    assert [node["kind"] for node in second["children"]] == ["strategy", "adjustments"]
    assert second["net_deposits"] == "50"


async def test_a_long_of_an_inverse_contract_is_a_long_exposure(api: Api, alice: httpx2.AsyncClient) -> None:
    inverse = Instrument(
        symbol="BTCUSD_PERP",
        market="inverse",
        base="BTC",
        quote="USD",
        settle="BTC",
        tick_size=Decimal("0.1"),
        step_size=Decimal(1),
        multiplier=Decimal(100),
    )
    await api.market.list_instruments(inverse)
    await api.market.move(**{**BTC_USDT, "BTCUSD_PERP": "100"})
    opened = await alice.post("/api/v1/positions", json={"symbol": "BTCUSD_PERP", "side": "long", "quantity": "3"})
    assert opened.status_code == 201, opened.text

    totals = await totals_of(alice)
    root = (await alice.get("/api/v1/pnl/tree")).json()["root"]

    # Three contracts of 100 dollars each, whatever a coin is worth.
    assert (totals["net_exposure"], totals["gross_exposure"]) == ("300", "300")
    assert (root["net_exposure"], root["gross_exposure"]) == ("300", "300")
