"""The seeded day before the exchange opened, so that daily figures and klines exist from the first moment.

Each asset has one path of minute values that ends at its opening value; a
symbol's past is the quotient of two paths, so that cross rates agree in the
past too. It is worked out only for the symbols somebody asks about.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from app.simulator.candles import MINUTE_MS, QUARTER_MS, Candle
from app.simulator.listing import Asset, Listing, daily_turnover
from app.simulator.wire import ONE

MINUTES = 1440
MARKET_VOLATILITY = 0.38
"""Of the common factor, per square root of a year."""
YEAR_S = 365.25 * 86_400

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


class History:
    """What happened on the day that ended when the exchange opened."""

    def __init__(self, assets: Mapping[str, Asset], seed: int, opened_ms: int) -> None:
        self._assets = assets
        self._seed = seed
        self.opens_ms = opened_ms // MINUTE_MS * MINUTE_MS - MINUTES * MINUTE_MS
        self._market = self._walk("market", MARKET_VOLATILITY)
        self._paths: dict[str, _Floats] = {}

    def price_path(self, listing: Listing) -> _Floats:
        """The price at each minute's edge, relative to the last one."""
        return np.asarray(np.exp(self._path(listing.base) - self._path(listing.quote)), dtype=np.float64)

    def draw(self, name: str) -> np.random.Generator:
        """A source of chance of its own, the same whenever it is asked for."""
        return np.random.default_rng([self._seed, zlib.crc32(name.encode())])

    def _path(self, ticker: str) -> _Floats:
        if ticker not in self._paths:
            asset = self._assets[ticker]
            self._paths[ticker] = self._walk(f"asset-{ticker}", asset.volatility) + asset.beta * self._market
        return self._paths[ticker]

    def _walk(self, name: str, volatility: float) -> _Floats:
        """A logarithmic path of one day that ends at zero."""
        deviation = volatility * math.sqrt(60 / YEAR_S)
        path = np.concatenate([[0.0], np.cumsum(self.draw(name).normal(0, deviation, MINUTES))])
        return np.asarray(path - path[-1], dtype=np.float64)


class Past:
    """The history of one symbol, which closed at ``price`` with the trade before ``next_id``."""

    def __init__(self, history: History, listing: Listing, price: int, next_id: int, usd: float) -> None:
        self._history = history
        self._listing = listing
        self._price = price
        self._next_id = next_id
        self._usd = usd

    def minutes(self) -> list[Candle]:
        """One candle for each minute."""
        return self._candles(np.arange(MINUTES), MINUTE_MS)

    def quarters(self) -> list[Candle]:
        """One candle for each quarter of an hour; the first and the last may be cut short."""
        opens = self._history.opens_ms + np.arange(MINUTES) * MINUTE_MS
        starts = np.flatnonzero(np.diff(opens // QUARTER_MS, prepend=-1))
        return self._candles(starts, QUARTER_MS)

    def _candles(self, starts: _Ints, width_ms: int) -> list[Candle]:
        """Fold the minutes into candles that begin at the given minutes."""
        if self._listing.status == "BREAK":
            return []
        opens, highs, lows, closes, steps, bought, counts = self._columns()
        middles = (highs + lows) // 2
        rows = zip(
            ((self._history.opens_ms + starts * MINUTE_MS) // width_ms * width_ms).tolist(),
            opens[starts].tolist(),
            np.maximum.reduceat(highs, starts).tolist(),
            np.minimum.reduceat(lows, starts).tolist(),
            closes[np.append(starts[1:], MINUTES) - 1].tolist(),
            np.add.reduceat(steps, starts).tolist(),
            np.add.reduceat(steps * middles, starts).tolist(),
            np.add.reduceat(bought, starts).tolist(),
            np.add.reduceat(bought * middles, starts).tolist(),
            np.add.reduceat(counts, starts).tolist(),
            strict=True,
        )
        tick, step = self._listing.tick, self._listing.step
        next_id = self._next_id - int(counts.sum())
        candles = []
        for opens_ms, opened, high, low, close, volume, value, bought_volume, bought_value, count in rows:
            candle = Candle(opens_ms, opened * tick, next_id)
            candle.high, candle.low, candle.close = high * tick, low * tick, close * tick
            candle.volume, candle.quote_volume = volume * step, value * step * tick
            candle.taker_volume, candle.taker_quote_volume = bought_volume * step, bought_value * step * tick
            candle.count = count
            next_id += count
            candle.last_id = next_id - 1
            candles.append(candle)
        return candles

    def _columns(self) -> tuple[_Ints, ...]:
        """Open, high, low, close in ticks; volume and bought volume in steps; number of trades."""
        listing = self._listing
        draw = self._history.draw(f"candles-{listing.symbol}")
        edges = np.rint(self._history.price_path(listing) * (self._price / listing.tick)).astype(np.int64)
        edges = np.maximum(2, edges)
        opens, closes = edges[:-1], edges[1:]
        wiggle = np.abs(draw.normal(0, 0.0004, (2, MINUTES)))
        highs = np.maximum(opens, closes) + (closes * wiggle[0]).astype(np.int64)
        lows = np.maximum(1, np.minimum(opens, closes) - (closes * wiggle[1]).astype(np.int64))
        dollars = daily_turnover(listing) / MINUTES * np.exp(draw.normal(-0.3, 0.8, MINUTES))
        steps = np.maximum(1, dollars / self._usd * ONE / listing.step).astype(np.int64)
        bought = (steps * draw.uniform(0.3, 0.7, MINUTES)).astype(np.int64)
        counts = 1 + draw.poisson(1 + 1500 * listing.activity, MINUTES)
        return opens, highs, lows, closes, steps, bought, counts
