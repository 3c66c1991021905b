"""The spot market of Binance, as the price worker sees a market.

The whole market comes each second over ``!miniTicker@arr``. The best bid and ask
and each trade come for the symbols somebody watches or holds. After every
(re)connect and every change of that set, the prices of all symbols are asked for
over REST, for a stream says only what changes. For the same reason a symbol whose
stream is quiet is asked for by name before its price grows stale. That goes on
while the streams are down: prices then go on slowly, each as old as its question,
and the market is not said to be live, for only streams make it so.
"""

import asyncio
from collections.abc import Callable, Set
from functools import partial
from typing import NoReturn

from app.domain.conflation import Conflator
from app.domain.instruments import Instrument, Market
from app.exchanges.binance import endpoints
from app.exchanges.binance.asking import Asking
from app.exchanges.binance.interest import Allocation, Interest
from app.exchanges.binance.line import Line
from app.exchanges.binance.lines import Lines
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.quiet import QuietSymbols
from app.exchanges.binance.rest import BinanceRest, RestUnavailable
from app.exchanges.binance.spot_streams import SpotReceiver
from app.exchanges.binance.timing import Timing
from app.exchanges.binance.weights import WeightBudget

_STREAMS_PER_SYMBOL = 2


class BinanceSpot:
    """The spot market.

    ``now_ms`` is the clock that prices are stamped with. ``canaries`` are symbols
    so busy that their silence means trouble: a connection that carries only quiet
    symbols follows them too.
    """

    source = "binance"
    market: Market = "spot"

    def __init__(
        self,
        *,
        rest_url: str,
        stream_url: str,
        now_ms: Callable[[], int],
        timing: Timing | None = None,
        max_streams_per_connection: int = 300,
        canaries: tuple[str, ...] = ("BTCUSDT", "ETHUSDT"),
    ) -> None:
        self._stream_url = stream_url
        self._now_ms = now_ms
        self._timing = timing or Timing()
        self._canaries = canaries
        self._rest = BinanceRest(rest_url, WeightBudget(), deadline_s=self._timing.rest_s)
        self._connects = RollingLimit(self._timing.connects, self._timing.connects_window_s)
        self._interest = Interest(self._timing.linger_s)
        allocation = Allocation(
            first_capacity=max(1, (max_streams_per_connection - 1) // _STREAMS_PER_SYMBOL),
            capacity=max(1, (max_streams_per_connection - len(canaries)) // _STREAMS_PER_SYMBOL),
        )
        self._lines = Lines(allocation, self._base_streams, _close_streams)
        self._listed: dict[str, Instrument] = {}
        self._wanted: frozenset[str] = frozenset()
        self._followed: set[str] = set()
        self._asking = Asking(self.market, self._timing, now_ms)
        self._changed = asyncio.Event()
        self._snapshot_due = asyncio.Event()
        self._listing_due = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether the connection for the whole market is open, be it silent."""
        return self._lines.is_connected

    def watch(self, symbols: Set[str]) -> None:
        """Follow these symbols closely, and others no more. Call it again and again: symbols linger by time."""
        wanted = self._interest.update(symbols, asyncio.get_running_loop().time())
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self, ticks: Conflator, listed: Callable[[list[Instrument]], None]) -> NoReturn:
        """Deliver ticks, and what is listed, until cancelled. Network errors are retried for ever."""
        async with self._rest, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_lines(tasks, ticks), name="binance.lines")
            quiet = QuietSymbols(ticks, self._timing)
            take_listing = partial(self._take_listing, quiet, listed)
            asking, rest = self._asking, self._rest
            tasks.create_task(
                asking.keep_listing(self._ask_listing, self._listing_due, take_listing), name="binance.listing"
            )
            tasks.create_task(
                asking.keep_snapshots(partial(self._ask_prices, ticks), self._snapshot_due), name="binance.snapshots"
            )
            tasks.create_task(self._keep_quiet_fresh(ticks, quiet), name="binance.quiet")
            tasks.create_task(asking.keep_clock(rest.server_ms, ticks.clock), name="binance.clock")
        raise AssertionError("none of the tasks returns")

    async def _keep_lines(self, tasks: asyncio.TaskGroup, ticks: Conflator) -> NoReturn:
        """Spread what is wanted, and listed, over as many lines as it needs."""
        while True:
            self._changed.clear()
            symbols = frozenset(self._wanted & self._listed.keys())
            self._follow_books(symbols, ticks)
            self._lines.follow(symbols, tasks, partial(self._new_line, ticks))
            await self._changed.wait()

    def _follow_books(self, symbols: frozenset[str], ticks: Conflator) -> None:
        for symbol in self._followed - symbols:
            ticks.drop_book(symbol)
        self._followed.clear()
        self._followed.update(symbols)

    def _new_line(self, ticks: Conflator) -> Line:
        return Line(
            self._stream_url,
            self._timing,
            self._connects,
            self._asking.new_backoff(),
            lambda: SpotReceiver(ticks, self._followed, self._now_ms),
            self._on_ready,
        )

    def _base_streams(self, number: int) -> frozenset[str]:
        """The streams of a line that never are silent for long."""
        if number == 0:
            return frozenset({endpoints.ALL_MINI_TICKERS})
        trading = (symbol for symbol in self._canaries if self._is_trading(symbol))
        return frozenset(endpoints.mini_ticker(symbol) for symbol in trading)

    def _is_trading(self, symbol: str) -> bool:
        instrument = self._listed.get(symbol)
        return instrument is not None and instrument.status == "trading"

    def _on_ready(self) -> None:
        self._snapshot_due.set()
        self._listing_due.set()

    async def _ask_listing(self) -> list[Instrument]:
        return (await self._rest.exchange_info()).instruments()

    def _take_listing(
        self, quiet: QuietSymbols, listed: Callable[[list[Instrument]], None], instruments: list[Instrument]
    ) -> None:
        self._listed = {instrument.symbol: instrument for instrument in instruments}
        quiet.listed(instruments, self._now_ms())
        self._changed.set()
        listed(instruments)

    async def _ask_prices(self, ticks: Conflator) -> None:
        asked_ms = self._now_ms()
        ticks.snapshot(await self._rest.quotes(), (), asked_ms, self._now_ms())
        asked_ms = self._now_ms()
        ticks.snapshot((), await self._rest.trades(), asked_ms, self._now_ms())

    async def _keep_quiet_fresh(self, ticks: Conflator, quiet: QuietSymbols) -> NoReturn:
        """Ask for the books of followed symbols that no stream confirms, one question at a time."""
        backoff = self._asking.new_backoff()
        # An answer that takes longer would be stale when it comes.
        deadline_s = min(self._timing.rest_s, ticks.stale_after_ms / 1000)
        while True:
            await asyncio.sleep(self._timing.ask_every_s)
            asked_ms = self._now_ms()
            if quiet.doubts_listing(self._followed, asked_ms):
                self._listing_due.set()
            asked = quiet.to_ask(self._followed, asked_ms)
            if not asked:
                continue
            try:
                quotes = await self._rest.quotes(asked if quiet.is_by_name(asked) else None, deadline_s)
            except RestUnavailable as error:
                quiet.refused(error.is_bad_request)
                await self._asking.wait_out("quiet symbols", error, backoff)
                continue
            backoff.reset()
            ticks.snapshot(quiet.answered(asked, quotes), (), asked_ms, self._now_ms())


def _close_streams(symbols: frozenset[str]) -> frozenset[str]:
    """What a symbol that somebody watches or holds is followed by."""
    return frozenset(
        stream for symbol in symbols for stream in (endpoints.book_ticker(symbol), endpoints.agg_trade(symbol))
    )
