"""What the streams send, field by field as Binance names them. Times are milliseconds, or microseconds if asked for."""

import msgspec

from app.simulator.candles import DAY_MS, Candle, interval_closes
from app.simulator.market import Market, TakerOrder
from app.simulator.wire import ONE, fixed

_encode = msgspec.json.Encoder().encode


class BookTicker(msgspec.Struct):
    """The top of a book. Spot sends no event time with it."""

    update_id: int = msgspec.field(name="u")
    symbol: str = msgspec.field(name="s")
    bid: str = msgspec.field(name="b")
    bid_quantity: str = msgspec.field(name="B")
    ask: str = msgspec.field(name="a")
    ask_quantity: str = msgspec.field(name="A")


class Trade(msgspec.Struct):
    """One trade."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    trade_id: int = msgspec.field(name="t")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    trade_time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")
    ignore: bool = msgspec.field(name="M", default=True)


class AggregateTrade(msgspec.Struct):
    """The trades of one taker order."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    aggregate_id: int = msgspec.field(name="a")
    price: str = msgspec.field(name="p")
    quantity: str = msgspec.field(name="q")
    first_id: int = msgspec.field(name="f")
    last_id: int = msgspec.field(name="l")
    trade_time: int = msgspec.field(name="T")
    buyer_is_maker: bool = msgspec.field(name="m")
    ignore: bool = msgspec.field(name="M", default=True)


class MiniTicker(msgspec.Struct):
    """The rolling day, short."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    close: str = msgspec.field(name="c")
    open: str = msgspec.field(name="o")
    high: str = msgspec.field(name="h")
    low: str = msgspec.field(name="l")
    volume: str = msgspec.field(name="v")
    quote_volume: str = msgspec.field(name="q")


class Ticker(msgspec.Struct):
    """The rolling day, in full."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    change: str = msgspec.field(name="p")
    change_percent: str = msgspec.field(name="P")
    average: str = msgspec.field(name="w")
    previous_close: str = msgspec.field(name="x")
    close: str = msgspec.field(name="c")
    last_quantity: str = msgspec.field(name="Q")
    bid: str = msgspec.field(name="b")
    bid_quantity: str = msgspec.field(name="B")
    ask: str = msgspec.field(name="a")
    ask_quantity: str = msgspec.field(name="A")
    open: str = msgspec.field(name="o")
    high: str = msgspec.field(name="h")
    low: str = msgspec.field(name="l")
    volume: str = msgspec.field(name="v")
    quote_volume: str = msgspec.field(name="q")
    opens: int = msgspec.field(name="O")
    closes: int = msgspec.field(name="C")
    first_id: int = msgspec.field(name="F")
    last_id: int = msgspec.field(name="L")
    count: int = msgspec.field(name="n")


class Kline(msgspec.Struct):
    """One kline as the stream shows it."""

    opens: int = msgspec.field(name="t")
    closes: int = msgspec.field(name="T")
    symbol: str = msgspec.field(name="s")
    interval: str = msgspec.field(name="i")
    first_id: int = msgspec.field(name="f")
    last_id: int = msgspec.field(name="L")
    open: str = msgspec.field(name="o")
    close: str = msgspec.field(name="c")
    high: str = msgspec.field(name="h")
    low: str = msgspec.field(name="l")
    volume: str = msgspec.field(name="v")
    count: int = msgspec.field(name="n")
    closed: bool = msgspec.field(name="x")
    quote_volume: str = msgspec.field(name="q")
    taker_volume: str = msgspec.field(name="V")
    taker_quote_volume: str = msgspec.field(name="Q")
    ignore: str = msgspec.field(name="B", default="0")


class KlineEvent(msgspec.Struct):
    """A kline in its envelope."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    kline: Kline = msgspec.field(name="k")


class AveragePrice(msgspec.Struct):
    """The average price of five minutes."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")
    symbol: str = msgspec.field(name="s")
    interval: str = msgspec.field(name="i")
    average: str = msgspec.field(name="w")
    trade_time: int = msgspec.field(name="T")


class PartialDepth(msgspec.Struct, rename="camel"):
    """The best levels of a book. It names no symbol."""

    last_update_id: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class Shutdown(msgspec.Struct):
    """The server says that it goes away."""

    event: str = msgspec.field(name="e")
    event_time: int = msgspec.field(name="E")


def book_ticker(market: Market) -> bytes:
    """A quote as bytes."""
    return _encode(
        BookTicker(
            market.update_id,
            market.listing.symbol,
            fixed(market.bid),
            fixed(market.bid_quantity),
            fixed(market.ask),
            fixed(market.ask_quantity),
        )
    )


