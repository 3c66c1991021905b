"""The public REST calls of one futures market, as far as a client of prices and funding needs them."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from app.simulator.calls import Calls, Query, RestError, costs, mandatory, number, rate_limit
from app.simulator.candles import INTERVALS, interval_closes
from app.simulator.contract import Contract
from app.simulator.contracts import Contracts
from app.simulator.exchange import Exchange, UnknownSymbol
from app.simulator.limits import Rules, WeightBudget
from app.simulator.venues import Venue
from app.simulator.wire import ONE, fixed

_PATHS: dict[Venue, str] = {"linear": "/fapi", "inverse": "/dapi"}
_INTERVAL_MS = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "8h": 28_800_000}


class ContractRest:
    """The REST side of USDⓈ-M or COIN-M. ``weights`` are those of both."""

    def __init__(
        self, exchange: Exchange, contracts: Contracts, venue: Venue, weights: WeightBudget, rules: Rules
    ) -> None:
        self._contracts = contracts
        self._venue: Venue = venue
        self._rules = rules
        self.calls = Calls(exchange, weights)

    def routes(self) -> list[web.RouteDef]:
        """Every call, with what it costs."""
        api = _PATHS[self._venue]
        route = self.calls.route
        routes = [
            route(f"{api}/v1/ping", costs(1), lambda _: {}),
            route(f"{api}/v1/time", costs(1), lambda _: {"serverTime": self.calls.now_ms}),
            route(f"{api}/v1/exchangeInfo", costs(1), self._exchange_info),
            route(f"{api}/v1/premiumIndex", _one_or_all(1, 10), self._premium_index),
            route(f"{api}/v1/fundingRate", costs(1), self._funding_rate),
            route(f"{api}/v1/fundingInfo", costs(0), self._funding_info),
            route(f"{api}/v1/ticker/bookTicker", _one_or_all(2, 5), self._book_ticker),
            route(f"{api}/v1/ticker/price", _one_or_all(1, 2), self._ticker_price),
            route(f"{api}/v1/klines", costs(5), self._klines),
            route(f"{api}/v1/markPriceKlines", costs(1), self._mark_klines),
        ]
        if self._venue == "linear":
            routes.append(route(f"{api}/v2/ticker/price", _one_or_all(1, 2), self._ticker_price))
        return routes

    def _exchange_info(self, _: Query) -> dict[str, Any]:
        return {
            "timezone": "UTC",
            "serverTime": self.calls.now_ms,
            "rateLimits": [rate_limit("REQUEST_WEIGHT", "MINUTE", 1, self._rules.futures_weight_per_minute)],
            "exchangeFilters": [],
            "symbols": [self._facts(contract) for contract in self._contracts.of_venue[self._venue].values()],
        }

    def _facts(self, contract: Contract) -> dict[str, Any]:
        listing = contract.listing
        facts: dict[str, Any] = {
            "symbol": listing.symbol,
            "pair": listing.pair,
            "contractType": listing.kind,
            "deliveryDate": listing.delivery_ms,
            "onboardDate": 1_569_398_400_000,
            "baseAsset": listing.base,
            "quoteAsset": listing.quote,
            "marginAsset": listing.margin,
            # Not the tick: as with the real exchange, only the filters tell that.
            "pricePrecision": 8,
            "quantityPrecision": 0 if self._venue == "inverse" else 8,
            "underlyingType": "COIN",
            "filters": _filters(contract),
            "orderTypes": ["LIMIT", "MARKET", "STOP", "TAKE_PROFIT"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        }
        if self._venue == "inverse":
            return facts | {"contractStatus": contract.status, "contractSize": listing.contract_size}
        return facts | {"status": contract.status}

    def _premium_index(self, query: Query) -> Any:
        return self._each(query, self._premium)

    def _premium(self, contract: Contract) -> dict[str, Any]:
        now_ms = self.calls.now_ms
        index = fixed(contract.index())
        return self._named(contract) | {
            "markPrice": fixed(contract.mark(now_ms)),
            "indexPrice": index,
            "estimatedSettlePrice": index,
            "lastFundingRate": fixed(contract.rate(now_ms)) if contract.is_perpetual else "",
            "interestRate": "0.00010000" if contract.is_perpetual else "",
            "nextFundingTime": self._contracts.next_funding_ms(contract),
            "time": now_ms,
        }

    def _funding_rate(self, query: Query) -> list[dict[str, Any]]:
        contract = self._contract(query)
        since, until = number(query, "startTime"), number(query, "endTime")
        limit = min(number(query, "limit") or 100, 1000)
        stamps = [
            stamp
            for stamp in self._contracts.funding_of(contract)
            if (since is None or stamp.time_ms >= since) and (until is None or stamp.time_ms <= until)
        ]
        wanted = stamps[:limit] if since is not None else stamps[-limit:]
        return [
            {"symbol": contract.listing.symbol, "fundingTime": stamp.time_ms, "fundingRate": fixed(stamp.rate)}
            # COIN-M does not say at which mark.
            | ({"markPrice": fixed(stamp.mark)} if self._venue == "linear" else {})
            for stamp in wanted
        ]

    def _funding_info(self, _: Query) -> list[dict[str, Any]]:
        return []

    def _book_ticker(self, query: Query) -> Any:
        return self._each(query, self._book)

    def _book(self, contract: Contract) -> dict[str, Any]:
        now_ms = self.calls.now_ms
        bid, ask = contract.book(now_ms)
        quantity = fixed(contract.quantity())
        return self._named(contract) | {
            "bidPrice": fixed(bid),
            "bidQty": quantity,
            "askPrice": fixed(ask),
            "askQty": quantity,
            "time": now_ms,
        }

    def _ticker_price(self, query: Query) -> Any:
        now_ms = self.calls.now_ms
        return self._each(
            query, lambda contract: self._named(contract) | {"price": fixed(contract.last(now_ms)), "time": now_ms}
        )

    def _klines(self, query: Query) -> list[list[Any]]:
        contract, interval = self._contract(query), mandatory(query, "interval")
        if interval not in INTERVALS:
            raise RestError(-1120, "Invalid interval.")
        now_ms = self.calls.now_ms
        return _page(
            query,
            [
                _kline(
                    candle.opens_ms,
                    interval_closes(interval, candle.opens_ms),
                    *(
                        contract.traded_at(price, candle.opens_ms)
                        for price in (candle.open, candle.high, candle.low, candle.close)
                    ),
                )
                for candle in contract.spot.tape.klines(interval, now_ms)
            ],
        )

    def _mark_klines(self, query: Query) -> list[list[Any]]:
        contract, interval = self._contract(query), mandatory(query, "interval")
        if interval not in _INTERVAL_MS:
            raise RestError(-1120, "Invalid interval.")
        opens = list(contract.mark_opens(_INTERVAL_MS[interval], self.calls.now_ms))
        marks = [mark for _, mark in opens] + [contract.mark(self.calls.now_ms)]
        return _page(
            query,
            [
                _kline(
                    opens_ms,
                    interval_closes(interval, opens_ms),
                    mark,
                    max(mark, following),
                    min(mark, following),
                    following,
                )
                for (opens_ms, mark), following in zip(opens, marks[1:], strict=True)
            ],
        )

    def _named(self, contract: Contract) -> dict[str, Any]:
        name = {"symbol": contract.listing.symbol}
        return name | {"pair": contract.listing.pair} if self._venue == "inverse" else name

    def _each(self, query: Query, view: Callable[[Contract], dict[str, Any]]) -> Any:
        if "symbol" not in query:
            return [view(contract) for contract in self._contracts.of_venue[self._venue].values()]
        # COIN-M answers with a list even when asked for one.
        one = view(self._contract(query))
        return [one] if self._venue == "inverse" else one

    def _contract(self, query: Query) -> Contract:
        try:
            return self._contracts.contract(self._venue, mandatory(query, "symbol"))
        except UnknownSymbol:
            raise RestError(-1121, "Invalid symbol.") from None


def _one_or_all(one: int, many: int) -> Callable[[Query], int]:
    return lambda query: one if "symbol" in query else many


def _filters(contract: Contract) -> list[dict[str, Any]]:
    tick, step = contract.listing.tick, contract.listing.step
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": fixed(tick),
            "maxPrice": fixed(tick * 100_000_000),
            "tickSize": fixed(tick),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": fixed(step),
            "maxQty": fixed(1_000_000 * ONE // step * step),
            "stepSize": fixed(step),
        },
    ]


def _kline(opens_ms: int, closes_ms: int, opened: int, high: int, low: int, close: int) -> list[Any]:
    prices = [fixed(price) for price in (opened, high, low, close)]
    return [opens_ms, *prices, "0", closes_ms, "0", 0, "0", "0", "0"]


def _page(query: Query, klines: list[list[Any]]) -> list[list[Any]]:
    since, until = number(query, "startTime"), number(query, "endTime")
    limit = min(number(query, "limit") or 500, 1500)
    wanted = [
        kline for kline in klines if (since is None or kline[0] >= since) and (until is None or kline[0] <= until)
    ]
    return wanted[:limit] if since is not None else wanted[-limit:]
