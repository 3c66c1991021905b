"""How much hardware a load needs, from what each part of it was measured to cost.

A model of averages: what is linear in the measured range is taken to be linear
beyond it, and what is not is listed in docs/capacity.md. Costs are of the machine
they were measured on (:mod:`app.entry.capacity`); a core is one of its cores.

How many rows a frame has follows from how often symbols tick. Ticks, positions
and watchlists are spread over symbols alike, with weights 1/rank^0.9 as measured
of markets. A symbol with an average of λ ticks in an interval changes in it with
probability 1 − e^−λ.
"""

import math
from collections.abc import Sequence

import msgspec

from app.domain.shards import MOST_SHARDS

FLUSHES_PER_S = 10.0
MOST_LOAD = 0.7
"""Of a core, for a process that has one. Above it everything waits."""
MOST_FLUSH_MS = 50.0
"""Of P&L work in a flush: half of the interval. The rest is for bursts, and for what REST reads."""
LEASE_S = 3.0
SPEAK_S = 0.5
"""From a lease to the first word of a standby that has kept the book."""
TOLD_ROWS_PER_S = 150_000
"""How fast it then tells everybody everything, see :mod:`app.workers.pnl_publication`."""

_ZIPF = 0.9
_MOST = {"users": 100_000_000, "positions": 2_048, "watched": 200, "symbols": 20_000, "ticks_per_s": 10_000_000}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. ``hz``: updates a user gets in a second; ``positions`` and ``watched``: of each user.

    ``holders`` have positions, connected or not; as many as are connected unless said otherwise.
    """

    users: int
    hz: float = 10.0
    positions: int = 10
    watched: int = 10
    symbols: int = 2_000
    ticks_per_s: int = 2_500
    holders: int | None = None

    @property
    def all_positions(self) -> int:
        """In the books together."""
        return (self.users if self.holders is None else self.holders) * self.positions

    def flaws(self) -> list[str]:
        """Why this cannot be reckoned with; empty if it can."""
        found = [
            f"{name} must be between 1 and {most:,}, not {getattr(self, name):,}"
            for name, most in _MOST.items()
            if not 1 <= getattr(self, name) <= most
        ]
        if not 0.1 <= self.hz <= FLUSHES_PER_S:
            found.append(
                f"hz must be between 0.1 and {FLUSHES_PER_S:g}, for there are no more flushes, not {self.hz:g}"
            )
        if self.holders is not None and not self.users <= self.holders <= _MOST["users"]:
            found.append("holders cannot be fewer than users, for who is connected is valued")
        if max(self.positions, self.watched) > self.symbols:
            found.append(f"nobody can hold or watch more than the {self.symbols:,} symbols there are")
        return found


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was measured. Times are CPU time; kB are 1000 bytes."""

    web_base_cores: float
    """Of each web process, whoever is connected."""
    web_us_per_frame: float
    web_us_per_row: float
    """A row: a symbol watched, or a position held, that changed since the frame before."""
    web_us_per_price: float
    """In each web process, for each price of each flush."""
    frame_bytes: float
    row_bytes: float
    web_process_bytes: float
    connection_bytes: float
    """In a web process; the kernel's part is :attr:`socket_bytes`."""
    socket_bytes: float
    pnl_ms_per_flush: float
    pnl_us_per_row: float
    """A position of somebody who is connected, whose price changed since the flush before."""
    pnl_ns_per_position: float
    """In the book, connected or not."""
    pnl_us_per_message: float
    """To one web process."""
    pnl_row_bytes: float
    """In the message to a web process."""
    pnl_process_bytes: float
    position_bytes: float
    """In the book."""
    load_us_per_position: float
    """When a worker starts or takes a shard over."""
    price_base_cores: float
    """Of the price worker, whatever ticks: the whole market each second, who watches what, flushes without a change."""
    price_us_per_tick: float
    price_us_per_price: float
    """A price in a flush: drained, encoded, written."""
    price_bytes: float
    """A price in a flush."""
    market_prices_per_flush: float
    """Prices in a flush that are of the whole market: an exchange's last prices, each second."""
    redis_base_cores: float
    """Of Redis, for all that does not grow: heartbeats, interest, sessions."""
    redis_us_per_kb: float
    """Of output."""
    redis_us_per_delivery: float
    """Of a message to one subscriber, besides its bytes."""
    redis_bytes_per_user: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the load needs. Cores are averages of CPU time; counts of processes keep the slack above."""

    rows_per_frame: float
    frames_per_s: float
    bytes_per_frame: float
    client_bytes_per_s: float
    prices_per_flush: float
    rows_per_flush: float

    web_cores: float
    web_workers: int
    web_bytes: float
    pnl_cores: float
    pnl_shards: int
    pnl_bytes: float
    takeover_s: float
    """Until all users of a killed worker have figures again, by a standby that keeps the books of all shards."""
    cold_takeover_s: float
    """The same by one that has to load the shard first."""
    standby_bytes: float
    """Memory of a standby that keeps the books of all shards."""
    price_cores: float
    redis_output_bytes_per_s: float
    redis_price_bytes_per_s: float
    redis_cores: float
    redis_servers: int
    redis_price_cores: float
    """The part that one server has, however many there are: everybody hears the same prices."""
    redis_bytes: float

    @property
    def cores(self) -> int:
        """Whole cores for everything but PostgreSQL and what stands by."""
        return self.web_workers + self.pnl_shards + self.redis_servers + 1

    @property
    def limits(self) -> list[str]:
        """What this version cannot do at that load, however much hardware there is."""
        found = []
        if self.price_cores > MOST_LOAD:
            found.append(f"one price worker does the work of {self.price_cores:.1f} cores: markets have to be split")
        if self.redis_price_cores > MOST_LOAD:
            found.append(f"one Redis server sends all prices, with {self.redis_price_cores:.1f} cores: it needs relays")
        if self.pnl_shards > MOST_SHARDS:
            found.append(f"{self.pnl_shards} shards of the P&L are more than {MOST_SHARDS}")
        return found


def plan(load: Load, costs: Costs, *, web_workers: int | None = None) -> Plan:
    """What a load needs; with a number of web processes, what it needs with those.

    Raises ValueError for a load that cannot be.
    """
    if flaws := load.flaws():
        raise ValueError("; ".join(flaws))
    weights = popularity(load.symbols)
    by_frame = changed(weights, load.ticks_per_s / load.hz)
    by_flush = changed(weights, load.ticks_per_s / FLUSHES_PER_S)
    held, watched = _held(weights, load.positions), _held(weights, load.watched)
    return _reckoned(
        load,
        costs,
        rows_per_frame=_expected(by_frame, held) + _expected(by_frame, watched),
        prices_per_flush=costs.market_prices_per_flush + sum(by_flush),
        rows_per_flush=load.users * _expected(by_flush, held),
        web_workers=web_workers,
    )


def popularity(symbols: int) -> list[float]:
    """The share of each symbol in ticks, positions and watchlists."""
    weights = [rank**-_ZIPF for rank in range(1, symbols + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def changed(weights: Sequence[float], ticks: float) -> list[float]:
    """How likely each symbol changes while so many ticks come."""
    return [-math.expm1(-weight * ticks) for weight in weights]


def _held(weights: Sequence[float], count: int) -> list[float]:
    """How likely each symbol is among ``count`` different ones that somebody picks by weight."""
    if count >= len(weights):
        return [1.0] * len(weights)
    low, high = 0.0, float(count)
    while sum(changed(weights, high)) < count:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(changed(weights, middle)) < count else (low, middle)
    return changed(weights, high)


def _expected(changes: Sequence[float], held: Sequence[float]) -> float:
    """How many of what somebody holds change."""
    return sum(change * share for change, share in zip(changes, held, strict=True))


def _reckoned(
    load: Load,
    costs: Costs,
    *,
    rows_per_frame: float,
    prices_per_flush: float,
    rows_per_flush: float,
    web_workers: int | None,
) -> Plan:
    frames_per_s = load.users * load.hz
    bytes_per_frame = costs.frame_bytes + rows_per_frame * costs.row_bytes
    web_cores, workers = _web(costs, frames_per_s, rows_per_frame, prices_per_flush, web_workers)
    pnl_cores, shards = _pnl(load, costs, rows_per_flush, workers)
    price_bytes = FLUSHES_PER_S * prices_per_flush * costs.price_bytes * (workers + shards)
    pnl_bytes = FLUSHES_PER_S * rows_per_flush * costs.pnl_row_bytes
    # One message for each worker to each web process, and the prices to both.
    deliveries_per_s = FLUSHES_PER_S * (workers * shards + workers + shards)
    sending_us = (price_bytes + pnl_bytes) / 1e3 * costs.redis_us_per_kb
    redis_cores = costs.redis_base_cores + (sending_us + deliveries_per_s * costs.redis_us_per_delivery) / 1e6
    takeover_s = LEASE_S + SPEAK_S + load.all_positions / shards / TOLD_ROWS_PER_S
    return Plan(
        rows_per_frame=rows_per_frame,
        frames_per_s=frames_per_s,
        bytes_per_frame=bytes_per_frame,
        client_bytes_per_s=frames_per_s * bytes_per_frame,
        prices_per_flush=prices_per_flush,
        rows_per_flush=rows_per_flush,
        web_cores=web_cores,
        web_workers=workers,
        web_bytes=workers * costs.web_process_bytes + load.users * (costs.connection_bytes + costs.socket_bytes),
        pnl_cores=pnl_cores,
        pnl_shards=shards,
        pnl_bytes=shards * costs.pnl_process_bytes + load.all_positions * costs.position_bytes,
        takeover_s=takeover_s,
        cold_takeover_s=takeover_s + load.all_positions / shards * costs.load_us_per_position / 1e6,
        standby_bytes=costs.pnl_process_bytes + load.all_positions * costs.position_bytes,
        price_cores=costs.price_base_cores
        + load.ticks_per_s * costs.price_us_per_tick / 1e6
        + FLUSHES_PER_S * prices_per_flush * costs.price_us_per_price / 1e6,
        redis_output_bytes_per_s=price_bytes + pnl_bytes,
        redis_price_bytes_per_s=price_bytes,
        redis_cores=redis_cores,
        redis_servers=max(1, math.ceil(redis_cores / MOST_LOAD)),
        redis_price_cores=price_bytes / 1e9 * costs.redis_us_per_kb,
        redis_bytes=load.users * costs.redis_bytes_per_user,
    )


def _web(
    costs: Costs, frames_per_s: float, rows_per_frame: float, prices_per_flush: float, given: int | None
) -> tuple[float, int]:
    """Cores and processes. Every process hears every price, so that costs the more the more there are."""
    frames = frames_per_s * (costs.web_us_per_frame + rows_per_frame * costs.web_us_per_row) / 1e6
    hearing = costs.web_base_cores + FLUSHES_PER_S * prices_per_flush * costs.web_us_per_price / 1e6
    if given is None and hearing >= MOST_LOAD:
        raise ValueError("a web process could do nothing but listen to so many prices")
    workers = given or max(1, math.ceil(frames / (MOST_LOAD - hearing)))
    return frames + workers * hearing, workers


def _pnl(load: Load, costs: Costs, rows_per_flush: float, web_workers: int) -> tuple[float, int]:
    """Cores and shards. The messages, one to each web process, do not get fewer by splitting the users."""
    fixed_ms = costs.pnl_ms_per_flush + web_workers * costs.pnl_us_per_message / 1e3
    shared_ms = rows_per_flush * costs.pnl_us_per_row / 1e3 + load.all_positions * costs.pnl_ns_per_position / 1e6
    if fixed_ms >= MOST_FLUSH_MS:
        raise ValueError(f"a P&L worker could do nothing but write to {web_workers:,} web processes")
    shards = max(1, math.ceil(shared_ms / (MOST_FLUSH_MS - fixed_ms)))
    return (shared_ms + shards * fixed_ms) * FLUSHES_PER_S / 1e3, shards
