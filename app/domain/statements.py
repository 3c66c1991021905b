"""The published form of positions and totals: the ``Position`` and ``Totals`` of the contract.

Plain dictionaries with the contract's names: amounts as decimal strings,
times as RFC 3339 in UTC, unknown as None.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from app.domain.decimals import format_decimal, format_units
from app.domain.ledger import entry_price
from app.domain.prices import Price
from app.domain.valuation import Totals, Valued

_encoder = msgspec.json.Encoder()
_TO_THE_MICROSECOND: Final = len('"2026-01-01T00:00:00.000000Z"')


def position_statement(valued: Valued) -> dict[str, Any]:
    """``Position`` of the contract."""
    position, value, reported = valued.position, valued.value, valued.reported
    state, realized, mark = position.state, value.realized, value.mark
    entry = entry_price(position.instrument, state)
    signed, net = format_decimal(state.signed_qty), format_units(realized.net)
    is_converted = position.converted is not None
    return {
        "position_id": position.position_id,
        "account_id": position.account_id,
        "symbol": position.symbol,
        "market": position.instrument.market,
        "position_side": position.position_side,
        "side": position.side,
        "quantity": signed.removeprefix("-"),
        "signed_qty": signed,
        "entry_price": _decimal(entry),
        "cost_basis": format_units(value.cost_basis),
        "mark_price": None if mark is None else format_decimal(mark.price),
        "price_source": None if mark is None else mark.source,
        "mark_age_ms": None if mark is None else mark.age_ms,
        "is_stale": valued.is_stale,
        "market_value": _units(value.market_value),
        "unrealized_pnl": _units(value.unrealized_pnl),
        "unrealized_pnl_pct": value.unrealized_pnl_pct,
        "realized_pnl": net,
        "realized_pnl_gross": format_units(realized.gross),
        "fees": format_units(realized.fees),
        "fees_unpriced": {asset: format_decimal(fee) for asset, fee in state.fees_unpriced.items()},
        "funding": format_units(realized.funding),
        "total_pnl": _units(value.total_pnl),
        "settle_asset": position.instrument.settle,
        "rate_to_reporting": _rate(valued),
        "unrealized_pnl_reported": _units(reported.unrealized_pnl),
        "realized_pnl_reported": format_units(reported.realized.net) if is_converted else net,
        "strategy": position.strategy or None,
        "note": position.note or None,
        "take_profit": _decimal(position.take_profit),
        "stop_loss": _decimal(position.stop_loss),
        "status": position.status,
        "opened_at": timestamp(position.opened_at),
        "updated_at": timestamp(position.updated_at),
        "closed_at": None if position.closed_at is None else timestamp(position.closed_at),
        "version": position.version,
    }


def totals_statement(totals: Totals) -> dict[str, Any]:
    """``Totals`` of the contract. Equity is net deposits plus total P&L plus the currency effect."""
    return {
        "currency": totals.currency,
        "unrealized_pnl": format_units(totals.unrealized_pnl),
        "realized_pnl": format_units(totals.realized_pnl),
        "realized_pnl_gross": format_units(totals.realized.gross),
        "fees": format_units(totals.realized.fees),
        "funding": format_units(totals.realized.funding),
        "total_pnl": format_units(totals.total_pnl),
        "fx_pnl": format_units(totals.fx_pnl),
        "day_pnl": _units(totals.day_pnl),
        "net_deposits": format_units(totals.net_deposits),
        "equity": format_units(totals.equity),
        "gross_exposure": format_units(totals.gross_exposure),
        "net_exposure": format_units(totals.net_exposure),
        "is_complete": totals.is_complete,
        "is_stale": totals.is_stale,
        "unpriced": list(totals.unpriced),
        "oldest_price_age_ms": totals.oldest_price_age_ms,
    }


def price_statement(price: Price, as_of_ms: int, stale_after_ms: int) -> dict[str, Any]:
    """A price of the contract, with its age at ``as_of_ms``."""
    return {
        "symbol": price.symbol,
        "price": format_decimal(price.price),
        "price_source": price.source,
        "bid": _decimal(price.bid),
        "ask": _decimal(price.ask),
        "last": _decimal(price.last),
        "mark": _decimal(price.mark),
        "funding_rate": _decimal(price.funding_rate),
        "next_funding_ms": price.next_funding_ms,
        "event_ms": price.event_ms,
        "received_ms": price.received_ms,
        "fresh_ms": price.fresh_ms,
        "age_ms": price.age_ms(as_of_ms),
        "is_stale": price.is_stale(as_of_ms, stale_after_ms),
    }


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with ``Z`` and milliseconds."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # Quoted, and to the microsecond, but for a whole second: a tenth of the time of isoformat.
    text = _encoder.encode(moment).decode()
    return f"{text[1:24]}Z" if len(text) == _TO_THE_MICROSECOND else f"{text[1:20]}.000Z"


def _rate(valued: Valued) -> str | None:
    if valued.position.converted is None:
        return "1"
    return _decimal(None if valued.reported.rate is None else valued.reported.rate.value)


def _decimal(value: Decimal | None) -> str | None:
    return None if value is None else format_decimal(value)


def _units(value: int | None) -> str | None:
    return None if value is None else format_units(value)
