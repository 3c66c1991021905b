"""The whole ledger of a user against its replay: what reconciliation trusts, said as a test."""

from typing import Any

import msgspec
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Cycle, replay_cycles
from app.domain.instruments import Instrument
from app.domain.trades import ChainKey, Trade
from app.repositories.funding_payments import FundingPaymentRepository
from app.repositories.positions import PositionRepository
from app.repositories.tables import funding_payments, positions, trades
from app.repositories.trades import TRADE_COLUMNS, to_trade


async def differences(connection: AsyncConnection, user_id: str, listed: Instrument, currency: str) -> list[str]:
    """What of a user's rows is not, to the last digit, what the replay of all his fills gives."""
    rows = await connection.execute(select(*TRADE_COLUMNS).where(trades.c.user_id == user_id))
    chains: dict[ChainKey, list[Trade]] = {}
    for row in rows:
        trade = to_trade(row)
        chains.setdefault(trade.chain, []).append(trade)
    ids = [str(one) for one in await connection.scalars(select(positions.c.id).where(positions.c.user_id == user_id))]
    stored = {one.position_id: one for one in await PositionRepository(connection).of_ids(user_id, ids)}
    payments = await FundingPaymentRepository(connection).of_positions(ids)
    rates = {one.payment.at: one.payment.rate_to_reporting for one in payments}
    found: list[str] = []
    seen: set[str] = set()
    for key, fills in chains.items():
        stamps = [
            msgspec.structs.replace(stamp, rate_to_reporting=rates.get(stamp.at))
            for stamp in await FundingPaymentRepository(connection).stamps(
                key.symbol, min(fill.executed_at for fill in fills)
            )
        ]
        by_id = {fill.fill_id: fill for fill in fills}
        for cycle in replay_cycles(listed, fills, stamps if listed.market != "spot" else [], currency=currency):
            opener = by_id[cycle.opened_by]
            position_id = opener.opened_position_id if cycle.is_opened_by_rest else opener.position_id
            assert position_id is not None
            seen.add(position_id)
            row = stored.get(position_id)
            if row is None or _figures(row) != _figures_of(cycle):
                found.append(f"{key}: {cycle} is stored as {row}")
            elif (row.strategy, row.position_side, row.account_id) != (key.strategy, key.position_side, key.account_id):
                found.append(f"{key}: {row} is in another chain")
            paid = {one.payment for one in payments if one.position_id == position_id}
            if paid != set(cycle.payments):
                found.append(f"{key}: {paid} was paid, not {cycle.payments}")
            for fill_id in cycle.fill_ids:
                if position_id not in (by_id[fill_id].position_id, by_id[fill_id].opened_position_id):
                    found.append(f"{key}: fill {fill_id} is not of {position_id}")
    found += [f"{one} has no fills" for one in stored if one not in seen]
    return found


def _figures(position: Any) -> tuple[Any, ...]:
    return (
        position.state,
        position.converted,
        position.status == "open",
        position.opened_at,
        position.closed_at,
    )


def _figures_of(cycle: Cycle) -> tuple[Any, ...]:
    return (cycle.state, cycle.converted, cycle.closed_at is None, cycle.opened_at, cycle.closed_at)


async def tamper(connection: AsyncConnection, user_id: str) -> None:
    """Change one row by the least there is."""
    await connection.execute(
        text(
            "UPDATE positions SET cash = cash + 1e-36 WHERE id = (SELECT id FROM positions WHERE user_id = :u LIMIT 1)"
        ),
        {"u": user_id},
    )
