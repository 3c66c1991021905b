"""A futures market of Binance (USDⓈ-M or COIN-M), as the price worker sees a market.

The marks of all its contracts come each second, with their funding rates. The
best bid and ask and each trade come for the contracts somebody watches or holds.
Marks and trades come from the one address, books from the other: see
:class:`endpoints.MarketUrls`. USDⓈ-M has one stream with all marks; COIN-M lists
so few contracts that each is asked for by itself.

Nothing here makes a contract worth the middle of its book: that is the mark's part
(:mod:`app.domain.marks`). While the streams are down the marks of what is
followed are asked for, all in one question, for that costs as much as some.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from functools import partial
from typing import Final, NoReturn, Protocol, TypeVar

from app.domain.conflation import Conflator, SnapshotQuote, SnapshotTrade
from app.domain.instruments import Instrument, Market
from app.domain.marks import Mark, MarkConflator
from app.exchanges.binance import endpoints
from app.exchanges.binance.asking import Asking
from app.exchanges.binance.contract_rest import ContractRest
from app.exchanges.binance.contract_streams import ContractReceiver, premium_mark
from app.exchanges.binance.endpoints import ContractCalls, MarketUrls
from app.exchanges.binance.interest import Allocation, Interest
from app.exchanges.binance.line import Line
from app.exchanges.binance.lines import Lines
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.rest import RestUnavailable
from app.exchanges.binance.timing import Timing
from app.exchanges.binance.weights import WeightBudget

CALLS: Final[Mapping[Market, ContractCalls]] = {"linear": endpoints.LINEAR, "inverse": endpoints.INVERSE}
WEIGHT_PER_MINUTE: Final = 2400
"""Of USDⓈ-M and COIN-M together: give both markets one budget."""

_MARKET_STREAMS_PER_SYMBOL = 2
_CANARIES: Final[Mapping[Market, tuple[str, ...]]] = {
    "linear": ("BTCUSDT", "ETHUSDT"),
    "inverse": ("BTCUSD_PERP", "ETHUSD_PERP"),
}


class _Named(Protocol):
    """An answer about one symbol, by the exchange's name."""

    @property
    def symbol(self) -> str: ...


T = TypeVar("T", bound=_Named)
_Question = Callable[[MarkConflator, float | None], Awaitable[None]]


