"""The exchange on a port: REST, streams and the control endpoint together."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog
from aiohttp import web

from app.simulator.calls import Calls
from app.simulator.contract_rest import ContractRest
from app.simulator.contract_streams import ContractHub, Routed, StreamSource
from app.simulator.contracts import FUNDING_INTERVAL_S, Contracts
from app.simulator.control import Control
from app.simulator.exchange import Exchange
from app.simulator.limits import Rules, WeightBudget
from app.simulator.replay import Recording
from app.simulator.rest import Rest
from app.simulator.streams import Hub
from app.simulator.timed import BEATS_PER_S
from app.simulator.venues import FUTURES, ROUTES, Route, Venue
from app.simulator.websocket import Connections

_TURN_S = 0.005
_STOP_WAIT_S = 1.0


def system_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class SimulatorHandle:
    """A running simulator."""

    def __init__(
        self,
        host: str,
        port: int,
        exchange: Exchange,
        contracts: Contracts,
        control: Control,
        market: asyncio.Task[None],
    ) -> None:
        self.host = host
        self.port = port
        self.exchange = exchange
        self.contracts = contracts
        self.control = control
        self._market = market

    @property
    def rest_url(self) -> str:
        """The base of every REST call, without a path."""
        return f"http://{self._authority}"

    @property
    def ws_url(self) -> str:
        """The base of every stream, without a path."""
        return f"ws://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def serve_forever(self) -> None:
        """Wait for ever. Raises what stopped the market, should it stop."""
        await asyncio.shield(self._market)


@asynccontextmanager
async def serve_simulator(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    seed: int = 1,
    ticks_per_s: int = 500,
    replay: Sequence[Recording] = (),
    made_up_coins: int = 0,
    rules: Rules | None = None,
    time_scale: float = 1.0,
    funding_interval_s: int = FUNDING_INTERVAL_S,
    clock: Callable[[], int] = system_clock,
) -> AsyncIterator[SimulatorHandle]:
    """Run a simulated exchange while the block runs.

    Args:
        host: where to listen.
        port: 0 for any free one.
        seed: the same seed gives the same symbols and, with the same clock, the same prices.
        ticks_per_s: book changes and orders per second over all symbols, up to 20,000.
        replay: symbols driven by recorded ticks instead of chance.
        made_up_coins: how many to list beyond the usual ones, for a market of thousands.
        rules: the limits towards clients; Binance's by default.
        time_scale: how many times faster pings, pong deadlines and the 24 h life of a connection pass.
        funding_interval_s: how often perpetuals settle funding, counted from the epoch.
        clock: microseconds since the epoch.
    """
    rules = (rules or Rules()).faster(time_scale)
    exchange = Exchange(seed=seed, clock=clock, ticks_per_s=ticks_per_s, recordings=replay, made_up_coins=made_up_coins)
    contracts = Contracts(exchange, funding_interval_s=funding_interval_s)
    hub = Hub(exchange)
    linear, inverse = (ContractHub(contracts, venue) for venue in FUTURES)
    for futures in (linear, inverse):
        exchange.listen(futures)
    connections = Connections(exchange, _sources(hub, linear, inverse), rules)
    rest = Rest(exchange, rules)
    weights = WeightBudget(rules.futures_weight_per_minute, rules)
    futures_rest: dict[Venue, ContractRest] = {
        venue: ContractRest(exchange, contracts, venue, weights, rules) for venue in FUTURES
    }
    calls: dict[Venue, Calls] = {"spot": rest.calls, **{venue: each.calls for venue, each in futures_rest.items()}}
    control = Control(exchange, contracts, hub, {"linear": linear, "inverse": inverse}, connections, calls)
    application = web.Application()
    application.on_response_prepare.append(_mark)
    application.add_routes(rest.routes())
    for each in futures_rest.values():
        application.add_routes(each.routes())
    application.add_routes([*control.routes(), web.get("/{path:.*}", connections.serve)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_STOP_WAIT_S)
    await runner.setup()
    market: asyncio.Task[None] | None = None
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        market = asyncio.create_task(_run_market(exchange, contracts, (hub, linear, inverse), connections))
        market.add_done_callback(_tell_failure)
        bound = runner.addresses[0][1]
        yield SimulatorHandle(host, bound, exchange, contracts, control, market)
    finally:
        for connection in connections:
            connection.abort()
        if market is not None:
            market.cancel()
            with suppress(asyncio.CancelledError):
                await market
        await runner.cleanup()


def _sources(spot: Hub, linear: ContractHub, inverse: ContractHub) -> dict[tuple[Venue, Route | None], StreamSource]:
    return {
        ("spot", None): spot,
        ("inverse", None): inverse,
        **{("linear", route): Routed(linear, route) for route in ROUTES},
    }


async def _run_market(
    exchange: Exchange, contracts: Contracts, hubs: Sequence[Hub | ContractHub], connections: Connections
) -> None:
    loop = asyncio.get_running_loop()
    beat_at = loop.time()
    while True:
        exchange.advance()
        now = loop.time()
        if now >= beat_at:
            contracts.advance()
            for hub in hubs:
                hub.beat()
            # Beats that were missed are not made up for: a timed stream only ever says how things are now.
            beat_at = max(beat_at + 1 / BEATS_PER_S, now)
        connections.flush()
        await asyncio.sleep(_TURN_S)


def _tell_failure(market: asyncio.Task[None]) -> None:
    if not market.cancelled() and market.exception() is not None:
        structlog.get_logger().error("the simulated market stopped", exc_info=market.exception())


async def _mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Tidemark-Simulated"] = "1"
