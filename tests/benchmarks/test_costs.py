"""What the bench learns about costs, from runs whose costs are known."""

from dataclasses import asdict, replace

import msgspec
import pytest

from app.domain.capacity import Costs, Load, plan
from app.entry.capacity import CostTable, differences, read_costs
from benchmarks.costs import updated
from benchmarks.measure import Result
from benchmarks.profiles import PROFILES, Profile
from benchmarks.report import Report

TRUE = msgspec.structs.replace(
    read_costs().costs,
    web_base_cores=0.03,
    web_us_per_frame=14.0,
    web_us_per_row=1.7,
    frame_bytes=340.0,
    row_bytes=190.0,
    pnl_ms_per_flush=2.5,
    price_base_cores=0.04,
    market_prices_per_flush=50.0,
    redis_base_cores=0.01,
    redis_us_per_kb=3.0,
    load_us_per_position=30.0,
)
RUNS = (PROFILES["1k"], replace(PROFILES["5k"], name="5k@0.5", hz=0.5), replace(PROFILES["10k"], name="10k@2", hz=2.0))


def result_of(profile: Profile, **changes: str) -> Result:
    """What the bench would say of a profile, if the costs were exactly those."""
    share = 0.671  # of the simulator's ticks, those of symbols that users hold
    load = Load(users=profile.users, hz=profile.hz, symbols=profile.symbols, ticks_per_s=round(2500 * share))
    found = plan(load, TRUE, web_workers=profile.web_workers)
    listeners = profile.web_workers + found.pnl_shards
    metrics = {
        "frames_per_s": found.frames_per_s,
        "bytes_per_frame": found.bytes_per_frame,
        "prices_per_flush": found.prices_per_flush,
        "price_bytes_per_flush": found.redis_price_bytes_per_s / 10 / listeners,
        "pnl_bytes_per_flush_and_instance": found.rows_per_flush * TRUE.pnl_row_bytes / profile.web_workers,
        "flushes_per_s": 10.0,
        "ticks_made_per_s": 2500.0,
        "memory_per_connection_bytes": TRUE.connection_bytes,
        "web_memory_before_bytes": TRUE.web_process_bytes * profile.web_workers,
        "redis_memory_bytes": TRUE.redis_bytes_per_user * profile.users,
        "book_load_s": 1.0 + load.all_positions * TRUE.load_us_per_position / 1e6,
    }
    cpu = {
        "web": found.web_cores,
        "pnl-worker": found.pnl_cores,
        "price-worker": found.price_cores,
        "redis": found.redis_cores,
    }
    return Result(asdict(profile), 0.1, metrics, cpu=cpu, **changes)  # type: ignore[arg-type]


def blank(table: CostTable) -> CostTable:
    """A table that knows only what profiles do not tell."""
    kept = {"pnl_us_per_row", "pnl_ns_per_position", "pnl_us_per_message", "price_us_per_tick", "price_us_per_price"}
    kept |= {"web_us_per_price", "redis_us_per_delivery", "socket_bytes", "pnl_process_bytes", "position_bytes"}
    known = {name: getattr(TRUE, name) if name in kept else 1.0 for name in Costs.__struct_fields__}
    return msgspec.structs.replace(table, costs=Costs(**known), recorded=[])


def test_costs_are_found_again_in_three_runs_that_differ() -> None:
    found = updated(blank(read_costs()), Report("here", profiles={run.name: result_of(run) for run in RUNS}))
    for name in Costs.__struct_fields__:
        assert getattr(found.costs, name) == pytest.approx(getattr(TRUE, name), rel=0.06), name
    assert found.machine == "here"
    assert {run.profile for run in found.recorded} == {"1k", "5k@0.5", "10k@2"}
    assert all(said == pytest.approx(measured, rel=0.05) for _, _, said, measured in differences(found))


def test_a_void_run_teaches_nothing() -> None:
    table = read_costs()
    spoilt = {run.name: result_of(run, void="others were busy") for run in RUNS}
    found = updated(table, Report("here", profiles=spoilt))
    assert found.costs == table.costs
    assert found.recorded == table.recorded


def test_parts_alone_change_what_they_tell() -> None:
    table = read_costs()
    parts = {"flush": {"ms of CPU here": 4.0}, "ingest": {"ms a drain of 2,000 symbols": 2.0}}
    found = updated(table, Report("here", parts=parts))
    assert found.costs == msgspec.structs.replace(table.costs, price_us_per_price=3.0)
    assert found.sources["price_us_per_price"] == "parts flush and ingest"
