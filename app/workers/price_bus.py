"""The bus as the price worker needs it."""

from collections.abc import Iterable

from redis.asyncio import Redis

from app.bus.interest import read_interesting_symbols
from app.bus.messages import PriceFlush
from app.bus.prices import (
    PricePublisher,
    StoredPrices,
    forget_prices,
    read_instruments,
    survey_prices,
    write_instruments,
)
from app.domain.instruments import Instrument


class RedisPriceBus:
    """All of it on Redis. Every method raises BusUnavailable, :meth:`publish` also Fenced."""

    def __init__(self, redis: "Redis", timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._publisher = PricePublisher(redis, timeout_s)

    async def publish(self, flush: PriceFlush) -> None:
        await self._publisher.publish(flush)

    async def survey(self) -> StoredPrices:
        return await survey_prices(self._redis, self._timeout_s)

    async def forget(self) -> None:
        await forget_prices(self._redis, self._timeout_s)

    async def read_instruments(self) -> list[Instrument]:
        return list((await read_instruments(self._redis, self._timeout_s)).values())

    async def write_instruments(self, instruments: Iterable[Instrument]) -> None:
        await write_instruments(self._redis, instruments, self._timeout_s)

    async def interesting_symbols(self) -> set[str]:
        return await read_interesting_symbols(self._redis, self._timeout_s)
