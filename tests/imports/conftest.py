"""A desk on real servers, files on it, and the ledger that comes of them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.prices import write_instruments
from app.domain.imports import StoredTerms
from app.domain.instruments import Instrument
from app.imports.job import Desk, ImportJob, Outcome
from app.repositories.accounts import AccountRepository
from app.repositories.database import create_engine, transaction
from app.repositories.fills import Holder
from app.repositories.imports import ImportRepository
from app.repositories.users import UserRepository


def listed(symbol: str, base: str, quote: str, **more: Any) -> Instrument:
    market = more.pop("market", "spot")
    settle = base if market == "inverse" else quote
    sizes = {"tick_size": Decimal("0.01"), "step_size": Decimal("0.00001")}
    return Instrument(symbol=symbol, market=market, base=base, quote=quote, settle=settle, **sizes, **more)


INSTRUMENTS = [
    listed("BTCUSDT", "BTC", "USDT"),
    listed("ETHUSDT", "ETH", "USDT"),
    listed("BNBUSDT", "BNB", "USDT"),
    listed("1INCHUSDT", "1INCH", "USDT"),
    listed("ETHBTC", "ETH", "BTC"),
    listed("BTCUSDT_PERP", "BTC", "USDT", market="linear", venue_symbol="BTCUSDT"),
    listed("BTCUSDT_260327", "BTC", "USDT", market="linear"),
    listed("BTCUSD_PERP", "BTC", "USD", market="inverse", multiplier=Decimal(100)),
]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=5, timeout_s=30)
    yield made
    await made.dispose()


async def new_holder(engine: AsyncEngine, username: str, mode: Any = "one_way") -> Holder:
    async with transaction(engine) as connection:
        user_id = await UserRepository(connection).create(username, "x")
        account_id = await AccountRepository(connection).create(user_id, "Main", "manual", "USDT", position_mode=mode)
    return Holder(user_id, account_id, "USDT")


@dataclass
class Office:
    """Imports files as a worker does, without the process around it."""

    desk: Desk
    folder: Path
    jobs: list[ImportJob] = field(default_factory=list)

    async def ask(self, holder: Holder, content: str | bytes, *, dry: bool = False, **terms: Any) -> ImportJob:
        """A job on a file that the desk holds."""
        import_id = str(uuid4())
        path = self.folder / import_id
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        async with transaction(self.desk.database) as connection:
            repository = ImportRepository(connection)
            await repository.add(
                import_id=import_id,
                user_id=holder.user_id,
                account_id=holder.account_id,
                is_dry_run=dry,
                terms=StoredTerms(**terms),
                size_bytes=path.stat().st_size,
            )
            assert await repository.take(import_id, self.desk.holder, 60)
            one = await repository.find(import_id)
        assert one is not None
        job = ImportJob(self.desk, one, path)
        self.jobs.append(job)
        return job

    def allow_open(self, positions: int) -> None:
        """Let users have so many open positions."""
        self.desk = replace(self.desk, max_open_positions=positions)

    def by(self, holder: str, job: ImportJob) -> ImportJob:
        """The same import worked on by somebody."""
        return ImportJob(replace(self.desk, holder=holder), job.one, self.folder / job.import_id)

    async def take(self, holder: Holder, content: str | bytes, **terms: Any) -> Outcome:
        """Import a file."""
        return await (await self.ask(holder, content, **terms)).run()

    @property
    def last(self) -> ImportJob:
        return self.jobs[-1]


@pytest.fixture
async def office(engine: AsyncEngine, redis: Redis, tmp_path: Path) -> Office:
    await write_instruments(redis, INSTRUMENTS, 5.0)
    desk = Desk(database=engine, redis=redis, redis_timeout_s=5.0, holder="desk", max_open_positions=1000)
    return Office(desk, tmp_path)


@pytest.fixture
async def alice(engine: AsyncEngine) -> Holder:
    return await new_holder(engine, "alice")


@pytest.fixture
async def bob(engine: AsyncEngine) -> Holder:
    return await new_holder(engine, "bob")


_POSITIONS = """
    SELECT symbol, position_side, strategy, status, signed_qty, cost, cash, fees, funding, fees_unpriced,
           realized_pnl_gross, fees_published, converted_gross, converted_fees, is_converted, reported_gross,
           opened_at, closed_at, {version}
           (SELECT array_agg(t.trade_id ORDER BY t.executed_at, t.created_at, t.id) FROM trades t
            WHERE t.position_id = p.id OR t.opened_position_id = p.id) AS fills
    FROM positions p WHERE user_id = :user ORDER BY symbol, position_side, strategy, opened_at, fills
"""
_TRADES = """
    SELECT symbol, position_side, strategy, side, quantity, price, fee, fee_asset, fee_rate, rate_to_reporting,
           trade_id, executed_at
    FROM trades WHERE user_id = :user ORDER BY symbol, position_side, strategy, executed_at, created_at, id
"""
_PAYMENTS = """
    SELECT f.symbol, p.strategy, p.position_side, f.at, f.signed_qty, f.mark, f.rate, f.amount, f.rate_to_reporting
    FROM funding_payments f JOIN positions p ON p.id = f.position_id
    WHERE f.user_id = :user ORDER BY f.symbol, p.strategy, p.position_side, f.at
"""


async def ledger_of(engine: AsyncEngine, holder: Holder, *, with_versions: bool = True) -> dict[str, list[Any]]:
    """All that the ledger says of a user, but for ids and when it was written."""
    async with transaction(engine) as connection:
        version = "version," if with_versions else ""
        positions = await connection.execute(text(_POSITIONS.format(version=version)), {"user": holder.user_id})
        trades = await connection.execute(text(_TRADES), {"user": holder.user_id})
        payments = await connection.execute(text(_PAYMENTS), {"user": holder.user_id})
        found = {"positions": positions, "trades": trades, "payments": payments}
        return {name: [tuple(row) for row in rows] for name, rows in found.items()}
