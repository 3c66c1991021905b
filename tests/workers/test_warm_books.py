"""A standby's books against fresh loads, whatever happened and whatever it did not hear of; and takeovers with them."""

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus.events import publish_event
from app.bus.messages import LedgerEvent
from app.bus.pnl import decode_pnl_flush, encode_pnl_flush
from app.domain.book import Book
from app.domain.prices import StreamPosition
from app.domain.rates import RateBook
from app.domain.shards import EVERYBODY, Shard, shard_of, shards_of
from app.repositories.accounts import AccountRepository
from app.repositories.books import BEFORE_ALL, BookRepository
from app.repositories.database import create_engine, transaction
from app.repositories.users import UserRepository
from app.workers.book_keeper import BookKeeper, LedgerWentBack
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.prepared_users import PreparedUsers
from app.workers.warm_books import KeptBook, WarmBooks, collect_dropped
from app.workers.watchers import Watchers
from tests.domain.books import INSTRUMENTS, NOW_MS, instrument, price
from tests.repositories.conftest import new_user
from tests.repositories.test_corrections import PERPETUAL, Storm
from tests.workers.desk import TIMEOUT_S, Market, Trader, listening, until, working

BTC, ETH, ETHBTC = instrument("BTCUSDT"), instrument("ETHUSDT"), instrument("ETHBTC", settle="BTC")
MARKS = [price("BTCUSDT", "110.5"), price("ETHUSDT", "12"), price("ETHBTC", "0.11")]
TODAY = datetime.now(UTC).date

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def traders(engine: AsyncEngine, redis: Redis) -> list[Trader]:
    """Some users of each of two shards, with a position and a closed cycle each."""
    traders = [await Trader.register(engine, redis, f"trader{number}") for number in range(8)]
    while {shard_of(trader.user_id, 2) for trader in traders} != {0, 1}:
        traders.append(await Trader.register(engine, redis, f"trader{len(traders)}"))
    for trader in traders:
        await trader.trade("buy", "2", "90")
        await trader.trade("buy", "1", "9", ETH)
        await trader.trade("sell", "1", "10", ETH)
    return traders


def warm_books(engine: AsyncEngine, redis: Redis, *, shards: int = 2, most_positions: int = 1000) -> WarmBooks:
    return WarmBooks(
        partial(BookRepository, engine),
        redis,
        shards_of(shards),
        most_positions=most_positions,
        stale_after_ms=5000,
        reporting_currency="USDT",
        redis_timeout_s=1.0,
    )


@asynccontextmanager
async def standing_by(warm: WarmBooks, endangered: Callable[[], Shard | None] = lambda: None) -> AsyncIterator[None]:
    needed = asyncio.Event()
    needed.set()
    task = asyncio.create_task(warm.run(needed, endangered))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def taken_over(engine: AsyncEngine, warm: WarmBooks, shard: Shard) -> Book:
    """The book of a shard as a worker has it once the lease is its own."""
    kept = warm.hand_over(shard)
    assert kept is not None
    await BookKeeper(BookRepository(engine, shard), kept.book, "USDT", loaded_to=kept.loaded_to).load_all()
    return kept.book


async def fresh(engine: AsyncEngine, shard: Shard = EVERYBODY) -> Book:
    book = Book(5000)
    await BookKeeper(BookRepository(engine, shard), book, "USDT").load_all()
    return book


def said_of(book: Book, user_id: str) -> Any:
    """Everything that a book says of a user; but for the order of things, which means nothing."""
    holder = book.find(user_id)
    if holder is None:
        return None
    user = book.user_book(holder.slot)
    sums = holder.sums
    return (
        (user.ledger_seq, user.currency, holder.day_base, holder.base_day),
        [
            msgspec.structs.replace(account, assets=tuple(sorted(account.assets, key=lambda one: one.asset)))
            for account in user.accounts
        ],
        sorted(user.positions, key=lambda one: one.position_id),
        (sums.gross, sums.fees, sums.funding, sums.deposited, sums.is_complete, sums.balances),
    )


def differences(one: Book, other: Book) -> list[str]:
    """Users of whom two books say anything different, also of their worth at the same prices."""
    for book in (one, other):
        book.set_rates(RateBook(INSTRUMENTS))
        book.set_prices(MARKS)
        book.revalue(NOW_MS)
    users = {book.holder(slot).user_id for book in (one, other) for slot in range(len(book))}
    return [user for user in sorted(users) if _worth(one, user) != _worth(other, user)]


