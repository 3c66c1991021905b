"""A quiet symbol is asked for, not assumed. Does no I/O.

A stream says only what changes, so its silence does not tell a book that stands
still from a symbol that was halted or a connection that lost its way. Asking for
the book tells the first; the listing, asked for sooner while it is in doubt, the second.
"""

from collections.abc import Iterable, Sequence, Set

from app.domain.conflation import Conflator, SnapshotQuote
from app.domain.instruments import Instrument
from app.exchanges.binance.timing import Timing


class QuietSymbols:
    """Says which symbols to ask for, and whether the listing must be looked at again. Times are the caller's clock.

    A symbol that does not trade is not asked for: its price is stale, whatever
    its book says. One that trades but had no book to show is not asked for again
    before the listing was.
    """

    def __init__(self, ticks: Conflator, timing: Timing) -> None:
        self._ticks = ticks
        self._timing = timing
        self._trading: frozenset[str] = frozenset()
        self._listed_ms = 0
        self._without_book: set[str] = set()
        self._names_were_refused = False

    def listed(self, instruments: Iterable[Instrument], now_ms: int) -> None:
        """Take over a complete list."""
        halted, trading = set[str](), set[str]()
        for instrument in instruments:
            (trading if instrument.status == "trading" else halted).add(instrument.symbol)
        self._ticks.set_halted(halted)
        self._trading = frozenset(trading)
        self._listed_ms = now_ms
        self._without_book.clear()
        self._names_were_refused = False

    def to_ask(self, followed: Set[str], now_ms: int) -> list[str]:
        """The followed symbols that were last known to be right half a stale period ago, or earlier."""
        due = self._ticks.unconfirmed(followed & self._trading, now_ms - self._ticks.stale_after_ms // 2)
        self._without_book.intersection_update(due)
        return sorted(symbol for symbol in due if symbol not in self._without_book)

    def is_by_name(self, symbols: Sequence[str]) -> bool:
        """Whether to ask for these by name, and not for the whole market."""
        return len(symbols) <= self._timing.ask_by_name and not self._names_were_refused

    def answered(self, asked: Iterable[str], quotes: Iterable[SnapshotQuote]) -> list[SnapshotQuote]:
        """The quotes that were asked for, out of an answer."""
        wanted = set(asked)
        found = [quote for quote in quotes if quote.symbol in wanted]
        self._without_book |= wanted.difference(quote.symbol for quote in found)
        return found

    def refused(self, is_bad_request: bool) -> None:
        """A question got no answer. If it was a bad one, a symbol in it is probably not listed any more."""
        self._names_were_refused |= is_bad_request

    def doubts_listing(self, followed: Set[str], now_ms: int) -> bool:
        """Whether what is listed seems to have changed since, or may have."""
        halted = followed - self._trading
        if len(self._ticks.silent(halted, self._listed_ms)) < len(halted):
            return True  # it ticks again
        if now_ms - self._listed_ms < self._timing.doubt_every_s * 1000:
            return False
        without_answer = self._names_were_refused or not followed.isdisjoint(self._without_book)
        long_ago_ms = now_ms - round(self._timing.doubt_after_s * 1000)
        return bool(halted) or without_answer or bool(self._ticks.silent(followed, long_ago_ms))
