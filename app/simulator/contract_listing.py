"""The contracts that the simulated exchange lists, each made of a spot symbol that it follows."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from app.simulator.listing import Listing
from app.simulator.venues import Venue
from app.simulator.wire import ONE

ContractKind = Literal["PERPETUAL", "CURRENT_QUARTER"]
ContractStatus = Literal["TRADING", "SETTLING"]

_LINEAR = 60
"""How many coins have a perpetual against USDT; the busiest ones."""
_AGAINST_USDC = 8
_DELIVERED = ("BTC", "ETH")
_BY_THE_THOUSAND = ("PEPE", "SHIB", "BONK", "FLOKI")
"""So cheap that the contract is of a thousand."""
_TEN_DOLLARS = ("ETH", "SOL", "XRP", "BNB", "DOGE", "ADA", "LINK", "AVAX", "LTC", "BCH", "TRX")
_INVERSE_DOLLARS = {"BTC": 100} | dict.fromkeys(_TEN_DOLLARS, 10)
"""The contracts that settle in their own coin, and how many dollars one of them is."""


class ContractListing(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a contract. Prices and quantities in units of 1e-8.

    ``underlying`` is the spot symbol that it follows, at ``factor`` times its price.
    """

    symbol: str
    venue: Venue
    pair: str
    base: str
    quote: str
    margin: str
    kind: ContractKind
    underlying: str
    factor: int
    contract_size: int
    tick: int
    step: int
    delivery_ms: int


NEVER_DELIVERED_MS = 4_133_404_800_000
"""What the exchange says of perpetuals."""


def build_contracts(spot: Mapping[str, Listing], opened_ms: int) -> list[ContractListing]:
    """Every contract: perpetuals of both markets, and a few with delivery at the end of the quarter."""
    delivery = quarter_end(datetime.fromtimestamp(opened_ms / 1000, UTC))
    return [*_linear(spot, delivery), *_inverse(spot, delivery)]


def quarter_end(now: datetime) -> datetime:
    """When the contracts of this quarter are delivered: the last Friday of its last month at 08:00."""
    year, month = now.year, (now.month + 2) // 3 * 3
    while True:
        following = datetime(year + month // 12, month % 12 + 1, 1, 8, tzinfo=UTC)
        last = following - timedelta(days=1)
        friday = last - timedelta(days=(last.weekday() - 4) % 7)
        if friday > now:
            return friday
        year, month = (year, month + 3) if month < 12 else (year + 1, 3)


def _linear(spot: Mapping[str, Listing], delivery: datetime) -> Iterator[ContractListing]:
    for quote, count in (("USDT", _LINEAR), ("USDC", _AGAINST_USDC)):
        traded = [one for one in spot.values() if one.quote == quote and one.status == "TRADING" and one.base.isascii()]
        coins = [one for one in traded if not one.base[0].isdigit() and one.base not in {"USDC", "FDUSD", "EUR"}]
        for listing in sorted(coins, key=lambda one: -one.activity)[:count]:
            yield _contract(listing, "linear")
            if quote == "USDT" and listing.base in _DELIVERED:
                yield _contract(listing, "linear", delivery)


def _inverse(spot: Mapping[str, Listing], delivery: datetime) -> Iterator[ContractListing]:
    for base in _INVERSE_DOLLARS:
        yield _contract(spot[f"{base}USDT"], "inverse")
        if base in _DELIVERED:
            yield _contract(spot[f"{base}USDT"], "inverse", delivery)


def _contract(listing: Listing, venue: Venue, delivery: datetime | None = None) -> ContractListing:
    is_linear = venue == "linear"
    factor = 1000 if listing.base in _BY_THE_THOUSAND else 1
    base = listing.base if factor == 1 else f"{factor}{listing.base}"
    quote = listing.quote if is_linear else "USD"
    suffix = f"_{delivery:%y%m%d}" if delivery else "" if is_linear else "_PERP"
    return ContractListing(
        symbol=base + quote + suffix,
        venue=venue,
        pair=base + quote,
        base=base,
        quote=quote,
        margin=quote if is_linear else listing.base,
        kind="CURRENT_QUARTER" if delivery else "PERPETUAL",
        underlying=listing.symbol,
        factor=factor,
        contract_size=1 if is_linear else _INVERSE_DOLLARS[listing.base],
        tick=listing.tick * factor * (10 if listing.base == "BTC" else 1),
        step=max(1, listing.step // factor) if is_linear else ONE,
        delivery_ms=round(delivery.timestamp() * 1000) if delivery else NEVER_DELIVERED_MS,
    )
