"""Every stream somebody listens to: found by name, fed by the exchange, forgotten when the last listener goes."""

from app.simulator import messages
from app.simulator.exchange import Exchange
from app.simulator.market import Market, TakerOrder
from app.simulator.timed import BEATS_PER_S, Beat, Timed, all_mini_tickers, timed_stream
from app.simulator.topics import Subscriber, Topic


class Hub:
    """Connects the exchange's changes to subscribers."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._markets = {symbol.lower(): market for symbol, market in exchange.markets.items()}
        self._topics: dict[str, Topic] = {}
        self._timed: dict[str, Timed] = {}
        self._quotes: dict[Market, Topic] = {}
        self._trades: dict[Market, Topic] = {}
        self._aggregates: dict[Market, Topic] = {}
        self._immediate = {"bookTicker": self._quotes, "trade": self._trades, "aggTrade": self._aggregates}
        self._beats = 0
        exchange.listen(self)

    @property
    def active(self) -> int:
        """How many streams have listeners."""
        return len(self._topics)

    def market_of(self, name: str) -> tuple[Market | None, str]:
        """The market that a stream is about, and its kind."""
        symbol, _, kind = name.partition("@")
        return self._markets.get(symbol), kind

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Let a connection listen to a stream. One that is not known is accepted, and silent."""
        topic = self._topics.get(name) or self._open(name)
        if topic is not None:
            topic.add(subscriber)

    def unsubscribe(self, name: str, subscriber: Subscriber) -> None:
        """Let it listen no more."""
        topic = self._topics.get(name)
        if topic is None:
            return
        topic.remove(subscriber)
        if topic.idle:
            self._close(name)

    def inject(self, name: str, payloads: list[bytes]) -> None:
        """Send payloads of one's own on a stream, if somebody listens."""
        topic = self._topics.get(name)
        if topic is not None:
            topic.publish(lambda _: payloads)

    def quoted(self, market: Market) -> None:
        """The top of a book changed."""
        topic = self._quotes.get(market)
        if topic is not None:
            topic.publish(lambda _: [messages.book_ticker(market)])

    def traded(self, market: Market, order: TakerOrder) -> None:
        """An order traded."""
        topic = self._trades.get(market)
        if topic is not None:
            topic.publish(lambda unit_us: messages.trades(market, order, unit_us))
        topic = self._aggregates.get(market)
        if topic is not None:
            topic.publish(lambda unit_us: [messages.aggregate_trade(market, order, unit_us)])

    def beat(self) -> None:
        """A tenth of a second has passed: send what is due."""
        self._beats += 1
        beat = Beat(self._beats, self._exchange.now_us, self._exchange.changed)
        for name, timed in self._timed.items():
            build = timed(beat)
            if build is not None:
                self._topics[name].publish(build)
        if beat.each(BEATS_PER_S):
            self._exchange.changed.clear()

    def _open(self, name: str) -> Topic | None:
        market, kind = self.market_of(name)
        topic = Topic(name)
        if market is not None and kind in self._immediate:
            self._immediate[kind][market] = topic
        else:
            timed = self._timed_stream(name)
            if timed is None:
                return None
            self._timed[name] = timed
        self._topics[name] = topic
        return topic

    def _timed_stream(self, name: str) -> Timed | None:
        if name == "!miniTicker@arr":
            return all_mini_tickers
        market, kind = self.market_of(name)
        return timed_stream(kind, market) if market is not None else None

    def _close(self, name: str) -> None:
        self._topics.pop(name, None)
        self._timed.pop(name, None)
        market, kind = self.market_of(name)
        if market is not None and kind in self._immediate:
            self._immediate[kind].pop(market, None)
