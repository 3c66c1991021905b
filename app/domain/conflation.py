"""From many ticks to one price per symbol: the door, and the newest behind it.

Every tick is checked as it enters; an impossible one is counted and dropped, so
that it can neither be shown nor displace a good one. Behind the door only the
newest of each symbol is kept, as the strings the exchange sent. They become
numbers when drained: a symbol that ticks a thousand times between two drains
costs one conversion.

Which price values a position: the middle of the best bid and ask while that book
is current, else the last trade.

A price that is asked for and has not changed is fresh news all the same, but it
does not make the market live: only ticks off a stream do. The price of a symbol
that does not trade is never fresh, wherever it comes from.
"""

import re
from collections import Counter
from collections.abc import Iterable, Set
from decimal import Decimal
from typing import Literal

import msgspec

from app.domain.decimals import exact
from app.domain.lateness import ClockOffset, Lane
from app.domain.prices import Price

Flaw = Literal[
    "malformed", "not_plain", "not_positive", "crossed", "old_update", "old_trade", "bad_time", "too_many_symbols"
]

# At most 17 places, so that the middle of two has at most 18.
_PLAIN = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,17})?")
_is_price = re.compile(rf"(?=[0.]*[1-9]){_PLAIN.pattern}").fullmatch
_HALF = Decimal("0.5")
_NEVER = -(2**62)


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask, as strings. ``sequence`` orders the quotes of one symbol."""

    symbol: str
    bid: str
    ask: str
    sequence: int


class Trade(msgspec.Struct, frozen=True, gc=False):
    """The last price of a symbol. ``sequence`` is None where the source does not count its trades."""

    symbol: str
    price: str
    event_ms: int
    sequence: int | None = None


class SnapshotQuote(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask, when asked for: without a sequence and without a time."""

    symbol: str
    bid: str
    ask: str


class SnapshotTrade(msgspec.Struct, frozen=True, gc=False):
    """The last price, when asked for: without a sequence and without a time."""

    symbol: str
    price: str


class Drained(msgspec.Struct, frozen=True):
    """The prices that changed since the drain before, and how many ticks they stand for."""

    ticks: int
    prices: list[Price]

    def without(self, symbols: Set[str]) -> "Drained":
        """The same but for some symbols."""
        return Drained(self.ticks, [price for price in self.prices if price.symbol not in symbols])


class _Symbol(msgspec.Struct):
    """What is known of one symbol. None is nothing yet, and equal to nothing an exchange may send."""

    symbol: str
    bid: str | None = None
    ask: str | None = None
    update_id: int = 0
    book_received_ms: int = _NEVER
    book_fresh_ms: int = _NEVER
    book_streamed_ms: int = _NEVER
    book_lane: Lane | None = None  # set until the next drain settles how late the book is
    is_streamed: bool = False
    last: str | None = None
    trade_id: int = 0
    trade_received_ms: int = _NEVER
    event_ms: int = 0
    last_received_ms: int = _NEVER
    last_fresh_ms: int = _NEVER


