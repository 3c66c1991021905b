"""P&L over time by REST: samples, days, statistics and explanations, of one account and of all."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from app.domain.book_samples import Sample
from app.domain.candles import Figures
from app.domain.decimals import UNITS
from app.domain.excursions import Excursion
from app.repositories.leases import LeaseRepository
from app.repositories.samples import SampleRepository

from .conftest import Api, OpenPosition

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class History:
    """Writes Alice's past as the P&L worker would have."""

    def __init__(self, writer: SampleRepository, user_id: str) -> None:
        self.writer = writer
        self.user_id = user_id

    async def sample(self, at: datetime, scope_id: str, **figures: int | bool | None) -> None:
        """Figures in whole money."""
        kept: dict[str, Any] = {
            name: value if value is None or isinstance(value, bool) else value * UNITS
            for name, value in figures.items()
        }
        account_id = None if scope_id == self.user_id else scope_id
        sample = Sample(scope_id, self.user_id, account_id, Figures(**kept))
        await self.writer.write(at, at - MINUTE, [sample], has_new=True)

    async def samples(self, scope_id: str, pnls: Mapping[datetime, int], **more: int) -> None:
        for at, pnl in pnls.items():
            await self.sample(at, scope_id, unrealized_pnl=pnl, **more)


@pytest.fixture
async def history(api: Api, alice: httpx2.AsyncClient) -> History:
    epoch = await LeaseRepository(api.web.database).acquire("pnl:0/1", "test", 60_000)
    assert epoch is not None
    user_id = (await alice.get("/api/v1/me")).json()["user_id"]
    return History(SampleRepository(api.web.database, "pnl:0/1", epoch), user_id)


async def ask(client: httpx2.AsyncClient, what: str, **parameters: Any) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/pnl/{what}", params=parameters)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def default_account(client: httpx2.AsyncClient) -> str:
    account_id: str = (await client.get("/api/v1/me")).json()["accounts"][0]["account_id"]
    return account_id


def ago(**how_long: float) -> datetime:
    """A full minute in the past."""
    return (datetime.now(UTC) - timedelta(**how_long)).replace(second=0, microsecond=0)


def closes(body: dict[str, Any]) -> list[str | None]:
    return [item["close"] for item in body["items"]]


async def test_minutes_come_in_pages_the_oldest_first(alice: httpx2.AsyncClient, history: History) -> None:
    account, start = await default_account(alice), ago(hours=1)
    await history.samples(account, {start + n * MINUTE: n for n in range(5)}, net_deposits=100)

    first = await ask(alice, "history", resolution="minute", limit=3)
    second = await ask(alice, "history", resolution="minute", limit=3, cursor=first["next_cursor"])

    assert closes(first) + closes(second) == ["0", "1", "2", "3", "4"]
    assert second["next_cursor"] is None
    assert first["items"][2]["equity"] == "102"
    assert first["items"][2]["total_pnl"] == first["items"][2]["unrealized_pnl"] == "2"


async def test_a_range_has_its_end_and_not_its_beginning(alice: httpx2.AsyncClient, history: History) -> None:
    account, start = await default_account(alice), ago(hours=1)
    await history.samples(account, {start + n * MINUTE: n for n in range(5)})

    between = {"from": (start + MINUTE).isoformat(), "to": (start + 3 * MINUTE).isoformat()}

    assert closes(await ask(alice, "history", resolution="minute", **between)) == ["2", "3"]


async def test_hours_and_days_are_there_before_anything_was_summed_up(
    alice: httpx2.AsyncClient, history: History
) -> None:
    account = await default_account(alice)
    start = ago(hours=30).replace(minute=0)
    await history.samples(account, {start + timedelta(minutes=20 * n): n % 5 for n in range(1, 7)}, net_deposits=9)

    hours = (await ask(alice, "history", resolution="hour"))["items"]
    days = (await ask(alice, "history", resolution="day"))["items"]

    assert [[item[name] for name in ("open", "high", "low", "close")] for item in hours] == [
        ["1", "3", "1", "3"],
        ["4", "4", "0", "1"],
    ]
    assert days[-1]["close"] == "1"
    assert days[-1]["equity"] == "10"


