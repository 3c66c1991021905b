"""What Binance's futures markets send, with its own names, each beside the stream or call that sends it.

Where a message is the same as spot's, the type of :mod:`messages` serves both.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from app.domain.conflation import Trade
from app.domain.decimals import parse_positive, parse_signed
from app.domain.instruments import PERPETUAL_SUFFIX, Instrument, Market, Status
from app.exchanges.binance.messages import (
    Filter,
    Malformed,
    RateLimit,
    read,
    step_size,
    tick_size,
    weight_per_minute,
)

_PERPETUAL_KINDS = ("PERPETUAL", "TRADIFI_PERPETUAL")


class ContractBook(msgspec.Struct, frozen=True):
    """``<symbol>@bookTicker``: as spot's, but with a time.

    ``{"e":"bookTicker","u":3222099573077,"s":"BTCUSDT","b":"26034.20","B":"19.559","a":"26034.30","A":"18.450",…}``
    """

    u: int
    s: str
    b: str
    a: str
    E: int


class MarkPrice(msgspec.Struct, frozen=True):
    """``<symbol>@markPrice@1s``, and an entry of ``!markPrice@arr@1s``.

    ``{"e":"markPriceUpdate","E":1789478374000,"s":"BTCUSDT","p":"76888.10000000",…,"r":"0.00008900","T":1789488000000,"st":1}``;
    delivery contracts have an empty ``r`` and a ``T`` of 0. ``st`` is 1 for USDⓈ-M and 2 for COIN-M: the
    all-market stream brings both.
    """

    E: int
    s: str
    p: str
    r: str = ""
    T: int = 0
    st: int = 0


class PremiumIndex(msgspec.Struct, frozen=True):
    """``GET /fapi/v1/premiumIndex``, an entry: the mark, and the funding to come.

    ``{"symbol":"BTCUSDT","markPrice":"11793.63104562",…,"lastFundingRate":"0.00038246","nextFundingTime":1597392000000,"time":…}``
    """

    symbol: str
    markPrice: str  # noqa: N815 -- Binance's names
    time: int
    lastFundingRate: str = ""  # noqa: N815
    nextFundingTime: int = 0  # noqa: N815


class SettledFunding(msgspec.Struct, frozen=True):
    """``GET /fapi/v1/fundingRate``, an entry. COIN-M, and old entries, have no mark.

    ``{"symbol":"BTCUSDT","fundingRate":"-0.03750000","fundingTime":1570608000000,"markPrice":"34287.54619963"}``
    """

    fundingRate: str  # noqa: N815
    fundingTime: int  # noqa: N815
    markPrice: str = ""  # noqa: N815

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.fundingTime / 1000, UTC)

    @property
    def rate(self) -> Decimal:
        """Raises ValueError."""
        return parse_signed(self.fundingRate)

    @property
    def mark(self) -> Decimal | None:
        """None where the exchange does not say."""
        try:
            return parse_positive(self.markPrice)
        except ValueError:
            return None


class MarkKline(msgspec.Struct, frozen=True, array_like=True):
    """``GET /fapi/v1/markPriceKlines``, an entry: ``[1591256400000,"9653.69","9653.69",…]``, opening time and mark."""

    opens_ms: int
    open: str


class _Contract(msgspec.Struct, frozen=True):
    """``GET /fapi/v1/exchangeInfo``, an entry of ``symbols``; COIN-M calls its status ``contractStatus``."""

    symbol: str
    contractType: str  # noqa: N815
    baseAsset: str  # noqa: N815
    quoteAsset: str  # noqa: N815
    marginAsset: str  # noqa: N815
    status: str = ""
    contractStatus: str = ""  # noqa: N815
    contractSize: Decimal | None = None  # noqa: N815
    pricePrecision: int = 8  # noqa: N815
    quantityPrecision: int = 8  # noqa: N815
    filters: list[Filter] = []

    def instrument(self, market: Market) -> Instrument | None:
        """None for what cannot be held: without a kind, or of an unknown size."""
        size = Decimal(1) if market == "linear" else self.contractSize
        if not self.contractType or size is None or not size.is_finite() or size <= 0:
            return None
        status: Status = "trading" if (self.status or self.contractStatus) == "TRADING" else "halted"
        symbol = self._name()
        return Instrument(
            symbol=symbol,
            market=market,
            base=self.baseAsset,
            quote=self.quoteAsset,
            settle=self.marginAsset,
            tick_size=tick_size(self.filters, self.pricePrecision),
            step_size=step_size(self.filters, self.quantityPrecision),
            multiplier=size,
            status=status,
            venue_symbol="" if symbol == self.symbol else self.symbol,
        )

    def _name(self) -> str:
        if self.contractType in _PERPETUAL_KINDS and not self.symbol.endswith(PERPETUAL_SUFFIX):
            return self.symbol + PERPETUAL_SUFFIX
        return self.symbol


class ContractInfo(msgspec.Struct, frozen=True):
    """``GET /fapi/v1/exchangeInfo`` and ``/dapi/v1/exchangeInfo``: what is listed, and what may be asked."""

    symbols: list[_Contract]
    rateLimits: list[RateLimit] = []  # noqa: N815

    def instruments(self, market: Market) -> list[Instrument]:
        found = (symbol.instrument(market) for symbol in self.symbols)
        return [instrument for instrument in found if instrument is not None]

    @property
    def weight_per_minute(self) -> int | None:
        """The request weight an address may spend in a minute, if it is stated."""
        return weight_per_minute(self.rateLimits)


class ContractTrade(msgspec.Struct, frozen=True):
    """``<symbol>@aggTrade``: what one taker order traded."""

    E: int
    s: str
    a: int
    p: str

    def trade(self, symbol: str) -> Trade:
        return Trade(symbol, self.p, self.E, self.a)


_books = msgspec.json.Decoder(ContractBook)
_trades = msgspec.json.Decoder(ContractTrade)
_marks = msgspec.json.Decoder(MarkPrice)
_mark_arrays = msgspec.json.Decoder(list[MarkPrice])
_raw_arrays = msgspec.json.Decoder(list[msgspec.Raw])


def decode_contract_book(data: msgspec.Raw) -> ContractBook:
    """Read the data of a bookTicker stream. Raises Malformed."""
    return read(_books, data)


def decode_contract_trade(data: msgspec.Raw) -> ContractTrade:
    """Read the data of an aggTrade stream. Raises Malformed."""
    return read(_trades, data)


def decode_mark(data: msgspec.Raw) -> MarkPrice:
    """Read the data of a markPrice stream. Raises Malformed."""
    return read(_marks, data)


def decode_marks(data: msgspec.Raw) -> tuple[list[MarkPrice], int]:
    """Read the array of ``!markPrice@arr@1s``: its good entries, and how many are malformed.

    Raises Malformed when it is no array.
    """
    try:
        return _mark_arrays.decode(data), 0
    except msgspec.MsgspecError:
        entries = read(_raw_arrays, data)
    marks = list(_good_entries(entries))
    return marks, len(entries) - len(marks)


def _good_entries(entries: list[msgspec.Raw]) -> Iterator[MarkPrice]:
    for entry in entries:
        try:
            yield decode_mark(entry)
        except Malformed:
            continue
