"""The P&L worker on a real PostgreSQL and a real Redis: what it says, and what it survives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.bus import keys
from app.bus.connection import connect
from app.bus.pnl import ask_for_pnl
from app.bus.prices import read_prices, write_instruments
from app.domain.decimals import parse_signed
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.prices import REVISIONS_PER_FLUSH, StreamPosition
from app.domain.rates import RateBook
from app.domain.shards import EVERYBODY
from app.repositories.books import BookRepository
from app.repositories.database import create_engine
from app.workers.leadership import LeaseLost
from app.workers.pnl_worker import ROLE
from tests.domain.books import instrument
from tests.workers.desk import (
    TIMEOUT_S,
    Market,
    Trader,
    WebInstance,
    cached,
    listening,
    stale_marks,
    statement_of,
    until,
    working,
)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, pool_size=5, timeout_s=5)
    yield engine
    await engine.dispose()


@pytest.fixture
async def trader(engine: AsyncEngine, redis: Redis) -> Trader:
    return await Trader.register(engine, redis, "ada")


@pytest.fixture
async def market(redis: Redis) -> Market:
    market = Market(redis)
    await market.tick(BTCUSDT="100", ETHUSDT="10")
    return market


@pytest.fixture
async def web(redis: Redis, trader: Trader) -> AsyncIterator[WebInstance]:
    async with listening(redis) as web:
        await web.connect(trader)
        yield web


async def held_symbols(redis: Redis) -> set[bytes]:
    return set(await redis.smembers(keys.held_symbols(EVERYBODY.name)))


async def test_positions_of_the_database_are_told_with_their_worth(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")

    async with working(engine, redis):
        await until(lambda: web.total(trader) == Decimal("19.5"))

    view = web.mirror.users[trader.user_id]
    assert [statement_of(row)["entry_price"] for row in view.rows.values()] == ["90"]
    assert view.ledger_seq == 1


async def test_a_position_opened_changed_and_closed_is_in_the_flush_that_follows(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == 0)

        for side, quantity, price, total in (
            ("buy", "2", "90", "19.5"),
            ("buy", "1", "100", "19"),
            ("sell", "4", "110", "58.5"),  # through zero: closes 3, opens a short of 1
            ("buy", "1", "100", "58"),
        ):
            before = market.flush
            await trader.trade(side, quantity, price)
            await until(lambda total=total: web.total(trader) == Decimal(total))
            assert web.places[-1][1] <= (before + 4) * 100

    assert not web.mirror.users[trader.user_id].rows
    assert set(web.outcomes) == {"applied"}


async def test_a_late_fill_that_reopens_what_was_closed_is_told_as_a_replay_finds_it(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    now = datetime.now(UTC)
    async with working(engine, redis), market.beating():
        await trader.trade("buy", "1", "90", executed_at=now - timedelta(minutes=3))
        await trader.trade("sell", "1", "95", executed_at=now - timedelta(minutes=1))
        await until(lambda: web.total(trader) == 4)

        await trader.trade("buy", "1", "80", executed_at=now - timedelta(minutes=2))

        await until(lambda: web.total(trader) == Decimal("23.5"))
    [row] = web.mirror.users[trader.user_id].rows.values()
    assert statement_of(row)["entry_price"] == "85"


async def test_funding_that_was_settled_is_booked_and_told(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    perpetual = instrument("BTCUSDT_PERP", "linear")
    await market.tick(BTCUSDT_PERP="100")
    await trader.trade("buy", "2", "90", perpetual)
    async with engine.begin() as connection:
        stamp = text("INSERT INTO funding_rates (symbol, at, rate, mark) VALUES ('BTCUSDT_PERP', now(), 0.01, 100)")
        await connection.execute(stamp)

    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == Decimal("17.5"))

    view = web.mirror.users[trader.user_id]
    assert view.ledger_seq == 2


async def test_a_change_is_told_soon_though_no_price_flush_comes(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    async with working(engine, redis):
        await until(lambda: web.total(trader) == 0)
        await trader.trade("buy", "2", "90")
        await until(lambda: web.total(trader) == Decimal("19.5"), within_s=1.5)

    epoch, seq = web.places[-1]
    assert epoch == 1
    assert 100 < seq < 200


async def test_a_new_price_moves_the_figures_at_its_place_in_the_stream(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await market.tick(BTCUSDT="101.123456789")
        await until(lambda: web.total(trader) == Decimal("21.746913578"))

    assert web.places[-1] == (1, 200)


async def test_a_crash_and_a_restart_give_the_same_figures_under_a_new_epoch(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    for side, quantity, price in (("buy", "2", "90"), ("sell", "0.7", "95.55"), ("sell", "3", "80")):
        await trader.trade(side, quantity, price)
    async with working(engine, redis, holder="first"):
        await until(lambda: web.total(trader) is not None)
    before, epoch = web.total(trader), web.mirror.book_epoch

    async with working(engine, redis, holder="second"):
        await until(lambda: web.mirror.book_epoch > epoch and web.total(trader) is not None)

    assert web.total(trader) == before


async def test_a_lost_event_is_found_by_polling(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    async with working(engine, redis):
        await until(lambda: web.total(trader) == 0)
        await trader.trade("buy", "2", "90", is_published=False)
        await until(lambda: web.total(trader) == Decimal("19.5"))


async def test_a_hole_in_the_events_is_filled_from_the_database(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    async with working(engine, redis):
        await until(lambda: web.total(trader) == 0)
        await asyncio.sleep(0.8)  # the poll at the start is over, the next one is far
        await trader.trade("buy", "2", "90", is_published=False)
        await trader.trade("buy", "1", "10", instrument("ETHUSDT"))
        await until(lambda: web.total(trader) == Decimal(19), within_s=1.0)

    assert len(web.mirror.users[trader.user_id].rows) == 2


async def test_a_second_worker_stands_by_and_takes_over(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with AsyncExitStack() as first:
        await first.enter_async_context(working(engine, redis, holder="first"))
        await until(lambda: web.total(trader) is not None)
        async with working(engine, redis, holder="second"):
            await asyncio.sleep(0.5)
            assert web.mirror.book_epoch == 1
            await first.aclose()
            await until(lambda: web.mirror.book_epoch == 2 and web.total(trader) == Decimal("19.5"), within_s=5)


async def test_a_worker_whose_lease_another_took_ends(engine: AsyncEngine, redis: Redis, market: Market) -> None:
    async with working(engine, redis) as worker:
        await asyncio.sleep(0.3)
        async with engine.begin() as connection:
            await connection.execute(
                text("UPDATE leases SET holder = 'another', epoch = epoch + 1 WHERE role = :role"), {"role": ROLE}
            )
        with pytest.raises(ExceptionGroup) as ended:
            async with asyncio.timeout(3):
                await asyncio.shield(worker)

    assert ended.group_contains(LeaseLost)


async def test_an_instance_that_missed_messages_asks_again_and_is_whole(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == Decimal("19.5"))

        web.is_deaf = True
        await market.tick(BTCUSDT="110")
        await asyncio.sleep(0.3)
        web.is_deaf = False

        await until(lambda: "hole" in web.outcomes)
        await until(lambda: web.total(trader) == Decimal("39.5"))


async def test_the_worker_finds_every_instance_again_after_redis_was_emptied(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await redis.flushall()
        await market.tick(BTCUSDT="110")
        await until(lambda: web.total(trader) == Decimal("39.5"))


async def test_a_cut_connection_to_redis_heals(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await trader.trade("sell", "1", "100")
        await market.tick(BTCUSDT="110")
        await until(lambda: web.total(trader) == Decimal(29))


async def cut_off_worker(redis: Redis) -> None:
    """End the worker's subscription and not the instance's, which is to one channel."""
    workers = [client["id"] for client in await redis.client_list("pubsub") if int(client["sub"]) > 1]
    assert len(workers) == 1
    await redis.client_kill_filter(_id=workers[0])


async def test_asking_again_is_not_lost_with_the_connection(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await cut_off_worker(redis)
        web.mirror.desynchronise()
        await web.interest.reset()  # while nobody listens
        await until(lambda: web.total(trader) == Decimal("19.5"))


async def test_a_database_that_goes_away_stops_no_prices(
    database_url: str, engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    own = create_engine(database_url, pool_size=3, timeout_s=1)
    try:
        async with working(own, redis, ttl_ms=3000), market.beating():
            await until(lambda: web.total(trader) == Decimal("19.5"))
            name = database_url.rpartition("/")[2].partition("?")[0]
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
                await connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n AND pid <> :me"),
                    {"n": name, "me": await connection.scalar(text("SELECT pg_backend_pid()"))},
                )
                await market.tick(BTCUSDT="110")
                await until(lambda: web.total(trader) == Decimal("39.5"))
                await asyncio.sleep(1.5)  # a poll and several renewals fail meanwhile
                await connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
            await trader.trade("buy", "2", "110", is_published=False)
            await until(lambda: web.total(trader) == Decimal(39))
    finally:
        await own.dispose()


async def test_a_silent_price_feed_makes_every_mark_stale(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        await until(lambda: web.total(trader) == Decimal("19.5"))
        assert not stale_marks(web.mirror)
        await until(lambda: stale_marks(web.mirror) == {"BTCUSDT"})
        await market.tick(BTCUSDT="101")
        await until(lambda: not stale_marks(web.mirror))


async def test_a_new_price_worker_goes_on_where_the_old_one_ended(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await Market(redis, epoch=2).tick(ETHUSDT="11")
        await until(lambda: web.places[-1] >= (2, 100))

    assert web.total(trader) == Decimal("19.5")


async def test_the_cache_holds_the_body_of_the_rest_call(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        body = await cached(redis, trader)

    assert body["ledger_seq"] == 1
    assert (body["epoch"], body["seq"]) in [(1, 100), (1, 101)]
    assert body["totals"]["unrealized_pnl"] == "20"
    assert parse_signed(body["totals"]["total_pnl"]) == web.total(trader)
    assert body["accounts"] == [{"account_id": trader.account_id, "name": "Main", "totals": body["totals"]}]
    assert [row["mark_price"] for row in body["positions"]] == ["100"]
    assert 0 < await redis.ttl(keys.pnl_cache(trader.user_id)) <= 60


async def test_what_settles_in_another_asset_is_converted_by_what_is_listed_and_the_cache_says_what_rest_reckons(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    pair = instrument("ETHBTC", settle="BTC")
    listed = [pair, instrument("BTCUSDT")]
    await write_instruments(redis, listed, 5.0)
    await market.tick(BTCUSDT="100", ETHBTC="0.1")
    await trader.trade("buy", "2", "0.09", pair)

    async with working(engine, redis):
        await until(lambda: web.total(trader) == 2)
        assert await held_symbols(redis) == {b"BTCUSDT", b"ETHBTC"}
        body = await cached(redis, trader)
        head, prices = await read_prices(redis, 5.0)

    assert head is not None
    (book,) = await BookRepository(engine).load([trader.user_id])
    moment = Prices(prices, RateBook(listed), body["as_of_ms"], 5000)
    place = StreamPosition(head.epoch, head.flush, body["seq"] % REVISIONS_PER_FLUSH)
    assert body == pnl_snapshot(book, moment, place)
    assert body["totals"]["unrealized_pnl"] == "2"


async def test_a_transfer_is_in_the_equity_of_the_flush_that_follows(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await write_instruments(redis, [instrument("BTCUSDT")], 5.0)
    async with working(engine, redis), market.beating():
        await until(lambda: web.total(trader) == 0)
        await trader.deposit("2", "BTC", rate="90")
        await until(lambda: web.mirror.users[trader.user_id].net_deposits == 180 * 10**18)

    assert web.mirror.users[trader.user_id].balances == (("BTC", 2 * 10**18, 180 * 10**18),)
    assert web.mirror.rates["BTC", "USDT"].text == "100"


async def test_nothing_is_cached_for_who_is_not_watched(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    other = await Trader.register(engine, redis, "bob")
    await other.trade("buy", "1", "90")
    await trader.trade("buy", "2", "90")

    async with working(engine, redis):
        await cached(redis, trader)

    assert await redis.get(keys.pnl_cache(other.user_id)) is None


async def test_who_is_asked_for_over_rest_is_cached_though_nobody_watches_him(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    other = await Trader.register(engine, redis, "bob")
    await other.trade("buy", "1", "90")

    async with working(engine, redis), market.beating():
        await until(lambda: web.places)
        await redis.publish(keys.ASKED_CHANNEL, b"\xff no user")
        await ask_for_pnl(redis, other.user_id, 1.0)
        first = await cached(redis, other)
        async with asyncio.timeout(TIMEOUT_S):
            while (again := await cached(redis, other))["as_of_ms"] == first["as_of_ms"]:
                await asyncio.sleep(0.05)

    assert first["totals"]["unrealized_pnl"] == again["totals"]["unrealized_pnl"] == "10"
    assert again["as_of_ms"] > first["as_of_ms"]


async def test_held_symbols_follow_the_positions(engine: AsyncEngine, redis: Redis, trader: Trader) -> None:
    async def become(expected: set[bytes]) -> None:
        async with asyncio.timeout(5):
            while await held_symbols(redis) != expected:
                await asyncio.sleep(0.02)

    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        await become({b"BTCUSDT"})
        await trader.trade("buy", "2", "9", instrument("ETHUSDT"))
        await become({b"BTCUSDT", b"ETHUSDT"})
        await trader.trade("sell", "2", "90")
        await become({b"ETHUSDT"})


async def test_the_first_flush_of_a_day_is_everybody_s_base(
    engine: AsyncEngine, redis: Redis, trader: Trader, web: WebInstance
) -> None:
    midnight_ms = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp() * 1000)
    market = Market(redis)
    await market.tick(at_ms=midnight_ms - 60_000, BTCUSDT="100")
    await trader.trade("buy", "2", "90")
    async with working(engine, redis):
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await market.tick(at_ms=midnight_ms, BTCUSDT="101")
        await until(lambda: web.mirror.users[trader.user_id].day_base == 21_500_000_000_000_000_000)
        async with asyncio.timeout(5), engine.connect() as connection:
            query = text("SELECT user_id::text, day, total_pnl FROM day_opens")
            while not (rows := (await connection.execute(query)).all()):
                await asyncio.sleep(0.02)

    assert rows == [(trader.user_id, date(2026, 3, 2), Decimal("21.5"))]


async def test_a_redis_that_does_not_answer_for_a_while_is_waited_for(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    await trader.trade("buy", "2", "90")
    async with working(engine, redis) as worker:
        await until(lambda: web.total(trader) == Decimal("19.5"))
        await redis.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        await trader.trade("buy", "2", "100", is_published=False)
        await asyncio.sleep(1.2)
        await redis.ping()
        await market.tick(BTCUSDT="110")
        await until(lambda: web.total(trader) == Decimal(59))
        assert not worker.done()


async def test_nonsense_on_the_bus_is_dropped(
    engine: AsyncEngine, redis: Redis, trader: Trader, market: Market, web: WebInstance
) -> None:
    async with working(engine, redis) as worker:
        await until(lambda: web.total(trader) == 0)
        for channel in (keys.EVENT_CHANNEL, keys.PRICE_CHANNEL, keys.INTEREST_CHANNEL):
            await redis.publish(channel, b"\xc1 nonsense")
        await trader.trade("buy", "2", "90")
        await until(lambda: web.total(trader) == Decimal("19.5"))
        assert not worker.done()


async def test_a_bus_that_is_not_there_is_waited_for(engine: AsyncEngine) -> None:
    nowhere = connect("redis://127.0.0.1:9", 0.2)
    async with working(engine, nowhere) as worker:
        await asyncio.sleep(1.0)
        assert not worker.done()
    await nowhere.aclose()
