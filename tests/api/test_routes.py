"""Every router is reachable, documented and keeps to its document; every module can be imported."""

import importlib
import pkgutil
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

import app
import app.api
from app.api.problems import KINDS
from app.main import API_ROUTERS, create_app
from app.settings import Settings

from .conftest import Api, OpenPosition

OPERATIONS = {
    "POST /api/v1/auth/register": "register",
    "POST /api/v1/auth/login": "login",
    "POST /api/v1/auth/logout": "logout",
    "GET /api/v1/auth/sessions": "list_sessions",
    "DELETE /api/v1/auth/sessions/{session_id}": "end_session",
    "POST /api/v1/auth/tokens": "create_token",
    "GET /api/v1/auth/tokens": "list_tokens",
    "DELETE /api/v1/auth/tokens/{token_id}": "remove_token",
    "GET /api/v1/me": "get_me",
    "PATCH /api/v1/me": "edit_me",
    "GET /api/v1/accounts": "list_accounts",
    "POST /api/v1/accounts": "create_account",
    "GET /api/v1/accounts/{account_id}": "get_account",
    "PATCH /api/v1/accounts/{account_id}": "edit_account",
    "GET /api/v1/accounts/{account_id}/transfers": "list_transfers",
    "POST /api/v1/accounts/{account_id}/transfers": "record_transfer",
    "POST /api/v1/positions": "open_position",
    "GET /api/v1/positions": "list_positions",
    "GET /api/v1/positions/{position_id}": "get_position",
    "PATCH /api/v1/positions/{position_id}": "edit_position",
    "POST /api/v1/positions/{position_id}/close": "close_position",
    "POST /api/v1/trades": "record_trade",
    "GET /api/v1/trades": "list_trades",
    "GET /api/v1/trades/{fill_id}": "get_trade",
    "PATCH /api/v1/trades/{fill_id}": "edit_trade",
    "DELETE /api/v1/trades/{fill_id}": "delete_trade",
    "GET /api/v1/trades/{fill_id}/revisions": "list_revisions",
    "POST /api/v1/imports": "create_import",
    "GET /api/v1/imports": "list_imports",
    "GET /api/v1/imports/{import_id}": "get_import",
    "GET /api/v1/imports/{import_id}/errors": "list_import_errors",
    "DELETE /api/v1/imports/{import_id}": "cancel_import",
    "GET /api/v1/exports/{table}": "export_table",
    "GET /api/v1/pnl/realized": "get_realized",
    "GET /api/v1/funding": "list_funding",
    "GET /api/v1/pnl": "get_pnl",
    "GET /api/v1/pnl/history": "get_pnl_history",
    "GET /api/v1/pnl/daily": "get_pnl_daily",
    "GET /api/v1/pnl/statistics": "get_pnl_statistics",
    "GET /api/v1/pnl/cycles": "list_pnl_cycles",
    "GET /api/v1/pnl/explain": "explain_pnl",
    "GET /api/v1/pnl/tree": "get_pnl_tree",
    "GET /api/v1/symbols": "list_symbols",
    "GET /api/v1/prices": "list_prices",
    "GET /livez": "get_livez",
    "GET /readyz": "get_readyz",
    "GET /api/health": "get_health",
}
"""Clients are generated from these: changing one is a breaking change."""


