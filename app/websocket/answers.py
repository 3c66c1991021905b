"""What the server answers to each client message."""

import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, assert_never

from app.domain import protocol
from app.domain.protocol import Channel, InvalidMessage, SymbolResult
from app.websocket import frames
from app.websocket.connection import Connection, WaitingEvent
from app.websocket.delivery import Delivery
from app.websocket.events import EventNotice, EventSource, EventsUnavailable, event_text, read_since
from app.websocket.limits import StreamLimits
from app.websocket.manager import ConnectionManager
from app.websocket.schedule import Schedule
from app.websocket.state import StreamState

TITLES = {
    "malformed": "Malformed message",
    "invalid_message": "Invalid message",
    "unknown_type": "Unknown message type",
    "unknown_channel": "Unknown channel",
    "rate_limited": "Too many messages",
    "not_subscribed": "Not subscribed",
    "unavailable": "Unavailable",
}


class Answers:
    """Carries out client messages on a connection."""

    def __init__(
        self,
        *,
        state: StreamState,
        delivery: Delivery,
        schedule: Schedule,
        manager: ConnectionManager,
        source: EventSource,
        limits: StreamLimits,
        is_listed: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._delivery = delivery
        self._schedule = schedule
        self._manager = manager
        self._source = source
        self._limits = limits
        self._is_listed = is_listed
        self._clock = clock

    def hello(self, connection: Connection) -> bytes:
        """The greeting."""
        limits = self._limits
        return protocol.encode(
            protocol.Hello(
                protocol=protocol.PROTOCOL_VERSION,
                connection_id=connection.connection_id,
                user_id=connection.user_id,
                server_time_ms=_now_ms(),
                session_expires_ms=connection.identity.expires_ms,
                heartbeat_ms=limits.heartbeat_ms,
                limits=protocol.Limits(
                    max_symbols=limits.max_symbols,
                    max_message_bytes=limits.max_message_bytes,
                    max_messages_per_second=limits.max_messages_per_s,
                    max_hz=protocol.plain_number(limits.max_hz),
                ),
                max_hz=protocol.plain_number(connection.max_hz),
                feed=self._state.health.feed(),
            )
        )

    def answer(self, connection: Connection, text: str | None) -> Coroutine[Any, Any, None] | None:
        """Carry out one message (None: it was binary), or give what carries it out where that takes time.

        Raises InvalidMessage, with nothing changed, where it is not in the protocol; so may what is given.
        """
        if text is None:
            raise InvalidMessage("malformed", "messages are text", None)
        message = protocol.decode(text)
        match message:
            case protocol.Subscribe():
                self._subscribe(connection, message)
            case protocol.Unsubscribe():
                self._unsubscribe(connection, message)
            case protocol.Configure():
                self._configure(connection, message)
            case protocol.Resume():
                return self._resume(connection, message)
            case protocol.Ping():
                _reply(connection, protocol.Pong(id=message.id, server_time_ms=_now_ms()))
            case _:
                assert_never(message)
        return None

    def _subscribe(self, connection: Connection, message: protocol.Subscribe) -> None:
        channel = _channel(message)
        if channel == "prices":
            self._subscribe_prices(connection, message)
        elif channel == "events":
            last = self._manager.start_events(connection)
            reply = protocol.Subscribed(id=message.id, channel=channel)
            if last is not None:
                reply = protocol.Subscribed(id=message.id, channel=channel, epoch=protocol.EVENTS_EPOCH, seq=last)
            _reply(connection, reply)
        else:
            _reply(connection, protocol.Subscribed(id=message.id, channel=channel))
            self._owe(connection, channel)

    def _subscribe_prices(self, connection: Connection, message: protocol.Subscribe) -> None:
        if message.symbols is None:
            raise InvalidMessage("invalid_message", "channel prices needs symbols", message.id)
        results = [self._watch(connection, symbol) for symbol in dict.fromkeys(message.symbols)]
        _reply(connection, protocol.Subscribed(id=message.id, channel="prices", results=results))
        followed = [connection.watched[result.symbol] for result in results if result.ok]
        if followed:
            lane = self._state.lane_of(connection.user_id)
            connection.outlet.send(frames.prices_snapshot(lane, followed).encode())
            connection.step = lane.step

    def _watch(self, connection: Connection, symbol: str) -> SymbolResult:
        if symbol in connection.watched:
            return SymbolResult(symbol=symbol, ok=True)
        if not self._is_listed(symbol):
            return SymbolResult(symbol=symbol, ok=False, code="unknown_symbol")
        if len(connection.watched) >= self._limits.max_symbols:
            return SymbolResult(symbol=symbol, ok=False, code="too_many_symbols")
        self._manager.watch(connection, symbol)
        return SymbolResult(symbol=symbol, ok=True)

    def _owe(self, connection: Connection, channel: Channel) -> None:
        """Promise the snapshot of P&L or positions, and give it at once where it can be built."""
        view = self._state.view_of(connection.user_id)
        if view is not None:
            self._delivery.check_base(connection, view)
        if channel == "pnl":
            connection.wants_pnl = connection.awaits_pnl = True
        else:
            connection.wants_positions = connection.awaits_positions = True
        self._give_snapshots(connection)

    def _give_snapshots(self, connection: Connection) -> None:
        snapshots = self._delivery.snapshots(connection)
        if snapshots:
            connection.outlet.send(*snapshots)

    def _unsubscribe(self, connection: Connection, message: protocol.Unsubscribe) -> None:
        channel = _channel(message)
        if channel == "prices":
            symbols = list(connection.watched) if message.symbols is None else list(dict.fromkeys(message.symbols))
            self._manager.unwatch(connection, symbols)
            results = [SymbolResult(symbol=symbol, ok=True) for symbol in symbols]
            _reply(connection, protocol.Unsubscribed(id=message.id, channel=channel, results=results))
            return
        if channel == "events":
            self._manager.stop_events(connection)
        elif channel == "pnl":
            connection.wants_pnl = connection.awaits_pnl = False
        else:
            connection.wants_positions = connection.awaits_positions = False
        _reply(connection, protocol.Unsubscribed(id=message.id, channel=channel))

    def _configure(self, connection: Connection, message: protocol.Configure) -> None:
        if message.max_hz is not None:
            connection.max_hz = min(message.max_hz, self._limits.max_hz)
        returns = message.visible is True and not connection.visible
        if message.visible is not None:
            connection.visible = message.visible
        hz = protocol.plain_number(connection.max_hz)
        _reply(connection, protocol.Configured(id=message.id, max_hz=hz, visible=connection.visible))
        if returns:
            self._return(connection)

    def _return(self, connection: Connection) -> None:
        """A hidden tab is looked at again: bring it up to date as a whole."""
        connection.awaits_prices = bool(connection.watched)
        connection.awaits_pnl = connection.wants_pnl
        connection.awaits_positions = connection.wants_positions
        connection.sent = self._state.ordinal
        connection.flushes = self._state.flushes
        self._give_snapshots(connection)
        self._schedule.hurry(connection)

    async def _resume(self, connection: Connection, message: protocol.Resume) -> None:
        if not connection.wants_events:
            raise InvalidMessage("not_subscribed", "subscribe to events before resuming them", message.id)
        known = message.events
        if known.epoch != protocol.EVENTS_EPOCH:
            _reply(connection, protocol.Resync(id=message.id))
            return
        connection.is_replaying = True
        try:
            # The known event is read as well: if it is not there, the client's past is not ours.
            events = await read_since(self._source, connection.user_id, max(known.seq - 1, 0))
        except EventsUnavailable:
            raise InvalidMessage("unavailable", "past events cannot be read at the moment", message.id) from None
        finally:
            connection.is_replaying = False
        is_ours = events is not None and (not known.seq or (len(events) > 0 and events[0].seq == known.seq))
        if events is None or not is_ours:
            _reply(connection, protocol.Resync(id=message.id))
            return
        self._replay(connection, message, [notice for notice in events if notice.seq > known.seq])

    def _replay(self, connection: Connection, message: protocol.Resume, missed: list[EventNotice]) -> None:
        """Queue the missed events, the word that they are all there, and what came meanwhile."""
        meanwhile = connection.events or ()
        connection.events = deque()
        connection.event_seq = message.events.seq
        now = self._clock()
        for notice in missed:
            connection.queue_event(WaitingEvent(notice.user_id, notice.seq, now, event_text(notice)))
        resumed = protocol.encode(protocol.Resumed(id=message.id)).decode()
        connection.events.append(WaitingEvent(connection.user_id, connection.event_seq, now, resumed))
        for event in meanwhile:
            connection.queue_event(event)
        self._schedule.hurry(connection)


def refuse(connection: Connection, code: str, detail: str, request_id: int | None) -> None:
    """Answer a message that is not carried out."""
    title = TITLES.get(code, "Refused")
    _reply(connection, protocol.Error(id=request_id, code=code, title=title, detail=detail))


def _reply(connection: Connection, message: protocol.ServerMessage) -> None:
    connection.outlet.send(protocol.encode(message))


def _channel(message: protocol.Subscribe | protocol.Unsubscribe) -> Channel:
    """The channel of a request. Raises InvalidMessage for one that does not exist, or cannot have symbols."""
    for channel in protocol.CHANNELS:
        if channel == message.channel:
            if message.symbols is not None and channel != "prices":
                raise InvalidMessage("invalid_message", f"channel {channel} has no symbols", message.id)
            return channel
    known = ", ".join(protocol.CHANNELS)
    raise InvalidMessage("unknown_channel", f"channels are {known}", message.id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
