"""Where Binance is, what its addresses are called, and what they cost."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec


class Call(NamedTuple):
    """A REST call: its path, its query, and the request weight it costs."""

    path: str
    weight: int
    query: tuple[tuple[str, str], ...] = ()


TIME = Call("/api/v3/time", 1)
# Without the permission sets the answer is a fraction of its size.
EXCHANGE_INFO = Call("/api/v3/exchangeInfo", 20, (("showPermissionSets", "false"),))
ALL_BOOK_TICKERS = Call("/api/v3/ticker/bookTicker", 4)
ALL_PRICES = Call("/api/v3/ticker/price", 4)

COMBINED_STREAMS = "/stream"
ALL_MINI_TICKERS = "!miniTicker@arr"


def book_tickers(symbols: Sequence[str]) -> Call:
    """The best bids and asks of some symbols. One that does not exist costs the answers of all."""
    return Call(ALL_BOOK_TICKERS.path, ALL_BOOK_TICKERS.weight, (("symbols", msgspec.json.encode(symbols).decode()),))


def book_ticker(symbol: str) -> str:
    """The stream of a symbol's best bid and ask."""
    return f"{symbol.lower()}@bookTicker"


def agg_trade(symbol: str) -> str:
    """The stream of a symbol's trades."""
    return f"{symbol.lower()}@aggTrade"


def mini_ticker(symbol: str) -> str:
    """The stream of a symbol's last price, each second."""
    return f"{symbol.lower()}@miniTicker"


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine, where no proxy must come between."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")
