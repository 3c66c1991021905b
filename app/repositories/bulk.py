"""Many rows of the ledger at once: what :mod:`app.repositories.fills` writes for one fill, for thousands.

Every method works within the caller's transaction, under the user's lock, and
raises DatabaseUnavailable where the driver's own copying fails.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, Text, Uuid, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Payment
from app.domain.import_chain import PositionChange, Touched
from app.domain.ledger import FLAT, Fill, Funding, PositionSide
from app.domain.positions import Converted, Position
from app.domain.trades import Trade
from app.repositories.copy import NULL, copy_in, copy_line, copy_text
from app.repositories.funding_payments import FundingPaymentRepository, PaidFunding
from app.repositories.positions import PositionChanged
from app.repositories.rows import converted_values, instrument_values, state_values
from app.repositories.tables import deleted_trades, positions, trades
from app.repositories.trades import TRADE_COLUMNS, to_trade

_READ_AT_ONCE: Final = 2000
_UUIDS: Final = ARRAY(Uuid(as_uuid=False))

_TRADE: Final = (
    *("id", "user_id", "account_id", "symbol", "position_id", "opened_position_id", "side", "quantity", "price"),
    *("fee", "fee_asset", "fee_rate", "trade_id", "strategy", "position_side", "rate_to_reporting", "source"),
    *("executed_at", "created_at"),
)

_NOT_CONVERTED: Final[Mapping[str, Any]] = {**dict.fromkeys(converted_values(Converted())), "is_converted": True}
"""The columns of figures in the reporting currency, where the settle asset is that currency."""

_POSITION: Final = (
    *("id", "user_id", "account_id", "symbol", "market", "base", "quote", "settle", "multiplier", "tick_size"),
    *("step_size", "position_side", "strategy", *state_values(FLAT), *_NOT_CONVERTED),
    *("status", "opened_at", "updated_at", "closed_at", "version"),
)

_KNOWN: Final = text(
    """
    SELECT trade_id, side, quantity, price FROM trades
    WHERE account_id = CAST(:account AS uuid) AND symbol = :symbol AND trade_id = ANY(:trade_ids)
    UNION ALL
    SELECT 'fill:' || id, side, quantity, price FROM trades
    WHERE account_id = CAST(:account AS uuid) AND id = ANY(:fill_ids)
    """
).bindparams(bindparam("trade_ids", type_=ARRAY(Text)), bindparam("fill_ids", type_=_UUIDS))

# Deleted by hand: its id stays reserved, and no file brings it back.
_DELETED: Final = text(
    """
    SELECT trade_id FROM deleted_trades
    WHERE account_id = CAST(:account AS uuid) AND symbol = :symbol AND trade_id = ANY(:trade_ids)
    UNION ALL
    SELECT 'fill:' || fill_id FROM deleted_trades WHERE account_id = CAST(:account AS uuid) AND fill_id = ANY(:fill_ids)
    """
).bindparams(bindparam("trade_ids", type_=ARRAY(Text)), bindparam("fill_ids", type_=_UUIDS))

_PAID: Final = text(
    """
    SELECT f.at, f.rate_to_reporting FROM funding_payments f JOIN positions p ON p.id = f.position_id
    WHERE p.account_id = CAST(:account AS uuid) AND p.symbol = :symbol AND p.position_side = :side
      AND p.strategy = :strategy
    """
)

_FORGET_PAID: Final = text(
    """
    DELETE FROM funding_payments USING positions p
    WHERE p.id = funding_payments.position_id AND p.account_id = CAST(:account AS uuid) AND p.symbol = :symbol
      AND p.position_side = :side AND p.strategy = :strategy
    """
)

_REASSIGN: Final = text(
    """
    UPDATE trades SET position_id = new.position_id, opened_position_id = new.opened_position_id
    FROM unnest(:ids, :positions, :opened) AS new (id, position_id, opened_position_id)
    WHERE trades.id = new.id
    """
).bindparams(bindparam("ids", type_=_UUIDS), bindparam("positions", type_=_UUIDS), bindparam("opened", type_=_UUIDS))

_SUSPEND: Final = text(
    """
    UPDATE positions SET status = 'closed', signed_qty = 0, closed_at = opened_at
    WHERE account_id = CAST(:account AS uuid) AND symbol = :symbol AND position_side = :side
      AND strategy = :strategy AND status = 'open'
    """
)

_FORGET_EMPTY: Final = text(
    """
    DELETE FROM positions
    WHERE account_id = CAST(:account AS uuid) AND symbol = :symbol AND position_side = :side AND strategy = :strategy
      AND NOT EXISTS (SELECT FROM trades WHERE trades.position_id = positions.id)
      AND NOT EXISTS (SELECT FROM trades WHERE trades.opened_position_id = positions.id)
    """
)


class StoredFill(msgspec.Struct, frozen=True):
    """What is known of a fill in the ledger by its trade id."""

    side: str
    quantity: Decimal
    price: Decimal


class ChainPlace(msgspec.Struct, frozen=True):
    """Which chain: an account's symbol, side and strategy."""

    user_id: str
    account_id: str
    symbol: str
    position_side: PositionSide
    strategy: str


