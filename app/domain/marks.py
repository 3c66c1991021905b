"""Contracts are valued at the exchange's mark; their books and trades come beside it.

The mark alone makes the price: a jump to the middle of the book when a mark is
late would be a profit that nobody made. So a contract whose mark stops grows
stale, however busy its book is, and one that never had a mark has no price.
"""

from collections.abc import Iterable, Set
from decimal import Decimal

import msgspec

from app.domain.conflation import Conflator, Drained
from app.domain.decimals import parse_positive, parse_signed
from app.domain.lateness import Lane
from app.domain.prices import Price

_NEVER = -(2**62)


class Mark(msgspec.Struct, frozen=True):
    """A mark, as strings. Where there is no funding its rate is empty and its time 0."""

    symbol: str
    price: str
    event_ms: int
    funding_rate: str
    next_funding_ms: int


class _Marked(msgspec.Struct):
    """What is known of one contract: its mark, and its book and last trade as they were last drained."""

    symbol: str
    text: str = ""
    price: Decimal | None = None
    rate_text: str = ""
    rate: Decimal | None = None
    next_funding_ms: int | None = None
    event_ms: int = _NEVER
    received_ms: int = _NEVER
    fresh_ms: int = _NEVER
    beside: Price | None = None


class MarkConflator(Conflator):
    """The newest mark, book and trade of each contract of one market, until drained."""

    def __init__(self, *, stale_after_ms: int, restart_ms: int = 4_000, max_symbols: int = 20_000) -> None:
        super().__init__(stale_after_ms=stale_after_ms, restart_ms=restart_ms, max_symbols=max_symbols)
        self._marks: dict[str, _Marked] = {}
        self._marks_changed: dict[str, _Marked] = {}
        self._mark_ticks = 0

    def marks(self, marks: Iterable[Mark], received_ms: int) -> None:
        """Take marks off a stream, each unless a newer one is known."""
        for mark in marks:
            late_ms = self.clock.lateness_ms(mark.event_ms, received_ms)
            if late_ms is None:
                self.reject("bad_time")
                continue
            known = self._marked(mark.symbol)
            if known is None or self._is_older(mark, known, received_ms):
                continue
            if self._take(mark, known, received_ms, received_ms - late_ms):
                super()._saw(received_ms - late_ms)

    def snapshot_marks(self, marks: Iterable[Mark], asked_ms: int, received_ms: int) -> None:
        """Take marks that were asked for, wherever no stream has said anything since the question."""
        self.newest_asked_ms = max(asked_ms, self.newest_asked_ms or asked_ms)
        for mark in marks:
            known = self._marked(mark.symbol)
            if known is not None and known.received_ms <= asked_ms:
                self._take(mark, known, received_ms, asked_ms)

    def note_time(self, event_ms: int, received_ms: int, lane: Lane) -> None:
        """Learn how late a connection runs from a message whose time nothing else looks at."""
        late_ms = self.clock.lateness_ms(event_ms, received_ms)
        if late_ms is not None:
            lane.note(late_ms, self._interval)

    def unmarked(self, symbols: Iterable[str], since_ms: int) -> list[str]:
        """Those symbols whose mark is not known to have been right at that moment or later."""
        return [symbol for symbol in symbols if _fresh_ms(self._marks.get(symbol)) < since_ms]

    def set_halted(self, symbols: Set[str]) -> None:
        """Exactly these symbols do not trade now. Prices whose freshness that changes are drained again."""
        for symbol in self._halted ^ frozenset(symbols):
            if symbol in self._marks:
                self._marks_changed[symbol] = self._marks[symbol]
        super().set_halted(symbols)

    def drain(self) -> Drained:
        """The price of every contract whose mark, book or last trade changed since the drain before."""
        beside = super().drain()
        for price in beside.prices:
            known = self._marked(price.symbol)
            if known is not None:
                known.beside = price
                self._marks_changed[price.symbol] = known
        prices = [
            self._marked_price(known, known.price) for known in self._marks_changed.values() if known.price is not None
        ]
        drained = Drained(beside.ticks + self._mark_ticks, prices)
        self._marks_changed.clear()
        self._mark_ticks = 0
        return drained

    def _saw(self, fresh_ms: int) -> None:
        """A book or a trade does not make a market of marks live."""

    def _marked(self, symbol: str) -> _Marked | None:
        known = self._marks.get(symbol)
        if known is None:
            if len(self._marks) >= self._max_symbols:
                self.reject("too_many_symbols")
                return None
            known = self._marks[symbol] = _Marked(symbol)
        return known

    def _is_older(self, mark: Mark, known: _Marked, received_ms: int) -> bool:
        """Connections overlap: what the slower of two brings is here already."""
        return mark.event_ms <= known.event_ms and received_ms - known.received_ms <= self._restart_ms

    def _take(self, mark: Mark, known: _Marked, received_ms: int, fresh_ms: int) -> bool:
        try:
            price = known.price if mark.price == known.text else parse_positive(mark.price)
            rate = known.rate if mark.funding_rate == known.rate_text else _rate(mark.funding_rate)
        except ValueError:
            self.reject("not_plain")
            return False
        known.price, known.text = price, mark.price
        known.rate, known.rate_text = rate, mark.funding_rate
        known.next_funding_ms = mark.next_funding_ms or None
        known.event_ms, known.received_ms, known.fresh_ms = mark.event_ms, received_ms, fresh_ms
        self._marks_changed[mark.symbol] = known
        self._mark_ticks += 1
        return True

    def _marked_price(self, known: _Marked, mark: Decimal) -> Price:
        bid = ask = last = None
        if known.beside is not None:
            last = known.beside.last
            if known.fresh_ms - known.beside.fresh_ms <= self.stale_after_ms:
                bid, ask = known.beside.bid, known.beside.ask
        fresh_ms = self._fresh_ms(known.symbol, known.received_ms, known.fresh_ms)
        return Price(
            known.symbol,
            mark,
            "mark",
            bid,
            ask,
            last,
            mark,
            known.event_ms,
            known.received_ms,
            fresh_ms,
            known.rate,
            known.next_funding_ms,
        )


def _rate(text: str) -> Decimal | None:
    return parse_signed(text) if text else None


def _fresh_ms(known: _Marked | None) -> int:
    return _NEVER if known is None else known.fresh_ms
