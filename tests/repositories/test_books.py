"""What the P&L worker reads: whole books, exact sums of what is closed, bases of the day."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.positions import Realized
from app.domain.shards import shard_of, shards_of
from app.repositories.books import IN_SHARD, BookRepository
from app.repositories.fills import Holder

from .conftest import fill, instrument, new_user, transfer


async def test_a_book_holds_open_positions_and_the_sums_of_closed_ones(engine: AsyncEngine, alice: Holder) -> None:
    third = "0.333333333333333333"
    await fill(engine, alice, "buy", third, third, fee=Decimal("0.5"))
    await fill(engine, alice, "sell", third, "1", fee=Decimal("0.25"))
    held = await fill(engine, alice, "buy", "2", "100")

    [book] = await BookRepository(engine).load([alice.user_id])

    assert book.positions == (held.position,)
    assert (book.currency, book.ledger_seq) == ("USDT", 3)
    [account] = book.accounts
    assert (account.account_id, account.name, account.valuation) == (alice.account_id, "Main", "auto")
    [sums] = account.assets
    # One third times two thirds has 36 places; published it is rounded once, half to even.
    assert sums.realized == Realized(gross=222_222_222_222_222_222, fees=750_000_000_000_000_000)
    assert sums.reported == sums.realized
    assert sums.is_complete


async def test_what_settles_elsewhere_is_kept_in_its_asset_and_as_reported_at_the_rates_of_its_times(
    engine: AsyncEngine, alice: Holder
) -> None:
    coins = instrument("ETHBTC", "BTC")
    await fill(engine, alice, "buy", "1", "0.05", listed=coins, rate_to_reporting=Decimal(50_000))
    await fill(engine, alice, "sell", "1", "0.06", listed=coins, rate_to_reporting=Decimal(60_000))

    [book] = await BookRepository(engine).load([alice.user_id])

    [sums] = book.accounts[0].assets
    assert sums.asset == "BTC"
    assert sums.realized == Realized(gross=10**16)
    assert sums.reported == Realized(gross=600 * 10**18)
    assert sums.is_complete


async def test_a_rate_that_was_not_known_makes_the_sums_incomplete(engine: AsyncEngine, alice: Holder) -> None:
    coins = instrument("ETHBTC", "BTC")
    await fill(engine, alice, "buy", "1", "0.05", listed=coins)
    await fill(engine, alice, "sell", "1", "0.06", listed=coins)

    [book] = await BookRepository(engine).load([alice.user_id])

    [sums] = book.accounts[0].assets
    assert sums.realized == Realized(gross=10**16)
    assert sums.reported == Realized()
    assert not sums.is_complete


async def test_an_unpriced_fee_of_a_closed_position_makes_its_sums_incomplete(
    engine: AsyncEngine, alice: Holder
) -> None:
    await fill(engine, alice, "buy", "1", "100", fee=Decimal(1), fee_asset="XYZ")
    await fill(engine, alice, "sell", "1", "100")

    [book] = await BookRepository(engine).load([alice.user_id])

    assert not book.accounts[0].assets[0].is_complete


async def test_transfers_are_flows_and_adjustments_are_profit(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")
    await fill(engine, alice, "sell", "1", "103")
    await transfer(engine, alice, "deposit", "1000")
    await transfer(engine, alice, "withdrawal", "-100")
    await transfer(engine, alice, "adjustment", "-1")
    await transfer(engine, alice, "deposit", "2", asset="BTC", rate="50000")
    await transfer(engine, alice, "deposit", "1", asset="ETH", rate=None)

    [book] = await BookRepository(engine).load([alice.user_id])

    by_asset = {sums.asset: sums for sums in book.accounts[0].assets}
    dollars, coins, ether = by_asset["USDT"], by_asset["BTC"], by_asset["ETH"]
    assert (dollars.realized.gross, dollars.deposited) == (2 * 10**18, 900 * 10**18)
    assert (coins.deposited, coins.deposited_reported) == (2 * 10**18, 100_000 * 10**18)
    assert (ether.deposited, ether.deposited_reported) == (10**18, 0)
    assert [dollars.is_complete, coins.is_complete, ether.is_complete] == [True, True, False]


async def test_closed_positions_are_told_apart_by_account_strategy_and_symbol(
    engine: AsyncEngine, alice: Holder
) -> None:
    for strategy in ("", "grid"):
        await fill(engine, alice, "buy", "1", "100", strategy=strategy)
        await fill(engine, alice, "sell", "1", "107", strategy=strategy)
    await fill(engine, alice, "buy", "1", "100")

    loaded = await BookRepository(engine).load_with_closed(alice.user_id)

    assert loaded is not None
    assert sorted((leaf.strategy, leaf.symbol, leaf.reported.gross) for leaf in loaded[1]) == [
        ("", "BTCUSDT", 7 * 10**18),
        ("grid", "BTCUSDT", 7 * 10**18),
    ]
    assert await BookRepository(engine).load_with_closed("00000000-0000-4000-8000-000000000000") is None


async def test_users_that_do_not_exist_are_left_out(engine: AsyncEngine, alice: Holder) -> None:
    books = await BookRepository(engine).load(["00000000-0000-4000-8000-000000000000", alice.user_id])

    assert [book.user_id for book in books] == [alice.user_id]
    assert await BookRepository(engine).load([]) == []


async def test_everybody_who_ever_held_anything_is_streamed_once(engine: AsyncEngine) -> None:
    holders = [await new_user(engine, f"user{n}") for n in range(7)]
    for holder in holders[:5]:
        await fill(engine, holder, "buy", "1", "100")
    await fill(engine, holders[0], "sell", "1", "100")

    batches = [batch async for batch in BookRepository(engine).stream(batch_size=2)]

    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert {book.user_id for batch in batches for book in batch} == {holder.user_id for holder in holders[:5]}


async def test_loading_many_takes_as_many_statements_as_loading_one(engine: AsyncEngine) -> None:
    holders = [await new_user(engine, f"user{n}") for n in range(5)]
    for holder in holders:
        await fill(engine, holder, "buy", "1", "100")
    counts: list[int] = []

    def count(*_: object) -> None:
        counts[-1] += 1

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    for ids in ([holders[0].user_id], [holder.user_id for holder in holders]):
        counts.append(0)
        await BookRepository(engine).load(ids)

    assert counts[0] == counts[1] <= 6


async def test_the_base_of_the_day_is_what_was_recorded_first(engine: AsyncEngine, alice: Holder) -> None:
    repository = BookRepository(engine)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await fill(engine, alice, "buy", "1", "100", executed_at=yesterday)
    [before] = await repository.load([alice.user_id])
    today = datetime.now(UTC).date()

    await repository.record_day_bases(today, {alice.user_id: -12_345_678_901_234_567_890_123})
    await repository.record_day_bases(today, {alice.user_id: 1, "00000000-0000-4000-8000-000000000000": 1})
    [after] = await repository.load([alice.user_id])

    assert before.day_base is None
    assert after.day_base == -12_345_678_901_234_567_890_123


async def test_a_user_whose_first_fill_is_today_began_the_day_at_zero(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100")

    [book] = await BookRepository(engine).load([alice.user_id])

    assert book.day_base == 0


async def test_heads_tell_who_changed_since_a_moment(engine: AsyncEngine, alice: Holder) -> None:
    repository = BookRepository(engine)
    await fill(engine, alice, "buy", "1", "100")
    now = datetime.now(UTC)

    assert await repository.heads_changed_since(now - timedelta(seconds=10)) == [(alice.user_id, 1)]
    assert await repository.heads_changed_since(now + timedelta(seconds=10)) == []


async def test_the_database_reckons_the_same_shard_for_every_user(engine: AsyncEngine) -> None:
    ids = [str(uuid4()) for _ in range(10_000)]
    query = text(f"SELECT u.id::text FROM unnest(CAST(:ids AS uuid[])) AS u (id) WHERE {IN_SHARD}")

    for shards in (2, 3, 64):
        for shard in {0, 1, shards - 1}:
            async with engine.connect() as connection:
                found = await connection.scalars(query, {"ids": ids, "shard": shard, "shards": shards})
            assert set(found) == {user_id for user_id in ids if shard_of(user_id, shards) == shard}


async def test_every_shard_reads_its_own_users_and_nobody_else_s(engine: AsyncEngine) -> None:
    holders = [await new_user(engine, f"user{n}") for n in range(12)]
    for holder in holders:
        await fill(engine, holder, "buy", "1", "100")
    ids = {holder.user_id for holder in holders}
    long_ago = datetime.now(UTC) - timedelta(hours=1)

    for shard in shards_of(3):
        own = {user_id for user_id in ids if shard.has(user_id)}
        repository = BookRepository(engine, shard)
        streamed = [book.user_id async for batch in repository.stream(batch_size=2) for book in batch]

        assert sorted(streamed) == sorted(own)
        assert {book.user_id for book in await repository.load(sorted(ids))} == own
        assert {user_id for user_id, _ in await repository.heads_changed_since(long_ago)} == own
        assert (await repository.heads()).seqs == dict.fromkeys(own, 1)
        rest = [book.user_id async for batch in repository.stream(sorted(own)[1], batch_size=2) for book in batch]
        assert sorted(rest) == sorted(own)[2:]


async def test_heads_are_of_everybody_who_has_an_event_and_bases_those_of_a_load(
    engine: AsyncEngine, alice: Holder
) -> None:
    await new_user(engine, "bob")
    carol = await new_user(engine, "carol")
    await fill(engine, alice, "buy", "1", "100")
    await fill(engine, carol, "buy", "1", "100", executed_at=datetime.now(UTC) - timedelta(days=2))
    repository = BookRepository(engine)

    heads = await repository.heads()
    bases = await repository.day_bases([alice.user_id, carol.user_id])

    assert heads.seqs == {alice.user_id: 1, carol.user_id: 1}
    loaded = await repository.load([alice.user_id, carol.user_id])
    assert {(book.user_id, book.day_base, book.base_day) for book in loaded} == set(bases)
    assert {(base.user_id, base.total) for base in bases} == {(alice.user_id, 0), (carol.user_id, None)}
    assert {base.day for base in bases} == {heads.day}
