"""What the price worker has still to publish: the newest price of each symbol, until it is known to be out."""

from app.domain.conflation import Drained
from app.domain.prices import Price


class PriceOutbox:
    """Bounded by the number of symbols, however long the bus is away."""

    def __init__(self) -> None:
        self._published: dict[str, Price] = {}
        self._pending: dict[str, Price] = {}
        self._in_flight: dict[str, Price] = {}
        self._ticks = 0
        self._ticks_in_flight = 0

    @property
    def published(self) -> int:
        """How many symbols have a price on the bus, if nobody has emptied it."""
        return len(self._published)

    def price(self, symbol: str) -> Price | None:
        """The newest price that got out."""
        return self._published.get(symbol)

    def add(self, drained: Drained) -> None:
        """These prices have changed."""
        self._pending.update((price.symbol, price) for price in drained.prices)
        self._ticks += drained.ticks

    def take(self) -> tuple[int, list[Price]]:
        """Everything pending, and how many ticks it stands for. Say afterwards whether it got out."""
        self._in_flight, self._pending = self._pending, {}
        self._ticks_in_flight, self._ticks = self._ticks, 0
        return self._ticks_in_flight, list(self._in_flight.values())

    def succeeded(self) -> None:
        """What was taken is out."""
        self._published.update(self._in_flight)
        self._in_flight = {}

    def failed(self) -> None:
        """Nobody knows what of it got out, nor whether the bus still has what was out before."""
        self.republish()
        self._ticks += self._ticks_in_flight

    def republish(self) -> None:
        """The bus may have lost its prices: all of them are pending again."""
        self._pending = {**self._published, **self._in_flight, **self._pending}
        self._in_flight = {}