def _worth(book: Book, user_id: str) -> Any:
    holder = book.find(user_id)
    return said_of(book, user_id), None if holder is None else book.unrealized(holder.slot)


async def rename(engine: AsyncEngine, redis: Redis, trader: Trader, *, is_published: bool) -> None:
    """Have an account named and valued otherwise."""
    async with transaction(engine) as connection:
        seq = await UserRepository(connection).advance(trader.user_id)
        await AccountRepository(connection).change(trader.account_id, {"name": f"Name {seq}", "valuation": "last"})
    if is_published:
        event = LedgerEvent(trader.user_id, seq, "account", datetime.now(UTC), [], {})
        await publish_event(redis, event, TIMEOUT_S)


class Storms:
    """Whatever can be done to ledgers, at random: by traders, and to users whose fills are edited and removed."""

    def __init__(self, engine: AsyncEngine, redis: Redis, traders: list[Trader], dice: random.Random) -> None:
        self._engine = engine
        self._redis = redis
        self._traders = traders
        self._dice = dice
        self._corrected: list[Storm] = []

    async def rise(self) -> None:
        for number, listed in enumerate((PERPETUAL, ETHBTC, BTC)):
            holder = await new_user(self._engine, f"corrected{number}")
            self._corrected.append(Storm(self._engine, holder, listed, self._dice))

    async def rage(self, moves: int) -> None:
        """Of a third of what the traders do no message comes, and of no correction."""
        for _ in range(moves):
            trader, is_published = self._dice.choice(self._traders), self._dice.random() < 0.67
            what = self._dice.choice(["trade"] * 5 + ["late", "deposit", "rename", "correct", "correct"])
            if what == "deposit":
                await trader.deposit("10", self._dice.choice(["USDT", "BTC"]), rate="1")
            elif what == "rename":
                await rename(self._engine, self._redis, trader, is_published=is_published)
            elif what == "correct":
                await self._dice.choice(self._corrected).move()
            else:
                late = datetime.now(UTC) - timedelta(minutes=self._dice.randrange(1, 3000))
                await trader.trade(
                    self._dice.choice(["buy", "sell"]),
                    str(self._dice.randrange(1, 5)),
                    str(self._dice.randrange(80, 120)),
                    self._dice.choice([BTC, ETH, ETHBTC]),
                    is_published=is_published,
                    executed_at=late if what == "late" else None,
                )


def is_warm(warm: WarmBooks, shards: int = 2) -> Callable[[], bool]:
    return lambda: warm.whole == set(shards_of(shards))