def module_names(package: Any) -> list[str]:
    return [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def test_every_module_can_be_imported() -> None:
    for name in module_names(app):
        if not name.endswith((".env", ".__main__")):
            importlib.import_module(name)


def test_every_router_of_the_folder_is_served() -> None:
    modules = [importlib.import_module(name) for name in module_names(app.api)]
    routers = [value for module in modules for value in vars(module).values() if isinstance(value, APIRouter)]

    served = {id(router) for router in API_ROUTERS}
    assert {id(router) for router in routers} == served
    assert len(API_ROUTERS) == len(served) == 13


def document() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()  # type: ignore[call-arg]


def test_the_document_has_every_operation_under_its_stable_id() -> None:
    found = {
        f"{method.upper()} {path}": operation["operationId"]
        for path, operations in document()["paths"].items()
        for method, operation in operations.items()
    }

    assert found == OPERATIONS


def test_the_document_describes_errors_as_problems_with_every_code() -> None:
    found = document()

    assert found["openapi"].startswith("3.1")
    assert "HTTPValidationError" not in found["components"]["schemas"]
    assert found["components"]["schemas"]["ProblemBody"]["properties"]["code"]["enum"] == sorted(KINDS)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            if path.startswith("/api/v1"):
                assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_every_reference_in_the_document_leads_somewhere() -> None:
    found = document()

    def check(node: Any) -> None:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                assert reference.removeprefix("#/components/schemas/") in found["components"]["schemas"]
            for child in node.values():
                check(child)
        elif isinstance(node, list):
            for child in node:
                check(child)

    check(found)


async def corrections(client: httpx2.AsyncClient) -> dict[str, httpx2.Response]:
    """The answers of everything that corrects a trade."""
    trade = {"symbol": "BTCUSDT", "side": "buy", "quantity": "9", "price": "1", "strategy": "corrected"}
    recorded = await client.post("/api/v1/trades", json=trade)
    url = f"/api/v1/trades/{recorded.json()['trade']['fill_id']}"
    match, reason = {"If-Match": "*"}, {"reason": "r"}
    return {
        "get_trade": await client.get(url),
        "edit_trade": await client.patch(url, json={"price": "2", **reason}, headers=match),
        "list_revisions": await client.get(f"{url}/revisions"),
        "delete_trade": await client.delete(url, params=reason, headers=match),
    }


async def imports(client: httpx2.AsyncClient) -> dict[str, httpx2.Response]:
    """What is answered to an import, to questions about it."""
    headers = {"Content-Type": "text/csv"}
    created = await client.post("/api/v1/imports", content="symbol\n", headers=headers)
    url = created.headers["location"]
    return {
        "create_import": created,
        "list_imports": await client.get("/api/v1/imports"),
        "get_import": await client.get(url),
        "list_import_errors": await client.get(f"{url}/errors"),
    }


async def test_answers_keep_to_the_document(api: Api, alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position(strategy="grid")
    await open_position(symbol="SOLUSDT", price="20")
    url = f"/api/v1/positions/{position['position_id']}"
    token = {"name": "bot", "scopes": ["read"]}
    trade = {"symbol": "BTCUSDT", "side": "sell", "quantity": "9", "price": "1", "trade_id": "x", "strategy": "grid"}
    login = {"username": "alice", "password": "correct horse battery"}
    short = {"symbol": "ETHUSDT", "side": "short", "quantity": "1"}
    account = f"/api/v1/accounts/{position['account_id']}"
    deposit = {"kind": "deposit", "asset": "USDT", "amount": "1"}
    asked = {
        "edit_me": await (await api.user("dave")).patch("/api/v1/me", json={"currency": "BTC"}),
        "create_account": await alice.post("/api/v1/accounts", json={"name": "Other"}),
        "list_accounts": await alice.get("/api/v1/accounts"),
        "get_account": await alice.get(account),
        "edit_account": await alice.patch(account, json={"valuation": "last"}),
        "record_transfer": await alice.post(f"{account}/transfers", json=deposit),
        "list_transfers": await alice.get(f"{account}/transfers"),
        "get_pnl_tree": await alice.get("/api/v1/pnl/tree"),
        "register": await api.client().post("/api/v1/auth/register", json={**login, "username": "carol"}),
        "login": await alice.post("/api/v1/auth/login", json=login),
        "create_token": await alice.post("/api/v1/auth/tokens", json=token),
        "list_tokens": await alice.get("/api/v1/auth/tokens"),
        "list_sessions": await alice.get("/api/v1/auth/sessions"),
        "get_me": await alice.get("/api/v1/me"),
        "open_position": await alice.post("/api/v1/positions", json=short),
        "get_position": await alice.get(url),
        "edit_position": await alice.patch(url, json={"stop_loss": "1"}, headers={"If-Match": "*"}),
        "close_position": await alice.post(f"{url}/close", json={"quantity": "0.5"}),
        "record_trade": await alice.post("/api/v1/trades", json=trade),
        "list_positions": await alice.get("/api/v1/positions", params={"status": "all"}),
        "list_trades": await alice.get("/api/v1/trades"),
        **(await corrections(alice)),
        **(await imports(alice)),
        "get_realized": await alice.get("/api/v1/pnl/realized"),
        "list_funding": await alice.get("/api/v1/funding"),
        "get_pnl": await alice.get("/api/v1/pnl"),
        "get_pnl_history": await alice.get("/api/v1/pnl/history"),
        "get_pnl_daily": await alice.get("/api/v1/pnl/daily"),
        "get_pnl_statistics": await alice.get("/api/v1/pnl/statistics"),
        "list_pnl_cycles": await alice.get("/api/v1/pnl/cycles"),
        "explain_pnl": await alice.get("/api/v1/pnl/explain"),
        "list_symbols": await alice.get("/api/v1/symbols"),
        "list_prices": await alice.get("/api/v1/prices", params={"symbols": "BTCUSDT,SOLUSDT"}),
        "get_readyz": await alice.get("/readyz?verbose"),
        "get_health": await alice.get("/api/health"),
    }

    models = {
        route.name: (route.status_code or 200, route.response_model)
        for router in API_ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
    }
    for name, answer in asked.items():
        status, model = models[name]
        assert answer.status_code == status, (name, answer.text)
        model.model_validate(answer.json())  # Its models forbid what they do not name.
    bodiless = {"logout", "end_session", "remove_token", "get_livez", "cancel_import", "export_table"}
    assert set(models) - set(asked) == bodiless


async def test_every_answer_has_its_headers(api: Api, alice: httpx2.AsyncClient) -> None:
    for answer in [
        await alice.get("/api/v1/me"),
        await alice.get("/api/v1/nothing"),
        await api.client().get("/api/v1/me"),
        await alice.post("/api/v1/positions", json={}, headers={"Origin": "https://evil.example"}),
    ]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    secure = await api.client_at("https://tidemark.example").get("/livez")
    assert secure.headers["strict-transport-security"].startswith("max-age=31536000")
    assert "strict-transport-security" not in (await alice.get("/livez")).headers


@pytest.mark.parametrize(("given", "is_kept"), [("req-1.A_b", True), ("", False), ("a b", False), ("x" * 65, False)])
async def test_a_request_id_is_kept_when_it_is_one(api: Api, given: str, is_kept: bool) -> None:
    answer = await api.client().get("/livez", headers={"X-Request-ID": given})

    assert (answer.headers["x-request-id"] == given) is is_kept
    assert answer.headers["x-request-id"]


async def test_the_document_is_served_without_signing_in(api: Api) -> None:
    answer = await api.client().get("/openapi.json")

    assert answer.status_code == 200
    assert answer.json()["paths"]
