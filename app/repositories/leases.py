"""Who is active: leases with fencing epochs, by the database's clock."""

from collections.abc import Sequence

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.repositories.database import transaction

_ACQUIRE = text(
    """
    INSERT INTO leases AS lease (role, holder, epoch, expires_at)
    VALUES (:role, :holder, 1, clock_timestamp() + :ttl_ms * interval '1 millisecond')
    ON CONFLICT (role) DO UPDATE
        SET holder = excluded.holder, epoch = lease.epoch + 1,
            expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond'
        WHERE lease.expires_at <= clock_timestamp() OR lease.holder = excluded.holder
    RETURNING epoch
    """
)
_RENEW = text(
    """
    UPDATE leases SET expires_at = clock_timestamp() + :ttl_ms * interval '1 millisecond'
    WHERE role = :role AND holder = :holder AND epoch = :epoch
    RETURNING epoch
    """
)
_HELD = text(
    """
    SELECT role, extract(epoch FROM expires_at - clock_timestamp())::float8 FROM leases
    WHERE role = ANY(:roles) AND holder <> :holder AND expires_at > clock_timestamp()
    """
).bindparams(bindparam("roles", type_=ARRAY(Text)))
_RELEASE = text(
    """
    UPDATE leases SET expires_at = clock_timestamp()
    WHERE role = :role AND holder = :holder AND epoch = :epoch
    """
)
_IS_HELD_BY_ANOTHER = text(
    """
    SELECT EXISTS (
        SELECT FROM leases WHERE role = :role AND holder <> :holder AND expires_at > clock_timestamp()
    )
    """
)


class LeaseRepository:
    """At most one holder per role; every taking has a higher epoch than all before it.

    Every method is one committed transaction and raises DatabaseUnavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def acquire(self, role: str, holder: str, ttl_ms: int) -> int | None:
        """Take the lease and get its new epoch, or None while someone else holds it."""
        async with transaction(self._engine) as connection:
            epoch: int | None = await connection.scalar(_ACQUIRE, {"role": role, "holder": holder, "ttl_ms": ttl_ms})
        return epoch

    async def held_by_others(self, roles: Sequence[str], holder: str) -> dict[str, float]:
        """Those of the roles that anybody else holds, and for how many seconds if it is not renewed."""
        async with transaction(self._engine) as connection:
            held = await connection.execute(_HELD, {"roles": list(roles), "holder": holder})
            return {role: left_s for role, left_s in held}

    async def renew(self, role: str, holder: str, epoch: int, ttl_ms: int) -> bool:
        """Hold on. False when another has taken it since; true also after it ran out unclaimed."""
        parameters = {"role": role, "holder": holder, "epoch": epoch, "ttl_ms": ttl_ms}
        async with transaction(self._engine) as connection:
            return await connection.scalar(_RENEW, parameters) is not None

    async def is_held_by_another(self, role: str, holder: str) -> bool:
        """Whether anybody else holds a lease now."""
        async with transaction(self._engine) as connection:
            return bool(await connection.scalar(_IS_HELD_BY_ANOTHER, {"role": role, "holder": holder}))

    async def release(self, role: str, holder: str, epoch: int) -> None:
        """Let it go at once. The row stays, for the epoch must never start over."""
        async with transaction(self._engine) as connection:
            await connection.execute(_RELEASE, {"role": role, "holder": holder, "epoch": epoch})
