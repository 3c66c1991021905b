"""The control endpoint: faults and market changes on demand, ``POST /control/<action>`` with a JSON body.

``GET /control/state`` shows what goes on. Actions on connections hit all of
them, or those with a given stream, or those with given numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from aiohttp import web

from app.simulator import impossible
from app.simulator.calls import Calls
from app.simulator.connection import Connection
from app.simulator.contract_streams import ContractHub
from app.simulator.contracts import Contracts
from app.simulator.exchange import Exchange, UnknownSymbol
from app.simulator.faults import Door, LineFaults, RestFaults, Silence
from app.simulator.streams import Hub
from app.simulator.venues import VENUES, Venue
from app.simulator.websocket import Connections
from app.simulator.wire import parse_fixed

MAX_BURST = 20_000


class Target(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which connections an action hits: all, unless a stream, numbers or a market are given."""

    stream: str | None = None
    connections: list[int] | None = None
    venue: Venue | None = None

    def hits(self, connection: Connection) -> bool:
        """Whether this connection is meant."""
        if self.stream is not None and self.stream not in connection.streams:
            return False
        if self.venue is not None and self.venue != connection.venue:
            return False
        return self.connections is None or connection.number in self.connections


class Close(Target):
    """Close with a code."""

    code: int = 1001
    reason: str = ""


class Quieten(Target):
    """Stop sending; with ``new``, also towards connections yet to come."""

    new: bool = False


class Spoil(Target):
    """Drop, double or swap the next messages."""

    count: int = 1


class Malform(Spoil):
    """Break the next messages."""

    kind: Literal["truncated", "binary"] = "truncated"


class Impossible(msgspec.Struct, forbid_unknown_fields=True):
    """Send ticks of a symbol that cannot be."""

    symbol: str
    kinds: tuple[impossible.Impossibility, ...] = impossible.KINDS


class Burst(msgspec.Struct, forbid_unknown_fields=True):
    """Send many messages on one stream at once."""

    stream: str
    count: int = 1000


class Halt(msgspec.Struct, forbid_unknown_fields=True):
    """Halt a symbol, or let it trade again."""

    symbol: str
    halted: bool = True


class Clock(msgspec.Struct, forbid_unknown_fields=True):
    """Set how far the exchange's clock is off."""

    shift_ms: int


class Rate(msgspec.Struct, forbid_unknown_fields=True):
    """Set the tick rate."""

    ticks_per_s: int


class Price(msgspec.Struct, forbid_unknown_fields=True):
    """Set exact prices of a symbol (decimal strings), and keep them there unless told otherwise."""

    symbol: str
    bid: str | None = None
    ask: str | None = None
    last: str | None = None
    bid_quantity: str | None = None
    ask_quantity: str | None = None
    frozen: bool = True


class Refuse(msgspec.Struct, forbid_unknown_fields=True):
    """Refuse WebSocket upgrades with a status; null ends that."""

    status: Literal[403, 429, 503] | None = 429
    count: int | None = None
    retry_after_s: int | None = None
    venue: Venue | None = None


class RestTrouble(msgspec.Struct, forbid_unknown_fields=True):
    """Slow REST calls down, or fail them with a status."""

    delay_s: float = 0.0
    status: int | None = None
    code: int = -1000
    message: str = "An unknown error occurred while processing the request."
    count: int | None = None
    retry_after_s: int | None = None
    venue: Venue | None = None


class Contract(msgspec.Struct, forbid_unknown_fields=True):
    """Put figures of a contract in place (decimal strings) and keep them; null lets one follow the market again."""

    venue: Venue
    symbol: str
    mark: str | None = None
    bid: str | None = None
    ask: str | None = None
    rate: str | None = None
    halted: bool = False


