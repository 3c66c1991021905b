"""A recorded fill, and its published form: the ``trade`` of the contract."""

from datetime import datetime
from typing import Any

import msgspec

from app.domain.decimals import format_decimal
from app.domain.ledger import Fill, PositionSide
from app.domain.statements import timestamp


class ChainKey(msgspec.Struct, frozen=True):
    """Which fills make positions together: those of one chain are netted, in the order they happened."""

    user_id: str
    account_id: str
    symbol: str
    position_side: PositionSide = "net"
    strategy: str = ""


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """A fill as it was recorded.

    ``opened_position_id`` is the position that the rest of the fill opened when
    it went through zero. ``fill.trade_id`` is the exchange's or client's own id.
    ``revision`` counts the forms a fill has had: an edit keeps the earlier ones.
    """

    fill_id: str
    user_id: str
    account_id: str
    symbol: str
    position_id: str
    opened_position_id: str | None
    fill: Fill
    source: str
    executed_at: datetime
    created_at: datetime
    revision: int = 1

    @property
    def chain(self) -> ChainKey:
        return ChainKey(self.user_id, self.account_id, self.symbol, self.fill.position_side, self.fill.strategy)


def trade_statement(trade: Trade) -> dict[str, Any]:
    """``trade`` of the contract."""
    fill = trade.fill
    return {
        "fill_id": trade.fill_id,
        "trade_id": fill.trade_id,
        "account_id": trade.account_id,
        "symbol": trade.symbol,
        "position_id": trade.position_id,
        "opened_position_id": trade.opened_position_id,
        "side": fill.side,
        "position_side": fill.position_side,
        "quantity": format_decimal(fill.quantity),
        "price": format_decimal(fill.price),
        "fee": format_decimal(fill.fee),
        "fee_asset": fill.fee_asset,
        "fee_rate": None if fill.fee_rate is None else format_decimal(fill.fee_rate),
        "rate_to_reporting": None if fill.rate_to_reporting is None else format_decimal(fill.rate_to_reporting),
        "strategy": fill.strategy or None,
        "source": trade.source,
        "executed_at": timestamp(trade.executed_at),
        "created_at": timestamp(trade.created_at),
        "revision": trade.revision,
    }
