"""What the streams of a futures market bring, and where it goes."""

from collections.abc import Callable, Mapping, Set

import msgspec

from app.domain.conflation import Quote
from app.domain.lateness import Lane
from app.domain.marks import Mark, MarkConflator
from app.exchanges.binance.contract_messages import (
    MarkPrice,
    PremiumIndex,
    decode_contract_book,
    decode_contract_trade,
    decode_mark,
    decode_marks,
)
from app.exchanges.binance.messages import Malformed


class ContractReceiver:
    """Takes what one connection brings into the conflator of the market.

    ``names`` gives our symbol for the exchange's, of what this market lists; what
    it does not list is of the other futures market, or too new, and ignored.
    ``followed`` is the set of our symbols whose books are followed, as it is now.
    """

    def __init__(
        self,
        ticks: MarkConflator,
        names: Mapping[str, str],
        followed: Set[str],
        stream_type: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._ticks = ticks
        self._names = names
        self._followed = followed
        self._stream_types = (stream_type, 0)
        self._now_ms = now_ms
        self._lane = Lane()
        self._kinds: dict[str, Callable[[msgspec.Raw], None]] = {
            "bookTicker": self._book,
            "aggTrade": self._trade,
            "markPrice@1s": self._mark,
            "arr@1s": self._marks,
            "depth5@500ms": _ignore,
        }

    def receive(self, stream: str, data: msgspec.Raw) -> None:
        """Take the data of a stream. Raises Malformed."""
        take = self._kinds.get(stream[stream.find("@") + 1 :])
        if take is None:
            raise Malformed(f"data of a stream nobody asked for: {stream}")
        take(data)

    def malformed(self) -> None:
        self._ticks.reject("malformed")

    def _book(self, data: msgspec.Raw) -> None:
        book = decode_contract_book(data)
        symbol = self._names.get(book.s)
        received_ms = self._now_ms()
        self._ticks.note_time(book.E, received_ms, self._lane)
        if symbol is not None and symbol in self._followed:
            self._ticks.quote(Quote(symbol, book.b, book.a, book.u), received_ms, self._lane)

    def _trade(self, data: msgspec.Raw) -> None:
        trade = decode_contract_trade(data)
        symbol = self._names.get(trade.s)
        if symbol is not None:
            self._ticks.trade(trade.trade(symbol), self._now_ms(), self._lane)

    def _mark(self, data: msgspec.Raw) -> None:
        self._take_marks([decode_mark(data)])

    def _marks(self, data: msgspec.Raw) -> None:
        marks, malformed = decode_marks(data)
        for _ in range(malformed):
            self._ticks.reject("malformed")
        self._take_marks(marks)

    def _take_marks(self, marks: list[MarkPrice]) -> None:
        names = self._names
        self._ticks.marks(
            (
                Mark(names[mark.s], mark.p, mark.E, mark.r, mark.T)
                for mark in marks
                if mark.s in names and mark.st in self._stream_types
            ),
            self._now_ms(),
        )


def _ignore(_: msgspec.Raw) -> None:
    """Take no notice: that it came is all there is to know."""


def premium_mark(premium: PremiumIndex, symbol: str) -> Mark:
    """A mark that was asked for."""
    return Mark(symbol, premium.markPrice, premium.time, premium.lastFundingRate, premium.nextFundingTime)
