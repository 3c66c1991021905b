"""An engine on a fresh database, a user in it, and fills recorded as the API records them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.instruments import Instrument
from app.domain.ledger import Fill, Side
from app.repositories.accounts import AccountRepository
from app.repositories.database import create_engine, transaction
from app.repositories.fills import Holder, Recorded, record_fill
from app.repositories.positions import PositionRepository
from app.repositories.transfers import Transfer, TransferKind, TransferRepository
from app.repositories.users import UserRepository


def instrument(symbol: str = "BTCUSDT", settle: str = "USDT") -> Instrument:
    return Instrument(
        symbol=symbol,
        market="spot",
        base=symbol.removesuffix(settle),
        quote=settle,
        settle=settle,
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.00001"),
    )


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=10, timeout_s=5)
    yield made
    await made.dispose()


async def new_user(engine: AsyncEngine, username: str) -> Holder:
    async with transaction(engine) as connection:
        user_id = await UserRepository(connection).create(username, "x")
        account_id = await AccountRepository(connection).create(user_id, "Main", "manual", "USDT")
    return Holder(user_id, account_id, "USDT")


@pytest.fixture
async def alice(engine: AsyncEngine) -> Holder:
    return await new_user(engine, "alice")


async def fill_within(
    connection: AsyncConnection,
    holder: Holder,
    side: Side,
    quantity: str,
    price: str,
    *,
    listed: Instrument | None = None,
    max_open: int = 1000,
    **more: Any,
) -> Recorded:
    """Record a fill in a transaction, without the user's lock."""
    listed = listed or instrument()
    fill = Fill(side=side, quantity=Decimal(quantity), price=Decimal(price), **more)
    standing = await PositionRepository(connection).standing(
        holder.user_id, holder.account_id, listed.symbol, fill.strategy, fill.position_side
    )
    return await record_fill(
        connection, holder, listed, fill, standing, source="api", now=datetime.now(UTC), max_open=max_open
    )


async def fill(engine: AsyncEngine, holder: Holder, side: Side, quantity: str, price: str, **more: Any) -> Recorded:
    """Record a fill in a transaction of its own, under the user's lock."""
    async with transaction(engine) as connection:
        await UserRepository(connection).advance(holder.user_id)
        return await fill_within(connection, holder, side, quantity, price, **more)


async def transfer(
    engine: AsyncEngine,
    holder: Holder,
    kind: TransferKind,
    amount: str,
    *,
    asset: str = "USDT",
    rate: str | None = "1",
    at: datetime | None = None,
) -> Transfer:
    """Record a transfer in a transaction of its own, under the user's lock."""
    now = datetime.now(UTC)
    async with transaction(engine) as connection:
        await UserRepository(connection).advance(holder.user_id)
        return await TransferRepository(connection).add(
            user_id=holder.user_id,
            account_id=holder.account_id,
            kind=kind,
            asset=asset,
            amount=Decimal(amount),
            rate_to_reporting=None if rate is None else Decimal(rate),
            note="",
            at=at or now,
            now=now,
        )