def trades(market: Market, order: TakerOrder, unit_us: int) -> list[bytes]:
    """Each trade of an order as bytes."""
    time, price = order.time_us // unit_us, fixed(order.price)
    return [
        _encode(Trade("trade", time, market.listing.symbol, trade_id, price, fixed(size), time, order.buyer_is_maker))
        for trade_id, size in enumerate(order.sizes, start=order.first_id)
    ]


def aggregate_trade(market: Market, order: TakerOrder, unit_us: int) -> bytes:
    """An order's trades in one, as bytes."""
    time = order.time_us // unit_us
    return _encode(
        AggregateTrade(
            "aggTrade",
            time,
            market.listing.symbol,
            order.aggregate_id,
            fixed(order.price),
            fixed(order.quantity),
            order.first_id,
            order.last_id,
            time,
            order.buyer_is_maker,
        )
    )


def mini_ticker(market: Market, now_us: int, unit_us: int) -> bytes:
    """The rolling day of one symbol, short, as bytes."""
    day = market.tape.day(now_us // 1000)
    return _encode(
        MiniTicker(
            "24hrMiniTicker",
            now_us // unit_us,
            market.listing.symbol,
            fixed(market.last),
            fixed(day.open),
            fixed(day.high),
            fixed(day.low),
            fixed(day.volume),
            fixed(day.quote_volume // ONE),
        )
    )


def percent(day: Candle) -> str:
    """By how much the price changed, in percent with three places."""
    return f"{(day.close - day.open) / day.open * 100:.3f}"


def average(day: Candle) -> int:
    """The volume-weighted price."""
    return day.quote_volume // day.volume if day.volume else day.close


def last_quantity(market: Market) -> int:
    """The size of the last trade; zero when none is remembered."""
    return market.recent[-1].sizes[-1] if market.recent else 0


def ticker(market: Market, now_us: int, unit_us: int) -> bytes:
    """The rolling day of one symbol, in full, as bytes."""
    day = market.tape.day(now_us // 1000)
    return _encode(
        Ticker(
            "24hrTicker",
            now_us // unit_us,
            market.listing.symbol,
            fixed(day.close - day.open),
            percent(day),
            fixed(average(day)),
            fixed(day.open),
            fixed(day.close),
            fixed(last_quantity(market)),
            fixed(market.bid),
            fixed(market.bid_quantity),
            fixed(market.ask),
            fixed(market.ask_quantity),
            fixed(day.open),
            fixed(day.high),
            fixed(day.low),
            fixed(day.volume),
            fixed(day.quote_volume // ONE),
            (now_us - DAY_MS * 1000) // unit_us,
            now_us // unit_us,
            day.first_id,
            day.last_id,
            day.count,
        )
    )


def kline(market: Market, candle: Candle, interval: str, now_us: int, unit_us: int, *, closed: bool) -> bytes:
    """A kline as bytes. Its own times are microseconds too if asked for."""
    symbol, scale = market.listing.symbol, 1000 // unit_us
    closes_ms = interval_closes(interval, candle.opens_ms)
    payload = Kline(
        candle.opens_ms * scale,
        closes_ms if scale == 1 else closes_ms * scale + scale - 1,
        symbol,
        interval,
        candle.first_id if candle.count else -1,
        candle.last_id if candle.count else -1,
        fixed(candle.open),
        fixed(candle.close),
        fixed(candle.high),
        fixed(candle.low),
        fixed(candle.volume),
        candle.count,
        closed,
        fixed(candle.quote_volume // ONE),
        fixed(candle.taker_volume),
        fixed(candle.taker_quote_volume // ONE),
    )
    return _encode(KlineEvent("kline", now_us // unit_us, symbol, payload))


def average_price(market: Market, now_us: int, unit_us: int) -> bytes:
    """The average price as bytes."""
    traded_us = market.recent[-1].time_us if market.recent else now_us
    return _encode(
        AveragePrice(
            "avgPrice",
            now_us // unit_us,
            market.listing.symbol,
            "5m",
            fixed(market.tape.recent_average()),
            traded_us // unit_us,
        )
    )


def partial_depth(market: Market, levels: int) -> bytes:
    """The best levels as bytes."""
    bids, asks = market.depth(levels)
    return _encode(PartialDepth(market.update_id, _levels(bids), _levels(asks)))


def _levels(levels: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(fixed(price), fixed(quantity)) for price, quantity in levels]


def shutdown(now_us: int, unit_us: int) -> bytes:
    """The notice of going away, as bytes."""
    return _encode(Shutdown("serverShutdown", now_us // unit_us))


def combined(stream: str, payload: bytes) -> bytes:
    """A payload in the wrapper of a combined connection."""
    return b'{"stream":"%b","data":%b}' % (stream.encode(), payload)
