"""Every kind of bad input gets its documented error, and changes nothing."""

import base64
import json
from typing import Any

import httpx2
import pytest

from app.api.bodies import ProblemBody

from .conftest import PASSWORD, Api, OpenPosition

POSITION = {"symbol": "BTCUSDT", "side": "long", "quantity": "1"}
TRADE = {"symbol": "BTCUSDT", "side": "buy", "quantity": "1", "price": "100"}

BAD_AMOUNTS: list[Any] = [
    *("0", "0.0", "-1", "+1", "", " 1", "1 ", "1.", ".5", "1e3", "1E+999999", "NaN", "nan", "Infinity", "-Infinity"),
    *("0x10", "1_000", "1,000", "１２３", "٣", "१", "²", "1\u00a0", "1\n", "1\u0000", "--1", "1.2.3"),
    *("9" * 19, "0." + "1" * 19, "9" * 5000),
    *(1, 1.5, -1, True, None, [], {}, ["1"], {"value": "1"}),
]

BAD_SYMBOLS: list[Any] = [
    *("NOPE", "btcusdt", "BTCUSDT ", " BTCUSDT", "BTC/USDT", "", "B" * 65, "{user_id}", "'; DROP TABLE users; --"),
    *("ВТСUSDT", "BTCUSDТ", "ＢＴＣＵＳＤＴ", "BTC\u200bUSDT", "BTCUSDT\u0000", "btcuſdt"),
    *(1, None, ["BTCUSDT"]),
]


async def ask(client: httpx2.AsyncClient, path: str, body: Any) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return await client.post(path, content=content, headers={"Content-Type": "application/json"})


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of an answer that must be a whole problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = ProblemBody.model_validate(answer.json())
    assert body.status == answer.status_code
    assert body.request_id == answer.headers["x-request-id"]
    return answer.status_code, body.code


async def test_only_plain_positive_decimals_in_strings_are_amounts(api: Api, alice: httpx2.AsyncClient) -> None:
    accepted: list[object] = []
    for path, whole in (("/api/v1/positions", POSITION), ("/api/v1/trades", TRADE)):
        for name in ("quantity", "price"):
            for bad in BAD_AMOUNTS:
                if bad is None and (path, name) == ("/api/v1/positions", "price"):
                    continue  # A price may be left to the market.
                answer = await ask(alice, path, {**whole, name: bad})
                named = [error.get("pointer") for error in answer.json().get("errors", [])]
                if problem(answer) != (422, "invalid_request") or named != [f"#/{name}"]:
                    accepted.append((path, name, bad, answer.text))

    assert accepted == []
    assert await api.count("trades") == 0


async def test_fees_may_be_negative_but_are_decimals_all_the_same(api: Api, alice: httpx2.AsyncClient) -> None:
    rebate = await ask(alice, "/api/v1/trades", {**TRADE, "fee": "-0.5"})
    assert rebate.json()["position"]["fees"] == "-0.5"

    for bad in ("1e3", "NaN", "-", "+1", 1, -0.5, "9" * 19):
        assert problem(await ask(alice, "/api/v1/trades", {**TRADE, "fee": bad})) == (422, "invalid_request"), bad


async def test_only_exactly_listed_symbols_are_symbols(api: Api, alice: httpx2.AsyncClient) -> None:
    for bad in BAD_SYMBOLS:
        code = problem(await ask(alice, "/api/v1/positions", {**POSITION, "symbol": bad}))
        assert code in {(422, "unknown_symbol"), (422, "invalid_request")}, bad
    assert await api.count("positions") == 0


async def test_a_look_alike_is_told_apart_by_the_name_of_its_character(alice: httpx2.AsyncClient) -> None:
    answer = await ask(alice, "/api/v1/positions", {**POSITION, "symbol": "BTCUSDТ"})

    assert "U+0422 CYRILLIC CAPITAL LETTER TE" in answer.json()["detail"]


async def test_a_symbol_that_is_listed_in_another_script_is_a_symbol(alice: httpx2.AsyncClient) -> None:
    answer = await ask(alice, "/api/v1/positions", {**POSITION, "symbol": "币安人生USDT", "price": "1"})

    assert (answer.status_code, answer.json()["symbol"]) == (201, "币安人生USDT")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", (400, "malformed_request")),
        (b"\xff\xfe{}", (400, "malformed_request")),
        (b'{"symbol": NaN}', (400, "malformed_request")),
        (b'{"quantity": Infinity}', (400, "malformed_request")),
        (b'{"symbol": "BTCUSDT", "symbol": "ETHUSDT", "side": "long", "quantity": "1"}', (400, "malformed_request")),
        (b'{"quantity": ' + b"9" * 5000 + b"}", (400, "malformed_request")),
        (b"[" * 5000 + b"]" * 5000, (400, "malformed_request")),
        (b'{"a":' * 500 + b"1" + b"}" * 500, (400, "malformed_request")),
        (b'{"\\ud800": 1}', (400, "malformed_request")),
        (b'{"symbol": "\\ud800", "side": "long", "quantity": "1"}', (422, "invalid_request")),
        (b'{"symbol": "BTCUSDT", "side": "long", "quantity": 1e999}', (422, "invalid_request")),
        (b"null", (422, "invalid_request")),
        (b"[]", (422, "invalid_request")),
        (b'"BTCUSDT"', (422, "invalid_request")),
        (b"{}", (422, "invalid_request")),
        (b"", (422, "invalid_request")),
        (b" " * 70_000, (413, "too_large")),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
)
async def test_bodies_that_are_not_one_clear_object_are_refused(
    alice: httpx2.AsyncClient, content: bytes, expected: tuple[int, str]
) -> None:
    assert problem(await ask(alice, "/api/v1/positions", content)) == expected


