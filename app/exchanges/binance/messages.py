"""What Binance sends, with its own names, each beside the stream or call that sends it.

Nothing one-letter leaves this file: every type turns itself into a type of the
domain. Fields that nobody needs are left out and skipped while decoding. Amounts
must be strings; a number in their place is malformed.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import TypeVar

import msgspec

from app.domain.conflation import Quote, SnapshotQuote, SnapshotTrade, Trade
from app.domain.decimals import parse_positive
from app.domain.instruments import Instrument, Status

T = TypeVar("T")
M = TypeVar("M")


class Malformed(ValueError):
    """A message that is not JSON, or not of the shape its source is known for."""


class ErrorBody(msgspec.Struct, frozen=True):
    """``{"code":2,"msg":"Invalid request: …"}``"""

    code: int
    msg: str = ""


class _Event(msgspec.Struct, frozen=True):
    e: str | None = None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """Anything that arrives on ``/stream``: data, the answer to a request, or a farewell.

    ``{"stream":"btcusdt@aggTrade","data":{…}}`` · ``{"result":null,"id":1}`` ·
    ``{"error":{"code":2,"msg":"…"},"id":1}``, and the same unwrapped, as the
    documentation has it · ``serverShutdown`` bare, combined, or as the WebSocket API has it.
    """

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    id: int | str | None = None
    error: ErrorBody | None = None
    code: int | None = None
    msg: str = ""
    e: str | None = None
    event: _Event | None = None

    @property
    def is_server_shutdown(self) -> bool:
        return (
            self.stream == "!serverShutdown"
            or self.e == "serverShutdown"
            or (self.event is not None and self.event.e == "serverShutdown")
        )

    @property
    def refusal(self) -> ErrorBody | None:
        """The error, in either shape, if it is one."""
        if self.error is not None or self.code is None:
            return self.error
        return ErrorBody(self.code, self.msg)


class BookTicker(msgspec.Struct, frozen=True, gc=False):
    """``<symbol>@bookTicker``: the best bid and ask, at every change, without a time.

    ``{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21","a":"25.36520000","A":"40.66"}``
    """

    u: int
    s: str
    b: str
    a: str

    def quote(self) -> Quote:
        return Quote(self.s, self.b, self.a, self.u)


class AggTrade(msgspec.Struct, frozen=True, gc=False):
    """``<symbol>@aggTrade``: what one taker order traded.

    ``{"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100","f":100,"l":105,…}``
    """

    E: int
    s: str
    a: int
    p: str

    def trade(self) -> Trade:
        return Trade(self.s, self.p, self.E, self.a)


class MiniTicker(msgspec.Struct, frozen=True, gc=False):
    """``<symbol>@miniTicker``, and an entry of ``!miniTicker@arr``: each second, what changed.

    ``{"e":"24hrMiniTicker","E":1671617114585,"s":"MOBBUSD","c":"0.95900000","o":"0.91200000",…}``
    """

    E: int
    s: str
    c: str

    def trade(self) -> Trade:
        return Trade(self.s, self.c, self.E)


class ServerTime(msgspec.Struct, frozen=True):
    """``GET /api/v3/time``: ``{"serverTime":1499827319559}``"""

    serverTime: int  # noqa: N815 -- Binance's name


class TickerPrice(msgspec.Struct, frozen=True, gc=False):
    """``GET /api/v3/ticker/price``, an entry: ``{"symbol":"LTCBTC","price":"4.00000200"}``"""

    symbol: str
    price: str

    def trade(self) -> SnapshotTrade:
        return SnapshotTrade(self.symbol, self.price)


class TickerBook(msgspec.Struct, frozen=True, gc=False):
    """``GET /api/v3/ticker/bookTicker``, an entry. A side without orders has the price zero.

    ``{"symbol":"LTCBTC","bidPrice":"4.00000000","bidQty":"431.00000000","askPrice":"4.00000200","askQty":"9.00000000"}``
    """

    symbol: str
    bidPrice: str  # noqa: N815
    askPrice: str  # noqa: N815

    @property
    def has_both_sides(self) -> bool:
        return bool(self.bidPrice.strip("0.")) and bool(self.askPrice.strip("0."))

    def quote(self) -> SnapshotQuote:
        return SnapshotQuote(self.symbol, self.bidPrice, self.askPrice)


class Filter(msgspec.Struct, frozen=True):
    filterType: str  # noqa: N815
    tickSize: str | None = None  # noqa: N815
    stepSize: str | None = None  # noqa: N815


class RateLimit(msgspec.Struct, frozen=True):
    rateLimitType: str  # noqa: N815
    interval: str
    intervalNum: int  # noqa: N815
    limit: int


class _Symbol(msgspec.Struct, frozen=True):
    """``GET /api/v3/exchangeInfo``, an entry of ``symbols``."""

    symbol: str
    status: str
    baseAsset: str  # noqa: N815
    quoteAsset: str  # noqa: N815
    baseAssetPrecision: int = 8  # noqa: N815
    quotePrecision: int = 8  # noqa: N815
    filters: list[Filter] = []

    def instrument(self) -> Instrument:
        # TRADING is the only status in which the price moves; HALT, BREAK and CANCEL_ONLY are not.
        status: Status = "trading" if self.status == "TRADING" else "halted"
        return Instrument(
            symbol=self.symbol,
            market="spot",
            base=self.baseAsset,
            quote=self.quoteAsset,
            settle=self.quoteAsset,
            tick_size=tick_size(self.filters, self.quotePrecision),
            step_size=step_size(self.filters, self.baseAssetPrecision),
            status=status,
        )


class ExchangeInfo(msgspec.Struct, frozen=True):
    """``GET /api/v3/exchangeInfo``: what is listed, and what may be asked."""

    symbols: list[_Symbol]
    rateLimits: list[RateLimit] = []  # noqa: N815

    def instruments(self) -> list[Instrument]:
        return [symbol.instrument() for symbol in self.symbols]

    @property
    def weight_per_minute(self) -> int | None:
        """The request weight an address may spend in a minute, if it is stated."""
        return weight_per_minute(self.rateLimits)


def tick_size(filters: list[Filter], precision: int) -> Decimal:
    """The step of prices; what the precision allows where no filter sets one."""
    return _increment((each.tickSize for each in filters if each.filterType == "PRICE_FILTER"), precision)


def step_size(filters: list[Filter], precision: int) -> Decimal:
    """The step of quantities; what the precision allows where no filter sets one."""
    return _increment((each.stepSize for each in filters if each.filterType == "LOT_SIZE"), precision)


def weight_per_minute(limits: list[RateLimit]) -> int | None:
    """The request weight an address may spend in a minute, if it is stated."""
    for limit in limits:
        if (limit.rateLimitType, limit.interval, limit.intervalNum) == ("REQUEST_WEIGHT", "MINUTE", 1):
            return limit.limit
    return None


def _increment(texts: Iterator[str | None], precision: int) -> Decimal:
    try:
        return parse_positive(next(texts, None) or "")
    except ValueError:
        return Decimal(1).scaleb(-precision)


_envelopes = msgspec.json.Decoder(Envelope)
_book_tickers = msgspec.json.Decoder(BookTicker)
_agg_trades = msgspec.json.Decoder(AggTrade)
_mini_tickers = msgspec.json.Decoder(MiniTicker)
_mini_ticker_arrays = msgspec.json.Decoder(list[MiniTicker])
_raw_arrays = msgspec.json.Decoder(list[msgspec.Raw])


def decode_envelope(frame: bytes) -> Envelope:
    """Read a frame of a combined stream. Raises Malformed."""
    return read(_envelopes, frame)


def decode_quote(data: msgspec.Raw) -> Quote:
    """Read the data of a bookTicker stream. Raises Malformed."""
    return read(_book_tickers, data).quote()


def decode_trade(data: msgspec.Raw) -> Trade:
    """Read the data of an aggTrade stream. Raises Malformed."""
    return read(_agg_trades, data).trade()


def decode_ticker(data: msgspec.Raw) -> Trade:
    """Read the data of a miniTicker stream. Raises Malformed."""
    return read(_mini_tickers, data).trade()


def decode_tickers(data: msgspec.Raw) -> tuple[list[Trade], int]:
    """Read the array of ``!miniTicker@arr``: its good entries, and how many are malformed.

    Raises Malformed when it is no array. One bad entry must not cost the other thousands.
    """
    try:
        return [ticker.trade() for ticker in _mini_ticker_arrays.decode(data)], 0
    except msgspec.MsgspecError:
        entries = read(_raw_arrays, data)
    trades = list(_good_entries(entries))
    return trades, len(entries) - len(trades)


def _good_entries(entries: list[msgspec.Raw]) -> Iterator[Trade]:
    for entry in entries:
        try:
            yield decode_ticker(entry)
        except Malformed:
            continue


def decode_answer(body: bytes, shape: type[M]) -> M:
    """Read the body of a REST answer. Raises Malformed."""
    return read(msgspec.json.Decoder(shape), body)


def read(decoder: "msgspec.json.Decoder[T]", data: bytes | msgspec.Raw) -> T:
    """Decode, and raise Malformed for what cannot be."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
