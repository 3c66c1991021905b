"""Accounts: what a user's positions belong to."""

from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.prices import Basis
from app.repositories.database import violated
from app.repositories.tables import accounts, trades, transfers

Kind = Literal["manual", "paper", "exchange"]
PositionMode = Literal["one_way", "hedge"]


class NameTaken(Exception):
    """The user has another account of this name."""


class Account(msgspec.Struct, frozen=True):
    """An account. ``currency`` is what its totals are reported in: the same in all accounts of a user."""

    account_id: str
    name: str
    kind: str
    currency: str
    position_mode: PositionMode
    valuation: Basis


_COLUMNS = (
    accounts.c.id,
    accounts.c.name,
    accounts.c.kind,
    accounts.c.currency,
    accounts.c.position_mode,
    accounts.c.valuation,
)


class AccountRepository:
    """Reads and writes accounts within the caller's transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(
        self,
        user_id: str,
        name: str,
        kind: Kind,
        currency: str,
        *,
        position_mode: PositionMode = "one_way",
        valuation: Basis = "auto",
    ) -> str:
        """Add an account and return its id. Raises NameTaken, after which the transaction is void."""
        account_id = str(uuid4())
        values = {
            "id": account_id,
            "user_id": user_id,
            "name": name,
            "kind": kind,
            "currency": currency,
            "position_mode": position_mode,
            "valuation": valuation,
        }
        await self._write(insert(accounts).values(**values))
        return account_id

    async def change(self, account_id: str, values: Mapping[str, Any]) -> None:
        """Change a name, a mode or a valuation. Raises NameTaken, after which the transaction is void."""
        await self._write(update(accounts).where(accounts.c.id == account_id).values(**values))

    async def change_currency(self, user_id: str, currency: str) -> None:
        """Report everything of a user in another currency. Only while :meth:`has_history` is false."""
        await self._connection.execute(update(accounts).where(accounts.c.user_id == user_id).values(currency=currency))

    async def has_history(self, user_id: str) -> bool:
        """Whether a user ever traded or moved money."""
        for table in (trades, transfers):
            query = select(table.c.id).where(table.c.user_id == user_id).limit(1)
            if await self._connection.scalar(query) is not None:
                return True
        return False

    async def of_user(self, user_id: str) -> list[Account]:
        """All accounts, the default one (the oldest) first."""
        query = select(*_COLUMNS).where(accounts.c.user_id == user_id).order_by(accounts.c.created_at, accounts.c.id)
        return [Account(*row) for row in await self._connection.execute(query)]

    async def _write(self, statement: Any) -> None:
        try:
            await self._connection.execute(statement)
        except IntegrityError as error:
            if violated(error) != "uq_accounts_user_id_name":
                raise
            raise NameTaken from error
