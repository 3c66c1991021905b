"""Booking funding: each settled stamp to every position that held something then, once.

What is left to do is always what the database says is unpaid, so that a turn
that was cut off at any step is simply taken again: the key of a payment refuses
a second one, and the payment, the position and the event are one transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import accumulate
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.cycles import Payment
from app.domain.decimals import exact, format_decimal
from app.domain.ledger import Funding, funding_payment
from app.domain.positions import Position, realized_units
from app.domain.shards import EVERYBODY, Shard
from app.domain.statements import timestamp
from app.domain.trades import ChainKey
from app.repositories.books import IN_SHARD
from app.repositories.chains import ChainRepository, Rewrite, plan_rewrite
from app.repositories.corrections import correct_funding_bases
from app.repositories.database import transaction
from app.repositories.day_bases import base_statement
from app.repositories.events import EventRepository
from app.repositories.funding_payments import FundingPaymentRepository, PaidFunding
from app.repositories.positions import PositionRepository
from app.repositories.tables import accounts, funding_rates, funding_turns
from app.repositories.users import UserGone, UserRepository

_UNPAID: Final = """
    FROM funding_rates r
    JOIN positions p ON p.symbol = r.symbol AND p.market <> 'spot'
        AND p.opened_at <= r.at AND (p.closed_at IS NULL OR p.closed_at > r.at)
    JOIN users u ON u.id = p.user_id AND u.is_active
    WHERE NOT EXISTS (SELECT FROM funding_payments f WHERE f.position_id = p.id AND f.at = r.at)
    """

_USERS: Final = (
    "SELECT DISTINCT p.user_id::text" + _UNPAID + "AND r.symbol = :symbol AND r.at = :at {and_in_shard}"
    " ORDER BY 1 LIMIT :limit"
)

_OF_USER: Final = text(
    "SELECT p.id::text, r.at, r.mark, r.rate"
    + _UNPAID
    + "AND p.user_id = CAST(:user AS uuid) AND r.stored_at >= :since ORDER BY p.id, r.at LIMIT 5000"
).bindparams(bindparam("since"))

_MOST_TOLD: Final = 50
_RATE_LASTS: Final = timedelta(minutes=5)
"""How long after a stamp the exchange rate of now still counts as that of its time."""


class Stamp(msgspec.Struct, frozen=True):
    """A settled funding stamp of a contract."""

    symbol: str
    at: datetime


class RateOf(Protocol):
    """What a unit of an asset is worth in a currency now; None where nobody knows."""

    def __call__(self, asset: str, currency: str) -> Decimal | None: ...


class FundingBooked(msgspec.Struct, frozen=True):
    """The event of one user's payments, as it was committed."""

    user_id: str
    seq: int
    at: datetime
    data: dict[str, Any]


class _NothingLeft(Exception):
    """Another turn paid it all; the transaction is undone, its event number too."""


