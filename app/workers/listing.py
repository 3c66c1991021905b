"""What an exchange lists, and what it used to list: a position outlives the listing of its symbol."""

from collections.abc import Iterable, Set

import msgspec
import structlog

from app.domain.instruments import Instrument, Market, by_symbol

log = structlog.get_logger(__name__)


class Listing:
    """Every instrument known. One that is missing from a newer list stays, as delisted."""

    def __init__(self) -> None:
        self._instruments: dict[str, Instrument] = {}

    @property
    def instruments(self) -> list[Instrument]:
        return list(self._instruments.values())

    def get(self, symbol: str) -> Instrument | None:
        return self._instruments.get(symbol)

    def has_any(self, symbols: Set[str]) -> bool:
        """Whether any of these symbols is of this market."""
        return not symbols.isdisjoint(self._instruments)

    def remember(self, earlier: Iterable[Instrument]) -> None:
        """What was listed when another process looked; it yields to what is known here."""
        self._instruments = {**by_symbol(earlier), **self._instruments}

    def update(self, listed: Iterable[Instrument]) -> None:
        """Take over a complete list."""
        current = by_symbol(listed)
        for symbol, instrument in self._instruments.items():
            if symbol not in current:
                current[symbol] = msgspec.structs.replace(instrument, status="delisted")
        self._instruments = current


class SymbolOwners:
    """To which market each symbol belongs: the first that listed it.

    Positions refer to a symbol, so it must never come to mean something else; what
    another market lists under it is refused, and so are its prices.
    """

    def __init__(self) -> None:
        self._owners: dict[str, Market] = {}
        self._refused: dict[Market, frozenset[str]] = {}

    def refused(self, market: Market) -> frozenset[str]:
        """The symbols under which this market lists something, and may not."""
        return self._refused.get(market, frozenset())

    def admit(self, market: Market, listed: Iterable[Instrument]) -> list[Instrument]:
        """What of a market's complete list is taken over. A symbol that is there twice counts once."""
        admitted: dict[str, Instrument] = {}
        refused: set[str] = set()
        for instrument in listed:
            if self._owners.setdefault(instrument.symbol, market) != market:
                refused.add(instrument.symbol)
            elif instrument.symbol in admitted:
                log.warning("price_worker.symbol_listed_twice", market=market, symbol=instrument.symbol)
            else:
                admitted[instrument.symbol] = instrument
        if new := refused - self.refused(market):
            log.error("price_worker.symbols_refused", market=market, symbols=sorted(new)[:20], of=len(new))
        self._refused[market] = frozenset(refused)
        return list(admitted.values())
