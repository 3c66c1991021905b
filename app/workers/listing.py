"""What an exchange lists, and what it used to list: a position outlives the listing of its symbol."""

from collections.abc import Iterable

import msgspec

from app.domain.instruments import Instrument, by_symbol


class Listing:
    """Every instrument known. One that is missing from a newer list stays, as delisted."""

    def __init__(self) -> None:
        self._instruments: dict[str, Instrument] = {}

    @property
    def instruments(self) -> list[Instrument]:
        return list(self._instruments.values())

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
