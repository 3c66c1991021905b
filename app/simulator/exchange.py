"""The simulated exchange: what it lists, and the ticks that come due as its clock goes on.

The path of every price is a function of the seed, of the moment the exchange
opened and of the tick rate. It does not depend on how often ``advance`` is
called: each tick happens at its due instant, even if several are worked off
at once.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from app.simulator.candles import CandleTape
from app.simulator.history import MARKET_VOLATILITY, YEAR_S, History, Past
from app.simulator.listing import Asset, SymbolStatus, build_assets, build_listings
from app.simulator.market import Market, TakerOrder
from app.simulator.replay import RecordedQuote, Recording, RecordingPlayer
from app.simulator.wire import ONE

MAX_TICKS_PER_S = 20_000

_BLOCK = 4096
_TRADE_SHARE = 0.3
_CATCH_UP_S = 0.5
_LONGEST_STEP_US = 60_000_000
_YEAR_US = YEAR_S * 1e6


class Listener(Protocol):
    """Who hears of every change, at the moment it happens."""

    def quoted(self, market: Market) -> None:
        """The top of a book changed."""

    def traded(self, market: Market, order: TakerOrder) -> None:
        """An order traded."""


class UnknownSymbol(ValueError):
    """A symbol that is not listed."""


class _Value:
    """The moving value of one asset, as a logarithm of dollars."""

    __slots__ = ("beta", "deviation", "level", "moved_us")

    def __init__(self, asset: Asset, usd: float, moved_us: int) -> None:
        self.level = math.log(usd)
        self.deviation = asset.volatility / math.sqrt(_YEAR_US)
        self.beta = asset.beta
        self.moved_us = moved_us


class Exchange:
    """Every market and its clock; no I/O.

    Args:
        seed: the same seed, clock and rate give the same prices.
        clock: microseconds since the epoch.
        ticks_per_s: book changes and taker orders per second over all symbols together.
        recordings: symbols driven by recorded ticks instead.
        made_up_coins: how many to list beyond the usual ones.
    """

    def __init__(
        self,
        *,
        seed: int,
        clock: Callable[[], int],
        ticks_per_s: int = 500,
        recordings: Sequence[Recording] = (),
        made_up_coins: int = 0,
    ) -> None:
        self._clock = clock
        self._opened_us = clock()
        self.shift_us = 0
        self.changed: dict[Market, None] = {}
        """Markets that traded since the owner last cleared this."""
        self.skipped_ticks = 0
        self.ticks = 0
        self.listing_version = 0
        """Goes up whenever the status of a symbol changes."""
        self._listeners: list[Listener] = []
        self._draw = np.random.default_rng([seed, 0])
        self._factor = 0.0
        self._open_markets(seed, recordings, made_up_coins)
        self._shocks = self._drawn()
        self._rate_from(ticks_per_s)

    @property
    def now_us(self) -> int:
        """The exchange's own time: the clock, shifted by hand."""
        return self._clock() + self.shift_us

    @property
    def ticks_per_s(self) -> int:
        """How many ticks come due in a second."""
        return self._rate

    @ticks_per_s.setter
    def ticks_per_s(self, rate: int) -> None:
        self.advance()
        self._rate_from(rate)

    def listen(self, listener: Listener) -> None:
        """Tell a listener of every change from now on."""
        self._listeners.append(listener)

    def market(self, symbol: str) -> Market:
        """The market of a listed symbol. Raises UnknownSymbol."""
        try:
            return self.markets[symbol]
        except KeyError:
            raise UnknownSymbol(symbol) from None

    def advance(self) -> int:
        """Work off every tick that came due, and give their number."""
        now = self._clock()
        for player in self._players:
            self._replay(player, now)
        if not self._rate:
            return 0
        due = (now - self._rate_since_us) * self._rate // 1_000_000 - self._rate_ticks
        most = max(1, int(self._rate * _CATCH_UP_S))
        if due > most:
            self.skipped_ticks += due - most
            self._rate_ticks += due - most
            due = most
        if due > 0:
            self._tick(due)
        return max(0, due)

    def set_price(
        self,
        symbol: str,
        *,
        bid: int | None = None,
        ask: int | None = None,
        last: int | None = None,
        bid_quantity: int | None = None,
        ask_quantity: int | None = None,
        frozen: bool = True,
    ) -> None:
        """Put exact prices (in 1e-8) in place, and by default keep them there.

        A frozen market goes on quoting and trading, at these prices. Not
        frozen, it walks on from them, away from its cross rates.
        """
        market = self.market(symbol)
        market.frozen = frozen
        if (bid, ask, bid_quantity, ask_quantity) != (None,) * 4:
            self._set_book(market, bid, ask, bid_quantity, ask_quantity)
        if last is None and not market.bid <= market.last <= market.ask:
            last = market.bid
        if last is not None:
            order = market.record(self.now_us, last, (market.listing.typical_quantity,), buyer_is_maker=False)
            self._tell_traded(market, order)
        middle = (market.bid + market.ask) / 2
        market.basis += math.log(middle / self._fair(market))

    def set_status(self, symbol: str, status: SymbolStatus) -> None:
        """Halt a symbol, or let it trade again."""
        self.market(symbol).status = status
        self.listing_version += 1

    def burst(self, symbol: str, count: int, *, trades: bool) -> None:
        """Let one symbol quote or trade ``count`` times at this instant."""
        market = self.market(symbol)
        now = self._clock()
        shocks = itertools.islice(self._shocks, count)
        for _, _, move, _, size, mood in shocks:
            if trades:
                self._trade(market, now, size, mood, buys=move > 0)
            else:
                self._quote(market, now, move, size, mood)

    def _open_markets(self, seed: int, recordings: Sequence[Recording], made_up_coins: int) -> None:
        self.assets = build_assets(seed, made_up_coins)
        listings = build_listings(self.assets, seed)
        history = History(self.assets, seed, self._opened_us // 1000)
        opening = {recording.symbol: recording.opening_price for recording in recordings}
        usd = {ticker: asset.usd for ticker, asset in self.assets.items()}
        usd |= {
            listings[symbol].base: price / ONE * usd[listings[symbol].quote]
            for symbol, price in opening.items()
            if symbol in listings
        }
        self._values = {ticker: _Value(asset, usd[ticker], self._opened_us) for ticker, asset in self.assets.items()}
        self.markets: dict[str, Market] = {}
        for number, listing in enumerate(listings.values()):
            fair = usd[listing.base] / usd[listing.quote] * ONE
            price = opening.get(listing.symbol) or max(2, round(fair / listing.tick)) * listing.tick
            next_id = 1_000_000 + 7919 * number + int(4e9 * listing.activity)
            past = Past(history, listing, price, next_id, usd[listing.base])
            tape = CandleTape(self._opened_us // 1000, price, next_id, past)
            self.markets[listing.symbol] = Market(listing, price, next_id * 5, next_id, tape)
        self._players = [RecordingPlayer(recording, self._opened_us) for recording in recordings]
        for recording in recordings:
            self.market(recording.symbol).replayed = True
        self._in_order = list(self.markets.values())
        weights = np.array([market.listing.activity for market in self.markets.values()])
        self._cumulative = np.cumsum(weights / weights.sum())

    def _drawn(self) -> Iterator[tuple[int, float, float, float, float, float]]:
        """For each tick: which market, shock of the factor, shock of the asset, kind, size, mood."""
        last = len(self._cumulative) - 1
        while True:
            chosen = np.searchsorted(self._cumulative, self._draw.random(_BLOCK))
            yield from zip(
                np.minimum(chosen, last).tolist(),
                self._draw.standard_normal(_BLOCK).tolist(),
                self._draw.standard_normal(_BLOCK).tolist(),
                self._draw.random(_BLOCK).tolist(),
                np.exp(0.9 * self._draw.standard_normal(_BLOCK)).tolist(),
                self._draw.random(_BLOCK).tolist(),
                strict=True,
            )

    def _rate_from(self, rate: int) -> None:
        if not 0 <= rate <= MAX_TICKS_PER_S:
            raise ValueError(f"ticks per second must be between 0 and {MAX_TICKS_PER_S}")
        self._rate = rate
        self._rate_since_us = self._clock()
        self._rate_ticks = 0
        self._factor_step = MARKET_VOLATILITY * math.sqrt(1 / (rate * YEAR_S)) if rate else 0.0

    def _tick(self, count: int) -> None:
        since, rate, number = self._rate_since_us, self._rate, self._rate_ticks
        for index, factor, move, kind, size, mood in itertools.islice(self._shocks, count):
            number += 1
            self._factor += self._factor_step * factor
            market = self._in_order[index]
            if market.status != "TRADING" or market.replayed:
                continue
            time_us = since + number * 1_000_000 // rate
            if kind < _TRADE_SHARE:
                self._trade(market, time_us, size, mood, buys=move > 0)
            else:
                self._quote(market, time_us, move, size, mood)
        self._rate_ticks = number
        self.ticks += count

    def _quote(self, market: Market, time_us: int, move: float, size: float, mood: float) -> None:
        base = self._values[market.listing.base]
        elapsed = min(time_us - base.moved_us, _LONGEST_STEP_US)
        if elapsed > 0:
            base.level += base.deviation * math.sqrt(elapsed) * move
            base.moved_us = time_us
        market.requote(self._fair(market), size, mood)
        self._tell_quoted(market)

    def _trade(self, market: Market, time_us: int, size: float, mood: float, *, buys: bool) -> None:
        order = market.take(time_us + self.shift_us, size, mood, buys=buys)
        self._tell_traded(market, order)
        self._tell_quoted(market)

    def _fair(self, market: Market) -> float:
        """What the values of the two assets say the price is, in 1e-8."""
        base, quote = self._values[market.listing.base], self._values[market.listing.quote]
        factor = (base.beta - quote.beta) * self._factor
        return math.exp(base.level - quote.level + factor + market.basis) * ONE

    def _set_book(
        self, market: Market, bid: int | None, ask: int | None, bid_quantity: int | None, ask_quantity: int | None
    ) -> None:
        bid = bid if bid is not None else min(market.bid, (ask or market.ask) - market.listing.tick)
        ask = ask if ask is not None else max(market.ask, bid + market.listing.tick)
        if not 0 < bid < ask:
            raise ValueError("a book needs 0 < bid < ask")
        typical = market.listing.typical_quantity
        market.set_book(bid, bid_quantity or typical, ask, ask_quantity or typical)
        self._tell_quoted(market)

    def _replay(self, player: RecordingPlayer, now_us: int) -> None:
        market = self.markets[player.symbol]
        for time_us, tick in player.due(now_us):
            if not market.trading or market.frozen:
                continue
            if isinstance(tick, RecordedQuote):
                market.set_book(tick.bid, tick.bid_quantity, tick.ask, tick.ask_quantity)
                self._follow(market)
                self._tell_quoted(market)
            else:
                order = market.record(
                    time_us + self.shift_us, tick.price, (tick.quantity,), buyer_is_maker=tick.buyer_is_maker
                )
                self._tell_traded(market, order)

    def _follow(self, market: Market) -> None:
        """Let the base asset follow a replayed symbol, so that its other symbols agree with it."""
        base = self._values[market.listing.base]
        base.level += math.log((market.bid + market.ask) / 2 / self._fair(market))

    def _tell_quoted(self, market: Market) -> None:
        for listener in self._listeners:
            listener.quoted(market)

    def _tell_traded(self, market: Market, order: TakerOrder) -> None:
        self.changed[market] = None
        for listener in self._listeners:
            listener.traded(market, order)
