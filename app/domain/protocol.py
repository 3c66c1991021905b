"""The WebSocket protocol, version 1: every message that may be said, and what a close means.

Two unions are the whole of it: a client message outside :data:`ClientMessage`
is refused, and the server says nothing outside :data:`ServerMessage`. The hot
frames (``snapshot``, ``update``, ``event``) are joined from encoded parts in
:mod:`app.websocket.frames`; the types here say what those parts look like, and
tests hold the joined bytes against them.
"""

from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.domain.prices import Feed

PROTOCOL_VERSION = 1
SUBPROTOCOL = "tidemark.v1.json"

EVENTS_EPOCH = 1
"""The epoch of event numbers: they count in PostgreSQL, so they never start over."""

Channel = Literal["prices", "pnl", "positions", "events"]
CHANNELS: tuple[Channel, ...] = get_args(Channel)

EventKind = Literal["fill", "position", "alert", "correction", "account"]

MIN_HZ = 0.1
"""The slowest rate a connection may ask for: one update in ten seconds."""


class Close(IntEnum):
    """Why the server closes, and what a client should do.

    4000-4099: do not retry unchanged. 4100-4199: retry with back-off and
    jitter. 4200-4299: retry now.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012
    NOT_AUTHENTICATED = 4001
    FORBIDDEN = 4003
    SESSION_ENDED = 4004
    SLOW_CONSUMER = 4100
    RATE_LIMITED = 4101
    TOO_MANY_CONNECTIONS = 4102
    DRAINING = 4200


RequestId = Annotated[int, Meta(ge=0, le=2**53 - 1, description="Repeated in the reply.")]
SymbolText = Annotated[str, Meta(min_length=1, max_length=64)]
Symbols = Annotated[list[SymbolText], Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Amount = Annotated[str, Meta(description="A decimal without exponent.", pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
Millis = Annotated[int, Meta(description="Unix time in milliseconds.")]


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What every client message has. Unknown fields are refused, not ignored."""

    id: RequestId


class Subscribe(_Request, frozen=True, kw_only=True, tag="subscribe"):
    """Follow a channel; ``symbols`` belongs to ``prices`` and to no other. Repeating it is harmless."""

    channel: str
    symbols: Symbols | None = None


class Unsubscribe(_Request, frozen=True, kw_only=True, tag="unsubscribe"):
    """Leave a channel; for ``prices`` without ``symbols``, all of them."""

    channel: str
    symbols: Symbols | None = None


class Configure(_Request, frozen=True, kw_only=True, tag="configure"):
    """Ask for a rate, or say that nobody is looking. The granted values are in the reply."""

    max_hz: Annotated[float, Meta(ge=MIN_HZ, le=1000)] | None = None
    visible: bool | None = None


class EventPosition(Struct, frozen=True, forbid_unknown_fields=True):
    """The last event a client has."""

    epoch: Count
    seq: Count


class Resume(_Request, frozen=True, kw_only=True, tag="resume"):
    """Ask for the events after a known one, once subscribed to ``events``."""

    events: EventPosition


class Ping(_Request, frozen=True, kw_only=True, tag="ping"):
    """Answered by ``pong``: browsers cannot see the protocol's own pings."""


ClientMessage: TypeAlias = Subscribe | Unsubscribe | Configure | Resume | Ping


