"""The main job, through real processes: from the exchange's ticks to exact frames."""

from collections import Counter
from decimal import Decimal

import pytest

from tests.e2e.system import System
from tests.e2e.trader import Trader

pytestmark = pytest.mark.e2e


async def test_a_position_is_streamed_with_profit_exact_to_the_last_digit(trader: Trader) -> None:
    await trader.listen("BTCUSDT", "ETHUSDT")
    opened = await trader.open("BTCUSDT", "long", "0.12345678")
    await trader.open("ETHUSDT", "short", "3.1")
    await trader.until(lambda: len(trader.rows) == 2, what="both rows")
    seen = len(trader.frames)

    await trader.until(lambda: len(trader.frames) > seen + 20, what="20 more frames")

    # Trader.check has compared every row with quantity x price - cost, and every total with its rows.
    updates = [frame for frame in trader.frames[seen:] if frame["type"] == "update"]
    marks = {row["mark_price"] for frame in updates for row in frame.get("positions", [])}
    assert len(marks) > 3
    row = trader.rows[opened["position_id"]]
    assert Decimal(row["cost_basis"]) == Decimal("0.12345678") * Decimal(opened["entry_price"])
    assert not row["is_stale"]


async def test_prices_rows_and_totals_of_a_frame_belong_together(trader: Trader) -> None:
    await trader.listen("BTCUSDT")
    await trader.open("BTCUSDT", "long", "1")
    await trader.until(lambda: len(trader.rows) == 1, what="the row")
    seen = len(trader.frames)
    await trader.until(lambda: len(trader.frames) > seen + 15, what="15 more frames")

    together = [
        (frame["prices"][0]["price"], frame["positions"][0]["mark_price"])
        for frame in trader.frames[seen:]
        if frame.get("prices") and frame.get("positions")
    ]

    assert together
    assert all(price == mark for price, mark in together)


async def test_rest_says_what_the_stream_says(trader: Trader) -> None:
    await trader.listen()
    await trader.open("BTCUSDT", "long", "0.5")
    await trader.until(lambda: len(trader.rows) == 1, what="the row")

    statement = await trader.pnl()

    added = sum((Decimal(row["unrealized_pnl"]) for row in statement["positions"]), Decimal(0))
    assert Decimal(statement["totals"]["unrealized_pnl"]) == added
    await trader.until(
        lambda: trader.place >= (statement["epoch"], statement["seq"]), what="the stream to reach the statement"
    )
    same = [
        frame
        for frame in trader.frames
        if frame["type"] == "update" and (frame["epoch"], frame["seq"]) == (statement["epoch"], statement["seq"])
    ]
    for frame in same:
        assert frame["pnl"]["unrealized_pnl"] == statement["totals"]["unrealized_pnl"]


async def test_a_part_closed_then_the_whole_realises_what_the_fills_say(trader: Trader) -> None:
    await trader.listen()
    opened = await trader.open("ETHUSDT", "long", "2", price="3000")
    await trader.close(opened["position_id"], quantity="0.5", price="3100", fee="1")
    closed = await trader.close(opened["position_id"], price="2900")

    assert closed["status"] == "closed"
    assert closed["entry_price"] is None
    assert Decimal(closed["realized_pnl_gross"]) == Decimal("-100")
    assert Decimal(closed["realized_pnl"]) == Decimal("-101")
    await trader.until(lambda: not trader.rows and len(trader.events) >= 3, what="the row to go, three events")
    await trader.until(lambda: Decimal(trader.totals["realized_pnl"]) == Decimal("-101"), what="the realised total")
    numbers = [event["seq"] for event in trader.events]
    assert numbers == sorted(set(numbers))


async def test_nobody_sees_the_numbers_of_another(system: System) -> None:
    async with Trader(system) as ada, Trader(system) as bob:
        for trader, quantity in ((ada, "1.11"), (bob, "2.22")):
            await trader.register()
            await trader.listen("BTCUSDT")
            await trader.open("BTCUSDT", "long", quantity)
        for trader in (ada, bob):
            await trader.until(lambda trader=trader: len(trader.rows) == 1, what="the row")
            await trader.fresh_update()
        foreign = {position for position in bob.rows if position in ada.rows}
        quantities = Counter(row["quantity"] for trader in (ada, bob) for row in trader.rows.values())
        stolen = await bob.rest.get(f"/api/v1/positions/{next(iter(ada.rows))}")

    assert not foreign
    assert quantities == {"1.11": 1, "2.22": 1}
    assert stolen.status_code == 404


async def test_the_feed_says_that_it_is_simulated(trader: Trader) -> None:
    await trader.listen("BTCUSDT")
    await trader.until(lambda: bool(trader.frames), what="hello")

    hello = trader.frames[0]

    assert hello["type"] == "hello"
    assert hello["feed"]["simulated"] is True
    assert hello["feed"]["state"] in {"simulated", "stale", "down"}
