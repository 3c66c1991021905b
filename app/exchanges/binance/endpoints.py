"""Where Binance is, what its addresses are called, and what they cost."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec


class MarketUrls(NamedTuple):
    """Where one market is. ``public`` streams books, ``market`` streams trades, tickers and marks.

    Binance keeps the two apart for USDⓈ-M only, and there a stream that is asked
    for at the wrong one is acknowledged and then silent.
    """

    rest: str
    public: str
    market: str


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


class ContractCalls(NamedTuple):
    """The calls of a market of contracts, and how its all-market streams mark its own entries."""

    time: Call
    exchange_info: Call
    all_books: Call
    all_prices: Call
    all_marks: Call
    funding: Call
    mark_klines: Call
    stream_type: int


# Funding rates have a limit of their own beside the weight: 500 calls in five minutes.
LINEAR = ContractCalls(
    time=Call("/fapi/v1/time", 1),
    exchange_info=Call("/fapi/v1/exchangeInfo", 1),
    all_books=Call("/fapi/v1/ticker/bookTicker", 5),
    all_prices=Call("/fapi/v2/ticker/price", 2),
    all_marks=Call("/fapi/v1/premiumIndex", 10),
    funding=Call("/fapi/v1/fundingRate", 1),
    mark_klines=Call("/fapi/v1/markPriceKlines", 1),
    stream_type=1,
)
INVERSE = ContractCalls(
    time=Call("/dapi/v1/time", 1),
    exchange_info=Call("/dapi/v1/exchangeInfo", 1),
    all_books=Call("/dapi/v1/ticker/bookTicker", 5),
    all_prices=Call("/dapi/v1/ticker/price", 2),
    all_marks=Call("/dapi/v1/premiumIndex", 10),
    funding=Call("/dapi/v1/fundingRate", 1),
    mark_klines=Call("/dapi/v1/markPriceKlines", 1),
    stream_type=2,
)

ALL_MARKS = "!markPrice@arr@1s"


def mark_price(symbol: str) -> str:
    """The stream of a contract's mark and funding rate, each second."""
    return f"{symbol.lower()}@markPrice@1s"


def shallow_depth(symbol: str) -> str:
    """The stream of a contract's five best levels, twice a second."""
    return f"{symbol.lower()}@depth5@500ms"


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
