"""The market as REST sees it: current prices and listed instruments, and what they make of a position."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

from app.api.problems import Problem, field_problem, unavailable
from app.bus.listings import Listings
from app.bus.prices import PriceBoard
from app.domain.instruments import Instrument, explain_unknown
from app.domain.pnl_snapshot import Prices
from app.domain.positions import Position
from app.domain.prices import Basis, Feed
from app.domain.rates import Rate
from app.domain.statements import position_statement
from app.domain.valuation import Valued
from app.repositories.accounts import Account


class PriceView(Protocol):
    """The newest prices in this process, and whether they still arrive."""

    @property
    def board(self) -> PriceBoard:
        """Prices by symbol, with the flush they are from."""

    @property
    def is_silent(self) -> bool:
        """Whether no flush has come for so long that no price can be called live."""

    @property
    def feed(self) -> Feed:
        """The exchange connection, as clients are told."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Market:
    """Prices and instruments together. Does no I/O."""

    def __init__(
        self, view: PriceView, listings: Listings, *, stale_after_ms: int, now_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self._view = view
        self.listings = listings
        self._stale_after_ms = stale_after_ms
        self._now_ms = now_ms

    @property
    def board(self) -> PriceBoard:
        return self._view.board

    @property
    def feed(self) -> Feed:
        return self._view.feed

    @property
    def is_silent(self) -> bool:
        """Whether no price can be called live."""
        return self._view.is_silent

    @property
    def as_of_ms(self) -> int:
        """The moment that ages count to: of the newest flush, or now when none comes."""
        # Not before the newest flush, though this clock may be behind the one that flush was counted by.
        return max(self._now_ms(), self.board.as_of_ms) if self.is_silent else self.board.as_of_ms

    @property
    def stale_after_ms(self) -> int:
        """How old a fresh price may be. In silence nothing is fresh."""
        return -1 if self.is_silent else self._stale_after_ms

    def instrument(self, symbol: str) -> Instrument:
        """The instrument with exactly this symbol. Raises Problem."""
        listed = self.listings.listed
        if not listed:
            raise unavailable("unavailable", "What the exchange lists is not known yet.")
        if symbol not in listed:
            raise field_problem("unknown_symbol", "symbol", f"{symbol!a} is {explain_unknown(symbol, listed)}.")
        return listed[symbol]

    def live_price(self, symbol: str) -> Decimal:
        """The price at which something can be bought or sold now. Raises Problem."""
        price = self.board.prices.get(symbol)
        listed = self.listings.listed.get(symbol)
        if listed is None or listed.status != "trading":
            raise Problem("price_unavailable", f"{symbol} is not trading. Give a price.")
        if price is None:
            raise Problem("price_unavailable", f"There is no price of {symbol} yet. Give a price.")
        if price.is_stale(self.as_of_ms, self.stale_after_ms):
            age_s = price.age_ms(self.as_of_ms) / 1000
            raise Problem("price_unavailable", f"The price of {symbol} is {age_s:.1f} s old. Give a price.")
        return price.price

    @property
    def prices(self) -> Prices:
        """All that values a book, as it is at this moment."""
        return Prices(self.board.prices, self.listings.rates, self.as_of_ms, self.stale_after_ms)

    def live_rate(self, asset: str, currency: str) -> Decimal | None:
        """What a unit of an asset is worth in a currency now; None where that is not known or too old."""
        rate = self.rate(asset, currency)
        is_known = rate is not None and (not rate.path or self.as_of_ms - rate.fresh_ms <= self.stale_after_ms)
        return rate.value if rate is not None and is_known else None

    def rate(self, asset: str, currency: str) -> Rate | None:
        """What a unit of an asset was worth in a currency when it was last known."""
        return self.listings.rates.rate(asset, currency, self.board.prices)

    def value(self, position: Position, account: Account) -> Valued:
        """What a position is worth in its account. One that is closed has no mark."""
        return self._value(position, account.valuation, account.currency)

    def statement(self, position: Position, account: Account) -> dict[str, Any]:
        """``Position`` of the contract, at current prices."""
        return position_statement(self.value(position, account))

    def _value(self, position: Position, basis: Basis, currency: str) -> Valued:
        return self.prices.value(position, basis, self.rate(position.instrument.settle, currency))
