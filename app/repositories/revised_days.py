"""What is past of an account and was corrected: noted with the correction, reckoned anew after it."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# By quarters of an hour, so that any number of corrections is a bounded number of rows.
_COUNT: Final = text(
    """
    INSERT INTO history_revisions AS known (account_id, since, revisions)
    SELECT s.account_id, date_bin('15 minutes', :since, TIMESTAMPTZ '2000-01-01 00:00Z'), 1
    FROM history_scopes s WHERE s.account_id = :account_id AND :since < (
        SELECT max(at) FROM (
            SELECT max(at) AS at FROM equity_minutes WHERE scope_id = s.scope_id
            UNION ALL SELECT max(at) FROM equity_candles WHERE scope_id = s.scope_id
        ) sampled
    )
    ON CONFLICT (account_id, since) DO UPDATE SET revisions = known.revisions + 1
    RETURNING account_id
    """
)
_RESTATE: Final = text(
    """
    UPDATE history_scopes SET restate_from = least(restate_from, :since), corrected_at = clock_timestamp()
    WHERE account_id = :account_id OR scope_id = (SELECT user_id FROM accounts WHERE id = :account_id)
    """
)


async def mark_days_revised(connection: AsyncConnection, account_id: str, since: datetime) -> bool:
    """Say, in the transaction that changes it, that an account's ledger changed from a moment in the past on.

    The days from then on get a higher revision, and the P&L worker reckons the
    samples since then anew. Does nothing (False) where nothing was sampled since:
    so it may be called for every fill, edit, deletion or transfer with the earliest
    time that it touches.
    """
    parameters = {"account_id": account_id, "since": since}
    if await connection.scalar(_COUNT, parameters) is None:
        return False
    await connection.execute(_RESTATE, parameters)
    return True
