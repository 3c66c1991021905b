"""What a price looks like in the stream: contracts say more than spot."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.domain.prices import Price
from app.domain.protocol import PriceRow
from app.websocket.state import WatchedPrice

_STRICT = msgspec.json.Decoder(PriceRow)


def encoded(price: Price) -> dict[str, Any]:
    """A row as it goes out; it is of the protocol's form."""
    watched = WatchedPrice(price.symbol, 0)
    watched.price = price
    _STRICT.decode(watched.encoded())
    row: dict[str, Any] = msgspec.json.decode(watched.encoded())
    assert set(row) <= set(PriceRow.__struct_fields__)
    return row


def test_a_spot_price_has_neither_mark_nor_funding() -> None:
    row = encoded(Price("BTCUSDT", Decimal(100), "mid", Decimal(99), Decimal(101), None, None, 1, 2, 3))

    assert list(row) == ["symbol", "price", "bid", "ask", "last", "event_ms", "received_ms", "fresh_ms", "is_stale"]


@pytest.mark.parametrize(
    ("rate", "next_ms", "said"), [(Decimal("-0.0001"), 9, ("-0.0001", 9)), (None, None, (None, None))]
)
def test_a_contract_says_its_mark_and_its_funding_if_it_has_any(
    rate: Decimal | None, next_ms: int | None, said: tuple[object, object]
) -> None:
    mark = Decimal("50000.50")
    row = encoded(Price("BTCUSD_PERP", mark, "mark", None, None, None, mark, 1, 2, 3, rate, next_ms))

    assert (row["mark"], row["price"]) == ("50000.5", "50000.5")
    assert (row["funding_rate"], row["next_funding_ms"]) == said
