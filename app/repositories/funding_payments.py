"""What positions received or paid at funding stamps, and the stamps that say so."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, DateTime, Uuid, bindparam, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Payment
from app.domain.ledger import Funding
from app.repositories.paging import Place, precedes
from app.repositories.rows import any_of
from app.repositories.tables import funding_payments as payments
from app.repositories.tables import funding_rates as rates

_COLUMNS: Final = (
    payments.c.position_id,
    payments.c.symbol,
    payments.c.at,
    payments.c.signed_qty,
    payments.c.mark,
    payments.c.rate,
    payments.c.amount,
    payments.c.rate_to_reporting,
)

_REMOVE: Final = text(
    """
    DELETE FROM funding_payments USING unnest(:ids, :times) AS gone (position_id, at)
    WHERE funding_payments.position_id = gone.position_id AND funding_payments.at = gone.at
    """
).bindparams(
    bindparam("ids", type_=ARRAY(Uuid(as_uuid=False))), bindparam("times", type_=ARRAY(DateTime(timezone=True)))
)


class PaidFunding(msgspec.Struct, frozen=True):
    """A payment, and whose it is."""

    position_id: str
    symbol: str
    payment: Payment


class FundingPaymentRepository:
    """Reads and writes payments within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def stamps(self, symbol: str, since: datetime) -> list[Funding]:
        """The settled stamps of a contract from a moment on, oldest first."""
        query = (
            select(rates.c.at, rates.c.mark, rates.c.rate)
            .where(rates.c.symbol == symbol, rates.c.at >= since)
            .order_by(rates.c.at)
        )
        rows = await self._connection.execute(query)
        return [Funding(at=at, mark=mark, rate=rate) for at, mark, rate in rows]

    async def has_stamp_since(self, symbol: str, moment: datetime) -> bool:
        """Whether a stamp of a contract was settled at or after a moment."""
        query = select(rates.c.at).where(rates.c.symbol == symbol, rates.c.at >= moment).limit(1)
        return await self._connection.scalar(query) is not None

    async def of_positions(self, position_ids: Sequence[str]) -> list[PaidFunding]:
        """All payments of these positions, the oldest first."""
        if not position_ids:
            return []
        query = select(*_COLUMNS).where(any_of(payments.c.position_id, position_ids)).order_by(payments.c.at)
        return [_to_paid(row) for row in await self._connection.execute(query)]

    async def page(
        self, user_id: str, *, limit: int, after: Place | None = None, symbol: str | None = None
    ) -> list[PaidFunding]:
        """Up to ``limit`` payments of a user, newest first, that follow ``after`` in that order."""
        query = select(*_COLUMNS).where(payments.c.user_id == user_id)
        if symbol is not None:
            query = query.where(payments.c.symbol == symbol)
        if after is not None:
            query = query.where(precedes(after, payments.c.at, payments.c.position_id))
        query = query.order_by(payments.c.at.desc(), payments.c.position_id.desc()).limit(limit)
        return [_to_paid(row) for row in await self._connection.execute(query)]

    async def add(self, user_id: str, paid: Iterable[PaidFunding]) -> None:
        """Record payments. The key refuses a second one of a position at a stamp."""
        values = [
            {
                "position_id": one.position_id,
                "user_id": user_id,
                "symbol": one.symbol,
                **msgspec.structs.asdict(one.payment),
            }
            for one in paid
        ]
        if values:
            await self._connection.execute(insert(payments), values)

    async def remove(self, paid: Iterable[PaidFunding]) -> None:
        """Take payments away that a replay does not find."""
        gone = list(paid)
        if gone:
            parameters = {"ids": [one.position_id for one in gone], "times": [one.payment.at for one in gone]}
            await self._connection.execute(_REMOVE, parameters)


def _to_paid(row: Sequence[Any]) -> PaidFunding:
    position_id, symbol, at, signed_qty, mark, rate, amount, rate_to_reporting = row
    payment = Payment(
        at=at, signed_qty=signed_qty, mark=mark, rate=rate, amount=amount, rate_to_reporting=rate_to_reporting
    )
    return PaidFunding(position_id, symbol, payment)
