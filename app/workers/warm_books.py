"""What a standby holds ready: the book of every shard that it may have to take over, true and silent.

A book is kept as the active worker keeps its own: ledger events are applied as
they come, and a poll finds those that were lost. It has no prices, for those are
read within milliseconds when they are needed; nothing is published, and nothing
written. Whether a book is true is not taken for granted at a takeover, but
looked at (:meth:`app.workers.book_keeper.BookKeeper.load_all`).
"""

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

import msgspec
import structlog
from redis.asyncio import Redis

from app.bus import keys
from app.bus.connection import BusUnavailable
from app.bus.events import decode_event
from app.bus.interest import live_instances, online_users
from app.bus.messages import LedgerEvent
from app.bus.subscription import Message, Resync, Subscription
from app.domain.book import Book
from app.domain.shards import Shard, shard_of
from app.repositories.database import DatabaseUnavailable
from app.workers.book_keeper import BookKeeper, Books
from app.workers.inbox import Inbox
from app.workers.prepared_users import PreparedUsers

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 1.0
_SILENCE_S = 5.0
_RETRY_S = 2.0
_DANGER_EVERY_S = 0.05
_PREPARED_AT_ONCE = 200
_MOST_PREPARED = 200_000
"""Rows of 700 bytes: those of 20,000 users with ten each."""


def collect_dropped() -> None:
    """Give the memory of dropped books back, which finished tasks refer to. Takes some tenths of a second."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class KeptBook(NamedTuple):
    """A book, with all users up to an id in it, and some of them as they are to be told."""

    book: Book
    loaded_to: str
    prepared: PreparedUsers


class _Warm:
    """One shard's book and its keeper."""

    def __init__(self, books: Books, stale_after_ms: int, currency: str) -> None:
        self.book = Book(stale_after_ms)
        self.keeper = BookKeeper(books, self.book, currency, is_standby=True)
        self.prepared = PreparedUsers(self.book)
        self.is_whole = False

    @property
    def positions(self) -> int:
        return len(self.book.rows)


