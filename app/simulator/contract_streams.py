"""The streams of one futures market that somebody listens to."""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from app.simulator import contract_messages as messages
from app.simulator.contract import Contract
from app.simulator.contracts import Contracts
from app.simulator.market import Market, TakerOrder
from app.simulator.timed import BEATS_PER_S
from app.simulator.topics import Subscriber, Topic
from app.simulator.venues import Route, Venue, route_of

_MARKS = re.compile(r"markPrice(@1s)?")
_ALL_MARKS = re.compile(r"!markPrice@arr(@1s)?")
_DEPTH = re.compile(r"depth(5|10|20)(?:@(100|250|500)ms)?")


class StreamSource(Protocol):
    """Where the streams of a connection come from."""

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        """Let a connection listen to a stream. One that is not known is accepted, and silent."""

    def unsubscribe(self, name: str, subscriber: Subscriber) -> None:
        """Let it listen no more."""


class Routed(NamedTuple):
    """A futures market as one route serves it: what belongs to another is accepted, and silent."""

    hub: "ContractHub"
    route: Route

    def subscribe(self, name: str, subscriber: Subscriber) -> None:
        if route_of(name) == self.route:
            self.hub.subscribe(name, subscriber)

    def unsubscribe(self, name: str, subscriber: Subscriber) -> None:
        self.hub.unsubscribe(name, subscriber)


class _Timed(NamedTuple):
    every: int
    """Beats between two messages."""
    build: Callable[[], bytes]


class ContractHub:
    """Connects what happens in spot, which contracts follow, to the subscribers of their streams."""

    def __init__(self, contracts: Contracts, venue: Venue) -> None:
        self._contracts = contracts
        self._by_name = {symbol.lower(): contract for symbol, contract in contracts.of_venue[venue].items()}
        self._pairs: defaultdict[str, list[Contract]] = defaultdict(list)
        for contract in self._by_name.values():
            self._pairs[contract.listing.pair.lower()].append(contract)
        self._topics: dict[str, Topic] = {}
        self._books: dict[Contract, Topic] = {}
        self._trades: dict[Contract, Topic] = {}
        self._timed: dict[str, _Timed] = {}
        self._beats = 0

    @property
    def active(self) -> int:
        """How many streams have listeners."""
        return len(self._topics)

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

    def quoted(self, market: Market) -> None:
        """The top of a spot book changed."""
        if self._books:
            for contract in self._contracts.of_spot.get(market, ()):
                self.show_book(contract)

    def traded(self, market: Market, order: TakerOrder) -> None:
        """An order traded in spot."""
        if self._trades:
            for contract in self._contracts.of_spot.get(market, ()):
                topic = self._trades.get(contract)
                if topic is not None and contract.status == "TRADING":
                    payload = messages.aggregate_trade(contract, order)
                    topic.publish(lambda _, payload=payload: [payload])  # type: ignore[misc]

    def show_book(self, contract: Contract) -> None:
        """Send the top of a contract's book, if somebody listens."""
        topic = self._books.get(contract)
        if topic is not None and contract.status == "TRADING":
            topic.publish(lambda _: [messages.book_ticker(contract, self._contracts.now_ms)])

    def beat(self) -> None:
        """A tenth of a second has passed: send what is due."""
        self._beats += 1
        for name, timed in self._timed.items():
            if self._beats % timed.every == 0:
                self._topics[name].publish(lambda _, build=timed.build: [build()])  # type: ignore[misc]

    def _open(self, name: str) -> Topic | None:
        symbol, _, kind = name.partition("@")
        contract = self._by_name.get(symbol)
        topic = Topic(name)
        if contract is not None and kind == "bookTicker":
            self._books[contract] = topic
        elif contract is not None and kind == "aggTrade":
            self._trades[contract] = topic
        else:
            timed = self._timed_stream(name, symbol, kind)
            if timed is None:
                return None
            self._timed[name] = timed
        self._topics[name] = topic
        return topic

    def _timed_stream(self, name: str, symbol: str, kind: str) -> _Timed | None:
        contracts = self._contracts
        if match := _ALL_MARKS.fullmatch(name):
            return _Timed(_mark_beats(match), lambda: messages.mark_prices(contracts, contracts.all))
        contract = self._by_name.get(symbol)
        if match := _MARKS.fullmatch(kind):
            if contract is not None:
                return _Timed(_mark_beats(match), lambda: messages.mark_price(contracts, contract))
            if pair := self._pairs.get(symbol):
                return _Timed(_mark_beats(match), lambda: messages.mark_prices(contracts, pair))
        if (match := _DEPTH.fullmatch(kind)) and contract is not None:
            levels, every_ms = int(match[1]), int(match[2] or 250)
            every = max(1, every_ms * BEATS_PER_S // 1000)
            return _Timed(every, lambda: messages.depth(contract, levels, contracts.now_ms))
        return None

    def _close(self, name: str) -> None:
        self._topics.pop(name, None)
        self._timed.pop(name, None)
        symbol, _, kind = name.partition("@")
        contract = self._by_name.get(symbol)
        if contract is not None and kind in {"bookTicker", "aggTrade"}:
            (self._books if kind == "bookTicker" else self._trades).pop(contract, None)


def _mark_beats(match: re.Match[str]) -> int:
    return BEATS_PER_S if match[1] else 3 * BEATS_PER_S
