"""What it costs a web process to build the frames of its users, without the sockets they go to.

A real book composes the P&L flushes, so every frame has new prices, rows and
totals, as in a busy market.
"""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import numpy as np

from app.bus.messages import PnlFlush, PriceFlush
from app.domain.book import Book
from app.domain.prices import Feed, StreamPosition
from app.domain.protocol import Close
from app.websocket.admission import Identity
from app.websocket.compiled import Unusable, load
from app.websocket.connection import Connection
from app.websocket.delivery import Delivery
from app.websocket.fanout import Fanout
from app.websocket.outlet import NOT_DIRECT
from app.websocket.roster import NEVER, Roster
from app.websocket.schedule import TOGETHER
from app.websocket.state import StreamState
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from benchmarks.book import NOW_MS, Market, Size, users

_SIZE: Final = Size(positions=20_000, users=2_000, symbols=300, watched=2_000)
_WATCHED_SYMBOLS: Final = 10
_FLUSHES: Final = 12
_MOVED: Final = 200
_FEED: Final = Feed("simulated", "bench", 0, simulated=True)


class _NoSocket:
    """Takes frames and counts their bytes."""

    def __init__(self) -> None:
        self.bytes = 0

    def is_full(self) -> bool:
        return False

    def send(self, *payloads: bytes) -> None:
        self.bytes += sum(map(len, payloads))

    def descriptor(self) -> int:
        return NOT_DIRECT

    def send_rest(self, data: bytes) -> None:
        raise AssertionError("nothing was written directly")

    def close(self, code: Close, reason: str) -> None:
        raise AssertionError(f"closed with {code}: {reason}")


class _Feed:
    """The price worker and the P&L worker, without a bus between."""

    def __init__(self, chance: random.Random) -> None:
        self._market = Market(_SIZE.symbols, chance)
        self._book = Book(5000)
        self._place = StreamPosition(1, 0)
        for user in users(_SIZE.users, _SIZE.positions, self._market, chance):
            self._book.upsert_user(user)
        self._watchers = Watchers(self._book)
        self._publication = Publication(self._book, self._watchers, CacheRound(), book_epoch=1)
        self.user_ids = [self._book.holder(slot).user_id for slot in range(_SIZE.users)]
        self.symbols = list(self._market.prices)
        self._watchers.replace("bench", set(self.user_ids))

    @property
    def has_newcomers(self) -> bool:
        return any(instance.waiting for instance in self._watchers.instances.values())

    def move(self, count: int) -> tuple[PriceFlush, PnlFlush]:
        """Some prices move."""
        self._place = StreamPosition(1, self._place.flush + 1)
        prices = self._market.move(count)
        self._book.set_prices(prices)
        ((_, pnl),) = self._publication.compose(self._place, as_of_ms=NOW_MS, event_ms=NOW_MS)
        return PriceFlush(1, self._place.flush, NOW_MS, count, _FEED, prices), pnl


def figures() -> dict[str, float]:
    """Microseconds of CPU a frame by Python, and compiled where it is; and what a commit costs before any is built."""
    plain = _measured(is_compiled=False)
    try:
        compiled = _measured(is_compiled=True)
    except Unusable:
        return plain
    return {**plain, "µs a frame, compiled": compiled["µs a frame"]}


def _measured(*, is_compiled: bool) -> dict[str, float]:
    chance = random.Random(1)
    feed = _Feed(chance)
    state = StreamState(stale_after_ms=5000, is_wanted=lambda _: True, now=0.0)
    flushes = _flushes(feed)
    for price_flush, pnl_flush in flushes:
        state.board.epoch, state.board.flush = 1, price_flush.flush - 1
        _commit(state, price_flush, pnl_flush)
        if not feed.has_newcomers:
            break
    roster, delivery = Roster(), Delivery(state)
    fanout = Fanout(state, roster, delivery, load() if is_compiled else None)
    outlet = _NoSocket()
    for user_id in feed.user_ids:
        _connect(state, user_id, feed.symbols, chance, roster, outlet)
    _serve(fanout, roster)  # the snapshots
    built = committed = 0.0
    frames, size = delivery.updates, outlet.bytes
    for _ in range(_FLUSHES):
        price_flush, pnl_flush = next(flushes)
        began = time.process_time()
        _commit(state, price_flush, pnl_flush)
        committed += time.process_time() - began
        began = time.process_time()
        _serve(fanout, roster)
        built += time.process_time() - began
    frames, size = delivery.updates - frames, outlet.bytes - size
    return {
        "load average": os.getloadavg()[0],
        **{f"{name} in the book": value for name, value in asdict(_SIZE).items()},
        "frames": frames,
        "bytes a frame": size / frames,
        "µs a frame": built / frames * 1e6,
        "ms a commit": committed / _FLUSHES * 1e3,
        "prices a commit": _MOVED,
    }


def _flushes(feed: _Feed) -> Iterator[tuple[PriceFlush, PnlFlush]]:
    yield feed.move(_SIZE.symbols)
    while True:
        yield feed.move(_MOVED)


def _commit(state: StreamState, price_flush: PriceFlush, pnl_flush: PnlFlush) -> None:
    now = price_flush.flush / 10
    if state.offer_prices(price_flush, now) != "applied" or state.offer_pnl(pnl_flush, now) != "applied":
        raise AssertionError("the stream did not follow")


def _connect(
    state: StreamState, user_id: str, symbols: list[str], chance: random.Random, roster: Roster, outlet: _NoSocket
) -> None:
    identity = Identity(user_id, "0" * 64, 2**52)
    connection = Connection(user_id, identity, None, outlet, 10.0, roster)
    connection.status = state.health.version
    connection.watched = {symbol: state.watch(symbol) for symbol in chance.sample(symbols, _WATCHED_SYMBOLS)}
    connection.wants_pnl = connection.wants_positions = True
    connection.awaits_prices = connection.awaits_pnl = connection.awaits_positions = True
    roster.begin(connection.seat)


def _serve(fanout: Fanout, roster: Roster) -> None:
    """Give everybody what he is due."""
    seats = np.flatnonzero(roster.due != NEVER)
    for first in range(0, len(seats), TOGETHER):
        fanout.serve(seats[first : first + TOGETHER], 0.0)