async def test_a_body_that_cannot_be_read_is_refused_with_the_reason(alice: httpx2.AsyncClient) -> None:
    for content, reason in [
        (b'{"side": "long", "side": "short"}', "a name appears twice"),
        (b'{"quantity": NaN}', "NaN is not JSON"),
        (b"[" * 30_000, "nested too deeply"),
        (b"{", "at character 1"),
    ]:
        answer = await ask(alice, "/api/v1/positions", content)
        assert reason in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://", "//"])
async def test_an_origin_that_is_no_url_is_a_wrong_one(alice: httpx2.AsyncClient, origin: str) -> None:
    answer = await alice.post("/api/v1/positions", json=POSITION, headers={"Origin": origin})

    assert problem(answer) == (403, "wrong_origin")


@pytest.mark.parametrize("host", ["[", "[::1", "", "a b"])
async def test_a_host_that_is_no_host_is_no_bug(api: Api, host: str) -> None:
    user = {"username": "stranger", "password": PASSWORD}
    async with api.client() as visitor:
        assert (await visitor.post("/api/v1/auth/register", json=user, headers={"Host": host})).status_code == 201


async def test_a_body_that_hides_its_size_is_cut_off(alice: httpx2.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(200):
            yield b" " * 1000

    answer = await alice.post("/api/v1/positions", content=endless(), headers={"Content-Type": "application/json"})

    assert problem(answer) == (413, "too_large")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_understood(alice: httpx2.AsyncClient, media_type: str) -> None:
    answer = await alice.post("/api/v1/positions", content=json.dumps(POSITION), headers={"Content-Type": media_type})

    assert problem(answer) == (415, "unsupported_media_type")


async def test_unknown_fields_and_parameters_are_refused_by_name(alice: httpx2.AsyncClient) -> None:
    body = await ask(alice, "/api/v1/positions", {**POSITION, "user_id": "somebody"})
    query = await alice.get("/api/v1/positions", params={"user_id": "somebody"})

    assert problem(body) == (422, "invalid_request")
    assert body.json()["errors"][0]["pointer"] == "#/user_id"
    assert problem(query) == (422, "invalid_request")
    assert query.json()["errors"][0]["parameter"] == "user_id"


async def test_other_fields_are_held_to_their_form(api: Api, alice: httpx2.AsyncClient) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("/api/v1/positions", {"side": "buy"}),
        ("/api/v1/positions", {"side": "LONG"}),
        ("/api/v1/positions", {"strategy": ""}),
        ("/api/v1/positions", {"strategy": "x" * 65}),
        ("/api/v1/positions", {"strategy": "a\u0000b"}),
        ("/api/v1/positions", {"strategy": "a\u202eb"}),
        ("/api/v1/positions", {"strategy": " a"}),
        ("/api/v1/positions", {"executed_at": "2999-01-01T00:00:00Z"}),
        ("/api/v1/positions", {"executed_at": "1999-12-31T23:59:59Z"}),
        ("/api/v1/positions", {"executed_at": "2026-01-01"}),
        ("/api/v1/positions", {"executed_at": "2026-01-01T00:00:00"}),
        ("/api/v1/positions", {"executed_at": "2026-02-30T00:00:00Z"}),
        ("/api/v1/positions", {"executed_at": 1767225600}),
        ("/api/v1/positions", {"executed_at": "1767225600"}),
        ("/api/v1/positions", {"fee": "1", "fee_asset": "NOPE"}),
        ("/api/v1/positions", {"fee": "1", "fee_asset": "ВTC"}),
        ("/api/v1/positions", {"fee": "1", "fee_asset": "BTC"}),
        ("/api/v1/positions", {"account_id": "not-an-id"}),
        ("/api/v1/trades", {"trade_id": ""}),
        ("/api/v1/trades", {"trade_id": "x" * 65}),
        ("/api/v1/trades", {"trade_id": "a b"}),
        ("/api/v1/trades", {"fee_rate": "0"}),
        ("/api/v1/trades", {"side": "long"}),
        ("/api/v1/auth/tokens", {"scopes": ["admin"]}),
        ("/api/v1/auth/tokens", {"scopes": []}),
        ("/api/v1/auth/tokens", {"name": ""}),
    ]
    wholes = {
        "/api/v1/positions": POSITION,
        "/api/v1/trades": TRADE,
        "/api/v1/auth/tokens": {"name": "bot", "scopes": ["read"]},
    }
    for path, bad in cases:
        answer = await ask(alice, path, {**wholes[path], **bad})
        assert problem(answer) == (422, "invalid_request"), (bad, answer.text)
    assert await api.count("trades") == 0


