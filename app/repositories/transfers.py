"""Money that came to an account or left it without a trade."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import uuid4

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.decimals import convert_units, from_units, to_units
from app.repositories.paging import Place, precedes
from app.repositories.tables import transfers

TransferKind = Literal["deposit", "withdrawal", "internal", "adjustment"]


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What came (positive) or went (negative), and its worth in the reporting currency at its time.

    An ``adjustment`` counts as realised profit or loss; the others are flows,
    which change equity and no profit. ``rate_to_reporting`` is None where it was
    not known, and then nothing that needs it is complete.
    """

    transfer_id: str
    user_id: str
    account_id: str
    kind: TransferKind
    asset: str
    amount: Decimal
    rate_to_reporting: Decimal | None
    note: str
    other_account_id: str | None
    at: datetime
    created_at: datetime


_COLUMNS: Final = (
    transfers.c.id,
    transfers.c.user_id,
    transfers.c.account_id,
    transfers.c.kind,
    transfers.c.asset,
    transfers.c.amount,
    transfers.c.rate_to_reporting,
    transfers.c.note,
    transfers.c.other_account_id,
    transfers.c.at,
    transfers.c.created_at,
)
_FIELDS: Final = Transfer.__struct_fields__


class TransferRepository:
    """Reads and writes transfers within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self,
        *,
        user_id: str,
        account_id: str,
        kind: TransferKind,
        asset: str,
        amount: Decimal,
        rate_to_reporting: Decimal | None,
        note: str,
        at: datetime,
        now: datetime,
        other_account_id: str | None = None,
    ) -> Transfer:
        """Record a transfer; it is never changed."""
        transfer = Transfer(
            transfer_id=str(uuid4()),
            user_id=user_id,
            account_id=account_id,
            kind=kind,
            asset=asset,
            amount=amount,
            rate_to_reporting=rate_to_reporting,
            note=note,
            other_account_id=other_account_id,
            at=at,
            created_at=now,
        )
        values = dict(zip((column.name for column in _COLUMNS), msgspec.structs.astuple(transfer), strict=True))
        await self._connection.execute(
            insert(transfers).values(**values, reported=_reported(amount, rate_to_reporting))
        )
        return transfer

    async def page(self, account_id: str, *, limit: int, after: Place | None = None) -> list[Transfer]:
        """Up to ``limit`` transfers of an account, newest first, that follow ``after`` in that order."""
        query = select(*_COLUMNS).where(transfers.c.account_id == account_id)
        if after is not None:
            query = query.where(precedes(after, transfers.c.at, transfers.c.id))
        query = query.order_by(transfers.c.at.desc(), transfers.c.id.desc()).limit(limit)
        return [_to_transfer(row) for row in await self._connection.execute(query)]


def _reported(amount: Decimal, rate: Decimal | None) -> Decimal | None:
    return None if rate is None else from_units(convert_units(to_units(amount), rate))


def _to_transfer(row: Sequence[Any]) -> Transfer:
    return Transfer(**dict(zip(_FIELDS, row, strict=True)))
