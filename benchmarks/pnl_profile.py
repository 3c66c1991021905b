"""Where the P&L worker's time goes: ``python -m benchmarks.pnl_profile``, kept in profiles/pnl-worker-after.txt.

What the worker does with a price flush, from the bytes that come to the bytes
that go: 10,000 users with 10 positions each, all connected, at two web instances;
180 of 2,000 symbols move. Without the profiler first, so that its weight is seen.
Beside it what is no part of a flush: telling users who come, answers for REST, a
minute of history, midnight.
"""

import cProfile
import io
import pstats
import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from app.bus.messages import PriceFlush
from app.bus.pnl import encode_pnl_flush
from app.bus.prices import decode_flush
from app.domain.book import Book
from app.domain.book_samples import BookSampler
from app.domain.prices import Feed, StreamPosition
from app.workers.cache_keeper import CacheKeeper
from app.workers.cache_round import CacheRound
from app.workers.day_turn import USERS_AT_ONCE, DayStart, Turn
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from benchmarks.book import AT, NOW_MS, Market, users
from benchmarks.report import machine

_USERS: Final = 10_000
_POSITIONS: Final = 100_000
_SYMBOLS: Final = 2_000
_MOVED: Final = 180
_INSTANCES: Final = 2
_FLUSHES: Final = 100
_LINES: Final = 25
Outcome = TypeVar("Outcome")

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
        began = time.process_time()
        while any(instance.waiting for instance in watchers.instances.values()):
            self._compose(StreamPosition(1, 1))
        self.telling_us = (time.process_time() - began) / _POSITIONS * 1e6
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

    def answers_us(self) -> float:
        """CPU of a row of the answers kept for REST, each user's written before."""
        due = CacheRound()
        keeper = CacheKeeper(self._book, due, ttl_s=60, stale_after_ms=5000)
        taken = 0.0
        for now in (10.0, 20.0):
            due.mark(range(_USERS))
            began = time.process_time()
            while keeper.next_bodies(now, NOW_MS, StreamPosition(1, 1), silent=False):
                pass
            taken = time.process_time() - began
        return taken / _POSITIONS * 1e6

    def minute_ms(self) -> tuple[float, float, float]:
        """CPU of a minute of history: keeping the prices, the longest step, all steps."""
        sampler = BookSampler(self._book)
        freeze_ms, frozen = _cpu_ms(lambda: sampler.freeze(NOW_MS, NOW_MS, 5000, silent=False))
        steps: list[float] = []
        slot = 0
        while slot < len(self._book):
            taken, part = _cpu_ms(lambda slot=slot: sampler.sample(frozen, slot))  # type: ignore[misc]
            steps.append(taken)
            slot = part.next_slot
        return freeze_ms, max(steps), sum(steps)

    def midnight_ms(self) -> tuple[float, float]:
        """CPU of the beginning of a day: taking the bases, and the longest flush until all were told."""
        start = DayStart(self._book)
        begin_ms, _ = _cpu_ms(lambda: start.begin(Turn(AT.date(), "everybody")))
        flushes: list[float] = []
        for _ in range(_USERS // USERS_AT_ONCE + 1):
            step_ms, _ = _cpu_ms(start.step)
            compose_ms, _ = _cpu_ms(lambda: self._compose(StreamPosition(1, 1)))
            flushes.append(step_ms + compose_ms)
        return begin_ms, max(flushes)

    def _compose(self, place: StreamPosition) -> None:
        for _, flush in self._publication.compose(place, as_of_ms=NOW_MS, event_ms=NOW_MS):
            self.sent = len(encode_pnl_flush(flush))


def _cpu_ms(work: Callable[[], Outcome]) -> tuple[float, Outcome]:
    began = time.process_time()
    outcome = work()
    return (time.process_time() - began) * 1000, outcome


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
    minute = worker.minute_ms()
    print(machine())
    print(
        f"{_USERS:,} users, {_POSITIONS:,} positions, all watched; {_MOVED} of {_SYMBOLS:,} symbols move in each flush"
    )
    print(f"{plain_ms:.1f} ms CPU a flush without the profiler; {worker.sent:,} bytes to an instance")
    print(f"{worker.answers_us():.1f} µs CPU a row of the answers kept for REST, without sending them")
    print(f"{worker.telling_us:.1f} µs CPU a row that is told for the first time")
    print("{:.1f} ms CPU to keep the prices of a minute, then steps of at most {:.1f}, {:.0f} together".format(*minute))
    print("{:.1f} ms CPU to take the bases of a day, then flushes of at most {:.1f}".format(*worker.midnight_ms()))
    print(f"the profiler, over {_FLUSHES - half} flushes:")
    print("\n".join(line.rstrip() for line in shown.getvalue().splitlines() if line.strip()))


if __name__ == "__main__":
    main()
