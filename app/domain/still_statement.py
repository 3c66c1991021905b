"""What of a position's statement does not move with its price, as JSON text.

The same fields, names and digits as :func:`app.domain.statements.position_statement`,
a quarter of its cost: written at once, with no dictionary in between. A P&L worker
that is asked for ten thousand users within seconds writes a hundred thousand of these.
"""

from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from app.domain.decimals import exact, format_decimal, format_units, published, published_units, to_units
from app.domain.ledger import price_of_cost
from app.domain.positions import Position
from app.domain.statements import timestamp

MOVING: Final = (
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
"""The fields that move with the price, or with the rate at which it is reported."""

_encoder = msgspec.json.Encoder()


STILL: Final = (
    "position_id",
    "account_id",
    "symbol",
    "market",
    "position_side",
    "side",
    "quantity",
    "signed_qty",
    "entry_price",
    "cost_basis",
    "realized_pnl",
    "realized_pnl_gross",
    "fees",
    "fees_unpriced",
    "funding",
    "settle_asset",
    "realized_pnl_reported",
    "strategy",
    "note",
    "take_profit",
    "stop_loss",
    "status",
    "opened_at",
    "updated_at",
    "closed_at",
    "version",
)
"""The others, in their order."""

_TEMPLATE: Final = "{" + ",".join(f'"{name}":%s' for name in STILL)


class StillStatement(NamedTuple):
    """``values`` are JSON, one of each of :data:`STILL`; the amounts are units of 1e-18 of the settle asset."""

    values: tuple[str, ...]
    cost_basis: int
    realized_pnl: int

    @property
    def text(self) -> str:
        """All of it as a JSON object without its end."""
        return _TEMPLATE % self.values


def still_statement(position: Position) -> StillStatement:
    """All of a position's statement but :data:`MOVING`."""
    state, instrument, converted = position.state, position.instrument, position.converted
    with exact():
        entry = price_of_cost(instrument, state.signed_qty, state.cost)
        gross = "0" if state.cash == -state.cost else format_units(to_units(state.cash) + to_units(state.cost))
    realized = _realized(gross, state.fees, state.funding)
    reported = realized
    if converted is not None:
        reported = _realized(published(converted.gross), converted.fees, converted.funding)
    cost_basis = published(state.cost)
    signed_qty = format_decimal(state.signed_qty)
    opened = timestamp(position.opened_at)
    updated = opened if position.updated_at == position.opened_at else timestamp(position.updated_at)
    values = (
        _json(position.position_id),
        _json(position.account_id),
        _json(instrument.symbol),
        f'"{instrument.market}"',
        f'"{position.position_side}"',
        f'"{position.side}"',
        f'"{signed_qty.removeprefix("-")}"',
        f'"{signed_qty}"',
        _decimal(entry),
        f'"{cost_basis}"',
        f'"{realized.net}"',
        f'"{realized.gross}"',
        f'"{realized.fees}"',
        _unpriced(state.fees_unpriced),
        f'"{realized.funding}"',
        _json(instrument.settle),
        f'"{reported.net}"',
        _text(position.strategy),
        _text(position.note),
        _decimal(position.take_profit),
        _decimal(position.stop_loss),
        f'"{position.status}"',
        f'"{opened}"',
        f'"{updated}"',
        _moment(position),
        str(position.version),
    )
    return StillStatement(values, published_units(cost_basis), published_units(realized.net))


class _Realized(NamedTuple):
    """What was realised, as published: texts, of which ``net`` is the sum of the others."""

    gross: str
    fees: str
    funding: str
    net: str


def _realized(gross: str, fees: Decimal, funding: Decimal) -> _Realized:
    paid, funded = published(fees), published(funding)
    net = published_units(gross) - published_units(paid) + published_units(funded)
    return _Realized(gross, paid, funded, format_units(net))


def _json(text: str) -> str:
    return _encoder.encode(text).decode()


def _text(text: str) -> str:
    return _json(text) if text else "null"


def _decimal(value: Decimal | None) -> str:
    return "null" if value is None else f'"{format_decimal(value)}"'


def _unpriced(fees: dict[str, Decimal]) -> str:
    return _encoder.encode({asset: format_decimal(fee) for asset, fee in fees.items()}).decode() if fees else "{}"


def _moment(position: Position) -> str:
    return "null" if position.closed_at is None else f'"{timestamp(position.closed_at)}"'
