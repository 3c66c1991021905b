"""The whole ledger of a user against its replay: what reconciliation trusts, said as a test."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Cycle, Payment, replay_cycles
from app.domain.instruments import Instrument
from app.domain.positions import Position
from app.domain.trades import ChainKey, Trade
from app.repositories.funding_payments import FundingPaymentRepository
from app.repositories.positions import PositionRepository
from app.repositories.tables import positions, trades
from app.repositories.trades import TRADE_COLUMNS, to_trade


async def differences(connection: AsyncConnection, user_id: str, listed: Instrument, currency: str) -> list[str]:
    """What of a user's rows is not, to the last digit, what the replay of all his fills gives."""
    chains: dict[ChainKey, list[Trade]] = {}
    for row in await connection.execute(select(*TRADE_COLUMNS).where(trades.c.user_id == user_id)):
        trade = to_trade(row)
        chains.setdefault(trade.chain, []).append(trade)
    ids = list(await connection.scalars(select(positions.c.id).where(positions.c.user_id == user_id)))
    repository = FundingPaymentRepository(connection)
    stored = {one.position_id: one for one in await PositionRepository(connection).of_ids(user_id, ids)}
    paid = await repository.of_positions(ids)
    stamps = [] if listed.market == "spot" else await repository.stamps(listed.symbol, datetime(2000, 1, 1, tzinfo=UTC))
    found: list[str] = []
    for key, fills in chains.items():
        for cycle in replay_cycles(listed, fills, stamps, currency=currency):
            members = [fill for fill in fills if fill.fill_id in cycle.fill_ids]
            [position_id] = set.intersection(*({one.position_id, one.opened_position_id} for one in members)) & {
                *stored
            } or {None}
            if position_id is None:
                found.append(f"{key}: nothing is stored of {cycle}")
                continue
            found += _compare(
                key, cycle, stored.pop(position_id), {one.payment for one in paid if one.position_id == position_id}
            )
    return found + [f"nothing makes {one}" for one in stored.values()]


def _compare(key: ChainKey, cycle: Cycle, row: Position, paid: set[Payment]) -> list[str]:
    found = []
    if _figures(row) != _figures_of(cycle):
        found.append(f"{cycle} is stored as {row}")
    if (row.strategy, row.position_side, row.account_id) != (key.strategy, key.position_side, key.account_id):
        found.append(f"{row} is not of {key}")
    if paid != set(cycle.payments):
        found.append(f"{row} was paid {paid}, not {cycle.payments}")
    return found


def _figures(position: Position) -> tuple[Any, ...]:
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
