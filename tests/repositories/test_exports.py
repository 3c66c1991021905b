"""Exports are read a few rows at a time, however many there are."""

import tracemalloc

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.database import transaction
from app.repositories.exports import ROWS_AT_ONCE, Wanted, export_rows
from app.repositories.fills import Holder

from .conftest import fill

MANY = """
    INSERT INTO trades (id, user_id, account_id, symbol, position_id, side, quantity, price, executed_at, source)
    SELECT gen_random_uuid(), user_id, account_id, symbol, position_id, side, quantity, price, executed_at, source
    FROM trades, generate_series(1, 5000)
"""


async def test_an_export_needs_memory_for_a_page_and_not_for_a_table(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")
    async with transaction(engine) as connection:
        await connection.execute(text(MANY))
    count = 0
    tracemalloc.start()
    try:
        async for rows in export_rows(engine, Wanted(user_id=alice.user_id, table="trades"), {}):
            assert len(rows) <= ROWS_AT_ONCE
            count += len(rows)
        _, peak = tracemalloc.get_traced_memory()
        kept = [rows async for rows in export_rows(engine, Wanted(user_id=alice.user_id, table="trades"), {})]
        _, control = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert count == sum(map(len, kept)) == 5001
    # The control: all of them at once take far more.
    assert 2 * peak < control
