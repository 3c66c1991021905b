"""A run as a table for a README: one column for each profile."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.measure import Result
    from benchmarks.report import Report

Cell = Callable[["Result"], str]

_KINDS: Final = ("raw", "gather", "node")


def markdown(report: "Report") -> str:
    """The table, with the machine above it and what has to be known below."""
    results = report.profiles
    lines = [report.machine, "", _row("", results), "|---" * (len(results) + 1) + "|"]
    lines += [_row(label, {name: cell(result) for name, result in results.items()}) for label, cell in _cells(results)]
    lines += ["", *(f"- {name}: {note}" for name, result in results.items() for note in _remarks(result))]
    lines += [f"- {name}: {reason}" for name, reason in {**report.skipped, **report.failed}.items()]
    return "\n".join(lines).rstrip() + "\n"


def _row(label: str, cells: Mapping[str, object]) -> str:
    texts = (cell if isinstance(cell, str) else name for name, cell in cells.items())
    return f"| {' | '.join((label, *texts))} |"


def _remarks(result: "Result") -> list[str]:
    return ([f"**void**: {result.void}"] if result.void is not None else []) + result.notes


def _cells(results: Mapping[str, "Result"]) -> Iterator[tuple[str, Cell]]:
    """Every row: its label, and how to fill it."""
    yield "users, up to Hz, symbols", lambda r: f"{r.profile['users']:,}, {r.profile['hz']:g}, {r.profile['symbols']:,}"
    yield "ticks/s made, taken in", lambda r: _pair(r, "ticks_made_per_s", "ticks_taken_per_s")
    yield "tick → socket, p50 / p90 / p99 / p99.9 / max ms", lambda r: _quantiles(r.latency_ms.get("price", {}), 0)
    for hop in dict.fromkeys(hop for result in results.values() for hop in result.hops_ms):
        yield f"{hop}, p50 / p99 ms", _hop(hop)
    yield (
        "event loop of a web process, p50 / p99 / max ms",
        lambda r: _quantiles(r.latency_ms.get("loop", {}), 1, "p50", "p99", "max"),
    )
    yield "frames/s", _number("frames_per_s")
    yield "bytes/s; a frame", lambda r: _pair(r, "bytes_per_s", "bytes_per_frame")
    yield (
        "frames/s of the median, of the worst-served user",
        lambda r: _pair(r, "frames_per_user_s_median", "frames_per_user_s_min", "{:.2f}"),
    )
    yield (
        "conflation: ticks a price, flushes a frame",
        lambda r: _pair(r, "ticks_per_price", "flushes_per_frame", "{:.1f}"),
    )
    yield "**µs CPU a frame, web**", lambda r: f"**{r.metrics['us_per_frame_web']:.1f}**"
    for role in ("pnl-worker", "price-worker", "redis", "postgres", "clients"):
        yield f"µs CPU a frame, {role}", _number(f"us_per_frame_{role}", "{:.1f}")
    for kind in _KINDS:
        yield f"µs CPU a frame, {kind} (ours is × of it)", _baseline(kind)
    yield "kB of web memory a connection", lambda r: f"{r.metrics['memory_per_connection_bytes'] / 1000:.1f}"
    yield "s to connect all, until all had snapshots", lambda r: _pair(r, "connect_s", "all_snapshots_s", "{:.1f}")
    yield "Redis commands/s, bytes out/s", lambda r: _pair(r, "redis_commands_per_s", "redis_output_bytes_per_s")
    yield "PostgreSQL transactions/s", _number("postgres_transactions_per_s", "{:.1f}")
    yield "connections lost, unreadable frames", lambda r: _pair(r, "unexpected_closes", "unreadable_frames")
    yield (
        "load average before; other programs, cores",
        lambda r: f"{r.load_average:.1f}; {r.cpu.get('other programs', 0):.2f}",
    )


def _number(metric: str, shape: str = "{:,.0f}") -> Cell:
    return lambda result: shape.format(result.metrics[metric]) if metric in result.metrics else "–"


def _pair(result: "Result", one: str, other: str, shape: str = "{:,.0f}") -> str:
    return f"{_number(one, shape)(result)}; {_number(other, shape)(result)}"


def _quantiles(found: Mapping[str, float], places: int, *names: str) -> str:
    chosen = [found[name] for name in names or found if name in found]
    return " / ".join(f"{value:.{places}f}" for value in chosen) or "–"


def _hop(name: str) -> Cell:
    return lambda result: _quantiles(result.hops_ms.get(name, {}), 1, "p50", "p99")


def _baseline(kind: str) -> Cell:
    def cell(result: "Result") -> str:
        if kind not in result.baselines:
            return "–"
        theirs = result.baselines[kind]["us_per_frame"]
        return f"{theirs:.1f} ({result.metrics['us_per_frame_web'] / max(theirs, 1e-9):.1f})"

    return cell
