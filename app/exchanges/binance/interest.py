"""Which symbols are followed closely, and on which connection."""

from collections.abc import Iterable


class Interest:
    """The symbols somebody wants, and for a while those that somebody wanted."""

    def __init__(self, linger_s: float) -> None:
        self._linger_s = linger_s
        self._until: dict[str, float] = {}

    def update(self, wanted: Iterable[str], now: float) -> frozenset[str]:
        """Say what is wanted now; gives what to follow."""
        until = now + self._linger_s
        self._until = {symbol: end for symbol, end in self._until.items() if end > now}
        self._until.update((symbol, until) for symbol in wanted)
        return frozenset(self._until)


class Allocation:
    """Spreads symbols over connections of bounded size. A symbol stays where it is."""

    def __init__(self, first_capacity: int, capacity: int) -> None:
        self._first_capacity = first_capacity
        self._capacity = capacity
        self._places: list[set[str]] = [set()]

    def assign(self, symbols: frozenset[str]) -> list[frozenset[str]]:
        """The symbols of each connection. The first is always there, the last is never empty."""
        for place in self._places:
            place.intersection_update(symbols)
        for symbol in sorted(symbols.difference(*self._places)):
            self._place_for_one().add(symbol)
        while len(self._places) > 1 and not self._places[-1]:
            self._places.pop()
        return [frozenset(place) for place in self._places]

    def _place_for_one(self) -> set[str]:
        for number, place in enumerate(self._places):
            if len(place) < (self._capacity if number else self._first_capacity):
                return place
        self._places.append(set())
        return self._places[-1]
