"""Late, edited, deleted and moved fills: afterwards the ledger is what it would be had they always been so."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.instruments import Instrument
from app.domain.ledger import ContradictoryFill
from app.domain.positions import Position
from app.domain.trades import Trade
from app.repositories.books import BookRepository
from app.repositories.chains import ChainRepository, ChainTooLong
from app.repositories.corrections import Books, Correction, TooManyPositions, delete_fill, edit_fill, retag_position
from app.repositories.database import DatabaseUnavailable, transaction
from app.repositories.fills import Holder
from app.repositories.positions import PositionRepository, StandingAlready
from app.repositories.tables import trades
from app.repositories.trades import TRADE_COLUMNS, Ending, TradeDeleted, TradeRepository, to_trade
from app.repositories.users import UserRepository

from .conftest import fill, instrument
from .ledger_storm import differences, tamper

D = Decimal
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

PERPETUAL = Instrument(
    symbol="BTCUSDT_PERP",
    market="linear",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=D("0.1"),
    step_size=D("0.001"),
)


def at(seconds: float) -> datetime:
    return TODAY - timedelta(days=3) + timedelta(seconds=seconds)


def ending(change: str = "edited", reason: str = "typing error") -> Ending:
    return Ending(change, reason, datetime.now(UTC), 1)  # type: ignore[arg-type]


def books(holder: Holder, max_open: int = 100) -> Books:
    return Books(holder.user_id, holder.currency, max_open)


async def all_trades(connection: AsyncConnection, holder: Holder) -> list[Trade]:
    query = select(*TRADE_COLUMNS).where(trades.c.user_id == holder.user_id)
    return [to_trade(row) for row in await connection.execute(query.order_by(trades.c.executed_at, trades.c.id))]


async def held(engine: AsyncEngine, holder: Holder) -> list[Position]:
    """All positions, the oldest first."""
    async with transaction(engine) as connection:
        return (await PositionRepository(connection).page(holder.user_id, limit=100))[::-1]


async def check(engine: AsyncEngine, holder: Holder, listed: Instrument | None = None) -> None:
    async with transaction(engine) as connection:
        assert await differences(connection, holder.user_id, listed or instrument(), holder.currency) == []


async def edit(
    engine: AsyncEngine, holder: Holder, trade: Trade, *, listed: Instrument | None = None, **changes: object
):
    fill_changes = {**changes, "executed_at": changes.get("executed_at", trade.executed_at)}
    after = msgspec.structs.replace(
        trade,
        fill=msgspec.structs.replace(trade.fill, **fill_changes),
        executed_at=fill_changes["executed_at"],
        revision=trade.revision + 1,
    )
    async with transaction(engine) as connection:
        await UserRepository(connection).advance(holder.user_id)
        return await edit_fill(connection, books(holder), trade, after, listed or instrument(), ending())


async def remove(engine: AsyncEngine, holder: Holder, trade: Trade, listed: Instrument | None = None) -> Correction:
    async with transaction(engine) as connection:
        await UserRepository(connection).advance(holder.user_id)
        return await delete_fill(connection, books(holder), trade, listed or instrument(), ending("deleted"))


class TestALateFill:
    async def test_it_is_put_in_its_place_and_what_follows_is_computed_anew(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "sell", "1", "130", executed_at=at(20))

        late = await fill(engine, alice, "buy", "1", "110", executed_at=at(10))

        [position] = await held(engine, alice)
        assert (position.status, position.state.signed_qty, position.state.realized_pnl_gross) == ("open", 1, 25)
        assert position.version == 3
        assert late.correction is not None
        assert [one.status for one in late.correction.before] == ["closed"]
        assert [one.status for one in late.correction.after] == ["open"]
        await check(engine, alice)

    async def test_before_the_first_fill_it_opens_the_position_that_is_known(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        first = await fill(engine, alice, "buy", "1", "100", executed_at=at(10))

        late = await fill(engine, alice, "buy", "1", "90", executed_at=at(0))

        assert late.position.position_id == first.position.position_id
        assert late.position.opened_at == at(0)
        await check(engine, alice)

    async def test_it_may_turn_two_positions_into_one(self, engine: AsyncEngine, alice: Holder) -> None:
        for second, side in enumerate(["buy", "sell", "buy"]):
            await fill(engine, alice, side, "1", "100", executed_at=at(second * 10))  # type: ignore[arg-type]
        first, second = await held(engine, alice)

        late = await fill(engine, alice, "buy", "1", "100", executed_at=at(5))

        [position] = await held(engine, alice)
        assert (position.position_id, position.state.signed_qty) == (first.position_id, 2)
        assert late.correction is not None
        assert {one.position_id for one in late.correction.before} == {first.position_id, second.position_id}
        await check(engine, alice)

    async def test_it_may_split_one_position_into_two(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "buy", "1", "100", executed_at=at(20))

        await fill(engine, alice, "sell", "1", "120", executed_at=at(10))

        closed, opened = await held(engine, alice)
        assert (closed.position_id, closed.status, closed.state.realized_pnl) == (
            first.position.position_id,
            "closed",
            20,
        )
        assert (opened.status, opened.state.cost) == ("open", 100)
        await check(engine, alice)

    async def test_fills_before_the_last_time_it_was_flat_are_not_touched(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        for second, side in enumerate(["buy", "sell", "buy"]):
            await fill(engine, alice, side, "1", "100", executed_at=at(second * 10))  # type: ignore[arg-type]
        before = (await held(engine, alice))[0]

        await fill(engine, alice, "buy", "1", "100", executed_at=at(25))
        await fill(engine, alice, "buy", "1", "90", executed_at=at(22))

        assert (await held(engine, alice))[0] == before
        async with transaction(engine) as connection:
            chain = (await all_trades(connection, alice))[0].chain
            assert len((await ChainRepository(connection).tail(chain, at(22))).trades) == 3

    async def test_fills_of_one_instant_keep_the_order_in_which_they_were_recorded(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "sell", "2", "110", executed_at=at(0))
        await fill(engine, alice, "buy", "1", "120", executed_at=at(0))

        assert sorted(one.state.realized_pnl for one in await held(engine, alice)) == [-10, 10]
        await check(engine, alice)

    async def test_it_opens_no_more_positions_than_are_allowed(self, engine: AsyncEngine, alice: Holder) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "sell", "1", "100", executed_at=at(10))
        await fill(engine, alice, "buy", "1", "100", listed=instrument("ETHUSDT"))

        with pytest.raises(TooManyPositions):
            await fill(engine, alice, "buy", "1", "100", executed_at=at(5), max_open=1)

        await check(engine, alice)

    async def test_more_than_can_be_replayed_at_once_is_refused(self, engine: AsyncEngine, alice: Holder) -> None:
        for second in range(4):
            await fill(engine, alice, "buy", "1", "100", executed_at=at(second))
        async with transaction(engine) as connection:
            chain = (await all_trades(connection, alice))[0].chain
            with pytest.raises(ChainTooLong):
                await ChainRepository(connection).tail(chain, at(0), most=3)


class TestAnEdit:
    async def test_it_replays_and_keeps_the_earlier_form(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "1", "100")
        await fill(engine, alice, "sell", "1", "130")

        after, correction = await edit(engine, alice, first.trade, price=D(110), quantity=D(2))

        [position] = await held(engine, alice)
        assert (position.state.signed_qty, position.state.realized_pnl, position.status) == (1, 20, "open")
        assert (correction.before[0].version, correction.after[0].version) == (2, 3)
        async with transaction(engine) as connection:
            stored = await TradeRepository(connection).get(alice.user_id, first.trade.fill_id)
            [earlier] = await TradeRepository(connection).revisions(alice.user_id, first.trade.fill_id)
        assert stored == after
        assert stored is not None
        assert stored.revision == 2
        assert (earlier.revision, earlier.data["price"], earlier.ending.reason) == (1, "100", "typing error")
        await check(engine, alice)

    async def test_to_another_time_it_changes_the_order(self, engine: AsyncEngine, alice: Holder) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        late = await fill(engine, alice, "sell", "1", "120", executed_at=at(10))

        await edit(engine, alice, late.trade, executed_at=at(-10))

        short, *rest = await held(engine, alice)
        assert (short.opened_at, short.state.realized_pnl, rest) == (at(-10), 20, [])
        await check(engine, alice)

    async def test_to_another_strategy_it_moves_to_another_chain(self, engine: AsyncEngine, alice: Holder) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        second = await fill(engine, alice, "buy", "2", "100", executed_at=at(10))

        await edit(engine, alice, second.trade, strategy="swing")

        assert [(one.strategy, one.state.signed_qty) for one in await held(engine, alice)] == [("", 1), ("swing", 2)]
        await check(engine, alice)

    async def test_what_cannot_be_changes_nothing(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "2", "100", position_side="long")
        await fill(engine, alice, "sell", "2", "100", position_side="long")

        with pytest.raises(ContradictoryFill):
            await edit(engine, alice, first.trade, quantity=D(1))

        [position] = await held(engine, alice)
        assert (position.status, position.version) == ("closed", 2)
        await check(engine, alice)


class TestADeletion:
    async def test_of_the_only_fill_takes_the_position_away(self, engine: AsyncEngine, alice: Holder) -> None:
        only = await fill(engine, alice, "buy", "1", "100", trade_id="x-1")

        correction = await remove(engine, alice, only.trade)

        assert await held(engine, alice) == []
        assert (len(correction.before), correction.after) == (1, [])
        await check(engine, alice)

    async def test_its_id_stays_taken(self, engine: AsyncEngine, alice: Holder) -> None:
        only = await fill(engine, alice, "buy", "1", "100", trade_id="x-1")
        await remove(engine, alice, only.trade)

        with pytest.raises(TradeDeleted):
            await fill(engine, alice, "buy", "1", "100", trade_id="x-1")

        async with transaction(engine) as connection:
            [earlier] = await TradeRepository(connection).revisions(alice.user_id, only.trade.fill_id)
        assert (earlier.ending.change, earlier.data["trade_id"]) == ("deleted", "x-1")

    async def test_of_the_middle_of_a_turn_joins_what_it_parted(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        turn = await fill(engine, alice, "sell", "3", "110", executed_at=at(10))
        await fill(engine, alice, "buy", "3", "120", executed_at=at(20))

        await remove(engine, alice, turn.trade)

        [position] = await held(engine, alice)
        assert (position.position_id, position.state.signed_qty) == (first.position.position_id, 4)
        await check(engine, alice)


class TestAnotherStrategyForAPosition:
    async def retag(self, engine: AsyncEngine, position: Position, strategy: str) -> Position:
        async with transaction(engine) as connection:
            await UserRepository(connection).advance(position.user_id)
            moved, _ = await retag_position(connection, position, strategy, ending("retagged", ""))
            return moved

    async def test_it_takes_its_fills_along_and_no_figure_changes(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "1", "100")

        moved = await self.retag(engine, first.position, "swing")
        more = await fill(engine, alice, "buy", "1", "110", strategy="swing")

        assert (moved.state, moved.version) == (first.position.state, 2)
        assert more.position.position_id == moved.position_id
        await check(engine, alice)

    async def test_positions_that_share_a_fill_move_together(self, engine: AsyncEngine, alice: Holder) -> None:
        for second, (side, quantity) in enumerate([("buy", "1"), ("sell", "2"), ("buy", "3")]):
            await fill(engine, alice, side, quantity, "100", executed_at=at(second))  # type: ignore[arg-type]
        middle = (await held(engine, alice))[1]

        await self.retag(engine, middle, "swing")

        assert [one.strategy for one in await held(engine, alice)] == ["swing"] * 3
        await check(engine, alice)

    async def test_a_strategy_that_held_something_meanwhile_refuses_it(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        first = await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "buy", "1", "100", executed_at=at(1), strategy="swing")

        with pytest.raises(StandingAlready):
            await self.retag(engine, first.position, "swing")
        await check(engine, alice)


async def store_stamp(engine: AsyncEngine, moment: datetime, rate: str = "0.001", mark: str = "100") -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            text("INSERT INTO funding_rates (symbol, at, rate, mark) VALUES ('BTCUSDT_PERP', :at, :rate, :mark)"),
            {"at": moment, "rate": D(rate), "mark": D(mark)},
        )


async def test_a_late_fill_before_a_stamp_computes_its_payment_anew(engine: AsyncEngine, alice: Holder) -> None:
    await fill(engine, alice, "buy", "1", "100", executed_at=at(0), listed=PERPETUAL)
    await store_stamp(engine, at(10))

    await fill(engine, alice, "buy", "2", "100", executed_at=at(5), listed=PERPETUAL)

    [position] = await held(engine, alice)
    assert position.state.funding == D("-0.3")
    await check(engine, alice, PERPETUAL)


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_storm_the_rows_are_the_replay_of_the_fills(
    engine: AsyncEngine, alice: Holder, seed: int
) -> None:
    """Fills, late fills, edits, deletions, moves and stamps at random; one digit of one row is found."""
    listed = [instrument(), PERPETUAL][seed % 2]
    storm = Storm(engine, alice, listed, random.Random(seed))
    for _ in range(60):
        await storm.move()
    assert storm.done["fill"] > 20
    assert all(storm.done[kind] for kind in ("edit", "remove"))
    if listed is PERPETUAL:
        # Stamps are applied by the worker; here every chain is touched once more.
        for strategy in ["", "s", "t"]:
            await fill(engine, alice, "buy", "1", "1", executed_at=at(-1), listed=listed, strategy=strategy)
    await check(engine, alice, listed)

    async with transaction(engine) as connection:
        await tamper(connection, alice.user_id)
        assert len(await differences(connection, alice.user_id, listed, "USDT")) == 1


class Storm:
    """Does at random what can be done to one user's ledger."""

    def __init__(self, engine: AsyncEngine, holder: Holder, listed: Instrument, dice: random.Random) -> None:
        self._engine = engine
        self._holder = holder
        self._listed = listed
        self._dice = dice
        self._stamps: set[datetime] = set()
        self.done: Counter[str] = Counter()

    async def move(self) -> None:
        kinds = {"fill": 55, "edit": 15, "remove": 15, "retag": 5, "stamp": 10}
        kind = self._dice.choices(list(kinds), list(kinds.values()))[0]
        async with transaction(self._engine) as connection:
            known = await all_trades(connection, self._holder)
        if known or kind == "fill":
            await getattr(self, f"_{kind}")(self._dice.choice(known or [None]))
            self.done[kind] += 1

    async def _fill(self, _: Trade | None) -> None:
        dice, quantity = self._dice, self._quantity()
        await fill(
            self._engine,
            self._holder,
            dice.choice(["buy", "sell"]),
            str(quantity),
            str(D(dice.randrange(1, 1000)) / 3),
            listed=self._listed,
            executed_at=dice.choice([self._moment(), None]),
            fee=quantity * dice.choice([D(0), D("0.001"), D("-0.0002")]),
            fee_asset=dice.choice([None, "BTC", "BNB"]),
            trade_id=str(self.done.total()),
            strategy=dice.choice(["", "", "s"]),
        )

    async def _edit(self, trade: Trade) -> None:
        strategy = self._dice.choice([trade.fill.strategy, "s"])
        changes = {"quantity": self._quantity(), "executed_at": self._moment(), "strategy": strategy}
        await edit(self._engine, self._holder, trade, listed=self._listed, **changes)

    async def _remove(self, trade: Trade) -> None:
        await remove(self._engine, self._holder, trade, self._listed)

    async def _retag(self, _: Trade) -> None:
        position = self._dice.choice(await held(self._engine, self._holder))
        async with transaction(self._engine) as connection:
            await UserRepository(connection).advance(self._holder.user_id)
            with suppress(StandingAlready):
                await retag_position(connection, position, self._dice.choice(["t", ""]), ending("retagged", ""))

    async def _stamp(self, _: Trade) -> None:
        moment = self._moment()
        if moment not in self._stamps:
            self._stamps.add(moment)
            await store_stamp(self._engine, moment, rate=str(D(self._dice.randrange(-9, 9)) / 1000))

    def _moment(self) -> datetime:
        return at(self._dice.randrange(40))

    def _quantity(self) -> Decimal:
        return D(self._dice.randrange(1, 30)) / 7


