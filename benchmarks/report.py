"""Results as tables for people, and as JSON for the next run to compare with."""

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.histogram import QUANTILES
from benchmarks.measure import Result
from benchmarks.processes import cpu_name

_LATENCIES: Final = {
    "price": "tick → socket, each symbol that ticked",
    "newest": "tick → socket, newest in frame",
    "flush": "flush → socket",
    "shown": "age on screen when replaced",
    "lag": "socket → read by the client",
    "loop": "event loops of the web processes",
    "loop, connecting": "event loops while all connect",
}

_METRICS: Final = {
    "frames_per_s": ("frames/s", "{:,.0f}"),
    "bytes_per_s": ("bytes/s", "{:,.0f}"),
    "bytes_per_frame": ("bytes a frame", "{:,.0f}"),
    "frames_per_user_s_median": ("frames/s of the median user", "{:.2f}"),
    "frames_per_user_s_min": ("frames/s of the worst-served user", "{:.2f}"),
    "flushes_per_frame": ("conflation: flushes a frame stands for", "{:.2f}"),
    "ticks_per_price": ("conflation: ticks a published price stands for", "{:.2f}"),
    "ticks_taken_per_s": ("ticks taken in/s", "{:,.0f}"),
    "ticks_left_out_per_s": ("ticks the simulator could not make/s", "{:,.0f}"),
    "prices_per_flush": ("prices a flush", "{:,.0f}"),
    "flushes_per_s": ("flushes/s", "{:.2f}"),
    "price_bytes_per_flush": ("bytes of a price flush", "{:,.0f}"),
    "pnl_bytes_per_flush_and_instance": ("bytes of a P&L flush to one instance", "{:,.0f}"),
    "us_per_frame_web": ("µs CPU a frame, web", "{:.1f}"),
    "us_per_frame_pnl-worker": ("µs CPU a frame, P&L worker", "{:.2f}"),
    "us_per_frame_price-worker": ("µs CPU a frame, price worker", "{:.2f}"),
    "us_per_frame_redis": ("µs CPU a frame, Redis", "{:.2f}"),
    "us_per_frame_postgres": ("µs CPU a frame, PostgreSQL", "{:.2f}"),
    "us_per_frame_clients": ("µs CPU a frame, load clients", "{:.1f}"),
    "memory_per_connection_bytes": ("bytes of web memory a connection", "{:,.0f}"),
    "connect_s": ("s to connect everybody", "{:.1f}"),
    "handshakes_refused": ("handshakes refused and tried again", "{:,.0f}"),
    "all_snapshots_s": ("s until everybody had snapshots", "{:.1f}"),
    "web_ms_per_connection": ("ms of web CPU a connection until then, frames of others included", "{:.2f}"),
    "book_load_s": ("s to start the P&L worker and load the book", "{:.1f}"),
    "redis_commands_per_s": ("Redis commands/s", "{:,.0f}"),
    "redis_output_bytes_per_s": ("Redis bytes out/s", "{:,.0f}"),
    "postgres_transactions_per_s": ("PostgreSQL transactions/s", "{:.2f}"),
    "unexpected_closes": ("connections lost", "{:.0f}"),
    "unreadable_frames": ("unreadable frames", "{:.0f}"),
}


_WIDTH: Final = 110


@dataclass
class Report:
    """A whole run."""

    machine: str
    profiles: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)


def machine() -> str:
    """Where and with what this runs, in one line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "redis", "numpy", "msgspec"))
    return (
        f"{os.cpu_count()} cores of {cpu_name()}, {memory_gb:.0f} GB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {packages}, {time.strftime('%Y-%m-%d')}"
    )


def print_result(name: str, result: Result) -> None:
    """One profile."""
    console = _console()
    if result.void is not None:
        console.print(f"  VOID: {result.void}", style="bold red")
    for note in result.notes:
        console.print(f"  note: {note}", style="yellow")
    console.print(_latency_table(name, result))
    console.print(_cost_table(result))
    console.print(_cpu_table(result))
    if result.baselines:
        console.print(_baseline_table(result))
    if result.closed:
        console.print(f"  close codes: {result.closed}", style="yellow")


def _console() -> Console:
    """Wide enough for the tables also where there is no terminal to ask."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def print_parts(name: str, figures: Mapping[str, float]) -> None:
    """One of the small benches."""
    table = Table(title=name, title_justify="left")
    table.add_column("figure")
    table.add_column("", justify="right")
    for label, value in figures.items():
        table.add_row(label, f"{value:,.3f}" if value < 1000 else f"{value:,.0f}")
    _console().print(table)


