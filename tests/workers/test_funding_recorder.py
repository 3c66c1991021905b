"""Settled funding is kept once, without a hole, for whatever was held, and however long nobody looked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.funding import FundingRate
from app.domain.instruments import Instrument
from app.exchanges.binance.rest import RestUnavailable
from app.repositories.database import create_engine, transaction
from app.repositories.fills import Holder
from app.repositories.funding import FundingRepository
from app.repositories.tables import positions
from app.workers.funding_recorder import FundingRecorder
from tests.exchanges.waiting import running
from tests.repositories.conftest import fill, new_user

SYMBOL = "BTCUSDT_PERP"
NOW = datetime(2026, 10, 1, 12, 0, 30, tzinfo=UTC)
HOURS = timedelta(hours=8)
PERPETUAL = Instrument(
    symbol=SYMBOL,
    market="linear",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=Decimal("0.1"),
    step_size=Decimal("0.001"),
    venue_symbol="BTCUSDT",
)


class Exchange:
    """Settles every eight hours, and answers by pages."""

    def __init__(self) -> None:
        self.now = NOW
        self.page = 1000
        self.is_away = False
        self.unknown_after: datetime | None = None
        self.questions: list[tuple[datetime, datetime]] = []

    async def settled(self, instrument: Instrument, since: datetime, until: datetime) -> tuple[list[FundingRate], bool]:
        assert instrument == PERPETUAL
        if self.is_away:
            raise RestUnavailable("away")
        self.questions.append((since, until))
        at = datetime(2026, 1, 1, tzinfo=UTC) + HOURS * -(-(since - datetime(2026, 1, 1, tzinfo=UTC)) // HOURS)
        stamps = []
        while at <= min(until, self.now, self.unknown_after or until):
            stamps.append(FundingRate(SYMBOL, at, Decimal("0.0001"), Decimal(50_000)))
            at += HOURS
        return stamps[: self.page], len(stamps) <= self.page


class Recording:
    """A recorder with an exchange that obeys and a real database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.exchange = Exchange()
        self.repository = FundingRepository(engine)
        self.rounds = 0
        self.next_funding: datetime | None = None
        self.recorder = self.restarted()

    def restarted(self) -> FundingRecorder:
        self.recorder = FundingRecorder(
            {"linear": self.exchange},
            self,
            instrument={SYMBOL: PERPETUAL}.get,
            next_funding_ms=lambda _: (
                None if self.next_funding is None else round(self.next_funding.timestamp() * 1000)
            ),
            now_ms=lambda: round(self.exchange.now.timestamp() * 1000),
            every_s=0.01,
        )
        return self.recorder

    async def needs(self, horizon: datetime) -> list[object]:
        self.rounds += 1
        return await self.repository.needs(horizon)  # type: ignore[return-value]

    async def store(self, stamps: list[FundingRate]) -> int:
        return await self.repository.store(stamps)

    async def record(self, rounds: int = 2) -> None:
        """Let it look a few times."""
        async with running(self.recorder.run()), asyncio.timeout(10):
            target = self.rounds + rounds
            while self.rounds < target:
                await asyncio.sleep(0.005)

    async def stored(self) -> list[datetime]:
        stamps = await self.repository.between(SYMBOL, datetime(2020, 1, 1, tzinfo=UTC), self.exchange.now)
        return [stamp.at for stamp in stamps]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_url, pool_size=3, timeout_s=5)
    yield made
    await made.dispose()


@pytest.fixture
async def holder(engine: AsyncEngine) -> Holder:
    return await new_user(engine, "alice")


@pytest.fixture
def recording(engine: AsyncEngine) -> Recording:
    return Recording(engine)


async def hold(engine: AsyncEngine, holder: Holder, since: datetime, closed: datetime | None = None) -> None:
    await fill(engine, holder, "buy", "1", "50000", listed=PERPETUAL)
    if closed is not None:
        await fill(engine, holder, "sell", "1", "50000", listed=PERPETUAL)
    async with transaction(engine) as connection:
        await connection.execute(update(positions).values(opened_at=since, closed_at=closed))