class BinanceContracts:
    """One futures market.

    ``now_ms`` is the clock that prices are stamped with; ``budget`` is the request
    weight of both futures markets.
    """

    source = "binance"

    def __init__(
        self,
        market: Market,
        urls: MarketUrls,
        budget: WeightBudget,
        *,
        now_ms: Callable[[], int],
        timing: Timing | None = None,
        max_streams_per_connection: int = 300,
    ) -> None:
        self.market = market
        self._urls = urls
        self._calls = CALLS[market]
        self._now_ms = now_ms
        self._timing = timing or Timing()
        self._rest = ContractRest(urls.rest, self._calls, budget, deadline_s=self._timing.rest_s)
        self._connects = RollingLimit(self._timing.connects, self._timing.connects_window_s)
        self._interest = Interest(self._timing.linger_s)
        self._asking = Asking(market, self._timing, now_ms)
        # One place each for the base streams, the others for a mark and the trades of a symbol, or for a book.
        base = len(_CANARIES[market])
        closely = max(1, (max_streams_per_connection - base) // _MARKET_STREAMS_PER_SYMBOL)
        books = max(1, max_streams_per_connection - base)
        self._market_lines = Lines(Allocation(closely, closely), self._market_base, self._market_streams)
        self._book_lines = Lines(Allocation(books, books), self._book_base, self._book_streams, is_always_open=False)
        self._listed: dict[str, Instrument] = {}
        self._listed_ms = self._marks_asked_ms = self._books_asked_ms = 0
        self._names: dict[str, str] = {}
        self._wanted: frozenset[str] = frozenset()
        self._followed: set[str] = set()
        self._changed = asyncio.Event()
        self._snapshot_due = asyncio.Event()
        self._listing_due = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the connection for the marks is open, be it silent."""
        return self._market_lines.is_connected

    def watch(self, symbols: Set[str]) -> None:
        """Follow these symbols closely, and others no more. Call it again and again: symbols linger by time."""
        wanted = self._interest.update(symbols, asyncio.get_running_loop().time())
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self, ticks: Conflator, listed: Callable[[list[Instrument]], None]) -> NoReturn:
        """Deliver ticks, and what is listed, until cancelled. Network errors are retried for ever."""
        if not isinstance(ticks, MarkConflator):
            raise TypeError("contracts are valued at marks: a MarkConflator takes them")
        async with self._rest, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_lines(tasks, ticks), name="binance.lines")
            asking, rest = self._asking, self._rest
            take_listing = partial(self._take_listing, ticks, listed)
            tasks.create_task(
                asking.keep_listing(partial(rest.instruments, self.market), self._listing_due, take_listing),
                name="binance.listing",
            )
            tasks.create_task(
                asking.keep_snapshots(partial(self._ask_all, ticks), self._snapshot_due), name="binance.snapshots"
            )
            tasks.create_task(self._keep_quiet_fresh(ticks), name="binance.quiet")
            tasks.create_task(asking.keep_clock(rest.server_ms, ticks.clock), name="binance.clock")
        raise AssertionError("none of the tasks returns")

    async def _keep_lines(self, tasks: asyncio.TaskGroup, ticks: MarkConflator) -> NoReturn:
        """Spread what is wanted, and listed, over as many lines as it needs."""
        while True:
            self._changed.clear()
            symbols = frozenset(self._wanted & self._listed.keys())
            for symbol in self._followed - symbols:
                ticks.drop_book(symbol)
            self._followed.clear()
            self._followed.update(symbols)
            marked = symbols if self.market == "linear" else frozenset(self._listed)
            self._market_lines.follow(marked, tasks, partial(self._new_line, self._urls.market, ticks))
            self._book_lines.follow(symbols, tasks, partial(self._new_line, self._urls.public, ticks))
            await self._changed.wait()

    def _new_line(self, url: str, ticks: MarkConflator) -> Line:
        return Line(
            url,
            self._timing,
            self._connects,
            self._asking.new_backoff(),
            lambda: ContractReceiver(ticks, self._names, self._followed, self._calls.stream_type, self._now_ms),
            self._on_ready,
        )

    def _market_base(self, number: int) -> frozenset[str]:
        if self.market == "linear" and number == 0:
            return frozenset({endpoints.ALL_MARKS})
        return frozenset(map(endpoints.mark_price, self._canaries()))

    def _market_streams(self, symbols: frozenset[str]) -> frozenset[str]:
        trades = {endpoints.agg_trade(self._venue(symbol)) for symbol in symbols & self._followed}
        if self.market == "linear":
            return frozenset(trades)
        return frozenset(trades.union(endpoints.mark_price(self._venue(symbol)) for symbol in symbols))

    def _book_base(self, _: int) -> frozenset[str]:
        """Twice a second, however busy the symbol is: every change of its best prices would be too much."""
        return frozenset(map(endpoints.shallow_depth, self._canaries()))

    def _book_streams(self, symbols: frozenset[str]) -> frozenset[str]:
        return frozenset(endpoints.book_ticker(self._venue(symbol)) for symbol in symbols)

    def _canaries(self) -> list[str]:
        """Contracts so busy that their silence means trouble, as the exchange calls them."""
        canaries = _CANARIES[self.market]
        if not self._listed:
            return list(canaries)
        return [symbol for symbol in canaries if self._is_trading(self._names.get(symbol, ""))]

    def _is_trading(self, symbol: str) -> bool:
        instrument = self._listed.get(symbol)
        return instrument is not None and instrument.status == "trading"

    def _venue(self, symbol: str) -> str:
        return self._listed[symbol].exchange_symbol

    def _on_ready(self) -> None:
        self._snapshot_due.set()
        self._listing_due.set()

    def _take_listing(
        self, ticks: MarkConflator, listed: Callable[[list[Instrument]], None], instruments: list[Instrument]
    ) -> None:
        names = {instrument.exchange_symbol: instrument.symbol for instrument in instruments}
        if names != self._names:
            self._snapshot_due.set()
        # In place: what receives holds on to it.
        self._names.clear()
        self._names.update(names)
        self._listed = {instrument.symbol: instrument for instrument in instruments}
        self._listed_ms = self._now_ms()
        ticks.set_halted({instrument.symbol for instrument in instruments if instrument.status != "trading"})
        self._changed.set()
        listed(instruments)

    async def _ask_all(self, ticks: MarkConflator) -> None:
        await self._ask_marks(ticks, None)
        await self._ask_books(ticks, None)
        asked_ms = self._now_ms()
        trades = [SnapshotTrade(self._names[one.symbol], one.price) for one in self._known(await self._rest.trades())]
        ticks.snapshot((), trades, asked_ms, self._now_ms())

    async def _ask_marks(self, ticks: MarkConflator, deadline_s: float | None) -> None:
        asked_ms = self._now_ms()
        marks = await self._rest.marks(deadline_s)
        known: list[Mark] = [premium_mark(one, self._names[one.symbol]) for one in self._known(marks)]
        ticks.snapshot_marks(known, asked_ms, self._now_ms())

    async def _ask_books(self, ticks: MarkConflator, deadline_s: float | None) -> None:
        asked_ms = self._now_ms()
        quotes = await self._rest.quotes(deadline_s)
        known = [SnapshotQuote(self._names[one.symbol], one.bid, one.ask) for one in self._known(quotes)]
        ticks.snapshot(known, (), asked_ms, self._now_ms())

    def _known(self, answers: Sequence[T]) -> list[T]:
        return [answer for answer in answers if answer.symbol in self._names]

    async def _keep_quiet_fresh(self, ticks: MarkConflator) -> NoReturn:
        """Ask for the marks and books of followed symbols that no stream confirms, one question at a time."""
        backoff = self._asking.new_backoff()
        # An answer that takes longer would be stale when it comes.
        deadline_s = min(self._timing.rest_s, ticks.stale_after_ms / 1000)
        while True:
            await asyncio.sleep(self._timing.ask_every_s)
            for ask in self._due_questions(ticks):
                try:
                    await ask(ticks, deadline_s)
                except RestUnavailable as error:
                    await self._asking.wait_out("quiet symbols", error, backoff)
                    break
                backoff.reset()

    def _due_questions(self, ticks: MarkConflator) -> list[_Question]:
        """One that was asked is not asked again before half a stale period: its symbol may have nothing to show."""
        now_ms = self._now_ms()
        trading = {symbol for symbol in self._followed if self._is_trading(symbol)}
        since_ms = now_ms - ticks.stale_after_ms // 2
        due: list[_Question] = []
        if self._marks_asked_ms < since_ms and ticks.unmarked(trading, since_ms):
            self._marks_asked_ms = now_ms
            due.append(self._ask_marks)
        if self._books_asked_ms < since_ms and ticks.unconfirmed(trading, since_ms):
            self._books_asked_ms = now_ms
            due.append(self._ask_books)
        if (due or trading != self._followed) and now_ms - self._listed_ms >= self._timing.doubt_every_s * 1000:
            self._listing_due.set()
        return due