def print_comparison(earlier: Mapping[str, Any], report: Report) -> None:
    """What changed since an earlier run, by figure."""
    table = Table(title=f"Against: {earlier.get('machine', 'an unknown machine')}", title_justify="left")
    for heading in ("figure", "then", "now", "now/then"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    then, now = dict(_flat(earlier)), dict(_flat(asdict(report)))
    for label in now:
        if label in then:
            ratio = f"{now[label] / then[label]:.2f}" if then[label] else "–"
            table.add_row(label, f"{then[label]:,.2f}", f"{now[label]:,.2f}", ratio)
    _console().print(table)


def _flat(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every figure worth comparing, by a name that says what it is."""
    for name, result in report.get("profiles", {}).items():
        for label, value in _flat_profile(result):
            yield f"{name}: {label}", value
    for name, figures in report.get("parts", {}).items():
        for label, value in figures.items():
            yield f"{name}: {label}", value


def _flat_profile(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for metric, (label, _) in _METRICS.items():
        if metric in result["metrics"]:
            yield label, result["metrics"][metric]
    for key, label in _LATENCIES.items():
        found = result["latency_ms"].get(key, {})
        yield from ((f"{label}, ms {quantile}", found[quantile]) for quantile in ("p50", "p99") if quantile in found)


def _latency_table(name: str, result: Result) -> Table:
    profile = result.profile
    title = (
        f"{name}: {profile['users']:,} users at up to {profile['hz']:g} Hz, {profile['watched']} symbols and "
        f"{profile['positions']} positions each, {profile['ticks_per_s']:,} ticks/s, "
        f"load average before: {result.load_average:.1f}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("ms")
    for quantile in QUANTILES:
        table.add_column(quantile, justify="right")
    for key, label in _LATENCIES.items():
        _add_quantiles(table, label, result.latency_ms.get(key, {}))
    table.add_section()
    for label, found in result.hops_ms.items():
        _add_quantiles(table, label, found)
    return table


def _add_quantiles(table: Table, label: str, found: Mapping[str, float]) -> None:
    table.add_row(label, *(f"{found[quantile]:.1f}" if quantile in found else "–" for quantile in QUANTILES))


def _cost_table(result: Result) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for metric, (label, shape) in _METRICS.items():
        if metric in result.metrics:
            table.add_row(label, shape.format(result.metrics[metric]))
    return table


def _cpu_table(result: Result) -> Table:
    table = Table()
    table.add_column("process")
    table.add_column("CPU, % of a core", justify="right")
    table.add_column("waiting for a core, %", justify="right")
    for role, share in sorted(result.cpu.items(), key=lambda item: -item[1]):
        waited = f"{result.waited[role]:.1%}" if role in result.waited else "–"
        table.add_row(role, f"{share:.1%}", waited)
    return table


def _baseline_table(result: Result) -> Table:
    table = Table(title="The same frames from others (one process each)", title_justify="left")
    for heading in ("sender", "connections", "frames/s", "µs CPU a frame", "× raw", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "sender" else "right")
    raw = max(result.baselines.get("raw", {}).get("us_per_frame", 0.0), 1e-9)
    ours = {
        "connections": result.profile["users"],
        "frames_per_s": result.metrics["frames_per_s"],
        "us_per_frame": result.metrics["us_per_frame_web"],
        "p50_ms": result.latency_ms["flush"].get("p50", 0),
        "p99_ms": result.latency_ms["flush"].get("p99", 0),
    }
    for name, figures in {**result.baselines, "Tidemark's web workers (from the flush)": ours}.items():
        table.add_row(
            name,
            f"{figures['connections']:,.0f}",
            f"{figures['frames_per_s']:,.0f}",
            f"{figures['us_per_frame']:.1f}",
            f"{figures['us_per_frame'] / raw:.2f}",
            f"{figures['p50_ms']:.0f}",
            f"{figures['p99_ms']:.0f}",
        )
    return table
