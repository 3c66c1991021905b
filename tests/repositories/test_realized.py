"""The report of what was realised reads long histories in parts, and says what a plain list of lots says."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import get_args

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.lots import Method, realized_by_lots
from app.repositories.database import snapshot, transaction
from app.repositories.fills import Holder
from app.repositories.realized import ChainRealized, RealizedRepository, TooManyFills, Wanted
from app.repositories.tables import trades
from app.repositories.trades import TRADE_COLUMNS, to_trade

from .conftest import fill, instrument

START = datetime(2026, 3, 2, tzinfo=UTC)


async def many_fills(engine: AsyncEngine, holder: Holder, count: int) -> None:
    """So many fills of one position, an hour apart, in ever other sizes and directions."""
    await fill(engine, holder, "buy", "1", "100", executed_at=START)
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                "INSERT INTO trades (id, user_id, account_id, symbol, position_id, side, quantity, price, fee,"
                " executed_at, source) SELECT gen_random_uuid(), user_id, account_id, symbol, position_id,"
                " CASE WHEN n % 3 = 0 THEN 'buy' ELSE 'sell' END, 1 + n % 5, 100 + n % 7, 0.1,"
                " executed_at + n * interval '1 hour', source FROM trades, generate_series(2, :count) n"
            ),
            {"count": count},
        )


async def report(engine: AsyncEngine, wanted: Wanted) -> list[ChainRealized]:
    async with snapshot(engine) as connection:
        return [chain async for chain in RealizedRepository(connection).chains(wanted)]


async def test_many_fills_are_read_a_part_at_a_time(engine: AsyncEngine, alice: Holder) -> None:
    await many_fills(engine, alice, 2500)
    since, until = START + timedelta(hours=700), START + timedelta(hours=2200)
    async with transaction(engine) as connection:
        fills = [
            to_trade(row).fill
            for row in await connection.execute(select(*TRADE_COLUMNS).order_by(trades.c.executed_at))
        ]

    for method in get_args(Method):
        [chain] = await report(engine, Wanted(alice.user_id, method, since, until))

        plain = realized_by_lots(instrument(), fills, method, since=since, until=until)
        assert (chain.sums.gross, chain.sums.fees) == (plain.realized_pnl_gross, plain.fees)
        assert chain.sums.quantity == sum(abs(one.signed_qty) for one in plain.disposals)
        assert chain.sums.closing_fills == len({one.closed_at for one in plain.disposals})


async def test_chains_are_told_apart(engine: AsyncEngine, alice: Holder) -> None:
    for strategy, price in [("", "110"), ("s", "120")]:
        await fill(engine, alice, "buy", "1", "100", strategy=strategy)
        await fill(engine, alice, "sell", "1", price, strategy=strategy)

    found = await report(engine, Wanted(alice.user_id))
    only = await report(engine, Wanted(alice.user_id, strategy="s"))

    assert [(one.key.strategy, one.sums.gross) for one in found] == [("", Decimal(10)), ("s", Decimal(20))]
    assert [one.key.strategy for one in only] == ["s"]


async def test_more_fills_than_one_report_may_read_are_refused(engine: AsyncEngine, alice: Holder) -> None:
    await many_fills(engine, alice, 20)

    async with snapshot(engine) as connection:
        with pytest.raises(TooManyFills):
            [_ async for _ in RealizedRepository(connection, most_fills=10).chains(Wanted(alice.user_id))]
