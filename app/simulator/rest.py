"""The public REST calls of the spot API, their weights and their errors."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from app.simulator import messages
from app.simulator.calls import (
    Calls,
    Query,
    RestError,
    costs,
    illegal,
    mandatory,
    number,
    rate_limit,
)
from app.simulator.candles import DAY_MS, INTERVALS, Candle, interval_closes
from app.simulator.exchange import Exchange, UnknownSymbol
from app.simulator.limits import Rules, WeightBudget
from app.simulator.listing import Listing
from app.simulator.market import Market, TakerOrder
from app.simulator.wire import ONE, fixed

_SYMBOL_FORM = re.compile(r"[\w\-.]{1,50}")
_SYMBOL_RANGE = r"^[\w\-._&&[^a-z]]{1,50}$"
_GONE = """<html>
<head><title>410 Gone</title></head>
<body>
<center><h1>410 Gone</h1></center>
<hr><center>nginx</center>
</body>
</html>
"""


class Selection(NamedTuple):
    """Which symbols a call is about; ``one`` when the answer is a single object."""

    markets: list[Market]
    one: bool


class Rest:
    """The REST side of the exchange."""

    def __init__(self, exchange: Exchange, rules: Rules) -> None:
        self._exchange = exchange
        self._rules = rules
        self.calls = Calls(exchange, WeightBudget(rules.weight_per_minute, rules))
        self._listed: tuple[int, list[dict[str, Any]]] = (-1, [])

    def routes(self) -> list[web.RouteDef]:
        """Every call, with what it costs."""
        api = "/api/v3"
        return [
            self.calls.route(f"{api}/ping", costs(1), self._ping),
            self.calls.route(f"{api}/time", costs(1), self._time),
            self.calls.route(f"{api}/exchangeInfo", costs(20), self._exchange_info),
            self.calls.route(f"{api}/ticker/price", _one_or_all(2, 4), self._ticker_price),
            self.calls.route(f"{api}/ticker/bookTicker", _one_or_all(2, 4), self._book_ticker),
            self.calls.route(f"{api}/ticker/24hr", _day_cost, self._day_ticker),
            self.calls.route(f"{api}/klines", costs(2), self._klines),
            self.calls.route(f"{api}/depth", _depth_cost, self._depth),
            self.calls.route(f"{api}/avgPrice", costs(2), self._average_price),
            self.calls.route(f"{api}/trades", costs(25), self._trades),
            self.calls.route(f"{api}/aggTrades", costs(4), self._aggregate_trades),
            web.route("*", f"{api}/userDataStream", self._gone),
        ]

    def _ping(self, _: Query) -> dict[str, Any]:
        return {}

    def _time(self, _: Query) -> dict[str, Any]:
        return {"serverTime": self.calls.now_ms}

    def _exchange_info(self, query: Query) -> dict[str, Any]:
        if self._listed[0] != self._exchange.listing_version:
            listed = [_symbol_facts(market) for market in self._exchange.markets.values()]
            self._listed = (self._exchange.listing_version, listed)
        symbols = self._listed[1]
        if "symbol" in query or "symbols" in query:
            wanted = {market.listing.symbol for market in self._selection(query).markets}
            symbols = [facts for facts in symbols if facts["symbol"] in wanted]
        if "symbolStatus" in query:
            symbols = [facts for facts in symbols if facts["status"] == query["symbolStatus"]]
        limits = [rate_limit("REQUEST_WEIGHT", "MINUTE", 1, self._rules.weight_per_minute)]
        limits += [
            rate_limit("ORDERS", "SECOND", 10, 100),
            rate_limit("ORDERS", "DAY", 1, 200_000),
            rate_limit("RAW_REQUESTS", "MINUTE", 5, 300_000),
        ]
        return {
            "timezone": "UTC",
            "serverTime": self.calls.now_ms,
            "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": symbols,
        }

    def _ticker_price(self, query: Query) -> Any:
        return self._each(query, lambda market: {"symbol": market.listing.symbol, "price": fixed(market.last)})

    def _book_ticker(self, query: Query) -> Any:
        return self._each(query, _book_ticker)

    def _day_ticker(self, query: Query) -> Any:
        now_ms = self.calls.now_ms
        if query.get("type", "FULL") == "MINI":
            return self._each(query, lambda market: _mini_day(market, now_ms))
        return self._each(query, lambda market: _full_day(market, now_ms))

    def _klines(self, query: Query) -> list[list[Any]]:
        market = self._market(query)
        interval = mandatory(query, "interval")
        if interval not in INTERVALS:
            raise RestError(-1120, "Invalid interval.")
        since, until = number(query, "startTime"), number(query, "endTime")
        limit = min(number(query, "limit") or 500, 1000)
        wanted = [
            candle
            for candle in market.tape.klines(interval, self.calls.now_ms)
            if (since is None or candle.opens_ms >= since) and (until is None or candle.opens_ms <= until)
        ]
        return [_kline(candle, interval) for candle in (wanted[:limit] if since is not None else wanted[-limit:])]

    def _depth(self, query: Query) -> dict[str, Any]:
        market = self._market(query)
        bids, asks = market.depth(min(number(query, "limit") or 100, 5000))
        return {
            "lastUpdateId": market.update_id,
            "bids": [(fixed(price), fixed(quantity)) for price, quantity in bids],
            "asks": [(fixed(price), fixed(quantity)) for price, quantity in asks],
        }

    def _average_price(self, query: Query) -> dict[str, Any]:
        market = self._market(query)
        closes = market.recent[-1].time_us // 1000 if market.recent else self.calls.now_ms
        return {"mins": 5, "price": fixed(market.tape.recent_average()), "closeTime": closes}

    def _trades(self, query: Query) -> list[dict[str, Any]]:
        market = self._market(query)
        trades = [trade for order in market.recent for trade in _single_trades(order)]
        return trades[-min(number(query, "limit") or 500, 1000) :]

    def _aggregate_trades(self, query: Query) -> list[dict[str, Any]]:
        market = self._market(query)
        start, since, until = number(query, "fromId"), number(query, "startTime"), number(query, "endTime")
        orders = [
            order
            for order in market.recent
            if (start is None or order.aggregate_id >= start)
            and (since is None or order.time_us // 1000 >= since)
            and (until is None or order.time_us // 1000 <= until)
        ]
        limit = min(number(query, "limit") or 500, 1000)
        wanted = orders[-limit:] if start is None and since is None else orders[:limit]
        return [_aggregate_trade(order) for order in wanted]

    async def _gone(self, request: web.Request) -> web.Response:
        return self.calls.weighed(request, web.Response(status=410, text=_GONE, content_type="text/html"))

    def _each(self, query: Query, view: Callable[[Market], dict[str, Any]]) -> Any:
        selection = self._selection(query)
        return view(selection.markets[0]) if selection.one else [view(market) for market in selection.markets]

    def _selection(self, query: Query) -> Selection:
        if "symbol" in query and "symbols" in query:
            raise RestError(-1128, "Combination of optional parameters invalid.")
        if "symbol" in query:
            return Selection([self._market(query)], one=True)
        if "symbols" in query:
            return Selection([self._listed_market(symbol) for symbol in _symbols(query)], one=False)
        return Selection(list(self._exchange.markets.values()), one=False)

    def _market(self, query: Query) -> Market:
        return self._listed_market(mandatory(query, "symbol"))

    def _listed_market(self, symbol: str) -> Market:
        if not _SYMBOL_FORM.fullmatch(symbol) or any("a" <= letter <= "z" for letter in symbol):
            raise illegal("symbol", _SYMBOL_RANGE)
        try:
            return self._exchange.market(symbol)
        except UnknownSymbol:
            raise RestError(-1121, "Invalid symbol.") from None


def _one_or_all(one: int, many: int) -> Callable[[Query], int]:
    return lambda query: one if "symbol" in query else many


def _day_cost(query: Query) -> int:
    if "symbol" in query:
        return 2
    if "symbols" not in query:
        return 80
    count = query["symbols"].count(",") + 1
    return 2 if count <= 20 else 40 if count <= 100 else 80


def _depth_cost(query: Query) -> int:
    limit = query.get("limit", "100")
    levels = int(limit) if limit.isdecimal() and limit.isascii() else 100
    return next((weight for most, weight in ((100, 5), (500, 25), (1000, 50)) if levels <= most), 250)


def _symbols(query: Query) -> list[str]:
    try:
        symbols = msgspec.json.decode(query["symbols"], type=list[str])
    except msgspec.MsgspecError:
        symbols = []
    if not symbols:
        raise illegal("symbols", r'^\["[\w\-._&&[^a-z]]{1,50}"(,"[\w\-._&&[^a-z]]{1,50}"){0,}\]$')
    return symbols


def _symbol_facts(market: Market) -> dict[str, Any]:
    listing = market.listing
    return {
        "symbol": listing.symbol,
        "status": market.status,
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": listing.quote in {"USDT", "USDC", "BTC"},
        "filters": _filters(listing),
        "permissions": [],
        "permissionSets": [["SPOT", "MARGIN"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }


def _filters(listing: Listing) -> list[dict[str, Any]]:
    most = 9_000_000 * ONE // listing.step * listing.step
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": fixed(listing.tick),
            "maxPrice": fixed(listing.tick * 100_000_000),
            "tickSize": fixed(listing.tick),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": fixed(listing.step),
            "maxQty": fixed(most),
            "stepSize": fixed(listing.step),
        },
        {"filterType": "ICEBERG_PARTS", "limit": 10},
        {
            "filterType": "NOTIONAL",
            "minNotional": fixed(listing.min_notional),
            "applyMinToMarket": True,
            "maxNotional": fixed(9_000_000 * ONE),
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ]


def _book_ticker(market: Market) -> dict[str, Any]:
    listed = (market.bid, market.bid_quantity, market.ask, market.ask_quantity)
    # A symbol that does not trade any more has an empty book, which the exchange shows as zeros.
    bid, bid_quantity, ask, ask_quantity = listed if market.has_book else (0, 0, 0, 0)
    return {
        "symbol": market.listing.symbol,
        "bidPrice": fixed(bid),
        "bidQty": fixed(bid_quantity),
        "askPrice": fixed(ask),
        "askQty": fixed(ask_quantity),
    }


def _mini_day(market: Market, now_ms: int) -> dict[str, Any]:
    day = market.tape.day(now_ms)
    return {"symbol": market.listing.symbol, **_day_prices(day), **_day_span(day, now_ms)}


def _full_day(market: Market, now_ms: int) -> dict[str, Any]:
    day = market.tape.day(now_ms)
    book = _book_ticker(market)
    return {
        **book,
        "priceChange": fixed(day.close - day.open),
        "priceChangePercent": messages.percent(day),
        "weightedAvgPrice": fixed(messages.average(day)),
        "prevClosePrice": fixed(day.open),
        "lastQty": fixed(messages.last_quantity(market)),
        **_day_prices(day),
        **_day_span(day, now_ms),
    }


def _day_prices(day: Candle) -> dict[str, Any]:
    return {
        "openPrice": fixed(day.open),
        "highPrice": fixed(day.high),
        "lowPrice": fixed(day.low),
        "lastPrice": fixed(day.close),
        "volume": fixed(day.volume),
        "quoteVolume": fixed(day.quote_volume // ONE),
    }


def _day_span(day: Candle, now_ms: int) -> dict[str, Any]:
    ids = (day.first_id, day.last_id) if day.count else (-1, -1)
    return {
        "openTime": now_ms - DAY_MS,
        "closeTime": now_ms,
        "firstId": ids[0],
        "lastId": ids[1],
        "count": day.count,
    }


def _kline(candle: Candle, interval: str) -> list[Any]:
    return [
        candle.opens_ms,
        fixed(candle.open),
        fixed(candle.high),
        fixed(candle.low),
        fixed(candle.close),
        fixed(candle.volume),
        interval_closes(interval, candle.opens_ms),
        fixed(candle.quote_volume // ONE),
        candle.count,
        fixed(candle.taker_volume),
        fixed(candle.taker_quote_volume // ONE),
        "0",
    ]


def _single_trades(order: TakerOrder) -> list[dict[str, Any]]:
    return [
        {
            "id": trade_id,
            "price": fixed(order.price),
            "qty": fixed(size),
            "quoteQty": fixed(order.price * size // ONE),
            "time": order.time_us // 1000,
            "isBuyerMaker": order.buyer_is_maker,
            "isBestMatch": True,
        }
        for trade_id, size in enumerate(order.sizes, start=order.first_id)
    ]


def _aggregate_trade(order: TakerOrder) -> dict[str, Any]:
    return {
        "a": order.aggregate_id,
        "p": fixed(order.price),
        "q": fixed(order.quantity),
        "f": order.first_id,
        "l": order.last_id,
        "T": order.time_us // 1000,
        "m": order.buyer_is_maker,
        "M": True,
    }
