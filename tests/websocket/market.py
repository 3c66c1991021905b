"""Hand-made messages of the price worker and the P&L worker, published to a real Redis."""

import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
from redis.asyncio import Redis

from app.bus import keys
from app.bus.messages import (
    BalanceUpdate,
    Columns,
    LedgerEvent,
    MarkUpdate,
    PnlFlush,
    PriceFlush,
    RateUpdate,
    RowUpdate,
    SessionEnded,
    UserUpdate,
)
from app.bus.prices import PricePublisher
from app.domain.decimals import convert_units, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, LedgerState, apply_fill
from app.domain.positions import Converted, Position, Realized, Status, reported_of
from app.domain.prices import Feed, Price, StreamPosition
from app.domain.statements import position_statement
from app.domain.valuation import Valued, report, value_position

LIVE = Feed(state="live", source="binance", age_ms=41)
_MOVING = (
    "mark_price",
    "price_source",
    "mark_age_ms",
    "is_stale",
    "market_value",
    "unrealized_pnl",
    "unrealized_pnl_pct",
    "total_pnl",
    "unrealized_pnl_reported",
    "rate_to_reporting",
)
_OPENED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def price(symbol: str, value: str, *, event_ms: int | None = None, fresh_ms: int | None = None) -> Price:
    amount = Decimal(value)
    moment = now_ms()
    return Price(
        symbol=symbol,
        price=amount,
        source="mid",
        bid=amount - Decimal("0.05"),
        ask=amount + Decimal("0.05"),
        last=amount,
        mark=None,
        event_ms=moment if event_ms is None else event_ms,
        received_ms=moment,
        fresh_ms=moment if fresh_ms is None else fresh_ms,
    )


def price_flush(
    flush: int, prices: Sequence[Price] = (), *, epoch: int = 7, as_of_ms: int | None = None, feed: Feed = LIVE
) -> PriceFlush:
    as_of_ms = now_ms() if as_of_ms is None else as_of_ms
    return PriceFlush(epoch, flush, as_of_ms, len(prices), feed, list(prices))


def instrument(symbol: str, settle: str = "USDT") -> Instrument:
    return Instrument(
        symbol=symbol,
        market="spot",
        base=symbol.removesuffix(settle),
        quote=settle,
        settle=settle,
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.00001"),
    )


def position(
    position_id: str,
    symbol: str,
    quantity: str,
    entry: str,
    *,
    user_id: str = "alice",
    version: int = 1,
    settle: str = "USDT",
) -> Position:
    listed = instrument(symbol, settle)
    side = "buy" if Decimal(quantity) > 0 else "sell"
    fill = Fill(side=side, quantity=abs(Decimal(quantity)), price=Decimal(entry), fee=Decimal("0.1"))  # type: ignore[arg-type]
    return Position(
        position_id=position_id,
        user_id=user_id,
        account_id=f"account-of-{user_id}",
        instrument=listed,
        state=apply_fill(listed, LedgerState(), fill),
        opened_at=_OPENED,
        updated_at=_OPENED,
        version=version,
        converted=None if settle == "USDT" else Converted(),
    )


def closed(held: Position, at: str) -> Position:
    """The position after all of it was sold (or bought back)."""
    side = "sell" if held.state.signed_qty > 0 else "buy"
    fill = Fill(side=side, quantity=abs(held.state.signed_qty), price=Decimal(at))  # type: ignore[arg-type]
    return msgspec.structs.replace(
        held,
        state=apply_fill(held.instrument, held.state, fill),
        status="closed",
        closed_at=_OPENED,
        version=held.version + 1,
    )


def row_update(slot: int, held: Position) -> RowUpdate:
    value = value_position(held, None, 0, 5000)
    valued = Valued(held, value, report(held, value, None), None, is_stale=False)
    statement: dict[str, Any] = position_statement(valued)
    for name in _MOVING:
        del statement[name]
    is_open: Status = "open"
    # By way of the whole statement, so that nothing here leans on what is being tested.
    return RowUpdate(
        slot=slot,
        position_id=held.position_id,
        symbol=held.symbol,
        mark=held.symbol,
        version=held.version,
        is_open=held.status == is_open,
        is_inverse=held.instrument.market == "inverse",
        settle_asset=held.instrument.settle,
        cost_basis=str(value.cost_basis),
        realized_pnl=str(value.realized.net),
        statement=msgspec.json.encode(statement).decode()[:-1],
    )


def columns(values: Mapping[int, int]) -> Columns:
    """Amounts in units of 1e-18 by slot, as they travel."""
    return Columns(
        slots=np.fromiter(values, np.int32, len(values)).tobytes(),
        high=np.array([value >> 64 for value in values.values()], np.int64).tobytes(),
        low=np.array([value & (2**64 - 1) for value in values.values()], np.uint64).tobytes(),
    )


