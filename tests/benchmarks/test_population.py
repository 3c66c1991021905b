"""The users the bench makes must be users like any other."""

from decimal import Decimal

from redis.asyncio import Redis

from app.bus.sessions import SessionStore
from app.domain.instruments import Instrument
from app.repositories.books import BookRepository
from app.repositories.database import create_engine
from benchmarks.population import Population, Quoted


def quoted(count: int) -> list[Quoted]:
    return [
        Quoted(
            Instrument(
                symbol=f"S{n}USDT",
                market="spot",
                base=f"S{n}",
                quote="USDT",
                settle="USDT",
                tick_size=Decimal("0.01"),
                step_size=Decimal("0.001"),
            ),
            Decimal(n + 1) * Decimal("1.37"),
        )
        for n in range(count)
    ]


async def test_the_p_and_l_worker_can_load_everybody(database_url: str) -> None:
    await Population(30, 5, 3, quoted(20), seed=1).write(database_url)
    engine = create_engine(database_url, pool_size=1, timeout_s=10)
    try:
        books = [book async for batch in BookRepository(engine).stream() for book in batch]
    finally:
        await engine.dispose()
    assert len(books) == 30
    for book in books:
        assert len({position.symbol for position in book.positions}) == 5
        for position in book.positions:
            state = position.state
            assert state.cash == -state.cost
            assert state.fees > 0
            assert abs(state.cost) < 10_000


async def test_everybody_can_log_in_and_watches_different_symbols(redis: Redis) -> None:
    sessions = SessionStore(redis, timeout_s=5, idle_s=60, absolute_s=60)
    members = await Population(90, 5, 7, quoted(20), seed=1).log_in(sessions)
    assert len(members) == 90
    for member in members:
        session = await sessions.resolve(member.token)
        assert session is not None
        assert session.user_id == member.user_id
        assert len(set(member.symbols)) == 7
    assert len({frozenset(member.symbols) for member in members}) > 80


async def test_the_same_seed_makes_the_same_users(redis: Redis) -> None:
    sessions = SessionStore(redis, timeout_s=5, idle_s=60, absolute_s=60)
    first = await Population(5, 2, 2, quoted(9), seed=4).log_in(sessions)
    second = await Population(5, 2, 2, quoted(9), seed=4).log_in(sessions)
    assert [member.user_id for member in first] == [member.user_id for member in second]
