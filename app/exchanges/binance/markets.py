"""The markets of Binance that are followed, made from where they are."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from app.domain.instruments import Market
from app.exchanges.binance.contract_funding import BinanceFunding
from app.exchanges.binance.contract_rest import ContractRest
from app.exchanges.binance.contracts import CALLS, WEIGHT_PER_MINUTE, BinanceContracts
from app.exchanges.binance.endpoints import MarketUrls
from app.exchanges.binance.spot import BinanceSpot
from app.exchanges.binance.timing import Timing
from app.exchanges.binance.weights import WeightBudget

_FUNDING_PATIENCE_S = 10.0


class BinanceMarkets(NamedTuple):
    """The feeds, spot first, and who knows the settled funding of each market of contracts."""

    feeds: list[BinanceSpot | BinanceContracts]
    funding: dict[Market, BinanceFunding]


@asynccontextmanager
async def binance_markets(
    urls: Mapping[Market, MarketUrls],
    *,
    now_ms: Callable[[], int],
    timing: Timing,
    max_streams_per_connection: int,
) -> AsyncIterator[BinanceMarkets]:
    """Every market that has an address. USDⓈ-M and COIN-M share the request weight, as Binance counts it."""
    budget = WeightBudget(WEIGHT_PER_MINUTE)
    markets = BinanceMarkets([], {})
    async with AsyncExitStack() as opened:
        if spot := urls.get("spot"):
            markets.feeds.append(
                BinanceSpot(
                    rest_url=spot.rest,
                    stream_url=spot.public,
                    now_ms=now_ms,
                    timing=timing,
                    max_streams_per_connection=max_streams_per_connection,
                )
            )
        for market, calls in CALLS.items():
            if market not in urls:
                continue
            markets.feeds.append(
                BinanceContracts(
                    market,
                    urls[market],
                    budget,
                    now_ms=now_ms,
                    timing=timing,
                    max_streams_per_connection=max_streams_per_connection,
                )
            )
            rest = ContractRest(urls[market].rest, calls, budget, deadline_s=_FUNDING_PATIENCE_S)
            markets.funding[market] = BinanceFunding(await opened.enter_async_context(rest))
        yield markets
