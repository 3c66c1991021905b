"""Asking a futures market of Binance. Symbols are the exchange's own names in and out."""

from collections.abc import Callable
from decimal import Decimal
from time import time

from app.domain.conflation import SnapshotQuote, SnapshotTrade
from app.domain.decimals import parse_positive
from app.domain.instruments import Instrument, Market
from app.exchanges.binance.contract_messages import ContractInfo, MarkKline, PremiumIndex, SettledFunding
from app.exchanges.binance.endpoints import Call, ContractCalls
from app.exchanges.binance.messages import ServerTime, TickerBook, TickerPrice
from app.exchanges.binance.rest import RestClient
from app.exchanges.binance.weights import WeightBudget

FUNDING_PAGE = 1000
"""The most settled stamps that one question is answered with."""

_MINUTE_MS = 60_000


class ContractRest(RestClient):
    """The REST side of one futures market. Every call raises RestUnavailable."""

    def __init__(
        self,
        base_url: str,
        calls: ContractCalls,
        budget: WeightBudget,
        *,
        deadline_s: float,
        clock: Callable[[], float] = time,
    ) -> None:
        super().__init__(base_url, budget, deadline_s=deadline_s, clock=clock)
        self._calls = calls

    async def instruments(self, market: Market) -> list[Instrument]:
        """What is listed."""
        info = await self.get(self._calls.exchange_info, ContractInfo)
        self.learn_limit(info.weight_per_minute)
        return info.instruments(market)

    async def quotes(self, deadline_s: float | None = None) -> list[SnapshotQuote]:
        """The best bid and ask of every symbol that has both."""
        books = await self.get(self._calls.all_books, list[TickerBook], deadline_s)
        return [book.quote() for book in books if book.has_both_sides]

    async def trades(self) -> list[SnapshotTrade]:
        """The last price of every symbol."""
        return [price.trade() for price in await self.get(self._calls.all_prices, list[TickerPrice])]

    async def marks(self, deadline_s: float | None = None) -> list[PremiumIndex]:
        """The mark of every symbol, with its funding."""
        return await self.get(self._calls.all_marks, list[PremiumIndex], deadline_s)

    async def server_ms(self) -> int:
        """The exchange's clock, in Unix milliseconds."""
        return (await self.get(self._calls.time, ServerTime)).serverTime

    async def funding(self, symbol: str, since_ms: int, until_ms: int) -> list[SettledFunding]:
        """The settled stamps of a span (both ends included), oldest first, at most :data:`FUNDING_PAGE`."""
        limits = {"startTime": since_ms, "endTime": until_ms, "limit": FUNDING_PAGE}
        answer = await self.get(_of(self._calls.funding, symbol, limits), list[SettledFunding])
        return sorted(answer, key=lambda settled: settled.fundingTime)

    async def mark_at(self, symbol: str, moment_ms: int) -> Decimal | None:
        """The mark with which the minute of a moment began; None where the exchange does not know it."""
        minute_ms = moment_ms // _MINUTE_MS * _MINUTE_MS
        limits = {"startTime": minute_ms, "limit": 1}
        call = _of(self._calls.mark_klines, symbol, limits, interval="1m")
        for kline in await self.get(call, list[MarkKline]):
            if kline.opens_ms == minute_ms:
                return _positive(kline.open)
        return None


def _of(call: Call, symbol: str, numbers: dict[str, int], **texts: str) -> Call:
    query = {"symbol": symbol, **texts} | {name: str(number) for name, number in numbers.items()}
    return Call(call.path, call.weight, tuple(query.items()))


def _positive(text: str) -> Decimal | None:
    try:
        return parse_positive(text)
    except ValueError:
        return None
