"""What an import leaves in the ledger is what recording its fills one by one leaves."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.instruments import Instrument
from app.domain.ledger import Fill
from app.imports import booking
from app.repositories.database import transaction
from app.repositories.fills import Holder, record_fill
from app.repositories.positions import PositionRepository
from app.repositories.tables import funding_rates
from app.repositories.users import UserRepository

from .conftest import INSTRUMENTS, Office, ledger_of, new_holder

BY_SYMBOL = {one.symbol: one for one in INSTRUMENTS}
HEADER = (
    "symbol,side,quantity,price,fee,fee_asset,fee_rate,executed_at,trade_id,strategy,position_side,rate_to_reporting\n"
)


def random_fills(seed: int, count: int, *, hedge: bool = False) -> list[tuple[Instrument, Fill]]:
    """Fills of several markets: openings, reductions, flips, fees of every kind, many at one instant."""
    chance = random.Random(seed)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    fills: list[tuple[Instrument, Fill]] = []
    held: defaultdict[Any, Decimal] = defaultdict(Decimal)
    for number in range(count):
        instrument = BY_SYMBOL[chance.choice(["BTCUSDT", "ETHBTC", "BTCUSDT_PERP", "BTCUSD_PERP"])]
        at += timedelta(milliseconds=chance.choice([0, 0, 1, 250, 3_600_000]))
        strategy = chance.choice(["", "grid", "=1+1"])
        position_side: Any = chance.choice(["long", "short"]) if hedge else "net"
        side: Any = chance.choice(["buy", "sell"])
        quantity = Decimal(chance.choice(["1", "0.5", "3", "0.123456789012345678", "2"]))
        if hedge:
            key = (instrument.symbol, strategy, position_side)
            side, quantity = leg_move(side, quantity, position_side, held[key])
            held[key] += quantity if (side == "buy") == (position_side == "long") else -quantity
        rate = Decimal(chance.randint(1, 10**7)).scaleb(-3) if instrument.settle != "USDT" else None
        fill = Fill(
            side=side,
            quantity=quantity,
            price=Decimal(chance.randint(1, 10**6)).scaleb(-2),
            executed_at=at,
            trade_id=f"t{number}",
            strategy=strategy,
            position_side=position_side,
            rate_to_reporting=rate if chance.random() < 0.8 else None,
            **random_fee(chance, instrument, hedge=hedge),
        )
        fills.append((instrument, fill))
    return fills


def leg_move(side: str, quantity: Decimal, position_side: str, held: Decimal) -> tuple[str, Decimal]:
    """A side and quantity that a leg of hedge mode can bear: it closes no more than is held."""
    opens = "buy" if position_side == "long" else "sell"
    if side == opens or not held:
        return opens, quantity
    return side, min(quantity, held)


def random_fee(chance: random.Random, instrument: Instrument, *, hedge: bool) -> dict[str, Any]:
    in_base = {"fee": Decimal("0.0125"), "fee_asset": instrument.base}
    kinds = {
        "none": {},
        "settle": {"fee": Decimal(chance.choice(["0.01", "-0.003"])), "fee_asset": instrument.settle},
        "third": {"fee": Decimal("0.0007"), "fee_asset": "BNB", "fee_rate": Decimal("612.5")},
        "unpriced": {"fee": Decimal("0.0007"), "fee_asset": "BNB"},
        "base": in_base if instrument.market == "spot" and not hedge else {},
    }
    fee: dict[str, Any] = kinds[chance.choice(list(kinds))]
    return fee


def as_csv(fills: list[tuple[Instrument, Fill]]) -> str:
    def line(instrument: Instrument, fill: Fill) -> str:
        cells = (
            *(instrument.symbol, fill.side, f"{fill.quantity:f}", f"{fill.price:f}", f"{fill.fee:f}"),
            *(fill.fee_asset, fill.fee_rate, fill.executed_at, fill.trade_id),
            *(f"'{fill.strategy}" if fill.strategy[:1] == "=" else fill.strategy, fill.position_side),
            fill.rate_to_reporting,
        )
        return ",".join("" if cell is None else str(cell) for cell in cells)

    return HEADER + "".join(f"{line(*fill)}\n" for fill in fills)


async def record(engine: AsyncEngine, holder: Holder, fills: list[tuple[Instrument, Fill]]) -> None:
    """Record fills one by one, each in a transaction of its own."""
    for instrument, fill in fills:
        async with transaction(engine) as connection:
            await UserRepository(connection).advance(holder.user_id)
            standing = await PositionRepository(connection).standing(
                holder.user_id, holder.account_id, instrument.symbol, fill.strategy, fill.position_side
            )
            now = datetime.now(UTC)
            await record_fill(connection, holder, instrument, fill, standing, source="api", now=now, max_open=1000)


async def settle(engine: AsyncEngine, *symbols: str) -> None:
    """Funding stamps each eight hours, from before the first fill to after the last."""
    async with transaction(engine) as connection:
        for symbol in symbols:
            for number in range(12):
                at = datetime(2023, 12, 31, tzinfo=UTC) + timedelta(hours=8 * number)
                stamp = {"symbol": symbol, "at": at, "rate": Decimal("0.0001"), "mark": Decimal(3000 + number)}
                await connection.execute(insert(funding_rates).values(**stamp))


@pytest.fixture(params=[7, 5000], ids=["written every 7 fills", "written at once"])
def written_every(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many fills are booked before their rows are written."""
    monkeypatch.setattr(booking, "_AT_ONCE", request.param)


