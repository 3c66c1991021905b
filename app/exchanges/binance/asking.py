"""What every market is asked for over and over: what it lists, and what time it is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from app.domain.instruments import Instrument, Market
from app.domain.lateness import ClockOffset
from app.exchanges.binance.backoff import Backoff
from app.exchanges.binance.rest import RestUnavailable
from app.exchanges.binance.timing import Timing

log = structlog.get_logger(__name__)


class Asking:
    """The rhythm of questions to one market. Network errors are waited out."""

    def __init__(self, market: Market, timing: Timing, now_ms: Callable[[], int]) -> None:
        self._market = market
        self._timing = timing
        self._now_ms = now_ms

    def new_backoff(self) -> Backoff:
        return Backoff(self._timing.backoff_base_s, self._timing.backoff_cap_s)

    async def wait_out(self, what: str, error: RestUnavailable, backoff: Backoff) -> None:
        """Say that a question got no answer, and wait before the next."""
        delay_s = backoff.next_delay_s(error.retry_after_s)
        log.warning(
            "binance.rest_unavailable",
            market=self._market,
            what=what,
            reason=str(error),
            retry_in_s=round(delay_s, 2),
        )
        await asyncio.sleep(delay_s)

    async def keep_listing(
        self,
        ask: Callable[[], Awaitable[list[Instrument]]],
        due: asyncio.Event,
        take: Callable[[list[Instrument]], None],
    ) -> NoReturn:
        """Ask what is listed: at the start, whenever it is due, and from time to time."""
        backoff = self.new_backoff()
        while True:
            due.clear()
            try:
                instruments = await ask()
            except RestUnavailable as error:
                await self.wait_out("listing", error, backoff)
                continue
            backoff.reset()
            take(instruments)
            await asyncio.sleep(self._timing.listing_gap_s)
            await _wait_at_most(due, self._timing.listing_every_s)

    async def keep_snapshots(self, ask: Callable[[], Awaitable[None]], due: asyncio.Event) -> NoReturn:
        """Ask for all prices whenever the streams have become complete again."""
        backoff = self.new_backoff()
        while True:
            await due.wait()
            due.clear()
            try:
                await ask()
            except RestUnavailable as error:
                due.set()
                await self.wait_out("snapshot", error, backoff)
                continue
            backoff.reset()
            await asyncio.sleep(self._timing.snapshot_gap_s)

    async def keep_clock(self, ask: Callable[[], Awaitable[int]], clock: ClockOffset) -> NoReturn:
        """Ask what time it is there, to tell a late message from a clock that is off."""
        backoff = self.new_backoff()
        while True:
            try:
                asked_ms = self._now_ms()
                server_ms = await ask()
            except RestUnavailable as error:
                await asyncio.sleep(backoff.next_delay_s(max(error.retry_after_s, self._timing.clock_every_s)))
                continue
            backoff.reset()
            clock.bound(server_ms, asked_ms, self._now_ms())
            await asyncio.sleep(self._timing.clock_every_s)


async def _wait_at_most(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