async def test_a_connection_lost_at_any_step_of_a_correction_leaves_all_or_nothing(
    engine: AsyncEngine, alice: Holder
) -> None:
    """Each statement in turn is the last one that reaches the database."""
    for second, (side, quantity) in enumerate([("buy", "1"), ("sell", "3"), ("buy", "4"), ("sell", "1")]):
        await fill(engine, alice, side, quantity, "100", executed_at=at(second * 10))  # type: ignore[arg-type]
    before = await held(engine, alice)
    survived = 0
    for statements in range(1, 60):
        lost = await _cut_off_after(engine, alice, statements)
        if not lost:
            survived = statements
            break
        assert await held(engine, alice) == before
        await check(engine, alice)
    assert survived > 8
    assert len(await held(engine, alice)) != len(before) or await held(engine, alice) != before
    await check(engine, alice)


async def _cut_off_after(engine: AsyncEngine, holder: Holder, statements: int) -> bool:
    """Record a late fill on a connection that breaks at the given statement; whether it broke."""
    made = 0

    def count(connection: Any, *_: Any) -> None:
        nonlocal made
        made += 1
        if made == statements:
            connection.connection.driver_connection.terminate()

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    try:
        await fill(engine, holder, "buy", "1", "90", executed_at=at(5))
    except DatabaseUnavailable:
        return True
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", count)
    return False