@pytest.mark.usefixtures("written_every")
async def test_an_import_equals_recording_its_fills_one_by_one(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder
) -> None:
    fills = random_fills(1, 45)
    await record(engine, alice, fills)

    outcome = await office.take(bob, as_csv(fills))

    assert (outcome.state, office.last.faults.kept) == ("done", [])
    assert await ledger_of(engine, bob) == await ledger_of(engine, alice)


async def test_the_legs_of_hedge_mode_are_chains_of_their_own(engine: AsyncEngine, office: Office) -> None:
    carol, dave = await new_holder(engine, "carol", "hedge"), await new_holder(engine, "dave", "hedge")
    fills = random_fills(3, 30, hedge=True)
    await record(engine, carol, fills)

    outcome = await office.take(dave, as_csv(fills))

    assert (outcome.state, office.last.faults.kept) == ("done", [])
    assert await ledger_of(engine, dave) == await ledger_of(engine, carol)


async def test_rows_in_any_order_are_booked_by_time(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder
) -> None:
    # No two at one instant: of those the order of the file decides.
    distinct = {fill.executed_at: (instrument, fill) for instrument, fill in random_fills(4, 40)}
    ordered = [distinct[at] for at in sorted(distinct)]
    await record(engine, alice, ordered)

    shuffled = random.Random(5).sample(ordered, len(ordered))
    outcome = await office.take(bob, as_csv(shuffled))

    assert outcome.state == "done"
    assert await ledger_of(engine, bob) == await ledger_of(engine, alice)


async def test_an_import_goes_on_from_what_stands(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder
) -> None:
    fills = random_fills(6, 50)
    await office.take(alice, as_csv(fills))
    await record(engine, bob, fills[:25])

    outcome = await office.take(bob, as_csv(fills[25:]))

    assert outcome.state == "done"
    assert await ledger_of(engine, bob) == await ledger_of(engine, alice)


@pytest.mark.usefixtures("written_every")
async def test_fills_that_happened_before_others_are_booked_in_their_place(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder
) -> None:
    distinct = {fill.executed_at: (instrument, fill) for instrument, fill in random_fills(7, 150)}
    ordered = [distinct[at] for at in sorted(distinct)]
    late = random.Random(7).sample(ordered, len(ordered) // 3)
    early = [fill for fill in ordered if fill not in late]
    await settle(engine, "BTCUSDT_PERP", "BTCUSD_PERP")
    await office.take(alice, as_csv(ordered))
    await office.take(bob, as_csv(early))

    outcome = await office.take(bob, as_csv(late))

    assert (outcome.state, office.last.faults.kept) == ("done", [])
    # How often a row was written differs, and nothing else does.
    expected = await ledger_of(engine, alice, with_versions=False)
    assert await ledger_of(engine, bob, with_versions=False) == expected


async def test_funding_is_paid_as_if_the_fills_had_been_recorded_when_they_happened(
    engine: AsyncEngine, office: Office, alice: Holder, bob: Holder
) -> None:
    fills = [(one, fill) for one, fill in random_fills(9, 60) if one.market != "spot"]
    await settle(engine, "BTCUSDT_PERP", "BTCUSD_PERP")
    await record(engine, alice, fills)

    outcome = await office.take(bob, as_csv(fills))

    assert (outcome.state, office.last.faults.kept) == ("done", [])
    ledger = await ledger_of(engine, bob, with_versions=False)
    assert ledger == await ledger_of(engine, alice, with_versions=False)
    assert len(ledger["payments"]) > 10


async def test_a_fill_deleted_by_hand_does_not_come_back(engine: AsyncEngine, office: Office, alice: Holder) -> None:
    fills = [fill for fill in random_fills(10, 30) if fill[0].symbol == "BTCUSDT"]
    await office.take(alice, as_csv(fills))
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                "WITH gone AS (DELETE FROM trades WHERE trade_id = :id RETURNING *) INSERT INTO deleted_trades"
                " SELECT id, user_id, account_id, symbol, trade_id, now() FROM gone"
            ),
            {"id": fills[0][1].trade_id},
        )

    await office.take(alice, as_csv(fills))

    assert (office.last.progress.rows_booked, office.last.progress.repeated_in_ledger) == (0, len(fills))


async def test_positions_keep_id_and_note_where_the_same_fill_opens_them(
    engine: AsyncEngine, office: Office, alice: Holder
) -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)

    def fill(side: Any, hours: int, trade_id: str) -> tuple[Instrument, Fill]:
        executed_at = at + timedelta(hours=hours)
        made = Fill(side=side, quantity=Decimal(1), price=Decimal(9), executed_at=executed_at, trade_id=trade_id)
        return BY_SYMBOL["BTCUSDT"], made

    await record(engine, alice, [fill("buy", 1, "a"), fill("sell", 2, "b"), fill("buy", 5, "c")])
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE positions SET note = 'mine', version = 7"))
        before = list(await connection.scalars(text("SELECT id::text FROM positions ORDER BY opened_at")))

    assert (await office.take(alice, as_csv([fill("buy", 3, "d"), fill("sell", 4, "e")]))).state == "done"

    async with transaction(engine) as connection:
        rows = list(
            await connection.execute(text("SELECT id::text, note, version, status FROM positions ORDER BY opened_at"))
        )
    assert [row[0] for row in rows[::2]] == before
    assert [tuple(row[1:]) for row in rows] == [("mine", 7, "closed"), ("", 2, "closed"), ("mine", 8, "open")]
