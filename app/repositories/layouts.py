"""Into how many shards the users are split: one number in force at a time, with an epoch that orders them.

Kept as the row ``pnl`` among the leases: its holder is the number, its epoch
counts the changes. It is no lease, for it does not run out.
"""

from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.shards import Shard
from app.repositories.database import transaction

_ROLE = "pnl"


class Layout(NamedTuple):
    """The number of shards in force since the ``epoch``-th change of it."""

    epoch: int
    shards: int


def role_of(shard: Shard) -> str:
    """The role whose lease stands for a shard: ``pnl:0/2``."""
    return f"{_ROLE}:{shard.name}"


# The number in force gives way to one that can serve everybody, or when nobody serves it any more.
_DECLARE = text(
    """
    INSERT INTO leases AS layout (role, holder, epoch, expires_at)
    VALUES (:role, :shards, 1, clock_timestamp())
    ON CONFLICT (role) DO UPDATE
        SET holder = excluded.holder, epoch = layout.epoch + 1, expires_at = clock_timestamp()
        WHERE layout.holder <> excluded.holder AND (
            NOT EXISTS (
                SELECT FROM leases served
                WHERE served.role LIKE :role || ':%/' || layout.holder AND served.expires_at > clock_timestamp()
            )
            OR :is_new AND (
                SELECT count(*) FROM leases mine
                WHERE mine.role LIKE :role || ':%/' || excluded.holder AND mine.expires_at > clock_timestamp()
            ) = :count
        )
    """
)
_READ = text("SELECT epoch, holder FROM leases WHERE role = :role")


class LayoutRepository:
    """Reads and changes the number of shards in force. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def declare(self, shards: int, *, is_new: bool) -> Layout:
        """Put a number in force if it may be, and read which one is.

        It may be when no lease of the number in force is held any more; or
        (``is_new``: the caller has not seen its number in force yet) when all leases
        of the caller's number are held. A worker of a number that gave way thus
        never takes it back from one that is served.
        """
        async with transaction(self._engine) as connection:
            in_force = await _read(connection)
            if in_force is None or in_force.shards != shards:
                wanted = {"role": _ROLE, "shards": str(shards), "count": shards, "is_new": is_new}
                await connection.execute(_DECLARE, wanted)
                in_force = await _read(connection)
        assert in_force is not None
        return in_force


async def _read(connection: AsyncConnection) -> Layout | None:
    row = (await connection.execute(_READ, {"role": _ROLE})).one_or_none()
    return None if row is None else Layout(row.epoch, int(row.holder))
