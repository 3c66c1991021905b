"""What a run says of costs, for the model in app/domain/capacity.py.

Profiles give sums: so much CPU for so many frames of so many rows. Three unknowns
need three profiles that differ, in users and in rates; the fit minimises relative
errors and lets nothing be negative. What a run does not tell stays as it was.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy.optimize import nnls

from app.domain.capacity import FLUSHES_PER_S, Costs, Load, Plan, plan
from app.entry.capacity import CostTable, Recorded
from app.simulator.listing import build_assets, build_listings
from benchmarks.book import FULL
from benchmarks.ticks import PACE, SYMBOLS

if TYPE_CHECKING:
    from benchmarks.measure import Result
    from benchmarks.report import Report

_SEED: Final = 1
_LEAST_PROFILES: Final = 3
_MOVED: Final = (f"{FULL.symbols:,}", "30")


def updated(table: CostTable, report: "Report") -> CostTable:
    """The table with all that a run tells in place of what was there."""
    found = {name: _recorded(name, result) for name, result in report.profiles.items() if result.void is None}
    results = {name: report.profiles[name] for name in found}
    changes: dict[str, tuple[float, str]] = {}
    changes |= _from_parts(report.parts, table.costs)
    changes |= _from_largest(results)
    costs = msgspec.structs.replace(table.costs, **{name: value for name, (value, _) in changes.items()})
    based = _from_bases(found, costs)
    costs = msgspec.structs.replace(costs, **{name: value for name, (value, _) in based.items()})
    fitted = _fitted(found, results, costs)
    costs = msgspec.structs.replace(costs, **{name: value for name, (value, _) in fitted.items()})
    said = {name: source for name, (_, source) in {**changes, **based, **fitted}.items()}
    # Runs of other costs would be held against these.
    recorded = found if len(found) >= _LEAST_PROFILES else {run.profile: run for run in table.recorded} | found
    return CostTable(report.machine, costs, {**table.sources, **said}, list(recorded.values()))


def _recorded(name: str, result: "Result") -> Recorded:
    """The load as it was, and what it used; the bench's own listening left out."""
    profile, metrics = result.profile, result.metrics
    load = Load(
        users=profile["users"],
        # What users got, which may be less than they might have.
        hz=min(FLUSHES_PER_S, metrics["frames_per_s"] / profile["users"]),
        positions=profile["positions"],
        watched=profile["watched"],
        symbols=profile["symbols"],
        ticks_per_s=round(metrics["ticks_made_per_s"] * _share_followed(profile["symbols"])),
    )
    flushes, workers = metrics["flushes_per_s"], profile["web_workers"]
    output = flushes * (
        (workers + 1) * metrics["price_bytes_per_flush"] + workers * metrics["pnl_bytes_per_flush_and_instance"]
    )
    measured = {
        "bytes_per_frame": metrics["bytes_per_frame"],
        "prices_per_flush": metrics["prices_per_flush"],
        "web_cores": result.cpu["web"],
        "pnl_cores": result.cpu["pnl-worker"],
        "price_cores": result.cpu["price-worker"],
        "redis_cores": result.cpu["redis"],
        "redis_output_bytes_per_s": output,
    }
    return Recorded(name, load, workers, {figure: float(f"{value:.4g}") for figure, value in measured.items()})


def _share_followed(symbols: int) -> float:
    """Which part of the simulator's ticks is of symbols settled in USDT: nobody holds or watches the others."""
    listings = build_listings(build_assets(_SEED, max(0, symbols - 200)), _SEED).values()
    trading = [each for each in listings if each.status == "TRADING"]
    return sum(each.activity for each in trading if each.quote == "USDT") / sum(each.activity for each in trading)


def _from_bases(runs: Mapping[str, Recorded], costs: Costs) -> dict[str, tuple[float, str]]:
    """What is there beside all that the model counts, on average."""
    if not runs:
        return {}
    none = msgspec.structs.replace(costs, price_base_cores=0.0, market_prices_per_flush=0.0, pnl_ms_per_flush=0.0)
    plans = {name: plan(run.load, none, web_workers=run.web_workers) for name, run in runs.items()}
    prices = [run.measured["prices_per_flush"] - plans[name].prices_per_flush for name, run in runs.items()]
    prices_cost = FLUSHES_PER_S * costs.price_us_per_price / 1e6
    cores = [
        run.measured["price_cores"] - plans[name].price_cores - extra * prices_cost
        for (name, run), extra in zip(runs.items(), prices, strict=True)
    ]
    flush_ms = [(run.measured["pnl_cores"] - plans[name].pnl_cores) * 1e3 / FLUSHES_PER_S for name, run in runs.items()]
    source = f"the rest, over the profiles {', '.join(runs)}"
    return {
        "market_prices_per_flush": (_rounded(max(0.0, float(np.mean(prices)))), source),
        "price_base_cores": (_rounded(max(0.0, float(np.mean(cores)))), source),
        "pnl_ms_per_flush": (_rounded(max(0.0, float(np.mean(flush_ms)))), source),
    }


