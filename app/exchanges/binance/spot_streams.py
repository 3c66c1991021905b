"""What the streams of the spot market bring, and where it goes."""

from collections.abc import Callable, Set

import msgspec

from app.domain.conflation import Conflator
from app.domain.lateness import Lane
from app.exchanges.binance.messages import Malformed, decode_quote, decode_ticker, decode_tickers, decode_trade


class SpotReceiver:
    """Takes what one connection brings into the conflator of the market.

    ``followed`` is the set of symbols whose books are followed, as it is now: a
    book that still arrives after its subscription ended would not be kept current.
    """

    def __init__(self, ticks: Conflator, followed: Set[str], now_ms: Callable[[], int]) -> None:
        self._ticks = ticks
        self._followed = followed
        self._now_ms = now_ms
        self._lane = Lane()
        self._kinds: dict[str, Callable[[msgspec.Raw], None]] = {
            "bookTicker": self._quote,
            "aggTrade": self._trade,
            "miniTicker": self._ticker,
            "arr": self._tickers,
        }

    def receive(self, stream: str, data: msgspec.Raw) -> None:
        """Take the data of a stream. Raises Malformed."""
        take = self._kinds.get(stream[stream.find("@") + 1 :])
        if take is None:
            raise Malformed(f"data of a stream nobody asked for: {stream}")
        take(data)

    def malformed(self) -> None:
        self._ticks.reject("malformed")

    def _quote(self, data: msgspec.Raw) -> None:
        quote = decode_quote(data)
        if quote.symbol in self._followed:
            self._ticks.quote(quote, self._now_ms(), self._lane)

    def _trade(self, data: msgspec.Raw) -> None:
        self._ticks.trade(decode_trade(data), self._now_ms(), self._lane)

    def _ticker(self, data: msgspec.Raw) -> None:
        self._ticks.trade(decode_ticker(data), self._now_ms(), self._lane)

    def _tickers(self, data: msgspec.Raw) -> None:
        trades, malformed = decode_tickers(data)
        for _ in range(malformed):
            self._ticks.reject("malformed")
        self._ticks.trades(trades, self._now_ms(), self._lane)
