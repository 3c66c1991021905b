"""Users: who they are, and the counter that orders all that happens to them."""

from datetime import datetime
from uuid import uuid4

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.database import violated
from app.repositories.tables import users

_INVALID_PARAMETER = "22023"


class User(msgspec.Struct, frozen=True):
    """A user, without the secrets."""

    user_id: str
    username: str
    created_at: datetime
    is_active: bool
    ledger_seq: int
    time_zone: str


class Credentials(msgspec.Struct, frozen=True):
    """What a login is checked against. Never leaves the process."""

    user_id: str
    username: str
    password_hash: str
    is_active: bool


class UsernameTaken(Exception):
    """Another user has this name, perhaps in other letter case."""


class UnknownTimeZone(Exception):
    """The database knows no such time zone."""


class UserGone(Exception):
    """No active user has this id any more."""


class UserRepository:
    """Reads and writes users. Flushes nothing late, commits nothing: the caller's transaction does."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, username: str, password_hash: str) -> str:
        """Add a user and return the id. Raises UsernameTaken, after which the transaction is void."""
        user_id = str(uuid4())
        try:
            await self._connection.execute(
                insert(users).values(id=user_id, username=username, password_hash=password_hash)
            )
        except IntegrityError as error:
            if violated(error) != "uq_users_username_lower":
                raise
            raise UsernameTaken(username) from error
        return user_id

    async def credentials(self, username: str) -> Credentials | None:
        """Find by name, without regard to letter case."""
        query = select(users.c.id, users.c.username, users.c.password_hash, users.c.is_active).where(
            func.lower(users.c.username) == username.lower()
        )
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else Credentials(*row)

    async def get(self, user_id: str) -> User | None:
        query = select(
            users.c.id,
            users.c.username,
            users.c.created_at,
            users.c.is_active,
            users.c.ledger_seq,
            users.c.time_zone,
        ).where(users.c.id == user_id)
        row = (await self._connection.execute(query)).one_or_none()
        return None if row is None else User(*row)

    async def change_time_zone(self, user_id: str, time_zone: str) -> None:
        """Let a user's days begin at the midnights of another zone.

        Raises UnknownTimeZone, after which the transaction is void, for one that this
        database has not heard of: it sums up days by its own list of zones.
        """
        try:
            await self._connection.scalar(select(func.date_trunc("day", func.now(), time_zone)))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _INVALID_PARAMETER:
                raise
            raise UnknownTimeZone(time_zone) from error
        await self._connection.execute(update(users).where(users.c.id == user_id).values(time_zone=time_zone))

    async def replace_password_hash(self, user_id: str, old: str, new: str) -> None:
        """Store a stronger hash of the same password, unless the password changed meanwhile."""
        await self._connection.execute(
            update(users).where(users.c.id == user_id, users.c.password_hash == old).values(password_hash=new)
        )

    async def advance(self, user_id: str) -> int:
        """Take the user's next event number: the first statement of every transaction that writes for a user.

        The row stays locked until the transaction ends, so a user's changes
        happen one after the other, and a rollback leaves no hole in the numbers.
        Raises UserGone.
        """
        statement = (
            update(users)
            .where(users.c.id == user_id, users.c.is_active)
            .values(ledger_seq=users.c.ledger_seq + 1, ledger_changed_at=func.clock_timestamp())
            .returning(users.c.ledger_seq)
        )
        seq: int | None = await self._connection.scalar(statement)
        if seq is None:
            raise UserGone(user_id)
        return seq

    async def lock(self, user_id: str) -> None:
        """Wait for the user's other writers, for changes that are no event. Raises UserGone."""
        query = select(users.c.id).where(users.c.id == user_id, users.c.is_active).with_for_update(key_share=True)
        if await self._connection.scalar(query) is None:
            raise UserGone(user_id)
