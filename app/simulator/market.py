"""One symbol as it trades: its book, its trades, its candles. Integers of 1e-8 throughout."""

from collections import deque
from typing import NamedTuple

from app.simulator.candles import CandleTape
from app.simulator.listing import Listing, SymbolStatus

_RECENT_ORDERS = 200
_LEVELS = 20


class TakerOrder(NamedTuple):
    """One taker order, filled by several trades at one price."""

    aggregate_id: int
    first_id: int
    price: int
    sizes: tuple[int, ...]
    time_us: int
    buyer_is_maker: bool

    @property
    def last_id(self) -> int:
        """The id of its last trade."""
        return self.first_id + len(self.sizes) - 1

    @property
    def quantity(self) -> int:
        """What it traded in all."""
        return sum(self.sizes)


class Market:
    """The state of one symbol. It knows no clock and no chance: both are passed in."""

    __slots__ = (
        "aggregate_id",
        "ask",
        "ask_quantity",
        "basis",
        "bid",
        "bid_quantity",
        "frozen",
        "last",
        "listing",
        "next_id",
        "recent",
        "replayed",
        "spread_ticks",
        "status",
        "tape",
        "typical_steps",
        "update_id",
    )

    def __init__(self, listing: Listing, price: int, update_id: int, next_id: int, tape: CandleTape) -> None:
        self.listing = listing
        self.status: SymbolStatus = listing.status
        self.typical_steps = listing.typical_quantity // listing.step
        self.spread_ticks = min(4, max(1, round(price * listing.spread_bps / 10_000 / listing.tick)))
        self.bid = max(listing.tick, price - self.spread_ticks // 2 * listing.tick)
        self.ask = self.bid + self.spread_ticks * listing.tick
        self.bid_quantity = self.ask_quantity = listing.typical_quantity
        self.last = price
        self.update_id = update_id
        self.next_id = next_id
        self.aggregate_id = next_id * 2 // 3
        self.recent: deque[TakerOrder] = deque(maxlen=_RECENT_ORDERS)
        self.tape = tape
        self.basis = 0.0
        """How far, in logarithm, the price was moved by hand from what its two assets imply."""
        self.frozen = False
        """Whether prices stay where they were set; quantities and trades go on."""
        self.replayed = False
        """Whether recorded ticks drive it instead of chance."""

    @property
    def trading(self) -> bool:
        """Whether anything may happen."""
        return self.status == "TRADING"

    @property
    def has_book(self) -> bool:
        """Whether there is a book at all: a symbol in BREAK has none."""
        return self.status != "BREAK"

    def requote(self, fair: float, size: float, mood: float) -> None:
        """Move the book around a fair price (in 1e-8). ``size`` scales quantities, ``mood`` in [0, 1) widens."""
        listing = self.listing
        if not self.frozen:
            tick = listing.tick
            spread = self.spread_ticks + (mood > 0.7) + (mood > 0.93)
            self.bid = max(1, int(fair / tick - (spread - 1) * 0.5)) * tick
            self.ask = self.bid + spread * tick
        steps = self.typical_steps * size
        self.bid_quantity = (1 + int(steps)) * listing.step
        self.ask_quantity = (1 + int(steps * (1.5 - mood))) * listing.step
        self.update_id += 1 + int(mood * 4)

    def take(self, time_us: int, size: float, mood: float, *, buys: bool) -> TakerOrder:
        """Fill one taker order against the top of the book."""
        fills = 1 + (mood > 0.7) + (mood > 0.9) + (mood > 0.97)
        steps = max(fills, int(self.typical_steps * size * 0.4))
        each = steps // fills * self.listing.step
        sizes = (each,) * (fills - 1) + (steps * self.listing.step - each * (fills - 1),)
        price = self.last if self.frozen else (self.ask if buys else self.bid)
        order = self.record(time_us, price, sizes, buyer_is_maker=not buys)
        self._consume(order.quantity, buys=buys)
        return order

    def record(self, time_us: int, price: int, sizes: tuple[int, ...], *, buyer_is_maker: bool) -> TakerOrder:
        """Note an order that filled at a price: last price, ids, candles."""
        order = TakerOrder(self.aggregate_id, self.next_id, price, sizes, time_us, buyer_is_maker)
        self.aggregate_id += 1
        self.next_id += len(sizes)
        self.last = price
        self.recent.append(order)
        self.tape.add(time_us // 1000, price, sum(sizes), len(sizes), taker_buys=not buyer_is_maker)
        return order

    def set_book(self, bid: int, bid_quantity: int, ask: int, ask_quantity: int) -> None:
        """Put an exact top of book in place."""
        self.bid, self.bid_quantity = bid, bid_quantity
        self.ask, self.ask_quantity = ask, ask_quantity
        self.update_id += 1

    def _consume(self, quantity: int, *, buys: bool) -> None:
        typical = self.listing.typical_quantity
        if buys:
            self.ask_quantity = self.ask_quantity - quantity if self.ask_quantity > quantity else typical
        else:
            self.bid_quantity = self.bid_quantity - quantity if self.bid_quantity > quantity else typical
        self.update_id += 1

    def depth(self, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Bids and asks, best first. Levels below the best are a function of their price alone."""
        if not self.has_book:
            return [], []
        tick, count = self.listing.tick, min(levels, _LEVELS)
        bids = [(self.bid, self.bid_quantity)]
        asks = [(self.ask, self.ask_quantity)]
        for number in range(1, count):
            bid = self.bid - number * tick
            if bid > 0:
                bids.append((bid, self._resting(bid)))
            ask = self.ask + number * tick
            asks.append((ask, self._resting(ask)))
        return bids, asks

    def _resting(self, price: int) -> int:
        scatter = (price // self.listing.tick * 2_654_435_761) % 97
        return (1 + self.typical_steps * (20 + scatter) // 40) * self.listing.step