async def test_unfit_names_and_passwords_are_refused_without_being_repeated(api: Api) -> None:
    client = api.client()
    for username, password in [
        ("al", "long enough"),
        ("x" * 33, "long enough"),
        ("ali ce", "long enough"),
        ("аlice", "long enough"),
        ("alice\n", "long enough"),
        (".alice", "long enough"),
        ("alice", "s3cret!"),
        ("alice", "s3cret!" * 20),
        ("alice", 12345678),
        ("alice\u0000", "long enough"),
    ]:
        answer = await ask(client, "/api/v1/auth/register", {"username": username, "password": password})
        assert problem(answer) == (422, "invalid_request"), username
        assert "s3cret!" not in answer.text
    assert await api.count("users") == 0


async def test_edits_are_held_to_their_form(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position()
    url = f"/api/v1/positions/{position['position_id']}"

    for bad in [
        {},
        {"quantity": "5"},
        {"take_profit": "0"},
        {"stop_loss": "-1"},
        {"stop_loss": 5},
        {"note": "x" * 1001},
        {"note": "a\u0000b"},
        {"note": 1},
    ]:
        answer = await alice.patch(url, json=bad, headers={"If-Match": "*"})
        assert problem(answer) == (422, "invalid_request"), bad
    assert (await alice.get(url)).json()["version"] == 1


async def test_a_closed_position_cannot_be_closed(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    position = await open_position()
    url = f"/api/v1/positions/{position['position_id']}/close"
    await alice.post(url)

    assert problem(await alice.post(url)) == (409, "position_closed")


NO_ID = "00000000-0000-0000-0000-000000000000"
NO_PLACES = [
    ("2026-01-01T00:00:00Z", NO_ID.replace("0", "z")),
    ("2026-01-01T00:00:00Z", NO_ID[:-1] + "\0"),
    ("2026-01-01T00:00:00", NO_ID),
    ("0001-01-01T00:00:00+23:59", NO_ID),
    ("9999-12-31T23:59:59-23:59", NO_ID),
]


def cursor(at: str, id_: str) -> str:
    """A cursor that this server could have given, were it not for what is in it."""
    return base64.urlsafe_b64encode(json.dumps([at, id_]).encode()).decode().rstrip("=")


async def test_wrong_queries_are_refused(alice: httpx2.AsyncClient) -> None:
    for path, params in [
        ("/api/v1/positions", {"limit": "0"}),
        ("/api/v1/positions", {"limit": "201"}),
        ("/api/v1/positions", {"limit": "x"}),
        ("/api/v1/positions", {"status": "OPEN"}),
        ("/api/v1/positions", {"cursor": "AAAA"}),
        ("/api/v1/positions", {"cursor": "\u00e9"}),
        ("/api/v1/positions", {"cursor": "x" * 201}),
        ("/api/v1/positions", {"account_id": "x"}),
        ("/api/v1/positions", {"symbol": "x" * 65}),
        ("/api/v1/positions", {"symbol": "BTC\u0000"}),
        ("/api/v1/positions", {"strategy": "a\u0000"}),
        ("/api/v1/trades", {"cursor": "WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsIngiXQ"}),
        *(("/api/v1/positions", {"cursor": cursor(at, id_)}) for at, id_ in NO_PLACES),
        ("/api/v1/trades", {"position_id": "1"}),
        ("/api/v1/symbols", {"market": "moon"}),
        ("/api/v1/symbols", {"cursor": "-1"}),
        ("/api/v1/prices", {"cursor": "١"}),
        ("/api/v1/auth/sessions", {"cursor": "x"}),
    ]:
        assert problem(await alice.get(path, params=params)) == (422, "invalid_request"), params
    unknown = await alice.get("/api/v1/prices", params={"symbols": "BTCUSDT,NOPE"})
    assert problem(unknown) == (422, "unknown_symbol")


@pytest.mark.parametrize("key", ["", "with space", "é", "x" * 256])
async def test_an_idempotency_key_is_printable_and_short(alice: httpx2.AsyncClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}

    assert problem(await alice.post("/api/v1/positions", json=POSITION, headers=headers)) == (422, "invalid_request")


async def test_unknown_paths_and_methods_are_problems_too(alice: httpx2.AsyncClient) -> None:
    assert problem(await alice.get("/api/v1/nothing")) == (404, "not_found")
    assert problem(await alice.post("/api/v1/nothing", json={})) == (404, "not_found")
    wrong_method = await alice.delete("/api/v1/symbols")
    assert problem(wrong_method) == (405, "method_not_allowed")
    assert "GET" in wrong_method.headers["allow"]
    assert problem(await alice.get("/api/v1/positions/")) == (404, "not_found")
    assert problem(await alice.get("/no/such/page")) == (404, "not_found")
    assert problem(await alice.get("/api/v1/stream")) == (426, "upgrade_required")