def stamps(first: str, last: str) -> list[datetime]:
    at, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (first, last))
    found = []
    while at <= end:
        found.append(at)
        at += HOURS
    return found


async def test_nothing_is_asked_for_what_nobody_holds(recording: Recording) -> None:
    await recording.record()

    assert (recording.exchange.questions, await recording.stored()) == ([], [])


async def test_every_stamp_since_the_position_was_opened_is_there(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1))
    await recording.record()

    assert await recording.stored() == stamps("2026-09-30T16:00", "2026-10-01T08:00")
    assert len(recording.exchange.questions) == 1


async def test_a_restart_goes_on_where_the_stored_stamps_end_and_repeats_none(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1))
    await recording.record()
    recording.exchange.now += timedelta(days=7)
    recording.restarted()
    await recording.record()

    assert await recording.stored() == stamps("2026-09-30T16:00", "2026-10-08T08:00")
    since, _ = recording.exchange.questions[-1]
    assert since > datetime(2026, 10, 1, 8, tzinfo=UTC)
    assert await recording.repository.store([FundingRate(SYMBOL, since, Decimal("0.5"), Decimal(1))]) == 1
    assert await recording.repository.store([FundingRate(SYMBOL, since, Decimal("0.9"), Decimal(2))]) == 0


async def test_a_stamp_is_asked_for_when_its_time_has_come_and_until_it_is_there(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1))
    due = recording.next_funding = datetime(2026, 10, 1, 16, tzinfo=UTC)
    recording.exchange.unknown_after = due - timedelta(seconds=1)
    recording.exchange.now = due - timedelta(minutes=10)
    await recording.record()
    asked = len(recording.exchange.questions)
    await recording.record()
    assert len(recording.exchange.questions) == asked

    recording.exchange.now, recording.next_funding = due + timedelta(seconds=3), due + HOURS
    await recording.record(3)
    assert len(recording.exchange.questions) > asked + 1
    recording.exchange.unknown_after = None
    await recording.record()
    assert (await recording.stored())[-1] == due
    asked = len(recording.exchange.questions)
    await recording.record()
    assert len(recording.exchange.questions) == asked


async def test_a_long_absence_is_caught_up_page_by_page(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    recording.exchange.page = 7
    await hold(engine, holder, NOW - timedelta(days=10))
    await recording.record(8)

    assert await recording.stored() == stamps("2026-09-21T16:00", "2026-10-01T08:00")


async def test_a_position_entered_with_an_older_date_extends_what_is_there_without_a_hole(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1))
    await recording.record()
    async with transaction(engine) as connection:
        await connection.execute(update(positions).values(opened_at=NOW - timedelta(days=9)))
    await recording.record(3)
    so_far = await recording.stored()
    assert so_far == stamps(so_far[0].isoformat()[:16], "2026-10-01T08:00")
    await recording.record(6)

    assert await recording.stored() == stamps("2026-09-22T16:00", "2026-10-01T08:00")


async def test_a_position_closed_before_anybody_looked_still_gets_its_stamps(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1), closed=NOW - timedelta(minutes=1))
    await recording.record()

    assert await recording.stored() == stamps("2026-09-30T16:00", "2026-10-01T08:00")


async def test_an_exchange_that_is_away_is_asked_again(
    engine: AsyncEngine, holder: Holder, recording: Recording
) -> None:
    await hold(engine, holder, NOW - timedelta(days=1))
    recording.exchange.is_away = True
    await recording.record()
    recording.exchange.is_away = False
    await recording.record()

    assert len(await recording.stored()) == 3


@pytest.mark.parametrize(("rate", "mark"), [("NaN", "1"), ("0.1", "0"), ("0.1", "NaN"), ("Infinity", "1")])
async def test_the_table_refuses_what_is_no_funding(engine: AsyncEngine, rate: str, mark: str) -> None:
    statement = f"INSERT INTO funding_rates (symbol, at, rate, mark) VALUES ('A', now(), '{rate}', '{mark}')"
    with pytest.raises(Exception, match="ck_funding_rates"):
        async with transaction(engine) as connection:
            await connection.execute(text(statement))
