"""The newest state, once per process: what every connection's next frame is built from.

Prices and P&L arrive on two channels. A price flush waits (is *staged*) for the
P&L of the same flush, so that prices, rows and totals of a frame belong
together; a P&L worker that is late or absent holds prices up by no more than
:data:`STAGING_S`. Taking over what belongs together is a *commit*: it moves the
stream's position forward and gives everything it changes one new ordinal.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

from app.bus.messages import PnlFlush, PriceFlush, PriceHead
from app.bus.prices import PriceBoard
from app.domain.decimals import format_decimal
from app.domain.prices import REVISIONS_PER_FLUSH, Price, StreamPosition
from app.websocket.health import StreamHealth
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.mirror import PnlMirror

STAGING_S = 0.1
"""How long prices wait for the P&L of the same flush."""

_MOST_STAGED = 32


class WatchedPrice:
    """The price of a symbol somebody here watches, encoded once per change for all of them."""

    __slots__ = ("changed", "event_ms", "is_stale", "price", "symbol", "text")

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.price: Price | None = None
        self.event_ms = 0
        self.is_stale = False
        self.changed = 0
        self.text: str | None = None

    def encoded(self) -> str:
        """The ``PriceRow`` as JSON text. Only for a known price."""
        if self.text is None:
            assert self.price is not None
            self.text = _encode_price(self.price, self.is_stale)
        return self.text


class StreamState:
    """Committed prices and P&L, where the stream stands, and how well it is. Reads no clock, does no I/O.

    ``now`` is always the monotonic clock in seconds.
    """

    def __init__(self, *, stale_after_ms: int, is_wanted: Callable[[str], bool], now: float) -> None:
        self._stale_after_ms = stale_after_ms
        self.board = PriceBoard()
        """The newest prices, for REST: ahead of the stream by what is staged."""
        self.prices: dict[str, Price] = {}
        self.watched: dict[str, WatchedPrice] = {}
        self.mirror = PnlMirror(is_wanted)
        self.position = StreamPosition(0, 0)
        self.step = 0
        """How often the position moved on."""
        self.ordinal = 0
        self.flushes = 0
        self.as_of_ms = 0
        self.pnl_event_ms = 0
        self.price_gaps = 0

        self._staged: deque[tuple[float, PriceFlush]] = deque()
        self._missed: tuple[int, int] | None = None
        """The flush that could not be taken over, for it followed something unknown."""
        self._expiring: list[tuple[int, str]] = []
        self._in_expiring: set[str] = set()

        self.health = StreamHealth(now)
        self.pnl_silenced = 0
        """The commit at which P&L as a whole became stale, or stopped being so."""

    def offer_prices(self, flush: PriceFlush, now: float) -> Literal["applied", "old", "gap"]:
        """Stage a price flush. ``gap``: it follows something unknown; :meth:`load_prices` first."""
        outcome = self.board.apply(flush)
        if outcome == "gap":
            self.price_gaps += 1
            self._missed = (flush.epoch, flush.flush)
        if outcome != "applied":
            return outcome
        self._heard_prices(flush.as_of_ms, now)
        self._staged.append((now, flush))
        if self.health.pnl_is_late or len(self._staged) > _MOST_STAGED:
            self._commit(self._take_staged(self._newest_staged()), None)
        return "applied"

    def load_prices(self, head: PriceHead | None, prices: Mapping[str, Price], now: float) -> None:
        """Take over the price hash: at the start, and after a gap.

        It may be hours old. Only if it is what a flush announced does it end a silence.
        """
        if head is None or (head.epoch, head.flush) < (self.board.epoch, self.board.flush):
            return
        self.board.load(head, prices)
        self._staged.clear()
        if self._missed is not None and (head.epoch, head.flush) >= self._missed:
            self._missed = None
            self._heard_prices(head.as_of_ms, now)
        changed = [price for symbol, price in prices.items() if self.prices.get(symbol) != price]
        self.prices = dict(prices)
        self._commit([PriceFlush(head.epoch, head.flush, head.as_of_ms, 0, head.feed, changed)], None)

    def _heard_prices(self, as_of_ms: int, now: float) -> None:
        self.health.heard_prices(now)
        if self.health.prices_are_silent:
            self.as_of_ms = as_of_ms  # What is known from before the silence is as old as that makes it.
            self.check_silence(now)

    def offer_pnl(self, flush: PnlFlush, now: float) -> Literal["applied", "old", "hole"]:
        """Commit a P&L flush with the price flushes it belongs to.

        ``hole``: it was taken over, but users are to be asked for again.
        Raises ValueError or KeyError for a message that contradicts itself.
        """
        outcome = self.mirror.apply(flush, self.ordinal + 1)
        if outcome == "old":
            return outcome
        staged = self._take_staged(flush.position)
        if staged or flush.position > self.position or _has_content(flush):
            self._commit(staged, flush)
        else:
            # A mere heartbeat would use up a place, and without price flushes there are few.
            self.as_of_ms = max(self.as_of_ms, flush.as_of_ms)
        self.health.heard_pnl(now)
        if self.health.pnl_is_late:
            self.check_silence(now)
        return outcome

    def next_deadline(self) -> float | None:
        """When the oldest staged prices have waited long enough."""
        return self._staged[0][0] + STAGING_S if self._staged else None

    def commit_overdue(self, now: float) -> bool:
        """Commit prices that have waited long enough for their P&L. Whether there were any."""
        overdue = [flush for since, flush in self._staged if now - since >= STAGING_S]
        if not overdue:
            return False
        last = overdue[-1]
        self._commit(self._take_staged(StreamPosition(last.epoch, last.flush)), None)
        return True

    def _newest_staged(self) -> StreamPosition:
        newest = self._staged[-1][1]
        return StreamPosition(newest.epoch, newest.flush)

    def _take_staged(self, upto: StreamPosition) -> list[PriceFlush]:
        taken: list[PriceFlush] = []
        while self._staged and (self._staged[0][1].epoch, self._staged[0][1].flush) <= (upto.epoch, upto.flush):
            taken.append(self._staged.popleft()[1])
        return taken

    def _commit(self, flushes: list[PriceFlush], pnl: PnlFlush | None) -> None:
        self.ordinal += 1
        self.flushes += len(flushes)
        reached = [StreamPosition(flush.epoch, flush.flush) for flush in flushes]
        if pnl is not None:
            reached.append(pnl.position)
            self.pnl_event_ms = pnl.event_ms
            self.as_of_ms = max(self.as_of_ms, pnl.as_of_ms)
        for flush in flushes:
            self._take_prices(flush)
        self._advance(max(reached))

    def _take_prices(self, flush: PriceFlush) -> None:
        self.as_of_ms = flush.as_of_ms
        self.health.note_feed(flush.feed)
        for price in flush.prices:
            self.prices[price.symbol] = price
            watched = self.watched.get(price.symbol)
            if watched is not None:
                self._change(watched, price)
        self._expire()

    def _advance(self, reached: StreamPosition) -> None:
        """Move on: a commit is always past the one before it, also when it came late."""
        if reached > self.position:
            self.position = reached
            self.step += 1
        elif self.position.revision + 1 < REVISIONS_PER_FLUSH:
            here = self.position
            self.position = StreamPosition(here.epoch, here.flush, here.revision + 1)
            self.step += 1
        # Else there is no number left before the next flush; what changed waits for it.

    def _change(self, watched: WatchedPrice, price: Price) -> None:
        watched.price = price
        watched.event_ms = price.event_ms or price.received_ms
        watched.is_stale = self._is_stale(price)
        watched.changed = self.ordinal
        watched.text = None
        if not watched.is_stale and price.symbol not in self._in_expiring:
            self._in_expiring.add(price.symbol)
            heapq.heappush(self._expiring, (price.fresh_ms, price.symbol))

    def _expire(self) -> None:
        """Mark prices stale whose time has come. Each symbol is looked at once per stale period, not per flush."""
        while self._expiring and self.as_of_ms - self._expiring[0][0] > self._stale_after_ms:
            _, symbol = heapq.heappop(self._expiring)
            self._in_expiring.discard(symbol)
            watched = self.watched.get(symbol)
            if watched is not None and watched.price is not None:
                self._change_if_expired(watched, watched.price)

    def _change_if_expired(self, watched: WatchedPrice, price: Price) -> None:
        if price.is_stale(self.as_of_ms, self._stale_after_ms):
            if not watched.is_stale:
                self._change(watched, price)
        elif price.symbol not in self._in_expiring:
            self._in_expiring.add(price.symbol)
            heapq.heappush(self._expiring, (price.fresh_ms, price.symbol))

    def _is_stale(self, price: Price) -> bool:
        return self.health.prices_are_silent or price.is_stale(self.as_of_ms, self._stale_after_ms)

    def watch(self, symbol: str) -> WatchedPrice:
        """Start encoding a symbol: its first watcher is here."""
        watched = self.watched.get(symbol)
        if watched is None:
            watched = self.watched[symbol] = WatchedPrice(symbol)
            price = self.prices.get(symbol)
            if price is not None:
                self._change(watched, price)
        return watched

    def unwatch(self, symbol: str) -> None:
        """Stop encoding a symbol: its last watcher is gone."""
        self.watched.pop(symbol, None)

    def check_silence(self, now: float) -> bool:
        """Compare what arrived with the clock. True if something was committed because of it."""
        prices_were_silent, pnl_was_silent = self.health.prices_are_silent, self.health.pnl_is_silent
        if not self.health.check(now):
            return False
        self.ordinal += 1
        self._advance(self.position)
        if self.health.prices_are_silent != prices_were_silent:
            self._restate_prices()
        if self.health.pnl_is_silent != pnl_was_silent:
            self.pnl_silenced = self.ordinal
        return True

    def _restate_prices(self) -> None:
        for watched in self.watched.values():
            if watched.price is not None:
                self._change(watched, watched.price)


def _has_content(flush: PnlFlush) -> bool:
    return bool(flush.users or flush.marks or flush.user_unrealized.slots or flush.row_unrealized.slots)


def _encode_price(price: Price, is_stale: bool) -> str:
    bid, ask, last = (None if part is None else format_decimal(part) for part in (price.bid, price.ask, price.last))
    return (
        f'{{"symbol":{json_text(price.symbol)},"price":"{format_decimal(price.price)}",'
        f'"bid":{quoted(bid)},"ask":{quoted(ask)},"last":{quoted(last)},'
        f'"event_ms":{price.event_ms},"received_ms":{price.received_ms},'
        f'"fresh_ms":{price.fresh_ms},"is_stale":{flag(is_stale)}}}'
    )