async def test_after_a_storm_that_was_half_heard_a_standby_s_book_is_that_of_a_fresh_load(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    storms = Storms(engine, redis, traders, random.Random(11))
    await storms.rise()
    warm = warm_books(engine, redis)
    async with standing_by(warm):
        await until(is_warm(warm))
        for _ in range(3):
            await storms.rage(25)
            # As after a restart of Redis: every subscription is gone, and what was said meanwhile is lost.
            await redis.client_kill_filter(_type="pubsub")
        # Of what comes last nobody may have heard when the lease is taken.
        late = await Trader.register(engine, redis, "late")
        await late.trade("buy", "1", "100", is_published=False)
        await traders[0].trade("sell", "1", "95", is_published=False)
    book = warm.kept[shards_of(2)[shard_of(traders[0].user_id, 2)]]
    assert said_of(book, traders[0].user_id) != said_of(await fresh(engine), traders[0].user_id)
    for shard in shards_of(2):
        assert differences(await taken_over(engine, copy(warm), shard), await fresh(engine, shard)) == []


async def test_the_comparison_finds_what_no_event_was_counted_for(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    book = await fresh(engine)
    async with transaction(engine) as connection:
        await connection.execute(
            text("UPDATE positions SET cash = cash + 1e-18 WHERE user_id = CAST(:u AS uuid) AND status = 'open'"),
            {"u": traders[0].user_id},
        )
    keeper = BookKeeper(BookRepository(engine), book, "USDT", loaded_to="ffffffff-ffff-ffff-ffff-ffffffffffff")
    await keeper.load_all()

    assert differences(book, await fresh(engine)) == [traders[0].user_id]


async def test_a_standby_hears_of_trades_and_finds_by_itself_what_it_did_not_hear_of(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    warm = warm_books(engine, redis, shards=1)
    async with standing_by(warm):
        await until(is_warm(warm, 1))
        book = warm.kept[EVERYBODY]
        await traders[0].trade("buy", "1", "100")
        await until(lambda: (holder := book.find(traders[0].user_id)) is not None and holder.ledger_seq == 4)
        await traders[1].trade("buy", "1", "100", is_published=False)
        await rename(engine, redis, traders[2], is_published=False)
        await until(lambda: all((h := book.find(t.user_id)) and h.ledger_seq == 4 for t in traders[:3]))

        assert differences(book, await fresh(engine)) == []


async def test_bases_of_the_day_are_those_that_are_written_down(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    first, second, _third, fourth, *_ = traders
    today = TODAY()
    for trader in traders[:4]:
        await trader.trade("buy", "1", "80", executed_at=datetime.now(UTC) - timedelta(days=2))
    books = BookRepository(engine)
    await books.record_day_bases(today, {second.user_id: 7, fourth.user_id: 9})
    warm = warm_books(engine, redis, shards=1)
    async with standing_by(warm):
        await until(is_warm(warm, 1))
        book = warm.kept[EVERYBODY]
        bases = {trader.user_id: _base(book, trader) for trader in traders[:4]}
        assert [base for base, _ in bases.values()] == [None, 7, None, 9]
        # The active worker writes one down, as after a turn of the day; this book was loaded the day before that.
        await books.record_day_bases(today, {first.user_id: 5})
        book.take_base(second.user_id, 6, today - timedelta(days=1))
        # A correction leaves one unknown, of which no message comes.
        await fourth.trade("buy", "1", "85", executed_at=datetime.now(UTC) - timedelta(days=1), is_published=False)
        async with transaction(engine) as connection:
            await connection.execute(
                text("DELETE FROM day_opens WHERE user_id = CAST(:u AS uuid)"), {"u": fourth.user_id}
            )
    book = await taken_over(engine, warm, EVERYBODY)

    assert [_base(book, trader) for trader in traders[:4]] == [(5, today), (7, today), (None, today), (None, today)]
    assert differences(book, await fresh(engine)) == []


def _base(book: Book, trader: Trader) -> tuple[int | None, date | None]:
    holder = book.find(trader.user_id)
    assert holder is not None
    return holder.day_base, holder.base_day


async def test_a_book_that_was_half_loaded_is_made_whole(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    book = Book(5000)
    loading = BookKeeper(BookRepository(engine), book, "USDT")
    ids = sorted(trader.user_id for trader in traders)
    for one in await BookRepository(engine).load(ids[:3]):
        book.upsert_user(one)
    by_id = {trader.user_id: trader for trader in traders}
    await by_id[ids[1]].trade("buy", "1", "100", is_published=False)
    await by_id[ids[5]].trade("buy", "1", "100", is_published=False)

    loading.loaded_to = ids[2]
    await loading.load_all()

    assert differences(book, await fresh(engine)) == []


async def test_a_book_of_another_past_is_refused(engine: AsyncEngine, traders: list[Trader]) -> None:
    book = await fresh(engine)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE users SET ledger_seq = ledger_seq - 1"))
    keeper = BookKeeper(BookRepository(engine), book, "USDT", loaded_to="ffffffff-ffff-ffff-ffff-ffffffffffff")

    with pytest.raises(LedgerWentBack):
        await keeper.load_all()


async def test_shards_beyond_the_bound_are_not_kept(engine: AsyncEngine, redis: Redis, traders: list[Trader]) -> None:
    first, second = shards_of(2)
    bound = sum(shard_of(trader.user_id, 2) == 0 for trader in traders)
    warm = warm_books(engine, redis, most_positions=bound)
    async with standing_by(warm):
        await until(lambda: warm.whole == {first} and set(warm.kept) == {first})
        grown = next(trader for trader in traders if first.has(trader.user_id))
        assert warm.positions == bound
        await grown.trade("buy", "1", "100", ETHBTC)
        await until(lambda: not warm.kept)
    assert warm.hand_over(second) is None


async def test_books_that_are_not_taken_over_go(engine: AsyncEngine, redis: Redis, traders: list[Trader]) -> None:
    warm = warm_books(engine, redis)
    async with standing_by(warm):
        await until(is_warm(warm))
    left = [weakref.ref(book) for book in warm.kept.values()]

    kept = warm.hand_over(shards_of(2)[0])
    collect_dropped()

    assert kept is not None
    assert [book() for book in left] == [kept.book, None]
    gc.unfreeze()


async def test_nothing_is_kept_where_that_is_not_wanted_or_not_needed(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    unwanted, unneeded = warm_books(engine, redis, most_positions=0), warm_books(engine, redis)
    async with standing_by(unwanted):
        never = asyncio.create_task(unneeded.run(asyncio.Event(), lambda: None))
        await asyncio.sleep(0.3)
        never.cancel()
        await asyncio.gather(never, return_exceptions=True)
    assert not unwanted.kept
    assert not unneeded.kept


async def test_a_standby_says_nothing_and_takes_over_what_is_true(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    one, other = traders[:2]
    market = Market(redis)
    await market.tick(BTCUSDT="100", ETHUSDT="10")
    async with listening(redis) as web, market.beating(), AsyncExitStack() as standbys:
        await web.connect(one, other)
        async with working(engine, redis, holder="active") as active:
            await until(lambda: web.total(one) is not None and web.total(other) is not None)
            for holder in ("b", "c"):
                await standbys.enter_async_context(working(engine, redis, holder=holder))
            await asyncio.sleep(1.0)
            before = web.total(one)
            assert web.mirror.book_epoch == 1
            assert set(web.outcomes) == {"applied"}  # of one sender: nothing twice, no hole
            active.cancel()
            await one.trade("buy", "1", "60", is_published=False)
        await until(lambda: web.mirror.book_epoch == 2 and None not in {web.total(one), web.total(other)})
        # In the very first word, though nobody was told of the trade: 40 less the fee of 0.5.
        assert before is not None
        assert web.total(one) == before + Decimal("39.5")
        await until(lambda: web.heard > 0 and web.outcomes[-1] == "applied")
        assert web.mirror.old_epochs == 0


async def test_users_that_were_written_down_are_told_as_any_other(
    engine: AsyncEngine, redis: Redis, traders: list[Trader]
) -> None:
    one, other = traders[:2]
    danger: list[Shard] = []
    warm = warm_books(engine, redis, shards=1)
    async with listening(redis) as web, standing_by(warm, lambda: danger[0] if danger else None):
        await web.connect(one, other)
        await until(is_warm(warm, 1))
        assert not len(warm.prepared(EVERYBODY))
        danger.append(EVERYBODY)
        await until(lambda: len(warm.prepared(EVERYBODY)) == 2)
        danger.clear()
        await until(lambda: not len(warm.prepared(EVERYBODY)))  # its worker was only late
        danger.append(EVERYBODY)
        await until(lambda: len(warm.prepared(EVERYBODY)) == 2)
    await other.trade("buy", "1", "100", is_published=False)
    kept = warm.hand_over(EVERYBODY)
    assert kept is not None
    assert kept.loaded_to != BEFORE_ALL
    await BookKeeper(BookRepository(engine), kept.book, "USDT", loaded_to=kept.loaded_to).load_all()

    holders = [kept.book.find(trader.user_id) for trader in (one, other)]
    assert [holder is not None and kept.prepared.find(holder) is not None for holder in holders] == [True, False]
    assert _told(kept, one, other) == _told(kept._replace(prepared=PreparedUsers(kept.book)), one, other)


def _told(kept: KeptBook, *traders: Trader) -> Any:
    """The first flush to an instance with these users."""
    kept.book.set_prices(MARKS)
    watchers = Watchers(kept.book)
    publication = Publication(kept.book, watchers, CacheRound(), book_epoch=2, prepared=kept.prepared)
    watchers.replace("w1", {trader.user_id for trader in traders})
    [(_, flush)] = publication.compose(StreamPosition(1, 1), as_of_ms=NOW_MS, event_ms=NOW_MS)
    watchers.leave("w1")
    decoded = decode_pnl_flush(encode_pnl_flush(flush))
    assert len(decoded.users) == len(traders)
    return decoded