async def test_what_is_not_known_is_null(alice: httpx2.AsyncClient, history: History) -> None:
    await history.sample(ago(hours=1), await default_account(alice), unrealized_pnl=None, is_complete=False)

    item = (await ask(alice, "history", resolution="minute"))["items"][0]

    assert [item[name] for name in ("equity", "total_pnl", "unrealized_pnl", "close")] == [None] * 4
    assert item["is_complete"] is False


async def test_another_user_sees_nothing_of_it(
    alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, history: History
) -> None:
    account = await default_account(alice)
    await history.samples(account, {ago(hours=1): 5})

    assert (await ask(bob, "history", resolution="minute"))["items"] == []
    for what in ("history", "daily", "statistics", "explain"):
        answer = await bob.get(f"/api/v1/pnl/{what}", params={"account_id": account})
        assert answer.json()["code"] == "not_found", what


@pytest.mark.parametrize(
    "parameters",
    [
        {"resolution": "second"},
        {"limit": "1501"},
        {"from": "yesterday"},
        {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "2099-01-01T00:00:00Z"},
        {"cursor": "x"},
    ],
)
async def test_what_cannot_be_asked(alice: httpx2.AsyncClient, parameters: dict[str, str]) -> None:
    answer = await alice.get("/api/v1/pnl/history", params=parameters)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def in_zone(client: httpx2.AsyncClient, name: str) -> httpx2.Response:
    return await client.patch("/api/v1/me", json={"time_zone": name})


async def test_a_user_chooses_the_time_zone_of_days(alice: httpx2.AsyncClient) -> None:
    assert (await alice.get("/api/v1/me")).json()["settings"]["time_zone"] == "UTC"

    changed = await in_zone(alice, "Asia/Kathmandu")

    assert changed.json()["settings"]["time_zone"] == "Asia/Kathmandu"
    assert (await ask(alice, "daily", days=2))["time_zone"] == "Asia/Kathmandu"


@pytest.mark.parametrize("name", ["Mars/Olympus", "utc", "CET-1", "", "posixrules", "Europe/../UTC", "+02:00"])
async def test_what_is_no_time_zone_is_refused(alice: httpx2.AsyncClient, name: str) -> None:
    answer = await in_zone(alice, name)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await alice.get("/api/v1/me")).json()["settings"]["time_zone"] == "UTC"


async def test_every_time_zone_that_is_offered_is_known_to_the_database(api: Api) -> None:
    from app.api.fields import _TIME_ZONES

    known = await api.scalar("SELECT array_agg(name) FROM pg_timezone_names")

    assert len(_TIME_ZONES) > 300
    assert set(_TIME_ZONES) <= set(known)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
async def test_days_begin_at_midnight_of_the_user_and_add_up(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition, zone: str
) -> None:
    await in_zone(alice, zone)
    account = await default_account(alice)
    await open_position(price="90", executed_at=ago(days=6).isoformat())
    bounds = [datetime.fromisoformat(item["start"]) for item in (await ask(alice, "daily", days=4))["items"]]
    pnls = [3, 5, 4, 8]
    await history.samples(account, dict(zip(bounds, pnls, strict=True)), net_deposits=100)

    items = (await ask(alice, "daily", days=4))["items"]

    # BTC is at 100, so ten is what the position earned in all.
    assert [item["pnl"] for item in items] == ["2", "-1", "4", "2"]
    assert [item["pct"] for item in items[:2]] == ["0.019417", "-0.009524"]
    assert [item["end"] for item in items[:-1]] == [item["start"] for item in items[1:]]
    assert [item["revision"] for item in items] == [1, 1, 1, 1]
    assert items[0]["is_complete"] is True


