"""Prices: what the exchange said, which of it values a position, and how old it is."""

from decimal import Decimal
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.domain.decimals import exact
from app.domain.instruments import Market

PriceSource = Literal["mid", "last", "mark"]
Basis = Literal["auto", "mid", "last", "mark", "exit"]
"""What values an account's positions. ``auto``: marks for perpetuals, the middle for spot. ``exit``: what closing
would meet, so the bid for a long and the ask for a short."""

FeedState = Literal["live", "stale", "down", "simulated"]


ValueSource = Literal["mid", "last", "mark", "bid", "ask"]
"""What a price that values a position is."""


class Price(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest price of one symbol, as the price worker publishes it.

    ``price`` values positions; ``source`` says what it is: for spot the middle of
    the best bid and ask where both are current, else the last trade; for contracts the mark.
    ``fresh_ms`` is the moment the price was certainly right, by the price
    worker's clock: the receive time, or earlier where the exchange's own time
    stamps show that it arrived late. Ages are counted from it.

    ``funding_rate`` is what perpetuals are expected to exchange at ``next_funding_ms``,
    as a share of their value; both None where there is no funding.
    """

    symbol: str
    price: Decimal
    source: PriceSource
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    mark: Decimal | None
    event_ms: int
    received_ms: int
    fresh_ms: int
    funding_rate: Decimal | None = None
    next_funding_ms: int | None = None

    def on_basis(self, basis: Basis, *, is_long: bool) -> tuple[Decimal, ValueSource] | None:
        """The price that values a position on a basis, and what it is; None where the exchange gives no such price."""
        source = source_on(basis, is_long=is_long)
        if source is None:
            return self.price, self.source
        price = self.quoted(source)
        return None if price is None else (price, source)

    def quoted(self, source: ValueSource) -> Decimal | None:
        """One of the prices that the exchange gives, or None where it does not."""
        if source == "mid":
            return self._mid()
        return {"bid": self.bid, "ask": self.ask, "last": self.last, "mark": self.mark}[source]

    def _mid(self) -> Decimal | None:
        if self.bid is None or self.ask is None:
            return None
        with exact():
            return (self.bid + self.ask) / 2

    def age_ms(self, as_of_ms: int) -> int:
        """How long before ``as_of_ms`` (same clock) this price was certainly right."""
        return max(0, as_of_ms - self.fresh_ms)

    def is_stale(self, as_of_ms: int, stale_after_ms: int) -> bool:
        """Whether the price is too old to be shown as live."""
        return as_of_ms - self.fresh_ms > stale_after_ms


def source_on(basis: Basis, *, is_long: bool) -> ValueSource | None:
    """Which price a basis means for a side; None: the one that values by default."""
    if basis == "auto":
        return None
    if basis == "exit":
        return "bid" if is_long else "ask"
    return basis


class Feed(msgspec.Struct, frozen=True):
    """The state of the exchange connection: shape of ``feed`` in ``hello`` and ``status``.

    Live is what streams; a market whose streams are silent is ``stale``, though its
    prices may still be fresh, for they are asked for meanwhile. ``age_ms`` is the
    time since the newest tick off a stream.

    ``state`` is ``simulated`` while simulated prices flow; a simulated feed that
    stops is ``stale`` or ``down`` like any other, so ``simulated`` is kept apart.

    ``state`` and ``age_ms`` are those of the worst market in which something is held or
    watched; ``markets`` says it of each.
    """

    state: FeedState
    source: str
    age_ms: int | None
    simulated: bool = False
    markets: dict[Market, FeedState] | UnsetType = UNSET


class StreamPosition(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A place in the state stream: comparable everywhere, for all instances count alike.

    ``epoch`` is the price worker's fencing epoch, ``flush`` its flush number and
    ``revision`` how often the book changed since that flush without a newer one.
    """

    epoch: int
    flush: int
    revision: int = 0

    @property
    def seq(self) -> int:
        """The sequence number on the wire: strictly increasing within an epoch."""
        return self.flush * REVISIONS_PER_FLUSH + self.revision


REVISIONS_PER_FLUSH = 100
"""Room on the wire for book changes between two price flushes; at the bound they wait for a flush."""
