"""Users with accounts, positions and sessions, thousands at a time.

Rows go in by COPY, with the values that the repositories themselves write;
sessions through the session store. Nobody has a password: hashing ten thousand
would take minutes and measure nothing.
"""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import numpy as np

from app.bus.sessions import SessionStore
from app.domain.instruments import Instrument
from app.domain.ledger import FLAT, Fill, LedgerState, apply_fill
from app.repositories.rows import instrument_values, state_values

_ACCOUNT_CURRENCY = "USDT"
_SESSIONS_AT_ONCE = 40
_ZIPF = 0.9
"""How unevenly symbols are held and watched: weight 1/rank^0.9, as measured of markets."""


class Quoted(NamedTuple):
    """A symbol to hold or watch, and what it costs now."""

    instrument: Instrument
    price: Decimal


class Member(NamedTuple):
    """A user for the load client: the session's token, and the symbols to watch."""

    user_id: str
    token: str
    symbols: list[str]


class Population:
    """``count`` users with ``positions`` open positions each, over symbols given in order of popularity."""

    def __init__(self, count: int, positions: int, watched: int, quoted: Sequence[Quoted], *, seed: int) -> None:
        if max(positions, watched) > len(quoted):
            raise ValueError(f"{max(positions, watched)} symbols per user are more than the {len(quoted)} there are")
        self._count = count
        self._positions = positions
        self._watched = watched
        self._quoted = quoted
        self._chance = random.Random(seed)
        self._draw = np.random.default_rng(seed)
        weights = 1 / np.arange(1, len(quoted) + 1) ** _ZIPF
        self._weights = weights / weights.sum()
        self._ids = [UUID(int=self._chance.getrandbits(128), version=4) for _ in range(count)]

    @property
    def user_ids(self) -> list[str]:
        return [str(user_id) for user_id in self._ids]

    async def write(self, database_url: str) -> None:
        """Put users, accounts and positions into an empty database."""
        connection = await asyncpg.connect(database_url)
        try:
            await connection.set_type_codec(
                "jsonb", encoder=_jsonb, decoder=bytes, schema="pg_catalog", format="binary"
            )
            await _copy(connection, "users", self._users())
            await _copy(connection, "accounts", self._accounts())
            await _copy(connection, "positions", self._position_rows())
            await connection.execute("ANALYZE users, accounts, positions")
        finally:
            await connection.close()

    async def log_in(self, sessions: SessionStore) -> list[Member]:
        """Give everybody a session and a watchlist."""
        members: list[Member] = []
        numbers = iter(range(self._count))
        while batch := list(islice(numbers, _SESSIONS_AT_ONCE)):
            begun = await asyncio.gather(*(sessions.create(str(self._ids[n]), _username(n), "bench") for n in batch))
            members += [Member(session.user_id, token, self._some_symbols(self._watched)) for token, session in begun]
        return members

    def _users(self) -> Iterator[dict[str, Any]]:
        for number, user_id in enumerate(self._ids):
            yield {"id": user_id, "username": _username(number), "password_hash": "!"}

    def _accounts(self) -> Iterator[dict[str, Any]]:
        for user_id in self._ids:
            yield {
                "id": _account_id(user_id),
                "user_id": user_id,
                "name": "Main",
                "kind": "manual",
                "currency": _ACCOUNT_CURRENCY,
            }

    def _position_rows(self) -> Iterator[dict[str, Any]]:
        opened = datetime.now(UTC) - timedelta(days=3)
        for user_id in self._ids:
            for index in self._some(self._positions):
                quoted = self._quoted[index]
                yield {
                    "id": UUID(int=self._chance.getrandbits(128), version=4),
                    "user_id": user_id,
                    "account_id": _account_id(user_id),
                    **instrument_values(quoted.instrument),
                    "position_side": "net",
                    "strategy": "",
                    **state_values(self._state(quoted)),
                    "status": "open",
                    "opened_at": opened,
                    "updated_at": opened,
                    "version": 1,
                }

    def _state(self, quoted: Quoted) -> LedgerState:
        """Some hundred dollars' worth, bought (one in four: sold) within a tenth of today's price, fee paid."""
        instrument = quoted.instrument
        price = (quoted.price * Decimal(self._chance.randrange(900, 1100)).scaleb(-3)).quantize(Decimal("1e-8"))
        price = max(price, Decimal("1e-8"))
        steps = Decimal(self._chance.randrange(50, 5000)) / (price * instrument.step_size)
        quantity = max(steps.quantize(Decimal(1)), Decimal(1)) * instrument.step_size
        fill = Fill(
            side="sell" if self._chance.random() < 0.25 else "buy",
            quantity=quantity,
            price=price,
            fee=(quantity * price * Decimal("0.001")).quantize(Decimal("1e-8")),
        )
        return apply_fill(instrument, FLAT, fill)

    def _some(self, count: int) -> list[int]:
        chosen: list[int] = self._draw.choice(len(self._quoted), count, replace=False, p=self._weights).tolist()
        return chosen

    def _some_symbols(self, count: int) -> list[str]:
        return [self._quoted[index].instrument.symbol for index in self._some(count)]


async def _copy(connection: "asyncpg.Connection[Any]", table: str, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows, None)
    if first is None:
        return
    columns = list(first)

    async def records() -> Any:
        yield tuple(first.values())
        for row in rows:
            yield tuple(row.values())

    await connection.copy_records_to_table(table, records=records(), columns=columns)


def _jsonb(value: object) -> bytes:
    """COPY is binary: a version, then the text."""
    return b"\x01" + json.dumps(value).encode()


def _username(number: int) -> str:
    return f"bench-{number:06d}"


def _account_id(user_id: UUID) -> UUID:
    return UUID(int=user_id.int ^ 1)
