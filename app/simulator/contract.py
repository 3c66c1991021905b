"""One contract as it trades: its mark, its book and its funding, all following a spot symbol.

A contract has no chance of its own. Its mark is the middle of its spot symbol's
book with a premium that swings slowly around zero, its book lies around the
mark, and its trades are those of the spot symbol. So the whole futures side costs
nothing until somebody asks or listens. Prices are integers of 1e-8.
"""

import math
import zlib
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from app.simulator.candles import MINUTE_MS
from app.simulator.contract_listing import ContractListing, ContractStatus
from app.simulator.market import Market
from app.simulator.wire import ONE

_SWING = 0.0004
_SWING_S = 5400.0
_CARRY = 0.004
"""By how much a contract with delivery stands above spot."""
_BASE_RATE = ONE // 10_000
_STAMPS_KEPT = 2000
_MINUTES_KEPT = 1500


class Settled(NamedTuple):
    """One funding stamp: when, the rate and the mark, both in 1e-8."""

    time_ms: int
    rate: int
    mark: int


class Held(NamedTuple):
    """Figures that were put in place by hand; None follows the market."""

    mark: int | None = None
    bid: int | None = None
    ask: int | None = None
    rate: int | None = None


class Contract:
    """The state of one contract, at the moment that is passed in."""

    def __init__(self, listing: ContractListing, spot: Market) -> None:
        self.listing = listing
        self.spot = spot
        self.status: ContractStatus = "TRADING"
        self.held = Held()
        self.changes = 0
        """How often figures were put in place: the book's number must grow with it."""
        self.settled: deque[Settled] = deque(maxlen=_STAMPS_KEPT)
        self._phase = zlib.crc32(listing.symbol.encode()) % 1000 / 1000 * math.tau
        self._minutes: deque[tuple[int, int]] = deque(maxlen=_MINUTES_KEPT)

    @property
    def is_perpetual(self) -> bool:
        """Whether it has funding."""
        return self.listing.kind == "PERPETUAL"

    @property
    def update_id(self) -> int:
        """The number of the book's newest change."""
        return self.spot.update_id + self.changes

    def index(self) -> int:
        """The price of what the contract is of."""
        return (self.spot.bid + self.spot.ask) * self.listing.factor // 2

    def mark(self, now_ms: int) -> int:
        """The price that values the contract."""
        if self.held.mark is not None:
            return self.held.mark
        return self._marked(self.index(), now_ms)

    def book(self, now_ms: int) -> tuple[int, int]:
        """The best bid and ask."""
        tick = self.listing.tick
        bid = max(1, self._marked(self.index(), now_ms) // tick) * tick
        bid = bid if self.held.bid is None else self.held.bid
        return bid, max(bid + tick, self.held.ask or 0)

    def last(self, now_ms: int) -> int:
        """The price of the last trade."""
        return self.traded_at(self.spot.last, now_ms)

    def traded_at(self, spot_price: int, now_ms: int) -> int:
        """The price at which the contract traded when spot did."""
        tick = self.listing.tick
        return max(1, round(self._marked(spot_price * self.listing.factor, now_ms) / tick)) * tick

    def rate(self, now_ms: int) -> int:
        """The funding rate as it would settle now, in 1e-8."""
        if self.held.rate is not None:
            return self.held.rate
        return _BASE_RATE + round(self._premium(now_ms) * 0.4 * ONE)

    def quantity(self) -> int:
        """A typical size: coins, or contracts of so many dollars."""
        typical = self.spot.listing.typical_quantity
        if self.listing.venue == "linear":
            return max(self.listing.step, typical // self.listing.factor)
        dollars = typical * self.spot.last // ONE
        return max(1, dollars // (self.listing.contract_size * ONE)) * ONE

    def settle(self, time_ms: int, rate: int | None = None, mark: int | None = None) -> Settled:
        """Exchange funding at a moment."""
        stamp = Settled(time_ms, self.rate(time_ms) if rate is None else rate, self.mark(time_ms))
        if mark is not None:
            stamp = stamp._replace(mark=mark)
        self.settled.append(stamp)
        # The mark of the stamp is also the one its minute began with, whoever asks for it that way.
        self._minutes.append((time_ms // MINUTE_MS * MINUTE_MS, stamp.mark))
        return stamp

    def note_minute(self, minute_ms: int) -> None:
        """Remember the mark with which a minute begins."""
        self._minutes.append((minute_ms, self.mark(minute_ms)))

    def mark_opens(self, interval_ms: int, now_ms: int) -> Iterator[tuple[int, int]]:
        """The mark with which each interval of late began, oldest first."""
        opens: dict[int, int] = {}
        for candle in self.spot.tape.klines("1m" if interval_ms < 15 * MINUTE_MS else "15m", now_ms):
            opens[candle.opens_ms] = self._marked(candle.open * self.listing.factor, candle.opens_ms)
        opens.update(self._minutes)
        for opens_ms in sorted(opens):
            if opens_ms % interval_ms == 0:
                yield opens_ms, opens[opens_ms]

    def seed_funding(self, times_ms: list[int], now_ms: int) -> None:
        """Have stamps of before the exchange opened, at the marks of that day."""
        opens = dict(self.mark_opens(15 * MINUTE_MS, now_ms))
        stamps = [Settled(at, self.rate(at), opens[at]) for at in times_ms if at in opens]
        self.settled.extendleft(reversed(stamps))

    def _marked(self, index: int, now_ms: int) -> int:
        carry = 0.0 if self.is_perpetual else _CARRY
        return round(index * (1 + self._premium(now_ms) + carry))

    def _premium(self, now_ms: int) -> float:
        return _SWING * math.sin(math.tau * now_ms / 1000 / _SWING_S + self._phase)
