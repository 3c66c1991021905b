"""The markets of the exchange, told apart on one port by the path; and the routes of a futures market."""

from typing import Final, Literal, get_args

Venue = Literal["spot", "linear", "inverse"]
"""Spot, USDⓈ-M and COIN-M: three hosts of the real exchange."""
VENUES: Final[tuple[Venue, ...]] = get_args(Venue)
FUTURES: Final[tuple[Venue, Venue]] = ("linear", "inverse")

Route = Literal["public", "market", "private"]
"""Where a stream of USDⓈ-M is served. At another it is acknowledged, and then silent."""
ROUTES: Final[tuple[Route, ...]] = get_args(Route)

_PUBLIC = ("bookTicker", "depth")


def route_of(stream: str) -> Route:
    """The route that serves a stream of USDⓈ-M."""
    kind = stream[stream.find("@") + 1 :] if "@" in stream else stream.removeprefix("!")
    return "public" if kind.startswith(_PUBLIC) else "market"


def venue_of(prefix: list[str]) -> tuple[Venue, Route | None]:
    """The market that a path begins with, and its route; None where every stream is served.

    An unrouted path of USDⓈ-M still opens, and serves what the public route does.
    """
    if "dstream" in prefix:
        return "inverse", None
    for route in ROUTES:
        if route in prefix:
            return "linear", route
    return ("linear", "public") if "fstream" in prefix else ("spot", None)