class StoredTrade(msgspec.Struct, frozen=True):
    """A trade of a chain. ``opens`` is the position that it opened, None where it opened none."""

    trade: Trade
    opens: str | None


class BulkLedger:
    """Reads and writes chains of fills."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def has_traded(self, user_id: str, account_id: str, symbol: str) -> bool:
        """Whether an account has trades of a symbol, or had some that were deleted."""
        for table in (trades, deleted_trades):
            query = select(table.c.symbol).where(
                table.c.user_id == user_id, table.c.account_id == account_id, table.c.symbol == symbol
            )
            if await self._connection.scalar(query.limit(1)) is not None:
                return True
        return False

    async def known(
        self, account_id: str, symbol: str, trade_ids: Sequence[str], fill_ids: Sequence[str]
    ) -> dict[str, StoredFill]:
        """Those of the trade ids that are in the ledger; ``fill:`` before an id means our own."""
        given = {"account": account_id, "symbol": symbol, "trade_ids": list(trade_ids), "fill_ids": list(fill_ids)}
        rows = await self._connection.execute(_KNOWN, given)
        return {trade_id: StoredFill(side, quantity, price) for trade_id, side, quantity, price in rows}

    async def deleted(
        self, account_id: str, symbol: str, trade_ids: Sequence[str], fill_ids: Sequence[str]
    ) -> set[str]:
        """Those of the trade ids whose fills were deleted by hand."""
        given = {"account": account_id, "symbol": symbol, "trade_ids": list(trade_ids), "fill_ids": list(fill_ids)}
        return set(await self._connection.scalars(_DELETED, given))

    async def stamps(self, chain: ChainPlace, since: datetime) -> list[Funding]:
        """The settled stamps of a chain's contract, at the exchange rates under which they were applied before."""
        settled = await FundingPaymentRepository(self._connection).stamps(chain.symbol, since)
        rates: dict[datetime, Decimal | None] = {}
        if settled:
            rates = {at: rate for at, rate in await self._connection.execute(_PAID, _named(chain))}
        return [msgspec.structs.replace(stamp, rate_to_reporting=rates.get(stamp.at)) for stamp in settled]

    async def has_stamp_since(self, symbol: str, moment: datetime) -> bool:
        """Whether a contract was settled at or after a moment."""
        return await FundingPaymentRepository(self._connection).has_stamp_since(symbol, moment)

    async def first_at(self, chain: ChainPlace) -> datetime | None:
        """When the oldest fill of a chain happened."""
        query = select(trades.c.executed_at).where(*_of(chain)).order_by(trades.c.executed_at).limit(1)
        at: datetime | None = await self._connection.scalar(query)
        return at

    async def last_at(self, chain: ChainPlace) -> datetime | None:
        """When the newest fill of a chain happened."""
        query = select(trades.c.executed_at).where(*_of(chain)).order_by(trades.c.executed_at.desc()).limit(1)
        at: datetime | None = await self._connection.scalar(query)
        return at

    async def trades_of(self, chain: ChainPlace) -> AsyncGenerator[StoredTrade]:
        """The trades of a chain in ledger order, as they were when this began; by a cursor of the server."""
        query = (
            select(*TRADE_COLUMNS, positions.c.opened_at)
            .join_from(trades, positions, trades.c.position_id == positions.c.id)
            .where(*_of(chain))
            .order_by(trades.c.executed_at, trades.c.created_at, trades.c.id)
        )
        result = await self._connection.stream(query)
        async for page in result.partitions(_READ_AT_ONCE):
            for *columns, opened_at in page:
                trade = to_trade(columns)
                opens = trade.opened_position_id or (trade.position_id if opened_at == trade.executed_at else None)
                yield StoredTrade(trade, opens)

    async def suspend(self, chain: ChainPlace) -> None:
        """Make room for the positions and payments of a chain to be written anew: none of them stands meanwhile."""
        await self._connection.execute(_FORGET_PAID, _named(chain))
        await self._connection.execute(_SUSPEND, _named(chain))

    async def forget_empty(self, chain: ChainPlace) -> int:
        """Remove the positions of a chain that no trade belongs to any more; how many."""
        return (await self._connection.execute(_FORGET_EMPTY, _named(chain))).rowcount

    async def write_positions(self, changes: Sequence[PositionChange]) -> None:
        """Store positions, of each chain at most one that is open. Raises PositionChanged."""
        for is_open in (False, True):
            # What ends goes first: of a chain only one row may be open.
            part = [change for change in changes if (change.position.status == "open") is is_open]
            for change in part:
                if not change.is_new:
                    await self._update(change.position)
            new = [_position_values(change.position) for change in part if change.is_new]
            lines = [copy_line(row.get(column) for column in _POSITION) for row in new]
            await copy_in(self._connection, "positions", _POSITION, lines)

    async def write_trades(self, lines: list[str]) -> None:
        """Store trades, as lines of :func:`trade_line`."""
        await copy_in(self._connection, "trades", _TRADE, lines)

    async def write_payments(self, user_id: str, paid: Sequence[tuple[str, str, Payment]]) -> None:
        """Store funding payments: their symbols, their positions, what they are."""
        repository = FundingPaymentRepository(self._connection)
        await repository.add(user_id, [PaidFunding(position_id, symbol, one) for symbol, position_id, one in paid])

    async def reassign(self, moved: Sequence[tuple[str, Touched]]) -> None:
        """Say which positions stored trades belong to."""
        if moved:
            given = {
                "ids": [fill_id for fill_id, _ in moved],
                "positions": [touched.position_id for _, touched in moved],
                "opened": [touched.opened_position_id for _, touched in moved],
            }
            await self._connection.execute(_REASSIGN, given)

    async def _update(self, position: Position) -> None:
        statement = (
            update(positions)
            .where(positions.c.id == position.position_id, positions.c.user_id == position.user_id)
            # What a replay changed has fewer fills than before, perhaps, and is newer all the same.
            .values(**{**_moving_values(position), "version": func.greatest(positions.c.version + 1, position.version)})
            .returning(positions.c.version)
        )
        if await self._connection.scalar(statement) is None:
            raise PositionChanged(position.position_id)