class WarmBooks:
    """Books of all shards, as many as hold ``most_positions`` together; the others are loaded when they are needed.

    ``books_of`` gives the books of a shard in the database.
    """

    def __init__(
        self,
        books_of: Callable[[Shard], Books],
        redis: "Redis",
        shards: Sequence[Shard],
        *,
        most_positions: int,
        stale_after_ms: int,
        reporting_currency: str,
        redis_timeout_s: float,
    ) -> None:
        self._redis_timeout_s = redis_timeout_s
        self._books_of = books_of
        self._redis = redis
        self._shards = shards
        self._most_positions = most_positions
        self._stale_after_ms = stale_after_ms
        self._currency = reporting_currency
        self._inbox = Inbox()
        self._warm: dict[Shard, _Warm] = {}

    @property
    def positions(self) -> int:
        """How many are kept, in all books together."""
        return sum(warm.positions for warm in self._warm.values())

    @property
    def kept(self) -> Mapping[Shard, Book]:
        """The books, whole or on the way to it."""
        return {shard: warm.book for shard, warm in self._warm.items()}

    @property
    def whole(self) -> set[Shard]:
        """The shards whose books are loaded."""
        return {shard for shard, warm in self._warm.items() if warm.is_whole}

    def prepared(self, shard: Shard) -> PreparedUsers:
        """Users of a shard that is kept, as they are to be told."""
        return self._warm[shard].prepared

    async def run(self, is_needed: asyncio.Event, endangered: Callable[[], Shard | None]) -> NoReturn:
        """Keep books once they are needed, until cancelled. ``endangered`` tells whose worker seems to be gone."""
        if not self._most_positions:
            await asyncio.Event().wait()
        await is_needed.wait()
        # The channel of prices is only there to be heard on: events may be silent for hours.
        subscription = Subscription(self._redis, (keys.EVENT_CHANNEL, keys.PRICE_CHANNEL), silence_s=_SILENCE_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._inbox.listen(subscription), name="pnl.warm.listen")
            tasks.create_task(self._follow(), name="pnl.warm.follow")
            tasks.create_task(self._keep_all(), name="pnl.warm.keep")
            tasks.create_task(self._prepare(endangered), name="pnl.warm.prepare")
        raise AssertionError("none of the tasks returns")

    def hand_over(self, shard: Shard) -> KeptBook | None:
        """The book of a shard, if it was kept, for a worker that goes on with it.

        All others are dropped; call :func:`collect_dropped` when there is time.
        """
        warm = self._warm.pop(shard, None)
        others = len(self._warm)
        self._warm = {}
        if warm is None and others:
            collect_dropped()  # What comes now takes seconds anyway, and the memory.
        if warm is not None:
            log.info("pnl_worker.was_warm", shard=shard.name, users=len(warm.book), prepared=len(warm.prepared))
        return None if warm is None else KeptBook(warm.book, warm.keeper.loaded_to, warm.prepared)

    async def _keep_all(self) -> NoReturn:
        """Load one shard after the other, then see to it that they stay within the bound."""
        async with asyncio.TaskGroup() as tasks:
            keeping: dict[Shard, asyncio.Task[NoReturn]] = {}
            for shard in self._shards:
                if await self._warm_up(shard):
                    keeping[shard] = tasks.create_task(
                        self._warm[shard].keeper.run(), name=f"pnl.warm.keep.{shard.name}"
                    )
            while True:
                await asyncio.sleep(_LOOK_EVERY_S)
                while self.positions > self._most_positions:
                    shard, task = keeping.popitem()
                    task.cancel()
                    self._drop(shard)
        raise AssertionError("the shards are looked at until that is cancelled")

    async def _warm_up(self, shard: Shard) -> bool:
        """Have a shard's book loaded. False: there is no room for it."""
        warm = self._warm[shard] = _Warm(self._books_of(shard), self._stale_after_ms, self._currency)
        if not await self._load(shard, warm):
            return False
        warm.is_whole = True
        # As in the active worker: a million positions would be walked through by every full collection.
        gc.freeze()
        log.info("pnl_worker.warm", shard=shard.name, users=len(warm.book), positions=warm.positions)
        return True

    async def _load(self, shard: Shard, warm: _Warm) -> bool:
        """Load a book, in spite of a database that goes away meanwhile. False: there is no room for it."""
        loading = asyncio.create_task(self._load_patiently(warm), name=f"pnl.warm.load.{shard.name}")
        try:
            while not loading.done():
                await asyncio.wait([loading], timeout=_LOOK_EVERY_S)
                if self.positions > self._most_positions:
                    self._drop(shard)
                    return False
            loading.result()
        finally:
            loading.cancel()
            await asyncio.wait([loading])
        return True

    async def _load_patiently(self, warm: _Warm) -> None:
        while True:
            try:
                return await warm.keeper.load_all()
            except DatabaseUnavailable as error:
                log.warning("pnl_worker.warming_interrupted", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    def _drop(self, shard: Shard) -> None:
        del self._warm[shard]
        log.warning("pnl_worker.not_kept_warm", shard=shard.name, most_positions=self._most_positions)
        collect_dropped()

    async def _prepare(self, endangered: Callable[[], Shard | None]) -> NoReturn:
        """While a lease runs out, write down the users of its shard who are connected anywhere."""
        while True:
            await asyncio.sleep(_DANGER_EVERY_S)
            shard = endangered()
            for other, warm in self._warm.items():
                if other != shard:
                    warm.prepared.clear()
            if shard is not None and shard in self._warm and not len(self._warm[shard].prepared):
                await self._prepare_connected(shard, self._warm[shard], endangered)

    async def _prepare_connected(self, shard: Shard, warm: _Warm, endangered: Callable[[], Shard | None]) -> None:
        rows = rested = 0
        for user_id in await self._connected():
            if shard.has(user_id):
                rows += warm.prepared.prepare(user_id)
            if rows - rested > _PREPARED_AT_ONCE:
                # The lease is looked at meanwhile; and perhaps its holder is back.
                await asyncio.sleep(0)
                rested = rows
                if endangered() != shard or rows > _MOST_PREPARED:
                    return

    async def _connected(self) -> set[str]:
        """Who is connected to any web instance; nobody, while that cannot be asked."""
        users: set[str] = set()
        try:
            for instance_id in await live_instances(self._redis, self._redis_timeout_s):
                users |= await online_users(self._redis, instance_id, self._redis_timeout_s)
        except BusUnavailable as error:
            log.warning("pnl_worker.instances_unknown", reason=str(error))
        return users

    async def _follow(self) -> NoReturn:
        while True:
            await self._inbox.wait(_LOOK_EVERY_S)
            for event in self._inbox.take():
                self._take(event)

    def _take(self, event: Message | Resync) -> None:
        """Take over one message. What cannot be read is dropped: polls find what was in it."""
        if isinstance(event, Resync):
            for warm in self._warm.values():
                warm.keeper.poll_soon()
        elif event.channel == keys.EVENT_CHANNEL:
            try:
                self._take_event(decode_event(event.payload))
            except msgspec.DecodeError as error:
                log.warning("pnl_worker.message_refused", channel=event.channel, reason=str(error))

    def _take_event(self, event: LedgerEvent) -> None:
        count = self._shards[0].shards
        warm = self._warm.get(Shard(shard_of(event.user_id, count), count))
        if warm is not None:
            warm.keeper.take(event)