async def test_corrections_and_fills_at_once_all_count(engine: AsyncEngine, alice: Holder) -> None:
    first = await fill(engine, alice, "buy", "1", "100", executed_at=at(0))

    await asyncio.gather(
        *(fill(engine, alice, "buy", "1", "100", executed_at=at(number % 7)) for number in range(12)),
        edit(engine, alice, first.trade, quantity=D(5)),
    )

    [position] = await held(engine, alice)
    assert position.state.signed_qty == 17
    await check(engine, alice)


class TestTheTotalAtTheBeginningOfADay:
    """Yesterday's end changes by what the fill changed, where the price of that midnight is known."""

    async def record(self, engine: AsyncEngine, holder: Holder, days_ago: int, total: str) -> None:
        async with transaction(engine) as connection:
            await connection.execute(
                text("INSERT INTO day_opens (user_id, day, total_pnl) VALUES (:user, :day, :total)"),
                {"user": holder.user_id, "day": (TODAY - timedelta(days=days_ago)).date(), "total": D(total)},
            )

    async def mark(self, engine: AsyncEngine, days_ago: int, price: str) -> None:
        async with transaction(engine) as connection:
            await connection.execute(
                text("INSERT INTO day_marks (symbol, day, price) VALUES ('BTCUSDT', :day, :price)"),
                {"day": (TODAY - timedelta(days=days_ago)).date(), "price": D(price)},
            )

    async def bases(self, engine: AsyncEngine, holder: Holder) -> dict[int, Decimal]:
        """Totals by how many days ago."""
        query = text("SELECT day, total_pnl FROM day_opens WHERE user_id = :user ORDER BY day")
        async with transaction(engine) as connection:
            rows = await connection.execute(query, {"user": holder.user_id})
            return {(TODAY.date() - day).days: total for day, total in rows}

    async def test_a_late_fill_changes_the_totals_after_it_by_its_worth(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        for days_ago, price in [(3, "90"), (2, "105"), (1, "120"), (0, "130")]:
            await self.mark(engine, days_ago, price)
            await self.record(engine, alice, days_ago, "1000")

        late = await fill(engine, alice, "buy", "2", "110", executed_at=at(86_400 + 3600), fee=D("0.5"))

        assert await self.bases(engine, alice) == {3: 1000, 2: 1000, 1: D("1019.5"), 0: D("1039.5")}
        assert late.correction is not None
        assert [one.day for one in late.correction.bases] == [(TODAY - timedelta(days=1)).date(), TODAY.date()]

    async def test_without_a_price_of_that_midnight_it_becomes_unknown(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await self.record(engine, alice, 1, "1000")
        await self.record(engine, alice, 0, "1000")
        await self.mark(engine, 0, "120")

        await fill(engine, alice, "buy", "1", "110", executed_at=at(10))

        assert await self.bases(engine, alice) == {0: 1010}

    async def test_what_was_closed_before_midnight_needs_no_price(self, engine: AsyncEngine, alice: Holder) -> None:
        first = await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await fill(engine, alice, "sell", "1", "100", executed_at=at(10))
        await self.record(engine, alice, 0, "5")

        await edit(engine, alice, first.trade, price=D(80))

        assert await self.bases(engine, alice) == {0: 25}

    async def test_a_first_fill_of_yesterday_makes_todays_base(self, engine: AsyncEngine, alice: Holder) -> None:
        await self.mark(engine, 0, "130")

        await fill(engine, alice, "buy", "2", "100", executed_at=TODAY - timedelta(hours=1))

        assert await self.bases(engine, alice) == {0: 60}
        [book] = await BookRepository(engine).load([alice.user_id])
        assert (book.day_base, book.base_day) == (60 * 10**18, TODAY.date())

    async def test_a_fill_of_today_leaves_it_as_it_is(self, engine: AsyncEngine, alice: Holder) -> None:
        await self.record(engine, alice, 0, "5")

        recorded = await fill(engine, alice, "buy", "1", "100")

        assert recorded.correction is None
        assert await self.bases(engine, alice) == {0: 5}

    async def test_an_account_valued_at_another_price_than_was_noted_becomes_unknown(
        self, engine: AsyncEngine, alice: Holder
    ) -> None:
        await fill(engine, alice, "buy", "1", "100", executed_at=at(0))
        await self.record(engine, alice, 0, "5")
        await self.mark(engine, 0, "130")
        async with transaction(engine) as connection:
            await connection.execute(text("UPDATE accounts SET valuation = 'last'"))

        await fill(engine, alice, "buy", "1", "100", executed_at=at(10))

        assert await self.bases(engine, alice) == {}
