"""History on a real PostgreSQL: written once, summed up without loss, forgotten in time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.book_samples import Sample
from app.domain.candles import Candle, Figures, combine, sample
from app.domain.day_pnl import Known
from app.domain.excursions import Excursion
from app.domain.shards import shards_of
from app.repositories.database import transaction
from app.repositories.fills import Holder
from app.repositories.history import HistoryRepository, Resolution
from app.repositories.leases import LeaseRepository
from app.repositories.restating import RestatingRepository
from app.repositories.revised_days import mark_days_revised
from app.repositories.roll_up import RollUpRepository
from app.repositories.samples import NotLeading, SampleRepository

from .conftest import new_user

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FAR = START + timedelta(days=10_000)
ROLE = "pnl:0/1"


@pytest.fixture
async def writer(engine: AsyncEngine) -> SampleRepository:
    return await leading(engine, "first")


async def leading(engine: AsyncEngine, holder: str) -> SampleRepository:
    """The writer of a worker that has just taken the lease."""
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE leases SET expires_at = 'epoch' WHERE role = :role"), {"role": ROLE})
    epoch = await LeaseRepository(engine).acquire(ROLE, holder, 60_000)
    assert epoch is not None
    return SampleRepository(engine, ROLE, epoch)


def of(holder: Holder, figures: Figures) -> Sample:
    return Sample(holder.account_id, holder.user_id, holder.account_id, figures)


def worth(pnl: int, deposits: int = 0, **more: bool) -> Figures:
    return Figures(unrealized_pnl=pnl, net_deposits=deposits, **more)


async def write(writer: SampleRepository, holder: Holder, samples: Sequence[tuple[datetime, Figures]]) -> None:
    for number, (at, figures) in enumerate(samples):
        await writer.write(at, at - MINUTE, [of(holder, figures)], has_new=number == 0)


async def stored(
    engine: AsyncEngine, holder: Holder, resolution: Resolution = "minute", after: datetime = START - HOUR
) -> list[Candle]:
    async with transaction(engine) as connection:
        history = HistoryRepository(connection)
        return await history.candles(holder.account_id, resolution, after=after, until=FAR, limit=10_000)


def roll_up(engine: AsyncEngine, **kept: timedelta) -> RollUpRepository:
    return RollUpRepository(
        engine, minutes_for=kept.get("minutes_for", timedelta(days=2)), hours_for=kept.get("hours_for", timedelta(90))
    )


async def sum_up(engine: AsyncEngine, over: datetime, **kept: timedelta) -> None:
    work = roll_up(engine, **kept)
    await work.sum_up_hours(over, 100)
    await work.sum_up_days(over, 100)


async def live_in(engine: AsyncEngine, holder: Holder, zone: str) -> None:
    async with transaction(engine) as connection:
        values = {"zone": zone, "id": holder.user_id}
        await connection.execute(text("UPDATE users SET time_zone = :zone WHERE id = :id"), values)


async def test_figures_come_back_to_the_last_digit(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    figures = Figures(
        realized_pnl_gross=-123_456_789_012_345_678_901_234_567,
        fees=1,
        funding=-2,
        unrealized_pnl=10**40,
        fx_pnl=None,
        net_deposits=5 * 10**18,
        is_complete=False,
        is_stale=True,
    )

    await writer.write(START, START - MINUTE, [of(alice, figures)], has_new=True)

    assert await stored(engine, alice) == [sample(START, figures)]


async def test_a_minute_is_kept_once_however_often_it_is_written(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    for pnl in (1, 2):
        await writer.write(START, START - MINUTE, [of(alice, worth(pnl))], has_new=True)

    assert await stored(engine, alice) == [sample(START, worth(1))]


async def test_the_newer_of_two_workers_wins_and_the_older_writes_no_more(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    await writer.write(START, START - MINUTE, [of(alice, worth(1))], has_new=True)
    successor = await leading(engine, "second")

    with pytest.raises(NotLeading):
        await writer.write(START + MINUTE, START, [of(alice, worth(1))], has_new=False)
    with pytest.raises(NotLeading):
        await writer.write_marks(START, {"BTCUSDT": Decimal(1)})
    await successor.write(START, START - MINUTE, [of(alice, worth(2))], has_new=True)

    assert await stored(engine, alice) == [sample(START, worth(2))]


async def test_excursions_only_widen(engine: AsyncEngine, writer: SampleRepository) -> None:
    position = "00000000-0000-4000-8000-000000000001"
    for worst, best in ((-5, 10), (-3, 12), (-7, 4)):
        await writer.write_excursions([Excursion(position, worst, best)])

    async with transaction(engine) as connection:
        row = (await connection.execute(text("SELECT worst, best FROM excursions"))).one()
    assert tuple(row) == (Decimal("-7e-18"), Decimal("12e-18"))


async def test_hours_and_days_keep_open_high_low_close_and_the_largest_fall(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    pnls = [0, 10, 4, 8, 2, 6]
    await write(writer, alice, [(START + 20 * MINUTE * n, worth(pnl, 100)) for n, pnl in enumerate(pnls)])

    await sum_up(engine, START + timedelta(days=1))

    hours = await stored(engine, alice, "hour")
    assert [(one.open, one.high, one.low, one.close.pnl, one.fall) for one in hours] == [
        (0, 0, 0, 0, 0),  # A sample on the hour closes the hour before.
        (10, 10, 4, 8, 6),
        (2, 6, 2, 6, 0),
    ]
    day = (await stored(engine, alice, "day"))[-1]
    assert (day.open, day.high, day.low, day.close.pnl, day.fall) == (10, 10, 2, 6, 8)
    assert day.fall_ppt == 8 * 10**12 // 110


steps = st.lists(
    st.tuples(
        st.integers(1, 200),
        st.one_of(st.none(), st.integers(-(10**6), 10**6)),
        st.sampled_from([0, 0, 0, 500, -300]),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps, st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe"]))
async def test_sums_in_the_database_are_those_of_the_plain_form(
    engine: AsyncEngine,
    alice: Holder,
    writer: SampleRepository,
    script: list[tuple[int, int | None, int, bool]],
    name: str,
) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("TRUNCATE equity_minutes, equity_candles, history_scopes"))
    await live_in(engine, alice, name)
    at, deposits, samples = START, 1000, []
    for minutes, pnl, flow, flag in script:
        at, deposits = at + minutes * MINUTE, deposits + flow
        figures = worth(0, deposits, is_complete=flag, is_stale=not flag)
        samples.append((at, msgspec.structs.replace(figures, unrealized_pnl=pnl)))
    await write(writer, alice, samples)

    await sum_up(engine, at + timedelta(days=2))

    zone = ZoneInfo(name)

    def hour_of(moment: datetime) -> str:
        local = (moment - timedelta(microseconds=1)).astimezone(zone)
        return local.strftime("%Y-%m-%d %H %z")

    def day_of(moment: datetime) -> str:
        return (moment - timedelta(microseconds=1)).astimezone(zone).strftime("%Y-%m-%d")

    hours = combine([sample(at, figures) for at, figures in samples], hour_of)
    assert await stored(engine, alice, "hour") == hours
    assert await stored(engine, alice, "day") == combine(hours, day_of)


async def test_an_hour_is_summed_up_when_it_is_over_and_once(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    await write(writer, alice, [(START + 10 * MINUTE, worth(1))])
    work = roll_up(engine)

    assert await work.sum_up_hours(START + 59 * MINUTE, 100) == 0
    assert await work.sum_up_hours(START + HOUR, 100) == 1
    assert await work.sum_up_hours(START + HOUR, 100) == 0
    await write(writer, alice, [(START + HOUR + MINUTE, worth(2))])
    assert await work.sum_up_hours(START + 2 * HOUR, 100) == 1

    assert [one.close.pnl for one in await stored(engine, alice, "hour")] == [1, 2]


async def test_a_round_takes_no_more_scopes_than_it_may(engine: AsyncEngine, writer: SampleRepository) -> None:
    for number in range(5):
        await write(writer, await new_user(engine, f"user{number}"), [(START, worth(1))])
    work = roll_up(engine)

    assert [await work.sum_up_hours(START + HOUR, 2) for _ in range(4)] == [2, 2, 1, 0]


async def test_hours_follow_the_clock_of_the_user(engine: AsyncEngine, alice: Holder, writer: SampleRepository) -> None:
    await live_in(engine, alice, "Asia/Kolkata")
    await write(writer, alice, [(START + 15 * MINUTE * n, worth(n)) for n in range(1, 6)])

    await roll_up(engine).sum_up_hours(START + 3 * HOUR, 100)

    assert [one.at for one in await stored(engine, alice, "hour")] == [START + 30 * MINUTE, START + 75 * MINUTE]


async def test_what_was_summed_up_is_forgotten_in_time_and_a_drawdown_is_not(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    hours = 24 * 5
    await write(writer, alice, [(START + 30 * MINUTE * n, worth(n % 7, 100)) for n in range(1, 2 * hours + 1)])

    now = START + hours * HOUR
    await sum_up(engine, now, minutes_for=timedelta(hours=10), hours_for=timedelta(days=2))

    minutes, by_hour, by_day = [await stored(engine, alice, level) for level in ("minute", "hour", "day")]  # type: ignore[arg-type]
    assert minutes[0].at == now - timedelta(hours=10) + 30 * MINUTE
    assert by_hour[0].at == now - timedelta(days=2) + HOUR
    assert [one.at for one in by_day] == [START + timedelta(days=day) for day in range(1, 6)]
    assert {one.fall for one in by_day} == {6}


async def test_nothing_is_forgotten_that_is_not_summed_up(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    await write(writer, alice, [(START + MINUTE, worth(1)), (START + HOUR + MINUTE, worth(2))])

    await roll_up(engine, minutes_for=timedelta(0)).sum_up_hours(START + HOUR + 30 * MINUTE, 100)

    assert [one.close.pnl for one in await stored(engine, alice)] == [2]


async def test_old_marks_keep_quarters_of_an_hour_and_then_midnights(
    engine: AsyncEngine, writer: SampleRepository
) -> None:
    moments = [
        START,
        START + MINUTE,
        START + 15 * MINUTE,
        START + timedelta(days=1),
        START + timedelta(days=1, minutes=7),
    ]
    for moment in moments:
        await writer.write_marks(moment, {"BTCUSDT": Decimal("1.5")})
    work = roll_up(engine, minutes_for=timedelta(hours=1), hours_for=timedelta(days=1))

    async def left() -> list[datetime]:
        async with transaction(engine) as connection:
            return list(await connection.scalars(text("SELECT at FROM mark_minutes ORDER BY at")))

    assert await work.forget_marks(START + timedelta(hours=2), 100) == 1
    assert await left() == [moments[0], *moments[2:]]
    assert await work.forget_marks(START + timedelta(days=9), 1) == 1
    assert await work.forget_marks(START + timedelta(days=9), 100) == 1
    assert await left() == [moments[0], moments[3]]


async def test_marks_are_those_of_the_newest_minute_before(engine: AsyncEngine, writer: SampleRepository) -> None:
    await writer.write_marks(START, {"BTCUSDT": Decimal("100.000000001"), "ETHUSDT": Decimal(10)})
    await writer.write_marks(START + HOUR, {"BTCUSDT": Decimal(200)})

    async with transaction(engine) as connection:
        history = HistoryRepository(connection)
        times = [await history.mark_time(moment) for moment in (START + 59 * MINUTE, START - MINUTE)]
        found = await history.marks(START, ["BTCUSDT", "DOGEUSDT"])

    assert times == [START, None]
    assert found == {"BTCUSDT": Decimal("100.000000001")}


async def test_figures_at_a_moment_come_from_whichever_level_is_nearest(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    unknown = Figures(unrealized_pnl=None, is_complete=False)
    samples = [(START + HOUR * n, worth(n, 10)) for n in range(1, 73)]
    await write(writer, alice, [*samples, (START + 72 * HOUR + MINUTE, unknown)])
    now = START + 72 * HOUR + 2 * MINUTE
    await sum_up(engine, now, minutes_for=timedelta(hours=3), hours_for=timedelta(days=1))
    moments = [START, START + timedelta(days=1), START + timedelta(days=2.5), START + timedelta(hours=71.5), now]

    async with transaction(engine) as connection:
        found = await HistoryRepository(connection).known_at(alice.account_id, moments)

    assert {moment: one.at for moment, one in found.items()} == {
        moments[1]: START + timedelta(days=1),
        moments[2]: START + timedelta(days=2.5),
        moments[3]: START + timedelta(hours=71),
        moments[4]: START + timedelta(hours=72),
    }
    assert found[moments[1]] == Known(START + timedelta(days=1), worth(24, 10))


async def test_a_correction_of_the_past_counts_from_where_it_begins(
    engine: AsyncEngine, alice: Holder, writer: SampleRepository
) -> None:
    await write(writer, alice, [(START, worth(1)), (START + HOUR, worth(2))])

    async with transaction(engine) as connection:
        done = [
            await mark_days_revised(connection, alice.account_id, START + minutes * MINUTE) for minutes in (7, 9, 90)
        ]
        history = HistoryRepository(connection)
        assert await history.revisions([alice.account_id]) == [(START, 2)]
        from_ = await connection.scalar(text("SELECT restate_from FROM history_scopes"))

    assert (done, from_) == ([True, True, False], START + 7 * MINUTE)


async def test_every_scope_belongs_to_one_shard(engine: AsyncEngine, writer: SampleRepository) -> None:
    holders = [await new_user(engine, f"user{number}") for number in range(6)]
    for holder in holders:
        await write(writer, holder, [(START, worth(1))])
        async with transaction(engine) as connection:
            assert await mark_days_revised(connection, holder.account_id, START - MINUTE)
    shards = shards_of(3)

    found = []
    for shard in shards:
        restating = RestatingRepository(engine, writer, shard)
        while (due := await restating.next_due(0)) is not None:
            found.append(due.user_id)
            assert shard.has(due.user_id)
            await restating.give_up(due)
    kept = {"minutes_for": timedelta(days=1), "hours_for": timedelta(days=9)}
    summed_up = [await RollUpRepository(engine, shard, **kept).sum_up_hours(START + HOUR, 100) for shard in shards]

    assert sorted(found) == sorted(holder.user_id for holder in holders)
    assert summed_up == [sum(shard.has(holder.user_id) for holder in holders) for shard in shards]
