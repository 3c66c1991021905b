"""Accounts: what a user's positions belong to."""

from typing import Literal
from uuid import uuid4

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.repositories.tables import accounts

Kind = Literal["manual", "paper", "exchange"]


class Account(msgspec.Struct, frozen=True):
    """An account. ``currency`` is what its totals are reported in."""

    account_id: str
    name: str
    kind: str
    currency: str
    position_mode: str


_COLUMNS = (accounts.c.id, accounts.c.name, accounts.c.kind, accounts.c.currency, accounts.c.position_mode)


class AccountRepository:
    """Reads and writes accounts within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, user_id: str, name: str, kind: Kind, currency: str) -> str:
        account_id = str(uuid4())
        await self._connection.execute(
            insert(accounts).values(id=account_id, user_id=user_id, name=name, kind=kind, currency=currency)
        )
        return account_id

    async def of_user(self, user_id: str) -> list[Account]:
        """All accounts, the default one (the oldest) first."""
        query = select(*_COLUMNS).where(accounts.c.user_id == user_id).order_by(accounts.c.created_at, accounts.c.id)
        return [Account(*row) for row in await self._connection.execute(query)]
