"""The WebSocket side: paths, upgrades and the subscribe protocol."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from aiohttp import web

from app.simulator.connection import Connection
from app.simulator.contract_streams import StreamSource
from app.simulator.exchange import Exchange
from app.simulator.faults import Door
from app.simulator.limits import ConnectBudget, Rules
from app.simulator.requests import (
    INVALID_REQUEST,
    Refused,
    Request,
    error_reply,
    is_stream_name,
    property_change,
    property_name,
    read_request,
    result_reply,
    stream_names,
)
from app.simulator.topics import Format
from app.simulator.venues import VENUES, Route, Venue, venue_of
from app.simulator.ws_api import api_reply

_CLOSE_WAIT_S = 1.0
_LARGEST_REQUEST = 1024 * 1024


class Connections:
    """Every open connection, and which of them have something to send."""

    def __init__(
        self, exchange: Exchange, sources: Mapping[tuple[Venue, Route | None], StreamSource], rules: Rules
    ) -> None:
        self._exchange = exchange
        self._sources = sources
        self._rules = rules
        self._futures_rules = rules.of_futures()
        self._open: dict[int, Connection] = {}
        self._to_flush: list[Connection] = []
        self._budget = ConnectBudget(rules.connects_per_5_minutes)
        self.doors: dict[Venue, Door] = {venue: Door() for venue in VENUES}
        self.opened = 0
        self.refused = 0
        self.limit_breaches = 0
        self.busiest_second = 0

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open.values()))

    def flush(self) -> None:
        """Write out what was delivered since the last time."""
        waiting, self._to_flush = self._to_flush, []
        for connection in waiting:
            connection.flush()

    def clear(self) -> None:
        """Forget connection attempts and faults at the door."""
        self._budget.clear()
        self.doors = {venue: Door() for venue in VENUES}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Accept a connection on any path that holds ``ws`` or ``stream``, and serve it until it ends."""
        place = _place(request)
        if place is None:
            raise web.HTTPNotFound
        if not request.headers.get("Upgrade"):
            raise web.HTTPBadRequest
        refusal = self._refusal(request, self.doors[place.venue])
        if refusal is not None:
            self.refused += 1
            return refusal
        websocket = web.WebSocketResponse(
            autoping=False, compress=False, timeout=_CLOSE_WAIT_S, max_msg_size=_LARGEST_REQUEST
        )
        await websocket.prepare(request)
        connection = self._admit(request, websocket, place)
        if connection is not None:
            await self._attend(connection, place)
        return websocket

    def _admit(self, request: web.Request, websocket: web.WebSocketResponse, place: "_Place") -> Connection | None:
        transport = request.transport
        if transport is None:
            return None
        self.opened += 1
        micro = request.query.get("timeUnit", "").upper() == "MICROSECOND"
        connection = Connection(
            number=self.opened,
            websocket=websocket,
            transport=transport,
            wanted=Format(place.combined, 1 if micro else 1000),
            is_api=place.is_api,
            venue=place.venue,
            source=self._sources[place.venue, place.route],
            rules=self._rules if place.venue == "spot" else self._futures_rules,
            clock=lambda: self._exchange.now_us,
            wants_flush=self._to_flush_next,
        )
        silence = self.doors[place.venue].silence
        if silence != "none":
            connection.fall_silent(silence)
        return connection

    def _to_flush_next(self, connection: Connection) -> None:
        self._to_flush.append(connection)

    async def _attend(self, connection: Connection, place: "_Place") -> None:
        self._open[connection.number] = connection
        try:
            self._subscribe(connection, place.streams[: self._rules.streams_per_connection])
            await connection.run(self._answer_api if connection.is_api else self._answer)
        finally:
            self._unsubscribe(connection, list(connection.streams))
            del self._open[connection.number]
            self.limit_breaches += connection.breached
            self.busiest_second = max(self.busiest_second, connection.busiest_second)

    def _refusal(self, request: web.Request, door: Door) -> web.Response | None:
        status = door.refusal()
        if status is None and not self._budget.admits(request.remote or "", asyncio.get_running_loop().time()):
            status = 429
        if status is None:
            return None
        retry_after = door.retry_after_s
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        return web.Response(status=status, headers=headers)

    def _answer(self, connection: Connection, text: bytes) -> None:
        try:
            request = read_request(text, integer_ids=connection.venue != "spot")
            result = self._carry_out(connection, request)
        except Refused as refused:
            connection.reply(error_reply(refused))
            if refused.fatal:
                connection.hang_up(1008, "Invalid request")
        else:
            connection.reply(result_reply(result, request.reply_id))

    def _answer_api(self, connection: Connection, text: bytes) -> None:
        connection.reply(api_reply(text, self._exchange.now_us // 1000, self._rules.weight_per_minute))

    def _carry_out(self, connection: Connection, request: Request) -> Any:
        match request.method:
            case "SUBSCRIBE":
                names = stream_names(request)
                if len(connection.streams | dict.fromkeys(names)) > self._rules.streams_per_connection:
                    raise Refused(INVALID_REQUEST, "Invalid request: too many parameters", request.reply_id)
                self._subscribe(connection, names)
                return None
            case "UNSUBSCRIBE":
                self._unsubscribe(connection, stream_names(request))
                return None
            case "LIST_SUBSCRIPTIONS":
                return list(connection.streams)
            case "GET_PROPERTY":
                property_name(request)
                return connection.format.combined
            case "SET_PROPERTY":
                self._reformat(connection, combined=property_change(request))
                return None

    def _subscribe(self, connection: Connection, names: list[str]) -> None:
        for name in names:
            connection.streams[name] = None
            connection.source.subscribe(name, connection)

    def _unsubscribe(self, connection: Connection, names: list[str]) -> None:
        for name in names:
            if name in connection.streams:
                del connection.streams[name]
                connection.source.unsubscribe(name, connection)

    def _reformat(self, connection: Connection, *, combined: bool) -> None:
        names = list(connection.streams)
        self._unsubscribe(connection, names)
        connection.format = Format(combined, connection.format.unit_us)
        self._subscribe(connection, names)


class _Place(msgspec.Struct, frozen=True):
    """What a path says: the format, and the streams to begin with."""

    combined: bool = False
    is_api: bool = False
    streams: list[str] = []
    venue: Venue = "spot"
    route: Route | None = None


def _place(request: web.Request) -> _Place | None:
    """Read a path: any prefix, then ``ws`` with streams behind it, or ``stream`` with them in the query."""
    segments = request.path.split("/")
    for index, segment in enumerate(segments):
        venue, route = venue_of(segments[:index])
        if segment == "ws":
            return _Place(streams=_known_form(segments[index + 1 :]), venue=venue, route=route)
        if segment == "stream":
            streams = _known_form(request.query.get("streams", "").split("/"))
            return _Place(combined=True, streams=streams, venue=venue, route=route)
        if segment == "ws-api":
            return _Place(is_api=True)
    return None


def _known_form(names: list[str]) -> list[str]:
    # Clients number their sockets in the path (/ws/0): what is no stream name is no error there.
    return [name for name in names if is_stream_name(name)]