class Trader:
    """One user's positions, as the P&L worker holds them."""

    def __init__(self, user_id: str, slot: int, held: Mapping[int, Position], ledger_seq: int = 1) -> None:
        self.user_id = user_id
        self.slot = slot
        self.held = dict(held)
        self.ledger_seq = ledger_seq
        self.gone: list[Position] = []
        self.balances: list[BalanceUpdate] = []
        self.net_deposits = 0

    def update(self, *, full: bool, rows: Sequence[RowUpdate] | None = None, removed: Sequence[int] = ()) -> UserUpdate:
        realized = sum((reported_of(held) for held in [*self.held.values(), *self.gone]), Realized())
        return UserUpdate(
            user_id=self.user_id,
            slot=self.slot,
            ledger_seq=self.ledger_seq,
            full=full,
            currency="USDT",
            figures={
                "realized_pnl_gross": str(realized.gross),
                "fees": str(realized.fees),
                "funding": "0",
                "net_deposits": str(self.net_deposits),
                "day_base": "0",
            },
            fees_are_complete=True,
            balances=self.balances,
            rows=[row_update(slot, held) for slot, held in self.held.items()] if rows is None else list(rows),
            removed_slots=list(removed),
        )

    def worth(self, prices: Mapping[str, str], rates: Mapping[str, str]) -> tuple[int, dict[int, int]]:
        """Unrealised P&L in units: the total, and by row slot."""
        rows = {
            slot: to_units(held.instrument.value(held.state.signed_qty, Decimal(prices[held.symbol])))
            - to_units(held.state.cost)
            for slot, held in self.held.items()
            if held.symbol in prices
        }
        return sum(self._reported(self.held[slot], value, rates) for slot, value in rows.items()), rows

    def _reported(self, held: Position, value: int, rates: Mapping[str, str]) -> int:
        cost, rate = to_units(held.state.cost), Decimal(rates.get(held.instrument.settle, "0"))
        return value if held.converted is None else convert_units(value + cost, rate) - convert_units(cost, rate)


def pnl_flush(
    sequence: int,
    flush: int,
    traders: Sequence[Trader] = (),
    prices: Mapping[str, str] | None = None,
    *,
    users: Sequence[UserUpdate] = (),
    book_epoch: int = 3,
    epoch: int = 7,
    revision: int = 0,
    stale: Sequence[str] = (),
    rates: Mapping[str, str] | None = None,
) -> PnlFlush:
    """A P&L flush in which the traders' figures are those at these prices, and rates into USDT."""
    prices = prices or {}
    totals: dict[int, int] = {}
    rows: dict[int, int] = {}
    for trader in traders:
        totals[trader.slot], by_row = trader.worth(prices, rates or {})
        rows.update(by_row)
    moment = now_ms()
    return PnlFlush(
        shard=0,
        book_epoch=book_epoch,
        sequence=sequence,
        position=StreamPosition(epoch, flush, revision),
        as_of_ms=moment,
        event_ms=moment,
        users=list(users),
        marks=[MarkUpdate(symbol, value, "mid", symbol in stale, moment) for symbol, value in prices.items()],
        user_unrealized=columns(totals),
        row_unrealized=columns(rows),
        rates=[RateUpdate(asset, "USDT", rate, asset in stale, moment) for asset, rate in (rates or {}).items()],
    )


class Market:
    """Plays the price worker and the P&L worker for one web instance."""

    def __init__(self, redis: Redis, instance_id: str) -> None:
        self._redis = redis
        self._instance_id = instance_id
        self._publisher = PricePublisher(redis, 2.0)
        self._encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self.epoch = 7
        self.flush_number = 0
        self.book_epoch = 3
        self.sequence = 0
        self.prices: dict[str, str] = {}
        self.traders: list[Trader] = []
        self._event_seqs = itertools.count(1)

    async def flush(
        self, prices: Mapping[str, str] | None = None, *, users: Sequence[UserUpdate] = (), pnl: bool = True
    ) -> None:
        """One flush of both workers."""
        prices = prices or {}
        self.flush_number += 1
        self.prices.update(prices)
        flush = price_flush(self.flush_number, [price(s, v) for s, v in prices.items()], epoch=self.epoch)
        await self._publisher.publish(flush)
        if pnl:
            await self.pnl(users=users)

    async def pnl(self, *, users: Sequence[UserUpdate] = (), revision: int = 0) -> None:
        """One P&L flush at the newest prices."""
        self.sequence += 1
        message = pnl_flush(
            self.sequence,
            self.flush_number,
            self.traders,
            self.prices,
            users=users,
            book_epoch=self.book_epoch,
            epoch=self.epoch,
            revision=revision,
        )
        await self.send(message)

    async def send(self, message: PnlFlush) -> None:
        await self._redis.publish(keys.pnl_channel(self._instance_id), self._encode(message))

    async def everything(self) -> None:
        """What the P&L worker sends to an instance that asks for everything."""
        await self.flush(users=[trader.update(full=True) for trader in self.traders])

    async def event(self, user_id: str, seq: int, kind: str = "fill") -> None:
        """A committed change, announced."""
        event = LedgerEvent(user_id, seq, kind, datetime.now(UTC), [], {"number": seq})  # type: ignore[arg-type]
        await self._redis.publish(keys.EVENT_CHANNEL, self._encode(event))

    async def end_session(self, user_id: str, session_id: str | None) -> None:
        await self._redis.publish(keys.SESSION_CHANNEL, self._encode(SessionEnded(user_id, session_id)))
