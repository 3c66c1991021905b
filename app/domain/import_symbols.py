"""Which listed instrument a symbol in a file means: exactly one, or none.

A file names instruments as its source does: as they are listed here, as
Binance's spot or futures do (a perpetual there may have the name of a spot
pair), or as ccxt's unified API does (``BTC/USDT``, ``BTC/USDT:USDT``,
``BTC/USDT:USDT-260327``).
"""

from collections.abc import Iterable
from typing import Literal

from app.domain.cells import CellProblem, shown
from app.domain.instruments import Instrument, by_symbol, explain_unknown

Naming = Literal["listed", "spot", "futures", "ccxt"]


class SymbolBook:
    """The listed instruments by the names that files have for them."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        listed = list(instruments)
        spot = [instrument for instrument in listed if instrument.market == "spot"]
        futures = [instrument for instrument in listed if instrument.market != "spot"]
        self.assets = frozenset(asset for i in listed for asset in (i.base, i.quote, i.settle))
        self._by_naming: dict[Naming, dict[str, Instrument]] = {
            "listed": by_symbol(listed),
            "spot": by_symbol(spot),
            "futures": {instrument.exchange_symbol: instrument for instrument in futures} | by_symbol(futures),
            "ccxt": {_unified_name(instrument): instrument for instrument in listed},
        }

    def find(self, symbol: str, naming: Naming) -> Instrument:
        """The instrument that a symbol means. Raises CellProblem where none is listed under it."""
        names = self._by_naming[naming]
        instrument = names.get(symbol)
        if instrument is None:
            why = explain_unknown(symbol, names) if naming != "ccxt" else "not listed by the exchange"
            raise CellProblem("symbol", f"{shown(symbol)} is {why}")
        return instrument


def _unified_name(instrument: Instrument) -> str:
    """What ccxt calls it."""
    pair = f"{instrument.base}/{instrument.quote}"
    if instrument.market == "spot":
        return pair
    expiry = instrument.symbol.rpartition("_")[2]
    return f"{pair}:{instrument.settle}" + (f"-{expiry}" if expiry.isdigit() else "")
