"""Where the P&L worker's time goes in a flush: ``python -m benchmarks.pnl_profile``, kept in profiles/pnl-worker.txt.

What the worker does with a price flush, from the bytes that come to the bytes
that go: 10,000 users with 10 positions each, all connected, at two web instances;
180 of 2,000 symbols move. Without the profiler first, so that its weight is seen.
"""

import cProfile
import io
import pstats
import random
import time
from typing import Final

import msgspec

from app.bus.messages import PriceFlush
from app.bus.pnl import encode_pnl_flush
from app.bus.prices import decode_flush
from app.domain.book import Book
from app.domain.prices import Feed, StreamPosition
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from benchmarks.book import NOW_MS, Market, users
from benchmarks.report import machine

_USERS: Final = 10_000
_POSITIONS: Final = 100_000
_SYMBOLS: Final = 2_000
_MOVED: Final = 180
_INSTANCES: Final = 2
_FLUSHES: Final = 100
_LINES: Final = 25
_FEED: Final = Feed("simulated", "bench", 0, simulated=True)


class _Worker:
    """The part of the P&L worker between the two messages."""

    def __init__(self) -> None:
        chance = random.Random(1)
        self._market = Market(_SYMBOLS, chance)
        self._book = Book(5000)
        self._book.set_prices(self._market.move(_SYMBOLS))
        for user in users(_USERS, _POSITIONS, self._market, chance):
            self._book.upsert_user(user)
        watchers = Watchers(self._book)
        self._publication = Publication(self._book, watchers, CacheRound(), book_epoch=1)
        everybody = [self._book.holder(slot).user_id for slot in range(_USERS)]
        for number in range(_INSTANCES):
            watchers.replace(f"w{number}", set(everybody[number::_INSTANCES]))
        while any(instance.waiting for instance in watchers.instances.values()):
            self._compose(StreamPosition(1, 1))
        encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        self.flushes = [
            encode(PriceFlush(1, number, NOW_MS, _MOVED, _FEED, self._market.move(_MOVED)))
            for number in range(_FLUSHES)
        ]
        self.sent = 0

    def take(self, payload: bytes) -> None:
        flush = decode_flush(payload)
        self._book.set_prices(flush.prices)
        self._compose(StreamPosition(flush.epoch, flush.flush))

    def _compose(self, place: StreamPosition) -> None:
        for _, flush in self._publication.compose(place, as_of_ms=NOW_MS, event_ms=NOW_MS):
            self.sent = len(encode_pnl_flush(flush))


def main() -> None:
    """Print the profile."""
    worker = _Worker()
    half = _FLUSHES // 2
    began = time.process_time()
    for payload in worker.flushes[:half]:
        worker.take(payload)
    plain_ms = (time.process_time() - began) / half * 1000
    profile = cProfile.Profile()
    profile.enable()
    for payload in worker.flushes[half:]:
        worker.take(payload)
    profile.disable()
    shown = io.StringIO()
    pstats.Stats(profile, stream=shown).strip_dirs().sort_stats("tottime").print_stats(_LINES)
    print(machine())
    print(
        f"{_USERS:,} users, {_POSITIONS:,} positions, all watched; {_MOVED} of {_SYMBOLS:,} symbols move in each flush"
    )
    print(f"{plain_ms:.1f} ms CPU a flush without the profiler; {worker.sent:,} bytes to an instance")
    print(f"the profiler, over {_FLUSHES - half} flushes:")
    print("\n".join(line.rstrip() for line in shown.getvalue().splitlines() if line.strip()))


if __name__ == "__main__":
    main()
