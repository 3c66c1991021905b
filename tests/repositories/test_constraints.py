"""What must never be stored is refused by the database itself, whoever writes."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.database import transaction, violated
from app.repositories.fills import Holder

from .conftest import fill

NOT_NUMBERS = ["'NaN'", "'Infinity'", "'-Infinity'"]


async def refusal(engine: AsyncEngine, statement: str) -> str | None:
    """The constraint that refuses a statement, None if it is carried out."""
    try:
        async with transaction(engine) as connection:
            await connection.execute(text(statement))
    except IntegrityError as error:
        return violated(error)
    return None


@pytest.mark.parametrize("column", ["signed_qty", "cost", "cash", "fees", "funding", "realized_pnl_gross"])
async def test_positions_hold_only_numbers(engine: AsyncEngine, alice: Holder, column: str) -> None:
    await fill(engine, alice, "buy", "1", "100")

    for value in NOT_NUMBERS:
        refused = await refusal(engine, f"UPDATE positions SET {column} = {value}")
        assert refused == "ck_positions_finite", value
    assert await refusal(engine, f"UPDATE positions SET {column} = 2") is None


@pytest.mark.parametrize("column", ["quantity", "price", "fee_rate"])
async def test_trades_hold_only_positive_numbers(engine: AsyncEngine, alice: Holder, column: str) -> None:
    await fill(engine, alice, "buy", "1", "100")

    for value in [*NOT_NUMBERS, "0", "-1"]:
        assert await refusal(engine, f"UPDATE trades SET {column} = {value}") == "ck_trades_positive", value
    for value in NOT_NUMBERS:
        assert await refusal(engine, f"UPDATE trades SET fee = {value}") == "ck_trades_finite", value


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'closed'", "ck_positions_closed_at"),
        ("status = 'closed', closed_at = now()", "ck_positions_flat_is_closed"),
        ("signed_qty = 0", "ck_positions_flat_is_closed"),
        ("take_profit = 'NaN'", "ck_positions_positive"),
        ("stop_loss = 0", "ck_positions_positive"),
        ("position_side = 'both'", "ck_positions_position_side"),
        ("version = 0", "ck_positions_version"),
    ],
)
async def test_positions_cannot_contradict_themselves(
    engine: AsyncEngine, alice: Holder, change: str, constraint: str
) -> None:
    await fill(engine, alice, "buy", "1", "100")

    assert await refusal(engine, f"UPDATE positions SET {change}") == constraint
