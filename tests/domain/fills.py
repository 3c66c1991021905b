"""Fills and instruments for the tests of the ledger."""

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from app.domain.instruments import Instrument, Market
from app.domain.ledger import Fill


def _instrument(market: Market, multiplier: str = "1") -> Instrument:
    return Instrument(
        symbol="BTCUSD",
        market=market,
        base="BTC",
        quote="USD",
        settle="BTC" if market == "inverse" else "USD",
        tick_size=Decimal("0.01"),
        step_size=Decimal("0.001"),
        multiplier=Decimal(multiplier),
    )


SPOT = _instrument("spot")
LINEAR = _instrument("linear")
INVERSE = _instrument("inverse", "100")

instruments = st.sampled_from([SPOT, LINEAR, _instrument("linear", "0.001"), INVERSE])


def a_fill(side: str, quantity: Any, price: Any, **more: Any) -> Fill:
    """A fill; numbers may be anything Decimal takes."""
    return Fill(side="buy" if side == "buy" else "sell", quantity=Decimal(quantity), price=Decimal(price), **more)


fill_lists = st.lists(
    st.builds(
        a_fill,
        st.sampled_from(["buy", "sell"]),
        st.one_of(st.sampled_from([1, 2, 5]), st.decimals("0.001", "1000", places=3)),
        st.decimals("0.01", "100000", places=2),
        fee=st.decimals("-1", "5", places=4),
    ),
    min_size=1,
    max_size=12,
)
"""Small quantities are frequent, so that positions become flat and turn."""