def _fitted(
    runs: Mapping[str, Recorded], results: Mapping[str, "Result"], costs: Costs
) -> dict[str, tuple[float, str]]:
    """Costs that only several profiles together tell."""
    if len(runs) < _LEAST_PROFILES:
        return {}
    source = f"fit over the profiles {', '.join(runs)}"
    plans = {name: plan(run.load, costs, web_workers=run.web_workers) for name, run in runs.items()}
    ours = [(runs[name], plans[name]) for name in runs]
    frame_bytes, row_bytes = _solved(
        [(1.0, found.rows_per_frame) for _, found in ours], [run.measured["bytes_per_frame"] for run, _ in ours]
    )
    web_base, web_frame, web_row = _solved(
        [
            (run.web_workers, found.frames_per_s / 1e6, found.frames_per_s * found.rows_per_frame / 1e6)
            for run, found in ours
        ],
        [run.measured["web_cores"] - _hearing(run, found, costs) for run, found in ours],
    )
    quiet = msgspec.structs.replace(costs, redis_base_cores=0.0, redis_us_per_kb=0.0)
    redis_base, redis_kb = _solved(
        [(1.0, run.measured["redis_output_bytes_per_s"] / 1e9) for run, _ in ours],
        [
            run.measured["redis_cores"] - plan(run.load, quiet, web_workers=run.web_workers).redis_cores
            for run, _ in ours
        ],
    )
    found = {
        "redis_base_cores": redis_base,
        "redis_us_per_kb": redis_kb,
        "frame_bytes": frame_bytes,
        "row_bytes": row_bytes,
        "web_base_cores": web_base,
        "web_us_per_frame": web_frame,
        "web_us_per_row": web_row,
        **_slope_of_load(results),
    }
    return {name: (_rounded(value), source) for name, value in found.items()}


def _hearing(run: Recorded, found: Plan, costs: Costs) -> float:
    """Cores that the web processes need for prices."""
    return run.web_workers * FLUSHES_PER_S * found.prices_per_flush * costs.web_us_per_price / 1e6


def _slope_of_load(results: Mapping[str, "Result"]) -> dict[str, float]:
    """What a position costs at the start of a P&L worker, between the smallest and the largest profile."""
    sizes = sorted(
        (result.profile["users"] * result.profile["positions"], result.metrics["book_load_s"])
        for result in results.values()
    )
    (few, short_s), (many, long_s) = sizes[0], sizes[-1]
    return {"load_us_per_position": (long_s - short_s) / (many - few) * 1e6} if many > few and long_s > short_s else {}


def _solved(rows: Sequence[Sequence[float]], sums: Sequence[float]) -> list[float]:
    """The unknowns, none below zero, that come closest to the sums in proportion."""
    weights = 1 / np.maximum(np.array(sums), 1e-9)
    found, _ = nnls(np.array(rows) * weights[:, None], np.array(sums) * weights)
    return [float(each) for each in found]


def _from_largest(results: Mapping[str, "Result"]) -> dict[str, tuple[float, str]]:
    """Costs that one profile tells, the better the larger it is."""
    if not results:
        return {}
    name, result = max(results.items(), key=lambda item: item[1].profile["users"])
    metrics, workers = result.metrics, result.profile["web_workers"]
    users = result.profile["users"]
    rows = plan(_recorded(name, result).load, _NOTHING).rows_per_flush
    found = {
        "web_process_bytes": metrics["web_memory_before_bytes"] / workers,
        "connection_bytes": metrics["memory_per_connection_bytes"],
        "pnl_row_bytes": metrics["pnl_bytes_per_flush_and_instance"] * workers / rows,
        "price_bytes": metrics["price_bytes_per_flush"] / max(metrics["prices_per_flush"], 1),
        "redis_bytes_per_user": metrics["redis_memory_bytes"] / users,
    }
    return {figure: (_rounded(value), f"profile {name}") for figure, value in found.items()}


def _from_parts(parts: Mapping[str, Mapping[str, float]], costs: Costs) -> dict[str, tuple[float, str]]:
    """Costs that the small benches tell."""
    found: dict[str, tuple[float, str]] = {}
    if "book" in parts:
        book = parts["book"]
        found["pnl_ns_per_position"] = (book["revalue everybody, ms p50"] / FULL.positions * 1e6, "part book")
        # With all symbols moved every row changes, with a few next to none.
        rows = FULL.watched * FULL.positions // FULL.users
        all_ms, few_ms = (book[f"flush to {FULL.watched:,} watched, {moved} symbols moved, ms p50"] for moved in _MOVED)
        found["pnl_us_per_row"] = ((all_ms - few_ms) / rows * 1e3, "part book")
        found["position_bytes"] = (book["memory of the book, MB"] * 1e6 / FULL.positions, "part book")
    if "flush" in parts and "ingest" in parts:
        ms = parts["flush"]["ms of CPU here"] + parts["ingest"]["ms a drain of 2,000 symbols"]
        found["price_us_per_price"] = (ms / SYMBOLS * 1e3, "parts flush and ingest")
    if "ticks" in parts:
        per_price = found.get("price_us_per_price", (costs.price_us_per_price, ""))[0]
        flushing = FLUSHES_PER_S * SYMBOLS * per_price / 1e6
        cores = parts["ticks"]["paced: CPU of the price worker, cores"]
        taken = parts["ticks"]["paced: ticks taken in/s"]
        found["price_us_per_tick"] = ((cores - flushing) / taken * 1e6, f"part ticks, at {PACE:,} ticks/s")
    if "frames" in parts:
        frames = parts["frames"]
        found["web_us_per_price"] = (frames["ms a commit"] / frames["prices a commit"] * 1e3, "part frames")
    return {name: (_rounded(value), source) for name, (value, source) in found.items()}


def _rounded(value: float) -> float:
    """Three digits: there are no more in a measurement."""
    return float(f"{value:.3g}")


_NOTHING: Final = Costs(**dict.fromkeys(Costs.__struct_fields__, 0.0))