class _Reply(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what the server says."""


class Limits(Struct, frozen=True, kw_only=True):
    """What one connection may do."""

    max_symbols: int
    max_message_bytes: int
    max_messages_per_second: int
    max_hz: int | float


class Hello(_Reply, frozen=True, kw_only=True, tag="hello"):
    """The first frame of every connection."""

    protocol: int
    connection_id: str
    user_id: str
    server_time_ms: Millis
    session_expires_ms: Millis
    heartbeat_ms: int
    limits: Limits
    max_hz: int | float
    feed: Feed


class SymbolResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one symbol of a request."""

    symbol: str
    ok: bool
    code: Literal["unknown_symbol", "too_many_symbols"] | None = None


class Subscribed(_Reply, frozen=True, kw_only=True, tag="subscribed"):
    """Subscribed. For ``events``, ``epoch`` and ``seq`` are where a later ``resume`` may start."""

    id: RequestId
    channel: Channel
    results: list[SymbolResult] | UnsetType = UNSET
    epoch: int | UnsetType = UNSET
    seq: int | UnsetType = UNSET


class Unsubscribed(_Reply, frozen=True, kw_only=True, tag="unsubscribed"):
    """Unsubscribed; a symbol that was not subscribed is ``ok`` as well."""

    id: RequestId
    channel: Channel
    results: list[SymbolResult] | UnsetType = UNSET


class Configured(_Reply, frozen=True, kw_only=True, tag="configured"):
    """The rate and visibility now in force."""

    id: RequestId
    max_hz: int | float
    visible: bool


class Resumed(_Reply, frozen=True, kw_only=True, tag="resumed"):
    """Every missed event has been sent before this."""

    id: RequestId


class Resync(_Reply, frozen=True, kw_only=True, tag="resync"):
    """The missed events cannot be replayed: read the lists over REST, then go on from ``seq``."""

    id: RequestId


class Pong(_Reply, frozen=True, kw_only=True, tag="pong"):
    """The answer to ``ping``."""

    id: RequestId
    server_time_ms: Millis


class Status(_Reply, frozen=True, kw_only=True, tag="status"):
    """The feed's state changed, or what the server must do without."""

    feed: Feed
    degraded: list[str]


class Error(_Reply, frozen=True, kw_only=True, tag="error"):
    """A request was not carried out; the connection stays. ``id`` is None where it could not be read."""

    id: RequestId | None
    code: str
    title: str
    detail: str


class GoingAway(_Reply, frozen=True, kw_only=True, tag="going_away"):
    """The server is about to close: reconnect after the delay, which differs for each client."""

    reconnect_after_ms: int


class PriceRow(Struct, frozen=True, kw_only=True):
    """One symbol's price in ``snapshot`` and ``update``.

    Contracts have a mark, which values them, and say their funding: None with a delivery date. Spot has none of these.
    """

    symbol: str
    price: Amount
    bid: Amount | None
    ask: Amount | None
    last: Amount | None
    mark: Amount | UnsetType = UNSET
    funding_rate: Amount | UnsetType | None = UNSET
    next_funding_ms: Millis | UnsetType | None = UNSET
    event_ms: Millis
    received_ms: Millis
    fresh_ms: Annotated[int, Meta(description="When the price was certainly right: its age counts from here.")]
    is_stale: bool


class TotalsRow(Struct, frozen=True, kw_only=True):
    """A user's totals in ``snapshot``. ``equity`` is ``net_deposits + total_pnl + fx_pnl``."""

    currency: str
    unrealized_pnl: Amount
    realized_pnl: Amount
    realized_pnl_gross: Amount
    fees: Amount
    funding: Amount
    total_pnl: Amount
    fx_pnl: Amount
    day_pnl: Amount | None
    net_deposits: Amount
    equity: Amount
    gross_exposure: Amount
    net_exposure: Amount
    is_complete: bool
    is_stale: bool
    unpriced: list[str]
    oldest_price_age_ms: int | None


class PnlRow(Struct, frozen=True, kw_only=True):
    """A user's totals in ``update``: the figures that move.

    ``fx_pnl`` is there for who has balances in other assets than his currency;
    that and ``net_deposits`` also where anything but prices changed.
    """

    unrealized_pnl: Amount
    realized_pnl: Amount
    total_pnl: Amount
    day_pnl: Amount | None
    equity: Amount
    is_complete: bool
    is_stale: bool
    unpriced: list[str]
    fx_pnl: Amount | UnsetType = UNSET
    net_deposits: Amount | UnsetType = UNSET


class PositionRow(Struct, frozen=True, kw_only=True):
    """A whole position: in ``snapshot``, and in ``update`` when it was opened, changed or closed."""

    position_id: str
    account_id: str
    symbol: str
    market: str
    position_side: str
    side: str
    quantity: Amount
    signed_qty: Amount
    entry_price: Amount | None
    cost_basis: Amount
    mark_price: Amount | None
    price_source: str | None
    mark_age_ms: int | None
    is_stale: bool
    market_value: Amount | None
    unrealized_pnl: Amount | None
    unrealized_pnl_pct: Amount | None
    realized_pnl: Amount
    realized_pnl_gross: Amount
    fees: Amount
    funding: Amount
    total_pnl: Amount | None
    settle_asset: str
    rate_to_reporting: Amount | None
    unrealized_pnl_reported: Amount | None
    realized_pnl_reported: Amount
    strategy: str | None
    status: Literal["open", "closed"]
    opened_at: str
    updated_at: str
    closed_at: str | None
    version: int
    fees_unpriced: dict[str, Amount] = {}
    note: str | None = None
    take_profit: Amount | None = None
    stop_loss: Amount | None = None


class PositionChange(Struct, frozen=True, kw_only=True):
    """A position in ``update``; replaces the fields it has in the known row.

    Where only the price moved it has just the fields that are always there, and
    what of it is reported in the user's currency where it settles in another asset.
    Opened, changed or closed, it has every field of :class:`PositionRow`.
    """

    position_id: str
    symbol: str
    mark_price: Amount | None
    unrealized_pnl: Amount | None
    unrealized_pnl_pct: Amount | None
    is_stale: bool
    version: int
    account_id: str | UnsetType = UNSET
    market: str | UnsetType = UNSET
    position_side: str | UnsetType = UNSET
    side: str | UnsetType = UNSET
    quantity: Amount | UnsetType = UNSET
    signed_qty: Amount | UnsetType = UNSET
    entry_price: Amount | UnsetType | None = UNSET
    cost_basis: Amount | UnsetType = UNSET
    price_source: str | UnsetType | None = UNSET
    mark_age_ms: int | UnsetType | None = UNSET
    market_value: Amount | UnsetType | None = UNSET
    realized_pnl: Amount | UnsetType = UNSET
    realized_pnl_gross: Amount | UnsetType = UNSET
    fees: Amount | UnsetType = UNSET
    fees_unpriced: dict[str, Amount] | UnsetType = UNSET
    funding: Amount | UnsetType = UNSET
    total_pnl: Amount | UnsetType | None = UNSET
    settle_asset: str | UnsetType = UNSET
    rate_to_reporting: Amount | UnsetType | None = UNSET
    unrealized_pnl_reported: Amount | UnsetType | None = UNSET
    realized_pnl_reported: Amount | UnsetType = UNSET
    strategy: str | UnsetType | None = UNSET
    note: str | UnsetType | None = UNSET
    take_profit: Amount | UnsetType | None = UNSET
    stop_loss: Amount | UnsetType | None = UNSET
    status: Literal["open", "closed"] | UnsetType = UNSET
    opened_at: str | UnsetType = UNSET
    updated_at: str | UnsetType = UNSET
    closed_at: str | UnsetType | None = UNSET


class Snapshot(_Reply, frozen=True, kw_only=True, tag="snapshot"):
    """The whole state of a channel: after ``subscribed``, after a gap, on return to a hidden tab.

    For ``prices`` it holds the symbols just subscribed, else all of the connection's.
    """

    channel: Literal["prices", "pnl", "positions"]
    epoch: int
    seq: int
    as_of_ms: Millis
    prices: list[PriceRow] | UnsetType = UNSET
    pnl: TotalsRow | UnsetType = UNSET
    positions: list[PositionRow] | UnsetType = UNSET


class Update(_Reply, frozen=True, kw_only=True, tag="update"):
    """What changed since the connection's last frame. Newest values only, so any may be skipped."""

    epoch: int
    seq: int
    as_of_ms: Millis
    event_ms: Annotated[int, Meta(description="The newest exchange time behind it, in Unix ms; 0 before any price.")]
    merged: int
    prices: list[PriceRow] | UnsetType = UNSET
    pnl: PnlRow | UnsetType = UNSET
    positions: list[PositionChange] | UnsetType = UNSET


class Event(_Reply, frozen=True, kw_only=True, tag="event"):
    """Something that happened once. Numbered without a hole; sent after the state that contains it."""

    epoch: int
    seq: int
    kind: EventKind
    at_ms: Millis
    data: dict[str, Any]


ServerMessage: TypeAlias = (
    Hello
    | Subscribed
    | Unsubscribed
    | Configured
    | Resumed
    | Resync
    | Pong
    | Status
    | Error
    | GoingAway
    | Snapshot
    | Update
    | Event
)


class InvalidMessage(ValueError):
    """A client message that is not in the protocol. ``request_id`` is its id, where readable."""

    def __init__(self, code: str, detail: str, request_id: int | None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.request_id = request_id


class _Envelope(Struct, frozen=True):
    """Just enough of a refused message to answer it."""

    id: RequestId | None = None


class _TypedEnvelope(Struct, frozen=True):
    type: str


_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_type_decoder = msgspec.json.Decoder(_TypedEnvelope)
_encoder = msgspec.json.Encoder()

_TYPES = frozenset({"subscribe", "unsubscribe", "configure", "resume", "ping"})


def decode(text: str) -> ClientMessage:
    """Read one client message. Raises InvalidMessage for anything that is not in the protocol."""
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidMessage(_refusal_code(text), str(error), _readable_id(text)) from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidMessage("malformed", _plain_reason(error), None) from error


def encode(message: ServerMessage) -> bytes:
    """One server message as the payload of a text frame."""
    return _encoder.encode(message)


def plain_number(value: float) -> int | float:
    """A rate as JSON shows it best: ``10``, not ``10.0``."""
    return int(value) if value == int(value) else value


def _plain_reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refusal_code(text: str) -> str:
    try:
        kind = _type_decoder.decode(text).type
    except (msgspec.DecodeError, RecursionError):
        return "invalid_message"
    return "invalid_message" if kind in _TYPES else "unknown_type"


def _readable_id(text: str) -> int | None:
    try:
        return _envelope_decoder.decode(text).id
    except (msgspec.DecodeError, RecursionError):
        return None
