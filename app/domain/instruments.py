"""What can be held: an instrument as its exchange lists it, and the rules of symbols."""

import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from typing import Literal

import msgspec

from app.domain.decimals import quantize_state

Market = Literal["spot", "linear", "inverse"]
Status = Literal["trading", "halted", "delisted"]

PERPETUAL_SUFFIX = "_PERP"
"""How a perpetual's symbol ends here. Binance says so of COIN-M only; USDⓈ-M has names that spot has too."""


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One tradable thing.

    ``symbol`` is compared exactly: never upper-cased, trimmed or normalised,
    for a look-alike must not become the real thing.
    """

    symbol: str
    market: Market
    base: str
    quote: str
    settle: str
    tick_size: Decimal
    step_size: Decimal
    multiplier: Decimal = Decimal(1)
    status: Status = "trading"
    venue_symbol: str = ""
    """The exchange's own name where it is another than ours; empty where it is the same."""

    @property
    def exchange_symbol(self) -> str:
        """What the exchange calls it."""
        return self.venue_symbol or self.symbol

    @property
    def is_perpetual(self) -> bool:
        """Whether funding is exchanged on it. Delivery contracts and spot have none."""
        return self.market != "spot" and self.symbol.endswith(PERPETUAL_SUFFIX)

    def value(self, signed_qty: Decimal, price: Decimal) -> Decimal:
        """What a quantity is worth at a price, in the settle asset.

        Linear and spot: ``q·m·p``. Inverse: ``-q·m/p`` (so that a long gains as
        the price rises). The difference of two values is a profit in each market.
        Call inside :func:`app.domain.decimals.exact`.
        """
        if self.market == "inverse":
            return quantize_state(-signed_qty * self.multiplier / price)
        return signed_qty * self.multiplier * price

    def price_of(self, signed_qty: Decimal, value: Decimal, digits: Context) -> Decimal:
        """The price at which a quantity has a value: the inverse of :meth:`value`.

        Rounded once, as ``digits`` says. Call inside :func:`app.domain.decimals.exact`.
        """
        contracts = signed_qty * self.multiplier
        if self.market == "inverse":
            return digits.divide(-contracts, value)
        return digits.divide(value, contracts)


class UnknownSymbol(ValueError):
    """A symbol that is not, exactly, one the exchange lists."""

    def __init__(self, symbol: str, detail: str) -> None:
        super().__init__(detail)
        self.symbol = symbol


def explain_unknown(symbol: str, listed: Mapping[str, Instrument]) -> str:
    """Say why a symbol is not accepted; name the character of a look-alike."""
    foreign = [ch for ch in symbol if not ("A" <= ch <= "Z" or "0" <= ch <= "9" or ch == "_")]
    if symbol.upper() in listed and symbol != symbol.upper() and symbol.isascii():
        return f"not listed; symbols are case-sensitive, did you mean {symbol.upper()}?"
    for ch in foreign:
        if not ch.isascii():
            name = unicodedata.name(ch, "unnamed character")
            return f"not listed; it contains U+{ord(ch):04X} {name}, which is not a Latin letter"
    return "not listed by the exchange"


def by_symbol(instruments: Iterable[Instrument]) -> dict[str, Instrument]:
    """Index instruments by their exact symbol."""
    return {instrument.symbol: instrument for instrument in instruments}