def trade_line(fill_id: str, chain: ChainPlace, touched: Touched, fill: Fill, now: datetime) -> str:
    """A new trade as :meth:`BulkLedger.write_trades` takes it. Written out: it is made a million times."""
    assert fill.executed_at is not None
    return (
        f"{fill_id}\t{chain.user_id}\t{chain.account_id}\t{copy_text(chain.symbol)}\t{touched.position_id}\t"
        f"{touched.opened_position_id or NULL}\t{fill.side}\t{fill.quantity:f}\t{fill.price:f}\t{fill.fee:f}\t"
        f"{copy_text(fill.fee_asset)}\t{copy_text(fill.fee_rate)}\t{copy_text(fill.trade_id)}\t"
        f"{copy_text(fill.strategy)}\t{fill.position_side}\t{copy_text(fill.rate_to_reporting)}\timport\t"
        f"{fill.executed_at.isoformat()}\t{now.isoformat()}\n"
    )


def _of(chain: ChainPlace) -> tuple[Any, ...]:
    return (
        trades.c.user_id == chain.user_id,
        trades.c.symbol == chain.symbol,
        trades.c.account_id == chain.account_id,
        trades.c.strategy == chain.strategy,
        trades.c.position_side == chain.position_side,
    )


def _named(chain: ChainPlace) -> dict[str, str]:
    return {
        "account": chain.account_id,
        "symbol": chain.symbol,
        "side": chain.position_side,
        "strategy": chain.strategy,
    }


def _moving_values(position: Position) -> dict[str, Any]:
    return {
        **state_values(position.state),
        **converted_values(position.converted),
        "status": position.status,
        "opened_at": position.opened_at,
        "updated_at": position.updated_at,
        "closed_at": position.closed_at,
        "version": position.version,
    }


def _position_values(position: Position) -> dict[str, Any]:
    return {
        "id": position.position_id,
        "user_id": position.user_id,
        "account_id": position.account_id,
        **instrument_values(position.instrument),
        "position_side": position.position_side,
        "strategy": position.strategy,
        **_NOT_CONVERTED,
        **_moving_values(position),
    }
