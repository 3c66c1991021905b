"""Every contract of the simulated exchange, and the clock of its funding."""

from collections import defaultdict
from typing import Any

from app.simulator.candles import DAY_MS, MINUTE_MS
from app.simulator.contract import Contract, Settled
from app.simulator.contract_listing import build_contracts
from app.simulator.exchange import Exchange, UnknownSymbol
from app.simulator.market import Market
from app.simulator.venues import Venue

FUNDING_INTERVAL_S = 8 * 3600
_STAMPS_AT_ONCE = 100


class Contracts:
    """The futures side of an exchange. No I/O."""

    def __init__(self, exchange: Exchange, *, funding_interval_s: int = FUNDING_INTERVAL_S) -> None:
        self._exchange = exchange
        self._interval_ms = funding_interval_s * 1000
        self.listing_version = 0
        """Goes up whenever the status of a contract changes."""
        self.of_venue: dict[Venue, dict[str, Contract]] = {"linear": {}, "inverse": {}}
        self.of_spot: defaultdict[Market, list[Contract]] = defaultdict(list)
        spot = {symbol: market.listing for symbol, market in exchange.markets.items()}
        for listing in build_contracts(spot, self.now_ms):
            contract = Contract(listing, exchange.market(listing.underlying))
            self.of_venue[listing.venue][listing.symbol] = contract
            self.of_spot[contract.spot].append(contract)
        self._opened_ms = self.now_ms
        self._seeded: set[Contract] = set()
        self._settled_ms = self.now_ms // self._interval_ms * self._interval_ms
        self._minute_ms = self.now_ms // MINUTE_MS * MINUTE_MS

    @property
    def now_ms(self) -> int:
        """The exchange's own time."""
        return self._exchange.now_us // 1000

    @property
    def all(self) -> list[Contract]:
        """Every contract of both markets."""
        return [contract for contracts in self.of_venue.values() for contract in contracts.values()]

    def contract(self, venue: Venue, symbol: str) -> Contract:
        """A listed contract. Raises UnknownSymbol."""
        try:
            return self.of_venue[venue][symbol]
        except KeyError:
            raise UnknownSymbol(symbol) from None

    def next_funding_ms(self, contract: Contract) -> int:
        """When it settles next; 0 for a contract without funding."""
        return self._settled_ms + self._interval_ms if contract.is_perpetual else 0

    def advance(self) -> None:
        """Settle every funding that came due, and remember the marks of a minute that began."""
        now_ms = self.now_ms
        minute_ms = now_ms // MINUTE_MS * MINUTE_MS
        if minute_ms != self._minute_ms:
            self._minute_ms = minute_ms
            for contract in self.all:
                contract.note_minute(minute_ms)
        due_ms = now_ms // self._interval_ms * self._interval_ms
        # A clock that was set far ahead skips what nobody could have held through.
        self._settled_ms = max(self._settled_ms, due_ms - _STAMPS_AT_ONCE * self._interval_ms)
        while self._settled_ms < due_ms:
            self._settled_ms += self._interval_ms
            self.settle(self._settled_ms)
        self._settled_ms = due_ms

    def settle(self, time_ms: int, rate: int | None = None, mark: int | None = None) -> None:
        """Settle the funding of every perpetual."""
        for contract in self.all:
            if contract.is_perpetual:
                contract.settle(time_ms, rate, mark)

    def funding_of(self, contract: Contract) -> list[Settled]:
        """The stamps of a contract, those of the day before the exchange opened included."""
        if contract not in self._seeded:
            self._seeded.add(contract)
            if contract.is_perpetual:
                first_ms = (self._opened_ms - DAY_MS) // self._interval_ms * self._interval_ms
                times = range(first_ms, self._opened_ms + 1, self._interval_ms)
                contract.seed_funding(list(times)[-_STAMPS_AT_ONCE:], self.now_ms)
        return list(contract.settled)

    def put(self, contract: Contract, **figures: Any) -> None:
        """Put figures in place and keep them there; None lets one follow the market again."""
        contract.held = contract.held._replace(**figures)
        contract.changes += 1
