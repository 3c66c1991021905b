"""The bench as a command: which parts, which profiles, where the results go."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from app.entry.capacity import COSTS_PATH, read_costs
from app.supervision.problems import StartProblem
from app.supervision.screen import Screen
from benchmarks import book, flush, frames, ingest, stalled, takeover, ticks
from benchmarks.baselines import measure_baselines
from benchmarks.costs import updated
from benchmarks.markdown import markdown
from benchmarks.measure import Result, measure
from benchmarks.profiles import Profile, raise_descriptor_limit
from benchmarks.report import Report, machine, print_comparison, print_parts, print_result

_SMALL_PARTS: Final = {
    "ticks": ticks.figures,
    "ingest": ingest.figures,
    "flush": flush.figures,
    "book": book.figures,
    "frames": frames.figures,
    "takeover": takeover.figures,
    "stalled": stalled.figures,
}


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    parts: Sequence[str]
    profiles: Sequence[Profile]
    baselines: bool
    native: bool
    output: Path | None
    compare: Path | None
    markdown: bool = False
    costs: Path | None = None


def chosen_parts(names: str) -> list[str]:
    """Parts by a comma-separated list of names. Raises ValueError."""
    known = ("system", *_SMALL_PARTS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(f"no part {', '.join(unknown) or 'given'}; there are {', '.join(known)}")
    return wanted


def run_bench(options: Options) -> None:
    """Measure, print, and write what was asked for. Raises StartProblem."""
    earlier = _read(options.compare) if options.compare is not None else None
    raise_descriptor_limit()
    screen = Screen()
    report = Report(machine=machine())
    screen.say(f"  {report.machine}")
    for part in options.parts:
        if part == "system":
            _run_profiles(options, screen, report)
        else:
            with screen.step(part):
                report.parts[part] = _SMALL_PARTS[part]()
            print_parts(part, report.parts[part])
    if earlier is not None:
        print_comparison(earlier, report)
    if options.markdown:
        print(markdown(report))
    if options.costs is not None:
        _write_costs(options.costs, report)
    if options.output is not None:
        options.output.write_text(json.dumps(asdict(report), indent=1) + "\n")
        screen.say(f"  Written to {options.output}")
    if report.failed:
        raise StartProblem(f"{', '.join(report.failed)} failed")


def _write_costs(path: Path, report: Report) -> None:
    """Bring a table of costs up to date; begin with the one that is installed."""
    table = updated(read_costs(path if path.exists() else COSTS_PATH), report)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def _run_profiles(options: Options, screen: Screen, report: Report) -> None:
    for profile in options.profiles:
        screen.say(f"\n  {profile.name}: {profile.users:,} users")
        obstacle = profile.obstacle()
        if obstacle is not None:
            screen.warn(f"  skipped: {obstacle}")
            report.skipped[profile.name] = obstacle
            continue
        try:
            report.profiles[profile.name] = result = _run_profile(profile, options, screen)
        except StartProblem as problem:
            screen.warn(f"  failed: {problem}")
            report.failed[profile.name] = str(problem)
            continue
        print_result(profile.name, result)


def _run_profile(profile: Profile, options: Options, screen: Screen) -> Result:
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-", ignore_cleanup_errors=True) as folder:
        result = asyncio.run(measure(profile, Path(folder), screen, native=options.native))
    if options.baselines:
        with screen.step("Baselines"):
            result.baselines, missing = measure_baselines(
                connections=profile.users,
                frames_per_s=result.metrics["frames_per_s"],
                frame_bytes=int(result.metrics["bytes_per_frame"]),
                native=options.native,
            )
        result.notes += missing
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StartProblem(f"{path} is no result of an earlier run: {error}") from None
    return read
