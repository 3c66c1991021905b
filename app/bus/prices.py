"""Prices on the bus: how a flush is written, how a reader keeps the newest of each symbol."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import deadline
from app.bus.messages import PriceFlush, PriceHead
from app.domain.instruments import Instrument, by_symbol
from app.domain.prices import Feed, Price

_json = msgspec.json.Encoder(decimal_format="string")
_msgpack = msgspec.msgpack.Encoder(decimal_format="string")
_price_decoder = msgspec.json.Decoder(Price)
_head_decoder = msgspec.json.Decoder(PriceHead)
_flush_decoder = msgspec.msgpack.Decoder(PriceFlush)
_instruments_decoder = msgspec.json.Decoder(list[Instrument])

_PRICE_TTL_S = 24 * 3600
_INSTRUMENTS_TTL_S = 7 * 24 * 3600

# Admits an epoch that is not older than the newest seen, and remembers it.
_ADMIT = """
local seen = tonumber(redis.call('GET', KEYS[1]) or '0')
local mine = tonumber(ARGV[1])
if mine < seen then return 0 end
if mine > seen then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
"""

NO_FEED = Feed(state="down", source="none", age_ms=None)


class Fenced(Exception):
    """A price worker of a newer epoch has flushed; this one must end."""


class PricePublisher:
    """Writes flushes: the hash, its head and the message, in one round trip."""

    def __init__(self, redis: "Redis", timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s

    async def publish(self, flush: PriceFlush) -> None:
        """Write one flush.

        Raises:
            Fenced: a newer epoch has been here. The prices written with this
                call were real and carry their times; the caller must not write more.
            BusUnavailable: nothing is known about what was written; write it again.
        """
        head = PriceHead(flush.epoch, flush.flush, flush.as_of_ms, flush.feed)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.eval(_ADMIT, 1, keys.PRICE_EPOCH, str(flush.epoch))
        if flush.prices:
            mapping = {price.symbol: _json.encode(price) for price in flush.prices}
            pipeline.hset(keys.PRICES, mapping=mapping)  # type: ignore[arg-type]
            pipeline.expire(keys.PRICES, _PRICE_TTL_S)
        pipeline.set(keys.PRICE_HEAD, _json.encode(head), ex=_PRICE_TTL_S)
        pipeline.publish(keys.PRICE_CHANNEL, _msgpack.encode(flush))
        results = await deadline(pipeline.execute(), self._timeout_s)
        if not results[0]:
            raise Fenced(f"epoch {flush.epoch} is over")


def decode_flush(payload: bytes) -> PriceFlush:
    """Read a message of :data:`keys.PRICE_CHANNEL`."""
    return _flush_decoder.decode(payload)


async def read_prices(redis: "Redis", timeout_s: float) -> tuple[PriceHead | None, dict[str, Price]]:
    """The head and every price of the hash, as they stand now. Raises BusUnavailable."""
    pipeline = redis.pipeline(transaction=True)
    pipeline.get(keys.PRICE_HEAD)
    pipeline.hgetall(keys.PRICES)
    head, prices = await deadline(pipeline.execute(), timeout_s)
    decoded = (_price_decoder.decode(payload) for payload in prices.values())
    return (None if head is None else _head_decoder.decode(head)), {price.symbol: price for price in decoded}


class PriceBoard:
    """The newest price of every symbol, as one reader of the bus knows it. Does no I/O."""

    def __init__(self) -> None:
        self.prices: dict[str, Price] = {}
        self.epoch = 0
        self.flush = 0
        self.as_of_ms = 0
        self.feed = NO_FEED

    def load(self, head: PriceHead | None, prices: Mapping[str, Price]) -> None:
        """Take over a snapshot, unless it is older than what is known."""
        if head is None or (head.epoch, head.flush) < (self.epoch, self.flush):
            return
        self.prices = dict(prices)
        self.epoch, self.flush = head.epoch, head.flush
        self.as_of_ms, self.feed = head.as_of_ms, head.feed

    def apply(self, flush: PriceFlush) -> Literal["applied", "old", "gap"]:
        """Take over a flush. ``gap`` means: not applied, read the snapshot first."""
        if (flush.epoch, flush.flush) <= (self.epoch, self.flush):
            return "old"
        if flush.epoch != self.epoch or flush.flush != self.flush + 1:
            return "gap"
        self.prices.update((price.symbol, price) for price in flush.prices)
        self.flush, self.as_of_ms, self.feed = flush.flush, flush.as_of_ms, flush.feed
        return "applied"


class StoredPrices(msgspec.Struct, frozen=True):
    """What the bus has: how many prices, of which kind (None: none ever), and whether it has instruments."""

    prices: int
    simulated: bool | None
    has_instruments: bool


async def survey_prices(redis: "Redis", timeout_s: float) -> StoredPrices:
    """Look what is there, for a price worker to see what it took over or has lost. Raises BusUnavailable."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.hlen(keys.PRICES)
    pipeline.get(keys.PRICE_HEAD)
    pipeline.exists(keys.INSTRUMENTS)
    prices, head, instruments = await deadline(pipeline.execute(), timeout_s)
    simulated = None if head is None else _head_decoder.decode(head).feed.simulated
    return StoredPrices(prices, simulated, bool(instruments))


async def forget_prices(redis: "Redis", timeout_s: float) -> None:
    """Remove prices and instruments, for those of another source must not mix with them. Raises BusUnavailable."""
    await deadline(redis.delete(keys.PRICES, keys.PRICE_HEAD, keys.INSTRUMENTS), timeout_s)


async def write_instruments(redis: "Redis", instruments: Iterable[Instrument], timeout_s: float) -> None:
    """Publish what the exchange lists. Raises BusUnavailable."""
    payload = _json.encode(list(instruments))
    await deadline(redis.set(keys.INSTRUMENTS, payload, ex=_INSTRUMENTS_TTL_S), timeout_s)


async def read_instruments(redis: "Redis", timeout_s: float) -> dict[str, Instrument]:
    """What the exchange lists, by symbol; empty if nobody said yet. Raises BusUnavailable."""
    payload = await deadline(redis.get(keys.INSTRUMENTS), timeout_s)
    return {} if payload is None else by_symbol(_instruments_decoder.decode(payload))
