"""The fills that made the positions of a period, with all that a replay of them needs."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import ARRAY, Uuid, bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.account_replay import PaidFunding, RecordedFill
from app.domain.ledger import Fill
from app.domain.positions import Position
from app.repositories.rows import POSITION_COLUMNS, position_reader
from app.repositories.tables import positions

_IDS: Final = bindparam("ids", type_=ARRAY(Uuid(as_uuid=False)))

# What a fill through zero opened can only be told from what it closed, so the cycle before belongs to it.
_CYCLES: Final = text(
    """
    WITH RECURSIVE wanted AS (
        SELECT id FROM positions
        WHERE user_id = :user_id AND account_id = ANY(:accounts) AND opened_at < :until
          AND (status = 'open' OR closed_at >= :since)
        UNION
        SELECT t.position_id FROM trades t JOIN wanted w ON t.opened_position_id = w.id
    )
    SELECT id::text FROM wanted LIMIT :limit
    """
).bindparams(bindparam("accounts", type_=ARRAY(Uuid(as_uuid=False))))

_FILLS: Final = text(
    """
    SELECT position_id::text, opened_position_id::text, executed_at, side, quantity, price, fee, fee_asset, fee_rate,
           rate_to_reporting, position_side
    FROM (
        SELECT * FROM trades WHERE position_id = ANY(:ids)
        UNION SELECT * FROM trades WHERE opened_position_id = ANY(:ids)
    ) of_cycles
    WHERE executed_at < :until
    ORDER BY executed_at, created_at, id LIMIT :limit
    """
).bindparams(_IDS)


_FUNDING: Final = text(
    """
    SELECT position_id::text, at, amount, rate_to_reporting FROM funding_payments
    WHERE position_id = ANY(:ids) AND at < :until ORDER BY at, position_id LIMIT :limit
    """
).bindparams(_IDS)


class TooManyFills(Exception):
    """More cycles or fills than can be replayed for one answer."""


class History(msgspec.Struct, frozen=True):
    """The positions of a period, and what made them, in order of time."""

    positions: Sequence[Position]
    fills: Sequence[RecordedFill]
    funding: Sequence[PaidFunding]


async def load_fills(
    connection: AsyncConnection,
    user_id: str,
    account_ids: Sequence[str],
    *,
    since: datetime,
    until: datetime,
    most: int,
) -> History:
    """What was open at any time in ``[since, until)``, and everything before ``until`` that made it.

    Raises:
        TooManyFills: more than ``most``.
    """
    parameters = {
        "user_id": user_id,
        "accounts": list(account_ids),
        "since": since,
        "until": until,
        "limit": most + 1,
    }
    ids = list(await connection.scalars(_CYCLES, parameters))
    wanted = {"ids": ids, "until": until, "limit": most + 1}
    rows = list(await connection.execute(_FILLS, wanted))
    funding = [
        PaidFunding(position_id=position_id, at=at, amount=amount, rate_to_reporting=rate)
        for position_id, at, amount, rate in await connection.execute(_FUNDING, wanted)
    ]
    if max(len(ids), len(rows), len(funding)) > most:
        raise TooManyFills(most)
    read = position_reader()
    query = select(*POSITION_COLUMNS).where(positions.c.id == _IDS.any_())
    found = [read(row) for row in await connection.execute(query, {"ids": ids})]
    return History(found, [_read_fill(row) for row in rows], funding)


def _read_fill(row: Sequence[Any]) -> RecordedFill:
    position_id, opened, executed_at, side, quantity, price, fee, fee_asset, fee_rate, rate, position_side = row
    fill = Fill(
        side=side,
        quantity=quantity,
        price=price,
        fee=fee,
        fee_asset=fee_asset,
        fee_rate=fee_rate,
        executed_at=executed_at,
        rate_to_reporting=rate,
        position_side=position_side,
    )
    return RecordedFill(position_id=position_id, opened_position_id=opened, executed_at=executed_at, fill=fill)


class Adjustments(msgspec.Struct, frozen=True):
    """What adjustments added to what was realised, as reported; ``is_complete``: all their rates are known."""

    reported: Decimal
    is_complete: bool


_ADJUSTMENTS: Final = text(
    """
    SELECT coalesce(sum(reported), 0), coalesce(bool_and(reported IS NOT NULL), true) FROM transfers
    WHERE account_id = ANY(:accounts) AND kind = 'adjustment' AND at >= :since AND at < :until
    """
).bindparams(bindparam("accounts", type_=ARRAY(Uuid(as_uuid=False))))


async def adjustments(
    connection: AsyncConnection, account_ids: Sequence[str], since: datetime, until: datetime
) -> Adjustments:
    """The adjustments of accounts in ``[since, until)``."""
    parameters = {"accounts": list(account_ids), "since": since, "until": until}
    return Adjustments(*(await connection.execute(_ADJUSTMENTS, parameters)).one())
