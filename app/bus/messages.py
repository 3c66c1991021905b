"""What travels through Redis. Each type says who sends it, and what a receiver may conclude.

Encoded with msgpack but for what is read by other tools (the price hash and the
P&L cache are JSON). Every message is complete in itself or names what it follows.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from app.domain.positions import Position
from app.domain.prices import Feed, Price, StreamPosition


class PriceHead(msgspec.Struct, frozen=True):
    """Price worker: the place of the newest flush, beside the hash."""

    epoch: int
    flush: int
    as_of_ms: int
    feed: Feed


class PriceFlush(msgspec.Struct, frozen=True, array_like=True):
    """Price worker → everybody: what changed since the flush before.

    A receiver that sees ``flush`` skip, or a new ``epoch``, reads the hash again.
    ``ticks`` is how many exchange messages the flush stands for. ``as_of_ms`` is
    the price worker's clock: ages count from it. Sent every interval, also empty.
    """

    epoch: int
    flush: int
    as_of_ms: int
    ticks: int
    feed: Feed
    prices: list[Price]


class LedgerEvent(msgspec.Struct, frozen=True):
    """Web → P&L workers and web: what one committed transaction did to a user.

    ``seq`` counts the user's events without a hole (``events`` table); a receiver
    that sees one missing loads the user from PostgreSQL. ``positions`` are the
    rows after the change. ``data`` is the client's ``event`` frame content.
    """

    user_id: str
    seq: int
    kind: Literal["fill", "position", "alert", "correction", "account"]
    at: datetime
    positions: list[Position]
    data: dict[str, Any]


class SessionEnded(msgspec.Struct, frozen=True):
    """Web → web: close the sockets of one session (or all of a user's, when ``session_id`` is None)."""

    user_id: str
    session_id: str | None


class Interest(msgspec.Struct, frozen=True):
    """Web → P&L workers: who came and went at one instance, and a digest of who is there.

    ``digest`` is the sum of the user ids as integers modulo 2^64: a receiver whose
    own set differs reads the ``online`` set. Sent on change and each second.
    ``gone`` makes void what was told; with a ``shard`` (``0/2``), only what that one told.
    """

    instance_id: str
    digest: int
    added: list[str] = []
    removed: list[str] = []
    gone: bool = False
    shard: str | None = None


class RowUpdate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One position as a web instance keeps it: the whole row, and the slot of its figures.

    ``statement`` is the ``Position`` of the contract without the figures that
    move with the price, as JSON without its closing brace: what reads it only
    adds to it. ``cost_basis`` and ``realized_pnl`` are integers of 1e-18 in the
    settle asset. ``slot`` is unique within a book epoch and never reused.
    ``mark`` names the :class:`MarkUpdate` that values it. Figures by slot are in
    the settle asset; where that is not the user's currency, the receiver converts
    market value and cost at the :class:`RateUpdate` of the two.
    """

    slot: int
    position_id: str
    symbol: str
    mark: str
    version: int
    is_open: bool
    is_inverse: bool
    settle_asset: str
    cost_basis: str
    realized_pnl: str
    statement: str


class BalanceUpdate(msgspec.Struct, frozen=True, array_like=True):
    """What an account holds in another asset than its user's currency, and at what it was booked in the currency.

    Integers of 1e-18. The currency effect is each ``held`` at the rate of now,
    rounded once, less ``booked``.
    """

    asset: str
    held: str
    booked: str


class UserUpdate(msgspec.Struct, frozen=True):
    """A user's book structure: the whole of it when ``full``, else rows changed and removed.

    ``figures`` holds the amounts that do not move with the price, as integers of
    1e-18 in strings, in ``currency``: ``realized_pnl_gross``, ``fees``, ``funding``,
    ``net_deposits``, ``day_base`` (None unknown). ``ledger_seq`` is the last event
    of the user that is in it. ``fees_are_complete`` says that every rate is known of
    what was realised and moved.
    """

    user_id: str
    slot: int
    ledger_seq: int
    full: bool
    currency: str
    figures: dict[str, str | None]
    fees_are_complete: bool
    balances: list[BalanceUpdate]
    rows: list[RowUpdate]
    removed_slots: list[int]


class MarkUpdate(msgspec.Struct, frozen=True, array_like=True):
    """The price at which rows in this and following messages are valued.

    ``mark`` is the symbol, and which of its prices where that is not the default
    one (``BTCUSDT bid``).
    """

    mark: str
    price: str | None
    source: str | None
    is_stale: bool
    fresh_ms: int


class RateUpdate(msgspec.Struct, frozen=True, array_like=True):
    """How much of a currency an asset is worth in this and following messages; None: that is not known."""

    asset: str
    currency: str
    rate: str | None
    is_stale: bool
    fresh_ms: int


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """Figures by slot, as numpy bytes: ``slots`` int32, value = ``high``·2^64 + ``low``
    in units of 1e-18 with ``high`` int64 and ``low`` uint64. Same length each."""

    slots: bytes
    high: bytes
    low: bytes


class PnlFlush(msgspec.Struct, frozen=True):
    """P&L worker → one web instance: the figures of its users at one place in the stream.

    The sender has one shard of ``shards``; ``layout`` is the epoch of that number:
    an older layout is dropped, a newer one voids everything. ``book_epoch`` is the
    sender's fencing epoch within its shard: older ones are dropped, and with a new
    one every slot and user known of the shard is void. ``sequence`` counts
    messages to this instance within a book epoch; a hole means asking for
    everything again (by an ``Interest`` that leaves and rejoins). Apply in the
    order: rates, users, marks, columns. Sent every flush, also empty: silence means trouble.
    """

    shard: int
    book_epoch: int
    sequence: int
    position: StreamPosition
    as_of_ms: int
    event_ms: int
    users: list[UserUpdate]
    marks: list[MarkUpdate]
    user_unrealized: Columns
    row_unrealized: Columns
    shards: int = 1
    layout: int = 0
    rates: list[RateUpdate] = []
