"""``run.py bench``. The bench itself is in the folder ``benchmarks``, which an installed package may lack."""

from collections.abc import Mapping
from pathlib import Path

from app.supervision.problems import StartProblem


def run_bench(
    *,
    parts: str,
    profiles: str,
    changes: Mapping[str, float | None],
    baselines: bool,
    native: bool,
    output: Path | None,
    compare: Path | None,
    markdown: bool = False,
    costs: Path | None = None,
) -> None:
    """Measure. Raises StartProblem."""
    try:
        from benchmarks import bench
        from benchmarks.profiles import chosen
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("benchmarks"):
            raise
        raise StartProblem("the bench is part of the source tree: run it from a checkout") from None
    try:
        selected, wanted = chosen(profiles, **changes), bench.chosen_parts(parts)
    except ValueError as error:
        raise StartProblem(str(error)) from None
    bench.run_bench(
        bench.Options(
            parts=wanted,
            profiles=selected,
            baselines=baselines,
            native=native,
            output=output,
            compare=compare,
            markdown=markdown,
            costs=costs,
        )
    )