class FundingTurnRepository:
    """Finds and books what is unpaid, of everybody or of one shard. Every method raises DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, shard: Shard = EVERYBODY) -> None:
        self._engine = engine
        is_part = shard.shards > 1
        self._of_shard = {"shard": shard.number, "shards": shard.shards} if is_part else {}
        self._users = text(_USERS.format(and_in_shard=f"AND {IN_SHARD}" if is_part else ""))
        self._role = f"{shard.number}/{shard.shards}"

    async def looked_until(self) -> datetime | None:
        """Up to which time of storing everything was looked at, as :meth:`note` wrote it down."""
        query = select(funding_turns.c.stored_at).where(funding_turns.c.role == self._role)
        async with transaction(self._engine) as connection:
            found: datetime | None = await connection.scalar(query)
            return found

    async def note(self, stored_at: datetime) -> None:
        """Write down up to where everything was looked at."""
        statement = insert(funding_turns).values(role=self._role, stored_at=stored_at)
        async with transaction(self._engine) as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["role"], set_={"stored_at": stored_at})
            )

    async def stamps_stored_since(self, moment: datetime) -> list[Stamp]:
        """What was stored at or after a moment, the oldest stamps first."""
        query = (
            select(funding_rates.c.symbol, funding_rates.c.at)
            .where(funding_rates.c.stored_at >= moment)
            .order_by(funding_rates.c.at, funding_rates.c.symbol)
        )
        async with transaction(self._engine) as connection:
            return [Stamp(*row) for row in await connection.execute(query)]

    async def unpaid(self, stamp: Stamp, limit: int) -> list[str]:
        """Up to ``limit`` users with a position that held something at a stamp and was not paid for it."""
        parameters = {"symbol": stamp.symbol, "at": stamp.at, "limit": limit, **self._of_shard}
        async with transaction(self._engine) as connection:
            return list(await connection.scalars(self._users, parameters))

    async def pay(self, user_id: str, since: datetime, rate_of: RateOf, now: datetime) -> FundingBooked | None:
        """Book all that a user was not paid for stamps stored since a moment; None where nothing was left."""
        try:
            async with transaction(self._engine) as connection:
                seq = await UserRepository(connection).advance(user_id)
                turn = _UserTurn(connection, user_id, rate_of, now)
                data = await turn.pay(since)
                await EventRepository(connection).add(user_id, seq, "account", now, data)
        except (_NothingLeft, UserGone):
            return None
        return FundingBooked(user_id, seq, now, data)


class _UserTurn:
    """One user's payments within one transaction that holds his lock."""

    def __init__(self, connection: AsyncConnection, user_id: str, rate_of: RateOf, now: datetime) -> None:
        self._connection = connection
        self._user_id = user_id
        self._rate_of = rate_of
        self._now = now
        self._paid: list[tuple[Position, Payment]] = []
        self._changes: list[tuple[datetime, int]] = []

    async def pay(self, since: datetime) -> dict[str, Any]:
        """Book what is unpaid; the content of the event. Raises _NothingLeft."""
        unpaid: dict[str, list[Funding]] = {}
        rows = await self._connection.execute(_OF_USER, {"user": self._user_id, "since": since})
        for position_id, at, mark, rate in rows:
            unpaid.setdefault(position_id, []).append(Funding(at=at, mark=mark, rate=rate))
        if not unpaid:
            raise _NothingLeft
        currencies = await self._currencies()
        held = await PositionRepository(self._connection).of_ids(self._user_id, list(unpaid))
        rewritten: set[ChainKey] = set()
        for position in held:
            key = _chain_of(position)
            currency = currencies[position.account_id]
            if key in rewritten:
                continue
            if await self._is_plain(position, key, unpaid[position.position_id]):
                await self._add(position, unpaid[position.position_id], currency)
            else:
                rewritten.add(key)
                await self._replay(position, key, currency)
        bases = await correct_funding_bases(self._connection, self._user_id, self._changes, self._now)
        return {
            "funding": [_statement(position, payment) for position, payment in self._paid[:_MOST_TOLD]],
            "payments": len(self._paid),
            "day_bases": [base_statement(one) for one in bases],
        }

    async def _is_plain(self, position: Position, key: ChainKey, stamps: Sequence[Funding]) -> bool:
        """Whether the position holds what it held at the stamps: no fill came after them."""
        if position.status != "open":
            return False
        newest = await ChainRepository(self._connection).newest(key)
        return newest is not None and newest[0] <= stamps[0].at

    async def _add(self, position: Position, stamps: Sequence[Funding], currency: str) -> None:
        """Add payments to what a position holds now."""
        qty = position.state.signed_qty
        payments = [
            Payment(
                at=stamp.at,
                signed_qty=qty,
                mark=stamp.mark,
                rate=stamp.rate,
                amount=funding_payment(position.instrument, qty, stamp.mark, stamp.rate),
                rate_to_reporting=self._rate(position, stamp.at, currency),
            )
            for stamp in stamps
        ]
        paid = reduce(_with_payment, payments, position)
        paid = msgspec.structs.replace(paid, updated_at=self._now, version=position.version + 1)
        await PositionRepository(self._connection).correct(position, paid)
        rows = [PaidFunding(position.position_id, position.symbol, payment) for payment in payments]
        await FundingPaymentRepository(self._connection).add(self._user_id, rows)
        self._note(position, paid, payments)

    async def _replay(self, position: Position, key: ChainKey, currency: str) -> None:
        """Pay by a replay of the chain: what was held at the stamps is not what is held now."""
        tail = await ChainRepository(self._connection).tail(key, position.opened_at)
        instrument = position.instrument
        settled = await FundingPaymentRepository(self._connection).stamps(key.symbol, tail.trades[0].executed_at)
        rates = {stamp.at: self._rate(position, stamp.at, currency) for stamp in settled}
        known = {at: rate for at, rate in rates.items() if rate is not None}
        rewrite, _ = await plan_rewrite(self._connection, tail, tail.trades, instrument, currency, self._now, known)
        await rewrite.begin()
        await rewrite.finish()
        self._note_rewrite(rewrite)

    def _note_rewrite(self, rewrite: Rewrite) -> None:
        before = {position.position_id: position for position in rewrite.before}
        for after in rewrite.after:
            self._note(before[after.position_id], after, rewrite.new_payments(after.position_id))

    def _note(self, before: Position, after: Position, payments: Sequence[Payment]) -> None:
        self._paid += [(after, payment) for payment in payments]
        states = list(accumulate(payments, _with_payment, initial=before))
        realized = [realized_units(one.state, one.converted).net for one in states]
        self._changes += [(payment.at, b - a) for payment, a, b in zip(payments, realized, realized[1:], strict=False)]

    def _rate(self, position: Position, at: datetime, currency: str) -> Decimal | None:
        """The exchange rate at a stamp; None where none is needed, and where nobody knows it any more."""
        settle = position.instrument.settle
        if settle == currency or self._now - at > _RATE_LASTS:
            return None
        return self._rate_of(settle, currency)

    async def _currencies(self) -> Mapping[str, str]:
        query = select(accounts.c.id, accounts.c.currency).where(accounts.c.user_id == self._user_id)
        return {account_id: currency for account_id, currency in await self._connection.execute(query)}


def _with_payment(position: Position, payment: Payment) -> Position:
    with exact():
        state = msgspec.structs.replace(position.state, funding=position.state.funding + payment.amount)
    converted = position.converted and position.converted.after(position.state, state, payment.rate_to_reporting)
    return msgspec.structs.replace(position, state=state, converted=converted)


def _chain_of(position: Position) -> ChainKey:
    return ChainKey(position.user_id, position.account_id, position.symbol, position.position_side, position.strategy)


def _statement(position: Position, payment: Payment) -> dict[str, Any]:
    return {
        "position_id": position.position_id,
        "account_id": position.account_id,
        "symbol": position.symbol,
        "at": timestamp(payment.at),
        "signed_qty": format_decimal(payment.signed_qty),
        "mark": format_decimal(payment.mark),
        "rate": format_decimal(payment.rate),
        "amount": format_decimal(payment.amount),
        "asset": position.instrument.settle,
    }