class Conflator:
    """The newest tick of each symbol of one market, until drained. Times are the caller's clock.

    ``stale_after_ms``: a book older than the last trade by more is not current.
    ``restart_ms``: sequences and exchange times only order what arrives within
    this time; a source that starts to count anew is believed after it.
    """

    def __init__(self, *, stale_after_ms: int, restart_ms: int = 4_000, max_symbols: int = 20_000) -> None:
        self.clock = ClockOffset()
        self.rejected: Counter[Flaw] = Counter()
        self.newest_ms: int | None = None
        """When the newest tick off a stream was right; None before the first."""
        self.newest_asked_ms: int | None = None
        """The newest question that prices came back to; None before the first."""
        self.stale_after_ms = stale_after_ms
        self._halted: frozenset[str] = frozenset()
        self._restart_ms = restart_ms
        self._max_symbols = max_symbols
        self._symbols: dict[str, _Symbol] = {}
        self._changed: dict[str, _Symbol] = {}
        self._interval = 0
        self._ticks = 0

    def reject(self, flaw: Flaw) -> None:
        """Count a tick that was refused."""
        self.rejected[flaw] += 1

    def quote(self, quote: Quote, received_ms: int, lane: Lane) -> None:
        """Take the best bid and ask off a stream, unless a newer one is known."""
        known = self._symbols.get(quote.symbol) or self._admit(quote.symbol)
        if known is None:
            return
        if quote.sequence <= known.update_id and self._is_old_quote(quote.sequence, known, received_ms):
            self.rejected["old_update"] += 1
            return
        if quote.bid != known.bid or quote.ask != known.ask:
            flaw = _book_flaw(quote.bid, quote.ask)
            if flaw is not None:
                self.rejected[flaw] += 1
                return
            known.bid, known.ask = quote.bid, quote.ask
        known.update_id = quote.sequence
        known.book_received_ms = known.book_streamed_ms = received_ms
        known.book_lane = lane
        known.is_streamed = True
        self._changed[quote.symbol] = known
        self._ticks += 1

    def trade(self, trade: Trade, received_ms: int, lane: Lane) -> None:
        """Take a last price off a stream, unless a newer one is known."""
        late_ms = self.clock.lateness_ms(trade.event_ms, received_ms)
        if late_ms is None:
            self.rejected["bad_time"] += 1
            return
        lane.note(late_ms, self._interval)
        self._take_trade(trade, received_ms, late_ms)

    def trades(self, trades: Iterable[Trade], received_ms: int, lane: Lane) -> None:
        """Take the last prices of many symbols, as one message brought them."""
        least_ms: int | None = None
        for trade in trades:
            late_ms = self.clock.lateness_ms(trade.event_ms, received_ms)
            if late_ms is None:
                self.rejected["bad_time"] += 1
                continue
            least_ms = late_ms if least_ms is None else min(least_ms, late_ms)
            self._take_trade(trade, received_ms, late_ms)
        if least_ms is not None:
            # The message left when its newest entry was made; the others were older then.
            lane.note(least_ms, self._interval)

    def snapshot(
        self, quotes: Iterable[SnapshotQuote], trades: Iterable[SnapshotTrade], asked_ms: int, received_ms: int
    ) -> None:
        """Take prices that were asked for, wherever no stream has said anything since the question.

        They carry no time, but were right at some moment after the question.
        """
        self.newest_asked_ms = max(asked_ms, self.newest_asked_ms or asked_ms)
        for quote in quotes:
            self._take_snapshot_quote(quote, asked_ms, received_ms)
        for trade in trades:
            self._take_snapshot_trade(trade, asked_ms, received_ms)

    def unconfirmed(self, symbols: Iterable[str], since_ms: int) -> list[str]:
        """Those symbols whose book is not known to have been right at that moment or later."""
        return [symbol for symbol in symbols if _confirmed_ms(self._symbols.get(symbol)) < since_ms]

    def silent(self, symbols: Iterable[str], since_ms: int) -> list[str]:
        """Those symbols whose book no stream has brought since that moment."""
        return [symbol for symbol in symbols if _streamed_ms(self._symbols.get(symbol)) < since_ms]

    def set_halted(self, symbols: Set[str]) -> None:
        """Exactly these symbols do not trade now. Prices whose freshness that changes are drained again."""
        halted = frozenset(symbols)
        for symbol in self._halted ^ halted:
            known = self._symbols.get(symbol)
            if known is not None and (known.bid is not None or known.last is not None):
                self._changed[symbol] = known
        self._halted = halted

    def drop_book(self, symbol: str) -> None:
        """The book of a symbol is no longer followed: any newer last price goes before it."""
        known = self._symbols.get(symbol)
        if known is not None:
            known.is_streamed = False

    def drain(self) -> Drained:
        """The price of every symbol that ticked since the drain before."""
        with exact():
            prices = [self._price(known) for known in self._changed.values()]
        drained = Drained(self._ticks, prices)
        self._changed.clear()
        self._ticks = 0
        self._interval += 1
        return drained

    def _admit(self, symbol: str) -> _Symbol | None:
        """Make room for a symbol not seen before."""
        if len(self._symbols) >= self._max_symbols:
            self.rejected["too_many_symbols"] += 1
            return None
        return self._symbols.setdefault(symbol, _Symbol(symbol))

    def _take_trade(self, trade: Trade, received_ms: int, late_ms: int) -> None:
        known = self._symbols.get(trade.symbol) or self._admit(trade.symbol)
        if known is None:
            return
        if trade.sequence is not None and self._is_old_trade(trade.sequence, known, received_ms):
            self.rejected["old_trade"] += 1
            return
        if trade.price != known.last:
            flaw = _price_flaw(trade.price)
            if flaw is not None:
                self.rejected[flaw] += 1
                return
        if trade.sequence is not None:
            known.trade_id, known.trade_received_ms = trade.sequence, received_ms
        self._ticks += 1
        if trade.event_ms < known.event_ms and received_ms - known.last_received_ms <= self._restart_ms:
            return  # the ticker and the trades of a symbol overlap; the newer is here already
        known.last = trade.price
        known.event_ms = trade.event_ms
        known.last_received_ms = received_ms
        known.last_fresh_ms = received_ms - late_ms
        self._saw(known.last_fresh_ms)
        self._changed[trade.symbol] = known

    def _is_old_quote(self, sequence: int, known: _Symbol, received_ms: int) -> bool:
        return sequence == known.update_id or received_ms - known.book_streamed_ms <= self._restart_ms

    def _is_old_trade(self, sequence: int, known: _Symbol, received_ms: int) -> bool:
        if sequence > known.trade_id:
            return False
        return sequence == known.trade_id or received_ms - known.trade_received_ms <= self._restart_ms

    def _take_snapshot_quote(self, quote: SnapshotQuote, asked_ms: int, received_ms: int) -> None:
        known = self._symbols.get(quote.symbol) or self._admit(quote.symbol)
        if known is None or known.book_received_ms > asked_ms:
            return
        flaw = _book_flaw(quote.bid, quote.ask)
        if flaw is not None:
            self.rejected[flaw] += 1
            return
        known.bid, known.ask = quote.bid, quote.ask
        known.book_received_ms, known.book_fresh_ms, known.book_lane = received_ms, asked_ms, None
        self._changed[quote.symbol] = known
        self._ticks += 1

    def _take_snapshot_trade(self, trade: SnapshotTrade, asked_ms: int, received_ms: int) -> None:
        known = self._symbols.get(trade.symbol) or self._admit(trade.symbol)
        if known is None or known.last_received_ms > asked_ms:
            return
        flaw = _price_flaw(trade.price)
        if flaw is not None:
            self.rejected[flaw] += 1
            return
        known.last, known.event_ms = trade.price, 0
        known.last_received_ms, known.last_fresh_ms = received_ms, asked_ms
        self._changed[trade.symbol] = known
        self._ticks += 1

    def _saw(self, fresh_ms: int) -> None:
        if self.newest_ms is None or fresh_ms > self.newest_ms:
            self.newest_ms = fresh_ms

    def _price(self, known: _Symbol) -> Price:
        if known.book_lane is not None:
            known.book_fresh_ms = known.book_received_ms - known.book_lane.late_ms(self._interval)
            known.book_lane = None
            self._saw(known.book_fresh_ms)
        last = None if known.last is None else Decimal(known.last)
        if last is not None and not self._is_book_current(known):
            return self._last_price(known, last)
        assert known.bid is not None, "what ticked has a book or a last price"
        assert known.ask is not None
        bid, ask = Decimal(known.bid), Decimal(known.ask)
        at_ms = known.book_received_ms
        middle = (bid + ask) * _HALF
        fresh_ms = self._fresh_ms(known.symbol, at_ms, known.book_fresh_ms)
        return Price(known.symbol, middle, "mid", bid, ask, last, None, at_ms, at_ms, fresh_ms)

    def _last_price(self, known: _Symbol, last: Decimal) -> Price:
        at_ms = known.last_received_ms
        event_ms = known.event_ms or at_ms
        fresh_ms = self._fresh_ms(known.symbol, at_ms, known.last_fresh_ms)
        return Price(known.symbol, last, "last", None, None, last, None, event_ms, at_ms, fresh_ms)

    def _fresh_ms(self, symbol: str, received_ms: int, fresh_ms: int) -> int:
        if symbol in self._halted:
            return min(fresh_ms, received_ms - self.stale_after_ms - 1)
        return fresh_ms

    def _is_book_current(self, known: _Symbol) -> bool:
        if known.bid is None:
            return False
        patience_ms = self.stale_after_ms if known.is_streamed else 0
        return known.last_fresh_ms - known.book_fresh_ms <= patience_ms


def _confirmed_ms(known: _Symbol | None) -> int:
    if known is None:
        return _NEVER
    return known.book_fresh_ms if known.book_lane is None else known.book_received_ms


def _streamed_ms(known: _Symbol | None) -> int:
    return _NEVER if known is None else known.book_streamed_ms


def _price_flaw(text: str) -> Flaw | None:
    if _is_price(text):
        return None
    return "not_plain" if _PLAIN.fullmatch(text) is None else "not_positive"


def _book_flaw(bid: str, ask: str) -> Flaw | None:
    if not (_is_price(bid) and _is_price(ask)):
        return _price_flaw(bid) or _price_flaw(ask)
    # Strings of one shape order as their numbers do, which is the usual case and the cheap one.
    if len(bid) == len(ask) and bid.find(".") == ask.find("."):
        return "crossed" if bid > ask else None
    return "crossed" if Decimal(bid) > Decimal(ask) else None
