"""What the capacity model may never say, and what it has to."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.capacity import MOST_FLUSH_MS, MOST_LOAD, Costs, Load, changed, plan, popularity

COSTS = Costs(
    web_base_cores=0.02,
    web_us_per_frame=12.0,
    web_us_per_row=1.5,
    web_us_per_price=2.0,
    frame_bytes=330.0,
    row_bytes=200.0,
    web_process_bytes=90e6,
    connection_bytes=45e3,
    socket_bytes=8e3,
    pnl_ms_per_flush=1.5,
    pnl_us_per_row=1.0,
    pnl_ns_per_position=1.6,
    pnl_us_per_message=50.0,
    pnl_row_bytes=30.0,
    pnl_process_bytes=120e6,
    position_bytes=420.0,
    load_us_per_position=40.0,
    price_base_cores=0.05,
    price_us_per_tick=3.0,
    price_us_per_price=2.5,
    price_bytes=90.0,
    market_prices_per_flush=60.0,
    redis_base_cores=0.01,
    redis_us_per_kb=2.0,
    redis_us_per_delivery=5.0,
    redis_bytes_per_user=10e3,
)

loads = st.builds(
    Load,
    users=st.integers(1, 2_000_000),
    hz=st.sampled_from([0.2, 1.0, 2.0, 5.0, 10.0]),
    positions=st.integers(1, 40),
    watched=st.integers(1, 40),
    symbols=st.integers(40, 400),
    ticks_per_s=st.integers(1, 200_000),
)

GROWING = (
    "frames_per_s",
    "client_bytes_per_s",
    "prices_per_flush",
    "rows_per_flush",
    "web_cores",
    "web_workers",
    "web_bytes",
    "pnl_cores",
    "pnl_shards",
    "pnl_bytes",
    "price_cores",
    "redis_output_bytes_per_s",
    "redis_cores",
    "redis_servers",
    "redis_bytes",
)


@settings(max_examples=60, deadline=None)
@given(loads, st.sampled_from(["users", "positions", "watched", "ticks_per_s"]), st.integers(2, 4))
def test_more_of_anything_never_needs_less(load: Load, what: str, times: int) -> None:
    more = msgspec.structs.replace(
        load, **{what: min(getattr(load, what) * times, 40 if what in "positionswatched" else 10**7)}
    )
    if more.flaws():
        return
    try:
        small, large = plan(load, COSTS), plan(more, COSTS)
    except ValueError:
        return
    for figure in GROWING:
        assert getattr(large, figure) >= getattr(small, figure) * (1 - 1e-9), figure


@settings(max_examples=30, deadline=None)
@given(loads)
def test_no_process_is_given_more_than_it_can_do(load: Load) -> None:
    try:
        found = plan(load, COSTS)
    except ValueError:
        return
    assert found.web_cores <= found.web_workers * MOST_LOAD + 1e-9
    assert found.pnl_cores * 1e3 / 10 <= found.pnl_shards * MOST_FLUSH_MS + 1e-6
    assert found.redis_cores <= found.redis_servers * MOST_LOAD + 1e-9


def test_more_updates_a_second_are_smaller_ones_and_more_bytes() -> None:
    slow = plan(Load(users=1000, hz=1.0), COSTS)
    fast = plan(Load(users=1000, hz=10.0), COSTS)
    assert fast.rows_per_frame < slow.rows_per_frame
    assert fast.client_bytes_per_s > slow.client_bytes_per_s
    assert fast.rows_per_flush == slow.rows_per_flush


def test_an_endless_stream_of_ticks_changes_every_row_of_every_frame() -> None:
    found = plan(Load(users=10, hz=10.0, positions=3, watched=4, symbols=50, ticks_per_s=10_000_000), COSTS)
    assert found.rows_per_frame == pytest.approx(7)
    assert found.prices_per_flush == pytest.approx(50 + COSTS.market_prices_per_flush)


def test_who_holds_every_symbol_has_every_change() -> None:
    load = Load(users=1, hz=10.0, positions=20, watched=1, symbols=20, ticks_per_s=100)
    assert plan(load, COSTS).rows_per_flush == pytest.approx(sum(changed(popularity(20), 10)))


def test_holders_who_are_not_connected_cost_memory_and_valuation_but_no_frame() -> None:
    few, many = plan(Load(users=1000), COSTS), plan(Load(users=1000, holders=1_000_000), COSTS)
    assert (few.web_cores, few.rows_per_flush) == (many.web_cores, many.rows_per_flush)
    assert many.pnl_bytes > few.pnl_bytes
    assert many.pnl_cores > few.pnl_cores


def test_web_processes_that_are_given_are_reckoned_with() -> None:
    load = Load(users=1000)
    given_two = plan(load, COSTS, web_workers=2)
    assert given_two.web_workers == 2
    assert given_two.redis_price_bytes_per_s == pytest.approx(10 * given_two.prices_per_flush * 90 * 3)


def test_what_cannot_be_split_is_named() -> None:
    assert plan(Load(users=1000), COSTS).limits == []
    market = plan(Load(users=1000, ticks_per_s=1_000_000), COSTS)
    assert any("price worker" in limit for limit in market.limits)
    crowd = plan(Load(users=20_000_000, hz=1.0), msgspec.structs.replace(COSTS, pnl_us_per_message=0.0))
    assert any("shards" in limit for limit in crowd.limits)
    assert any("sends all prices" in limit for limit in crowd.limits)


def test_more_web_processes_than_a_worker_can_write_to_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing but write"):
        plan(Load(users=100_000_000), COSTS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"users": 0}, "users must be between"),
        ({"users": -5}, "users must be between"),
        ({"hz": 0.0}, "hz must be between"),
        ({"hz": 20.0}, "no more flushes"),
        ({"hz": float("nan")}, "hz must be between"),
        ({"positions": 0}, "positions must be between"),
        ({"positions": 3000, "symbols": 4000}, "positions must be between"),
        ({"watched": 500}, "watched must be between"),
        ({"symbols": 5}, "nobody can hold or watch more than the 5 symbols"),
        ({"ticks_per_s": 10**9}, "ticks_per_s must be between"),
        ({"holders": 5}, "holders cannot be fewer"),
    ],
)
def test_nonsense_is_refused_and_named(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(msgspec.structs.replace(Load(users=1000), **wrong), COSTS)
