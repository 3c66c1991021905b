"""Asking Binance: a few public REST calls, under one weight budget."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from app.domain.conflation import SnapshotQuote, SnapshotTrade
from app.exchanges.binance import endpoints
from app.exchanges.binance.endpoints import Call
from app.exchanges.binance.messages import (
    ExchangeInfo,
    Malformed,
    ServerTime,
    TickerBook,
    TickerPrice,
    decode_answer,
)
from app.exchanges.binance.weights import WeightBudget

M = TypeVar("M")

_USED_WEIGHT = "x-mbx-used-weight-1m"
_REFUSALS = (418, 429)


class RestUnavailable(Exception):
    """A call got no good answer. ``retry_after_s`` is what the exchange, or its budget, demands.

    ``is_bad_request``: the exchange says that the question was wrong.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0, *, is_bad_request: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_bad_request = is_bad_request


class RestClient:
    """Asks one host. Use as a context manager; each call has one deadline for all of it.

    ``budget`` belongs to the address that asks, so markets that Binance counts together share one.
    """

    def __init__(
        self, base_url: str, budget: WeightBudget, *, deadline_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._budget = budget
        self._deadline_s = deadline_s
        self._clock = clock
        self._client = httpx2.AsyncClient(
            base_url=base_url, timeout=deadline_s, trust_env=not endpoints.is_loopback(base_url)
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def get(self, call: Call, shape: type[M], deadline_s: float | None = None) -> M:
        """The answer to a call. Raises RestUnavailable."""
        wait_s = self._budget.delay_s(call.weight, self._clock())
        if wait_s > 0:
            raise RestUnavailable("the request weight is used up", wait_s)
        self._budget.spend(call.weight, self._clock())
        response = await self._fetch(call, deadline_s or self._deadline_s)
        self._observe_weight(response)
        self._check(response)
        try:
            return decode_answer(response.content, shape)
        except Malformed as error:
            raise RestUnavailable(f"{call.path} answered with something else: {error}") from error

    def learn_limit(self, weight_per_minute: int | None) -> None:
        """Take over the limit that the exchange states, if it does."""
        if weight_per_minute is not None:
            self._budget.learn_limit(weight_per_minute)

    async def _fetch(self, call: Call, deadline_s: float) -> httpx2.Response:
        try:
            async with asyncio.timeout(deadline_s):
                return await self._client.get(call.path, params=dict(call.query))
        except TimeoutError:
            raise RestUnavailable(f"{call.path} took longer than {deadline_s:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise RestUnavailable(f"{call.path} cannot be reached: {error or type(error).__name__}") from error

    def _observe_weight(self, response: httpx2.Response) -> None:
        used = response.headers.get(_USED_WEIGHT, "")
        if used.isascii() and used.isdigit():
            self._budget.observe(int(used), self._clock())

    def _check(self, response: httpx2.Response) -> None:
        """Raise RestUnavailable unless the answer is good; remember how long to keep away."""
        if response.status_code in _REFUSALS:
            stated = retry_after_s(response.headers.get("retry-after"))
            wait_s = self._budget.refused(response.status_code, stated, self._clock())
            raise RestUnavailable(f"too many requests ({response.status_code})", wait_s)
        if response.status_code != httpx2.codes.OK:
            is_bad_request = response.status_code == httpx2.codes.BAD_REQUEST
            raise RestUnavailable(f"refused with status {response.status_code}", is_bad_request=is_bad_request)


class BinanceRest(RestClient):
    """The REST side of the spot market. Every call raises RestUnavailable."""

    async def exchange_info(self) -> ExchangeInfo:
        """What is listed."""
        info = await self.get(endpoints.EXCHANGE_INFO, ExchangeInfo)
        self.learn_limit(info.weight_per_minute)
        return info

    async def quotes(
        self, symbols: Sequence[str] | None = None, deadline_s: float | None = None
    ) -> list[SnapshotQuote]:
        """The best bid and ask of every symbol that has both; of these only, if any are given."""
        call = endpoints.ALL_BOOK_TICKERS if symbols is None else endpoints.book_tickers(symbols)
        books = await self.get(call, list[TickerBook], deadline_s)
        return [book.quote() for book in books if book.has_both_sides]

    async def trades(self) -> list[SnapshotTrade]:
        """The last price of every symbol."""
        return [price.trade() for price in await self.get(endpoints.ALL_PRICES, list[TickerPrice])]

    async def server_ms(self) -> int:
        """The exchange's clock, in Unix milliseconds."""
        return (await self.get(endpoints.TIME, ServerTime)).serverTime


def retry_after_s(header: str | None) -> float | None:
    """The seconds a Retry-After header asks for; None where there is no such number."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 9:
        return None
    return float(header)
