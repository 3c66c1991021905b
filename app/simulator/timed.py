"""Streams that send at intervals, and only when they have something new to say."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from app.simulator import messages
from app.simulator.candles import INTERVALS, interval_opens
from app.simulator.market import Market
from app.simulator.topics import Build

BEATS_PER_S = 10

_DEPTH = re.compile(r"depth(5|10|20)(@100ms|@1000ms)?")


class Beat(NamedTuple):
    """A tenth of a second. ``changed`` holds the markets that traded within the last second."""

    number: int
    now_us: int
    changed: Mapping[Market, None]

    def each(self, beats: int) -> bool:
        """Whether something that happens every so many beats happens now."""
        return self.number % beats == 0


class Timed(Protocol):
    """What a stream has to say at a beat, if anything."""

    def __call__(self, beat: Beat) -> Build | None: ...


def timed_stream(kind: str, market: Market) -> Timed | None:
    """The timed stream of a symbol by the part of its name after the symbol; None when there is none such."""
    depth = _DEPTH.fullmatch(kind)
    if depth is not None:
        return _Depth(market, int(depth[1]), every=1 if depth[2] == "@100ms" else BEATS_PER_S)
    if kind.startswith("kline_") and kind.removeprefix("kline_") in INTERVALS:
        return _Kline(market, kind.removeprefix("kline_"))
    makers: dict[str, Callable[[Market], Timed]] = {
        "miniTicker": _MiniTicker,
        "ticker": _Ticker,
        "avgPrice": _AveragePrice,
    }
    maker = makers.get(kind)
    return maker(market) if maker else None


def all_mini_tickers(beat: Beat) -> Build | None:
    """Every symbol that traded within the last second, each second."""
    if not beat.each(BEATS_PER_S) or not beat.changed:
        return None

    def build(unit_us: int) -> list[bytes]:
        tickers = (messages.mini_ticker(market, beat.now_us, unit_us) for market in beat.changed)
        return [b"[" + b",".join(tickers) + b"]"]

    return build


class _MiniTicker:
    def __init__(self, market: Market) -> None:
        self._market = market

    def __call__(self, beat: Beat) -> Build | None:
        if not beat.each(BEATS_PER_S) or self._market not in beat.changed:
            return None
        return lambda unit_us: [messages.mini_ticker(self._market, beat.now_us, unit_us)]


class _Ticker:
    def __init__(self, market: Market) -> None:
        self._market = market
        self._sent = (-1, -1)

    def __call__(self, beat: Beat) -> Build | None:
        newest = (self._market.update_id, self._market.next_id)
        if not beat.each(BEATS_PER_S) or newest == self._sent:
            return None
        self._sent = newest
        return lambda unit_us: [messages.ticker(self._market, beat.now_us, unit_us)]


class _AveragePrice:
    def __init__(self, market: Market) -> None:
        self._market = market

    def __call__(self, beat: Beat) -> Build | None:
        if not beat.each(BEATS_PER_S):
            return None
        return lambda unit_us: [messages.average_price(self._market, beat.now_us, unit_us)]


class _Depth:
    def __init__(self, market: Market, levels: int, every: int) -> None:
        self._market = market
        self._levels = levels
        self._every = every
        self._sent = -1

    def __call__(self, beat: Beat) -> Build | None:
        if not beat.each(self._every) or self._market.update_id == self._sent:
            return None
        self._sent = self._market.update_id
        return lambda _: [messages.partial_depth(self._market, self._levels)]


class _Kline:
    """The open kline every two seconds, and each kline once more when it has closed."""

    def __init__(self, market: Market, interval: str) -> None:
        self._market = market
        self._interval = interval
        self._opens_ms: int | None = None
        self._sent = -1

    def __call__(self, beat: Beat) -> Build | None:
        if not beat.each(2 * BEATS_PER_S):
            return None
        now_ms = beat.now_us // 1000
        opens_ms = interval_opens(self._interval, now_ms)
        previous_ms, self._opens_ms = self._opens_ms, opens_ms
        if previous_ms is not None and opens_ms > previous_ms:
            return self._build(beat, previous_ms, closed=True)
        if self._market.next_id == self._sent:
            return None
        self._sent = self._market.next_id
        return self._build(beat, now_ms, closed=False)

    def _build(self, beat: Beat, time_ms: int, *, closed: bool) -> Build:
        market, interval = self._market, self._interval
        candle = market.tape.kline_at(interval, time_ms)
        return lambda unit_us: [messages.kline(market, candle, interval, beat.now_us, unit_us, closed=closed)]
