"""Exchange rates between assets, from the prices of spot pairs.

A rate goes the shortest way: the pair itself, the pair the other way round
(divided by), else two pairs over one hub, in a fixed order of preference, so
that the way depends on what is listed and never on which price came first.
Nothing is worth 1.0 by assumption: not even one dollar coin in another.
"""

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from typing import Final, Literal

import msgspec

from app.domain.decimals import exact
from app.domain.instruments import Instrument
from app.domain.prices import Price

HUBS: Final = ("USDT", "USDC", "FDUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
"""Over which asset to go where no pair is listed, the most traded first."""

_DIGITS: Final = Context(prec=24)
"""A rate that had to be divided has so many significant digits: more than any price it is made of."""


def hub_symbols(instruments: Iterable[Instrument]) -> set[str]:
    """The pairs between hubs: followed always, for who trades in an asset for the first time needs its rate at once."""
    return {one.symbol for one in instruments if one.market == "spot" and one.base in HUBS and one.quote in HUBS}


class Leg(msgspec.Struct, frozen=True):
    """One step of the way: multiply by the price of a symbol, or divide by it."""

    symbol: str
    step: Literal["multiply", "divide"]


class Rate(msgspec.Struct, frozen=True):
    """Units of one asset per unit of another, the symbols it was made of, and how old the oldest of them is."""

    value: Decimal
    path: tuple[str, ...]
    fresh_ms: int


class RateBook:
    """Finds rates among what is listed. Knows no prices: the caller brings those of one moment."""

    def __init__(self, instruments: Iterable[Instrument] = ()) -> None:
        self._pairs = {(one.base, one.quote): one.symbol for one in instruments if one.market == "spot"}
        self._paths: dict[tuple[str, str], tuple[Leg, ...] | None] = {}

    def path(self, asset: str, currency: str) -> tuple[Leg, ...] | None:
        """The way from an asset to a currency: none at all for the same, None where there is no way."""
        key = (asset, currency)
        if key not in self._paths:
            self._paths[key] = self._find(asset, currency)
        return self._paths[key]

    def symbols(self, asset: str, currency: str) -> tuple[str, ...]:
        """The symbols whose prices make the rate; none where there is no way."""
        return tuple(leg.symbol for leg in self.path(asset, currency) or ())

    def rate(self, asset: str, currency: str, prices: Mapping[str, Price]) -> Rate | None:
        """How much of a currency an asset is worth, or None where a price or the way is missing."""
        legs = self.path(asset, currency)
        if legs is None or any(leg.symbol not in prices for leg in legs):
            return None
        used = [prices[leg.symbol] for leg in legs]
        fresh_ms = min((price.fresh_ms for price in used), default=0)
        return Rate(_product(legs, used), tuple(price.symbol for price in used), fresh_ms)

    def _find(self, asset: str, currency: str) -> tuple[Leg, ...] | None:
        if asset == currency:
            return ()
        direct = self._leg(asset, currency)
        if direct is not None:
            return (direct,)
        for hub in HUBS:
            first, second = self._leg(asset, hub), self._leg(hub, currency)
            if first is not None and second is not None:
                return (first, second)
        return None

    def _leg(self, asset: str, currency: str) -> Leg | None:
        if (asset, currency) in self._pairs:
            return Leg(self._pairs[asset, currency], "multiply")
        if (currency, asset) in self._pairs:
            return Leg(self._pairs[currency, asset], "divide")
        return None


def _product(legs: tuple[Leg, ...], prices: list[Price]) -> Decimal:
    above = below = Decimal(1)
    with exact():
        for leg, price in zip(legs, prices, strict=True):
            if leg.step == "multiply":
                above *= price.price
            else:
                below *= price.price
    return above if below == 1 else _DIGITS.divide(above, below)
