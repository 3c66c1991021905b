"""Prices: what the exchange said, which of it values a position, and how old it is."""

from decimal import Decimal
from typing import Literal

import msgspec

PriceSource = Literal["mid", "last", "mark"]
FeedState = Literal["live", "stale", "down", "simulated"]


class Price(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The newest price of one symbol, as the price worker publishes it.

    ``price`` values positions; ``source`` says what it is: the middle of the
    best bid and ask where both are current, else the last trade, or the mark.
    ``fresh_ms`` is the moment the price was certainly right, by the price
    worker's clock: the receive time, or earlier where the exchange's own time
    stamps show that it arrived late. Ages are counted from it.
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

    def age_ms(self, as_of_ms: int) -> int:
        """How long before ``as_of_ms`` (same clock) this price was certainly right."""
        return max(0, as_of_ms - self.fresh_ms)

    def is_stale(self, as_of_ms: int, stale_after_ms: int) -> bool:
        """Whether the price is too old to be shown as live."""
        return as_of_ms - self.fresh_ms > stale_after_ms


class Feed(msgspec.Struct, frozen=True):
    """The state of the exchange connection: shape of ``feed`` in ``hello`` and ``status``.

    Live is what streams; a market whose streams are silent is ``stale``, though its
    prices may still be fresh, for they are asked for meanwhile. ``age_ms`` is the
    time since the newest tick off a stream.

    ``state`` is ``simulated`` while simulated prices flow; a simulated feed that
    stops is ``stale`` or ``down`` like any other, so ``simulated`` is kept apart.
    """

    state: FeedState
    source: str
    age_ms: int | None
    simulated: bool = False


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