async def test_who_had_nothing_before_midnight_began_with_nothing(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position(price="90")

    daily = await ask(alice, "daily", days=2)

    assert [item["pnl"] for item in daily["items"]] == ["0", "10"]
    assert daily["pnl_24h"]["pnl"] == "10"


async def test_a_day_without_a_sample_at_its_midnight_is_unknown(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    await open_position(price="90", executed_at=ago(days=6).isoformat())

    daily = await ask(alice, "daily", days=1)

    assert daily["items"][0]["pnl"] is None
    assert (daily["pnl_24h"]["pnl"], daily["pnl_24h"]["is_complete"]) == (None, False)


async def test_the_last_day_rolls_and_is_not_the_day_of_the_calendar(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    account = await default_account(alice)
    await open_position(price="90", executed_at=ago(days=6).isoformat())
    await history.samples(account, {ago(days=1, minutes=3): 4, ago(hours=12): 7})

    assert (await ask(alice, "daily", days=1))["pnl_24h"]["pnl"] == "6"


async def deposit(client: httpx2.AsyncClient, amount: str, at: datetime | None = None) -> None:
    account = await default_account(client)
    body = {"kind": "deposit", "asset": "USDT", "amount": amount, **({"at": at.isoformat()} if at else {})}
    answer = await client.post(f"/api/v1/accounts/{account}/transfers", json=body)
    assert answer.status_code == 201, answer.text


async def test_a_deposit_is_a_flow_of_its_day_and_no_profit(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    await deposit(alice, "1000")
    await open_position(price="90")

    item = (await ask(alice, "daily", days=1))["items"][0]

    assert (item["pnl"], item["flows"], item["pct"]) == ("10", "1000", "0.010000")


async def test_what_is_recorded_of_the_past_raises_the_revision_of_the_days_since(
    api: Api, alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    account = await default_account(alice)
    await history.samples(account, {ago(minutes=1): 0})
    await open_position(price="90")
    assert [item["revision"] for item in (await ask(alice, "daily", days=4))["items"]] == [1, 1, 1, 1]

    late = ago(days=2)
    await open_position(price="90", executed_at=late.isoformat())
    await deposit(alice, "5", late + DAY)

    assert [item["revision"] for item in (await ask(alice, "daily", days=4))["items"]] == [1, 2, 3, 3]
    assert await api.scalar("SELECT restate_from FROM history_scopes") == late


async def second_account(client: httpx2.AsyncClient) -> str:
    answer = await client.post("/api/v1/accounts", json={"name": "Second"})
    account_id: str = answer.json()["account_id"]
    return account_id


async def test_days_of_accounts_add_up_to_those_of_their_user(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    accounts = [await default_account(alice), await second_account(alice)]
    for number, account in enumerate(accounts):
        await open_position(price="90", account_id=account, executed_at=ago(days=6).isoformat())
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        await history.samples(account, {midnight: 3 + number})

    whole = (await ask(alice, "daily", days=1))["items"][0]
    parts = [(await ask(alice, "daily", days=1, account_id=account))["items"][0] for account in accounts]

    assert [part["pnl"] for part in parts] == ["7", "6"]
    assert whole["pnl"] == "13"


async def test_all_accounts_together_begin_with_the_first_one_alone(
    alice: httpx2.AsyncClient, history: History
) -> None:
    accounts, start = [await default_account(alice), await second_account(alice)], ago(hours=1)
    await history.samples(accounts[0], {start + n * MINUTE: n for n in range(4)})
    await history.samples(accounts[1], {start + n * MINUTE: 10 for n in range(2, 4)})
    await history.samples(history.user_id, {start + n * MINUTE: 10 + n for n in range(2, 4)})

    assert closes(await ask(alice, "history", resolution="minute")) == ["0", "1", "12", "13"]
    only = await ask(alice, "history", resolution="minute", account_id=accounts[1])
    assert closes(only) == ["10", "10"]


async def close(client: httpx2.AsyncClient, position: dict[str, Any], price: str) -> None:
    answer = await client.post(f"/api/v1/positions/{position['position_id']}/close", json={"price": price})
    assert answer.status_code == 200, answer.text


async def test_statistics_of_closed_cycles(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    opened = []
    for price in ("110", "120", "90", "100"):
        position = await open_position(price="100")
        await close(alice, position, price)
        opened.append(position["position_id"])
    await history.writer.write_excursions([Excursion(opened[0], -4 * UNITS, 15 * UNITS)])

    trades = (await ask(alice, "statistics"))["trades"]

    counts = [trades[name] for name in ("closed_count", "win_count", "loss_count", "breakeven_count")]
    assert counts == [4, 2, 1, 1]
    assert (trades["win_rate"], trades["profit_factor"], trades["expectancy"]) == ("0.5", "3", "5")
    assert (trades["worst_mae"], trades["best_mfe"]) == ("-4", "15")
    assert trades["current_streak"] == 0


async def test_closed_cycles_come_in_pages_with_how_far_they_went(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    ids = []
    for price in ("110", "95"):
        position = await open_position(price="100")
        ids.append(position["position_id"])
        await close(alice, position, price)
    await history.writer.write_excursions([Excursion(ids[0], -4 * UNITS, 16 * UNITS)])

    first = await ask(alice, "cycles", limit=1)
    second = await ask(alice, "cycles", limit=1, cursor=first["next_cursor"])

    rows = [*first["items"], *second["items"]]
    assert [row["position_id"] for row in rows] == ids[::-1]
    assert [[row[name] for name in ("net_pnl", "mae", "mfe", "efficiency")] for row in rows] == [
        ["-5", None, None, None],
        ["10", "-4", "16", "0.625000"],
    ]
    assert second["next_cursor"] is None


async def test_statistics_of_the_curve_are_not_moved_by_a_deposit(alice: httpx2.AsyncClient, history: History) -> None:
    account, start = await default_account(alice), ago(days=3)
    await history.samples(account, {start: 0, start + 60 * MINUTE: -200}, net_deposits=1000)
    await history.samples(account, {start + 120 * MINUTE: -200}, net_deposits=5000)
    period = {"from": (start - MINUTE).isoformat(), "to": (start + DAY).isoformat()}

    found = (await ask(alice, "statistics", **period))["performance"]

    assert [found[name] for name in ("twr", "max_drawdown", "max_drawdown_pct")] == ["-0.2", "200", "0.2"]
    assert found["high_water_mark"] == "5000"
    assert found["sharpe"] is found["sortino"] is found["calmar"] is None


async def test_statistics_of_nothing_are_null(alice: httpx2.AsyncClient) -> None:
    found = await ask(alice, "statistics", to=ago(hours=1).isoformat())

    assert found["from"] is None
    assert found["performance"]["twr"] is found["performance"]["max_drawdown"] is None
    assert found["trades"]["closed_count"] == 0
    assert found["trades"]["win_rate"] is found["trades"]["profit_factor"] is None


def parts(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in body.items() if value != "0"}


def sums_up(rows: Sequence[Mapping[str, str]]) -> bool:
    names = ("price", "trading", "fees", "funding", "fx", "adjustments")
    return all(sum(Decimal(row[name]) for name in names) == Decimal(row["total"]) for row in rows)


async def test_a_change_is_explained_from_the_nearest_marks_before(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    await open_position(quantity="2", price="90", executed_at=ago(days=2).isoformat(), fee="1")
    marked = ago(hours=20)
    await history.writer.write_marks(marked, {"BTCUSDT": Decimal("95.5")})
    await open_position(quantity="1", price="97", executed_at=ago(hours=10).isoformat(), fee="0.25")
    await open_position("ETHUSDT", "short", "3", price="11", executed_at=ago(hours=9).isoformat())

    found = await ask(alice, "explain", **{"from": ago(hours=19).isoformat()})

    assert datetime.fromisoformat(found["from"]) == marked
    rows = {row["symbol"]: parts(row) for row in found["symbols"]}
    assert rows["BTCUSDT"] == {"symbol": "BTCUSDT", "price": "9", "trading": "3", "fees": "-0.25", "total": "11.75"}
    assert rows["ETHUSDT"] == {"symbol": "ETHUSDT", "trading": "3", "total": "3"}
    assert parts(found["total"]) == {"price": "9", "trading": "6", "fees": "-0.25", "total": "14.75"}
    assert sums_up([*found["symbols"], found["total"]])
    assert found["is_complete"] is True


async def test_the_whole_past_is_explained_up_to_the_total_on_the_screen(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    position = await open_position(quantity="2", price="90", fee="1")
    await open_position(side="short", quantity="5", price="101.3", fee="0.7")
    await open_position("BNBUSDT", quantity="0.3", price="4.123456789")

    found = await ask(alice, "explain")
    pnl = (await alice.get("/api/v1/pnl")).json()

    assert found["total"]["total"] == pnl["totals"]["total_pnl"]
    assert found["total"]["fees"] == "-1.7"
    assert position["symbol"] in {row["symbol"] for row in found["symbols"]}


async def test_parts_of_accounts_add_up_to_those_of_their_user(
    alice: httpx2.AsyncClient, open_position: OpenPosition
) -> None:
    accounts = [await default_account(alice), await second_account(alice)]
    for number, account in enumerate(accounts):
        await open_position(quantity="1", price=f"9{number}.000000001", account_id=account, fee="0.1")

    whole = (await ask(alice, "explain"))["total"]
    each = [(await ask(alice, "explain", account_id=account))["total"] for account in accounts]

    for name, value in whole.items():
        assert Decimal(value) == sum(Decimal(one[name]) for one in each)


async def test_what_settles_elsewhere_has_its_currency_apart(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    opened = {"executed_at": ago(hours=30).isoformat(), "rate_to_reporting": "80"}
    await alice.post(
        "/api/v1/trades",
        json={"symbol": "ETHBTC", "side": "buy", "quantity": "10", "price": "0.05", **opened},
    )
    marked = ago(hours=20)
    await history.writer.write_marks(marked, {"ETHBTC": Decimal("0.06"), "BTCUSDT": Decimal(80)})
    await history.sample(marked, await default_account(alice), unrealized_pnl=8)
    await history.writer.write_marks(marked + 60 * MINUTE, {"ETHBTC": Decimal("0.07"), "BTCUSDT": Decimal(100)})
    await history.sample(marked + 60 * MINUTE, await default_account(alice), unrealized_pnl=20)

    between = {"from": marked.isoformat(), "to": (marked + 60 * MINUTE).isoformat()}
    found = await ask(alice, "explain", **between)

    # 0.1 BTC of price at 100, and 0.1 BTC that was there already went from 80 to 100.
    assert parts(found["total"]) == {"price": "10", "fx": "2", "total": "12"}
    assert found["is_complete"] is True


async def test_a_symbol_without_a_mark_at_the_start_is_named_and_in_no_sum(
    alice: httpx2.AsyncClient, history: History, open_position: OpenPosition
) -> None:
    await open_position(price="90", executed_at=ago(days=2).isoformat())
    await history.writer.write_marks(ago(hours=20), {"ETHUSDT": Decimal(10)})

    found = await ask(alice, "explain", **{"from": ago(hours=19).isoformat()})

    assert (found["unknown"], found["is_complete"], found["symbols"]) == (["BTCUSDT"], False, [])


async def test_an_adjustment_is_a_part_of_its_own(alice: httpx2.AsyncClient, open_position: OpenPosition) -> None:
    account = await default_account(alice)
    body = {"kind": "adjustment", "asset": "USDT", "amount": "7", "direction": "in"}
    assert (await alice.post(f"/api/v1/accounts/{account}/transfers", json=body)).status_code == 201

    found = await ask(alice, "explain")

    assert parts(found["total"]) == {"adjustments": "7", "total": "7"}
