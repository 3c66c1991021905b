"""Following the bus: every message of this process's channels, in order, into its state."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

import msgspec
import structlog
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable
from app.bus.messages import SessionEnded
from app.bus.pnl import decode_pnl_flush
from app.bus.prices import decode_flush, read_prices
from app.bus.subscription import Message, Resync, Subscription
from app.domain.shards import Shard
from app.websocket.events import EventNotice, decode_notice
from app.websocket.state import StreamState

log = structlog.get_logger(__name__)

SILENCE_S = 5.0
"""The interest channel carries this process's own heartbeat each second, so silence means a dead connection."""

_session_decoder = msgspec.msgpack.Decoder(SessionEnded)


class Listener(Protocol):
    """What happens beside the state."""

    def committed(self) -> None:
        """The state changed."""

    def ask_again(self, shard: Shard | None) -> None:
        """Messages about users (of a shard) were lost: have all sent again."""

    def happened(self, notice: EventNotice) -> None:
        """An event of some user."""

    def session_ended(self, notice: SessionEnded) -> None:
        """A session is over."""

    def resynchronised(self) -> None:
        """The subscription began anew: anything may have been missed."""


class Follower:
    """Takes messages over until cancelled. A message that cannot be read is counted and counts as lost."""

    def __init__(
        self,
        redis: "Redis",
        instance_id: str,
        state: StreamState,
        listener: Listener,
        *,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._state = state
        self._listener = listener
        self._timeout_s = timeout_s
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.unreadable = 0
        pnl_channel = keys.pnl_channel(instance_id)
        self._takers: dict[str, Callable[[bytes], None]] = {
            pnl_channel: self._take_pnl,
            keys.EVENT_CHANNEL: self._take_event,
            keys.SESSION_CHANNEL: self._take_session,
            keys.INTEREST_CHANNEL: self._take_nothing,
        }
        self._subscription = Subscription(redis, [keys.PRICE_CHANNEL, *self._takers], silence_s=SILENCE_S)

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with aclosing(self._subscription.events()) as events:
                async for event in events:
                    await self._take(event)
                    # What is already received would otherwise be taken in without a turn for anybody else.
                    await asyncio.sleep(0)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _take(self, event: Message | Resync) -> None:
        if isinstance(event, Resync):
            await self._resynchronise()
        elif event.channel == keys.PRICE_CHANNEL:
            await self._take_prices(event.payload)
        else:
            self._takers[event.channel](event.payload)

    async def _resynchronise(self) -> None:
        self._state.desynchronise()
        await self._load_prices()
        self._listener.resynchronised()

    async def _load_prices(self) -> None:
        try:
            head, prices = await read_prices(self._redis, self._timeout_s)
        except BusUnavailable:
            log.warning("stream.prices_unreadable")
            return  # The next flush is a gap again, and this is tried again.
        self._state.load_prices(head, prices, self._clock())
        self._committed()

    async def _take_prices(self, payload: bytes) -> None:
        try:
            flush = decode_flush(payload)
        except msgspec.DecodeError as error:
            self._note_unreadable(keys.PRICE_CHANNEL, error)
            return
        outcome = self._state.offer_prices(flush, self._clock())
        if outcome == "gap":
            await self._load_prices()
        elif outcome == "applied":
            self._commit_in_time()
            self._committed()

    def _commit_in_time(self) -> None:
        """See to it that staged prices do not wait for P&L longer than they may."""
        if self._timer is not None:
            return
        at = self._state.next_deadline()
        if at is not None:
            delay = max(0.0, at - self._clock()) + 0.001
            self._timer = asyncio.get_running_loop().call_later(delay, self._commit_overdue)

    def _commit_overdue(self) -> None:
        self._timer = None
        if self._state.commit_overdue(self._clock()):
            self._committed()
        self._commit_in_time()

    def _take_pnl(self, payload: bytes) -> None:
        try:
            outcome = self._state.offer_pnl(decode_pnl_flush(payload), self._clock())
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            self._note_unreadable("pnl", error)
            self._state.desynchronise()
            self._listener.ask_again(None)
            return
        if outcome not in {"old", "waiting"}:
            self._committed()

    def _committed(self) -> None:
        """Pass on that the state changed, and have sent again what turned out to be lost."""
        for number, error in self._state.take_doubtful().items():
            if error is not None:
                self._note_unreadable("pnl", error)
            self._listener.ask_again(self._state.lanes[number].shard)
        self._listener.committed()

    def _take_event(self, payload: bytes) -> None:
        try:
            self._listener.happened(decode_notice(payload))
        except msgspec.DecodeError as error:
            self._note_unreadable(keys.EVENT_CHANNEL, error)

    def _take_session(self, payload: bytes) -> None:
        try:
            self._listener.session_ended(_session_decoder.decode(payload))
        except msgspec.DecodeError as error:
            self._note_unreadable(keys.SESSION_CHANNEL, error)

    def _take_nothing(self, payload: bytes) -> None:
        """Heard: that is all."""

    def _note_unreadable(self, channel: str, error: Exception) -> None:
        self.unreadable += 1
        if self.unreadable & (self.unreadable - 1) == 0:  # The first, second, fourth, … : bounded, yet never silent.
            log.error("stream.unreadable_message", channel=channel, reason=str(error), count=self.unreadable)
