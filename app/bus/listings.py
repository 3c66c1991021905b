"""What the exchange lists, kept in memory by each process that must judge symbols."""

import asyncio
from collections.abc import Iterator
from typing import Final, NoReturn

import structlog
from redis.asyncio import Redis

from app.bus.connection import BusUnavailable
from app.bus.prices import read_instruments
from app.domain.instruments import Instrument
from app.domain.rates import RateBook

log = structlog.get_logger(__name__)

_REFRESH_S: Final = 10.0
_RETRY_S: Final = 0.5


class Listings:
    """The newest list of instruments. Once known it stays known: an empty Redis takes nothing away."""

    def __init__(self, redis: "Redis", *, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self.listed: dict[str, Instrument] = {}
        self.assets: frozenset[str] = frozenset()
        self.rates = RateBook()

    async def refresh(self) -> None:
        """Read the list once. Raises BusUnavailable."""
        if listed := await read_instruments(self._redis, self._timeout_s):
            if listed != self.listed:
                self.rates = RateBook(listed.values())
            self.listed = listed
            self.assets = frozenset(_assets(listed))

    async def run(self) -> NoReturn:
        """Follow the list for ever."""
        while True:
            try:
                await self.refresh()
            except BusUnavailable as error:
                log.warning("listings.unavailable", reason=str(error))
            await asyncio.sleep(_REFRESH_S if self.listed else _RETRY_S)


def _assets(listed: dict[str, Instrument]) -> Iterator[str]:
    for instrument in listed.values():
        yield instrument.base
        yield instrument.quote
        yield instrument.settle