class Funding(msgspec.Struct, forbid_unknown_fields=True):
    """Settle funding now: of one perpetual, or of all; at a rate and a mark (decimal strings), or as they are."""

    venue: Venue | None = None
    symbol: str | None = None
    rate: str | None = None
    mark: str | None = None


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An action that needs no detail."""


class UnknownAction(ValueError):
    """An action that does not exist."""


class Control:
    """Carries out actions, whether they come over HTTP or from the same process."""

    def __init__(
        self,
        exchange: Exchange,
        contracts: Contracts,
        hub: Hub,
        futures: Mapping[Venue, ContractHub],
        connections: Connections,
        calls: Mapping[Venue, Calls],
    ) -> None:
        self._exchange = exchange
        self._contracts = contracts
        self._hub = hub
        self._futures = futures
        self._connections = connections
        self._calls = calls
        self._actions: dict[str, tuple[type[msgspec.Struct], Callable[[Any], Any]]] = {
            "close": (Close, self._close),
            "abort": (Target, self._abort),
            "stall": (Quieten, self._stall),
            "blackhole": (Quieten, self._blackhole),
            "resume": (Target, self._resume),
            "drop": (Spoil, self._drop),
            "duplicate": (Spoil, self._duplicate),
            "reorder": (Spoil, self._reorder),
            "malformed": (Malform, self._malform),
            "shutdown": (Target, self._shutdown),
            "impossible": (Impossible, self._impossible),
            "burst": (Burst, self._burst),
            "halt": (Halt, self._halt),
            "clock": (Clock, self._shift_clock),
            "rate": (Rate, self._set_rate),
            "price": (Price, self._set_price),
            "refuse": (Refuse, self._refuse),
            "rest": (RestTrouble, self._trouble_rest),
            "contract": (Contract, self._put_contract),
            "funding": (Funding, self._settle_funding),
            "reset": (Nothing, self._reset),
        }

    def routes(self) -> list[web.RouteDef]:
        """The HTTP side."""
        return [
            web.get("/control/state", self._show_state),
            web.post("/control/{action}", self._post),
        ]

    def perform(self, name: str, **detail: Any) -> dict[str, Any]:
        """Carry out an action, and say which connections it hit or what came of it.

        Raises:
            UnknownAction: for a name that is none.
            ValueError: for a detail that is missing, unknown or out of range (also msgspec.ValidationError).
        """
        if name not in self._actions:
            raise UnknownAction(f"no such action; there are {', '.join(self._actions)}")
        kind, action = self._actions[name]
        result = action(msgspec.convert(detail, kind))
        self._connections.flush()
        return {"ok": True, **(result or {})}

    def state(self) -> dict[str, Any]:
        """Counters of everything."""
        connections = self._connections
        lines = [
            {
                "number": connection.number,
                "venue": connection.venue,
                "combined": connection.format.combined,
                "streams": list(connection.streams),
                "control_messages": connection.requests,
                "incoming_frames": connection.incoming,
                "busiest_second": connection.busiest_second,
                "sent": connection.sent,
                "silence": connection.silence,
            }
            for connection in connections
        ]
        return {
            "connections": lines,
            "connects": connections.opened + connections.refused,
            "opened": connections.opened,
            "refused": connections.refused,
            "closed_for_limits": connections.limit_breaches + sum(connection.breached for connection in connections),
            "busiest_second": max([connections.busiest_second, *(line["busiest_second"] for line in lines)]),
            "streams": self._hub.active + sum(hub.active for hub in self._futures.values()),
            "ticks": self._exchange.ticks,
            "skipped_ticks": self._exchange.skipped_ticks,
            "ticks_per_s": self._exchange.ticks_per_s,
            "clock_shift_ms": self._exchange.shift_us // 1000,
            "rest_calls": sum(calls.by_path.total() for calls in self._calls.values()),
            "rest_calls_by_path": {path: n for calls in self._calls.values() for path, n in calls.by_path.items()},
        }

    async def _show_state(self, _: web.Request) -> web.Response:
        return _json(self.state())

    async def _post(self, request: web.Request) -> web.Response:
        try:
            detail = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
            return _json(self.perform(request.match_info["action"], **detail))
        except (UnknownAction, UnknownSymbol) as unknown:
            return _json({"ok": False, "error": f"unknown: {unknown}"}, status=404)
        except (ValueError, msgspec.MsgspecError) as error:
            return _json({"ok": False, "error": str(error)}, status=400)

    def _each(self, target: Target, act: Callable[[Connection], None]) -> dict[str, Any]:
        hit = [connection for connection in self._connections if target.hits(connection)]
        for connection in hit:
            act(connection)
        return {"connections": [connection.number for connection in hit]}

    def _close(self, action: Close) -> dict[str, Any]:
        return self._each(action, lambda connection: connection.hang_up(action.code, action.reason))

    def _abort(self, action: Target) -> dict[str, Any]:
        return self._each(action, Connection.abort)

    def _stall(self, action: Quieten) -> dict[str, Any]:
        if action.new:
            self._silence_new(action.venue, "data")
        return self._each(action, lambda connection: connection.fall_silent("data"))

    def _blackhole(self, action: Quieten) -> dict[str, Any]:
        if action.new:
            self._silence_new(action.venue, "all")
        return self._each(action, lambda connection: connection.fall_silent("all"))

    def _resume(self, action: Target) -> dict[str, Any]:
        self._silence_new(action.venue, "none")
        return self._each(action, lambda connection: connection.fall_silent("none"))

    def _drop(self, action: Spoil) -> dict[str, Any]:
        def act(connection: Connection) -> None:
            connection.line.drop += action.count

        return self._each(action, act)

    def _duplicate(self, action: Spoil) -> dict[str, Any]:
        def act(connection: Connection) -> None:
            connection.line.duplicate += action.count

        return self._each(action, act)

    def _reorder(self, action: Spoil) -> dict[str, Any]:
        def act(connection: Connection) -> None:
            connection.line.reorder += action.count

        return self._each(action, act)

    def _malform(self, action: Malform) -> dict[str, Any]:
        def act(connection: Connection) -> None:
            if action.kind == "truncated":
                connection.line.truncate += action.count
            else:
                connection.line.garbage += action.count

        return self._each(action, act)

    def _shutdown(self, action: Target) -> dict[str, Any]:
        return self._each(action, Connection.announce_shutdown)

    def _impossible(self, action: Impossible) -> None:
        market = self._exchange.market(action.symbol)
        stem = market.listing.symbol.lower()
        now_ms = self._exchange.now_us // 1000
        for kind in action.kinds:
            self._hub.inject(f"{stem}@bookTicker", [impossible.quote(market, kind)])
            if kind != "crossed":
                self._hub.inject(f"{stem}@aggTrade", [impossible.trade(market, kind, now_ms)])
            if kind in impossible.BAD_NUMBERS:
                ticker = impossible.mini_ticker(market, kind, now_ms)
                self._hub.inject(f"{stem}@miniTicker", [ticker])
                self._hub.inject("!miniTicker@arr", [b"[" + ticker + b"]"])

    def _burst(self, action: Burst) -> None:
        if not 0 < action.count <= MAX_BURST:
            raise ValueError(f"a burst has between 1 and {MAX_BURST} messages")
        market, kind = self._hub.market_of(action.stream)
        if market is None or kind not in {"bookTicker", "trade", "aggTrade"}:
            raise ValueError("a burst needs the bookTicker, trade or aggTrade stream of a listed symbol")
        self._exchange.burst(market.listing.symbol, action.count, trades=kind != "bookTicker")

    def _halt(self, action: Halt) -> None:
        self._exchange.set_status(action.symbol, "HALT" if action.halted else "TRADING")

    def _shift_clock(self, action: Clock) -> None:
        self._exchange.shift_us = action.shift_ms * 1000

    def _set_rate(self, action: Rate) -> None:
        self._exchange.ticks_per_s = action.ticks_per_s

    def _set_price(self, action: Price) -> dict[str, Any]:
        made_us = self._exchange.now_us
        self._exchange.set_price(
            action.symbol,
            bid=_units(action.bid),
            ask=_units(action.ask),
            last=_units(action.last),
            bid_quantity=_units(action.bid_quantity),
            ask_quantity=_units(action.ask_quantity),
            frozen=action.frozen,
        )
        return {"made_us": made_us}

    def _silence_new(self, venue: Venue | None, silence: Silence) -> None:
        for each in _meant(venue):
            self._connections.doors[each].silence = silence

    def _refuse(self, action: Refuse) -> None:
        for venue in _meant(action.venue):
            self._connections.doors[venue] = Door(
                refuse_status=action.status,
                refusals_left=action.count,
                retry_after_s=action.retry_after_s,
                silence=self._connections.doors[venue].silence,
            )

    def _trouble_rest(self, action: RestTrouble) -> None:
        for venue in _meant(action.venue):
            self._calls[venue].faults = RestFaults(
                delay_s=action.delay_s,
                status=action.status,
                code=action.code,
                message=action.message,
                failures_left=action.count,
                retry_after_s=action.retry_after_s,
            )

    def _put_contract(self, action: Contract) -> None:
        contract = self._contracts.contract(action.venue, action.symbol)
        contract.status = "SETTLING" if action.halted else "TRADING"
        self._contracts.put(
            contract,
            mark=_units(action.mark),
            bid=_units(action.bid),
            ask=_units(action.ask),
            rate=None if action.rate is None else _signed_units(action.rate),
        )
        self._futures[action.venue].show_book(contract)

    def _settle_funding(self, action: Funding) -> dict[str, Any]:
        time_ms = self._exchange.now_us // 1000
        rate = None if action.rate is None else _signed_units(action.rate)
        mark = _units(action.mark)
        if action.symbol is None:
            self._contracts.settle(time_ms, rate, mark)
        else:
            if action.venue is None:
                raise ValueError("a symbol needs its venue: linear or inverse")
            self._contracts.contract(action.venue, action.symbol).settle(time_ms, rate, mark)
        return {"time_ms": time_ms}

    def _reset(self, _: Nothing) -> None:
        """End faults and forget limits; prices and connections stay."""
        self._connections.clear()
        for calls in self._calls.values():
            calls.clear()
        self._exchange.shift_us = 0
        for connection in self._connections:
            connection.fall_silent("none")
            connection.line = LineFaults()


def _meant(venue: Venue | None) -> tuple[Venue, ...]:
    return VENUES if venue is None else (venue,)


def _signed_units(text: str) -> int:
    return -parse_fixed(text[1:]) if text.startswith("-") else parse_fixed(text)


def _units(text: str | None) -> int | None:
    return None if text is None else parse_fixed(text)


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")
