"""``run.py capacity`` and its table of costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.capacity import Costs
from app.entry.capacity import differences, read_costs
from app.supervision.problems import StartProblem

ROOT = Path(__file__).resolve().parents[2]

MARGIN = 1.5
"""The model and each measured run differ by no more than this factor: stated in docs/capacity.md."""


def run_capacity(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "run.py", "capacity", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_model_stays_within_its_margin_of_every_recorded_run() -> None:
    table = read_costs()
    found = list(differences(table))
    assert len({profile for profile, *_ in found}) >= 3
    for profile, figure, said, measured in found:
        assert measured / MARGIN <= said <= measured * MARGIN, f"{profile}: {figure} {said:.4g} against {measured:.4g}"


def test_every_cost_says_where_it_comes_from() -> None:
    table = read_costs()
    assert set(Costs.__struct_fields__) == set(table.sources)
    assert "Xeon" in table.machine or table.machine


def test_it_says_what_a_load_needs() -> None:
    done = run_capacity("--users", "25000", "--hz", "1", "--check")
    assert done.returncode == 0, done.stderr
    for part in ("web", "P&L workers", "price worker", "Redis", "PostgreSQL", "model/measured"):
        assert part in done.stdout


def test_it_says_so_to_programs_too() -> None:
    done = run_capacity("--users", "1000000", "--hz", "1", "--json")
    found = json.loads(done.stdout)
    assert found["web_workers"] > 10
    assert found["pnl_shards"] > 1
    assert isinstance(found["limits"], list)


@pytest.mark.parametrize(
    "options", [("--users", "0"), ("--users", "10", "--hz", "0"), ("--users", "10", "--symbols", "3")]
)
def test_nonsense_is_one_line_on_stderr(options: tuple[str, ...]) -> None:
    done = run_capacity(*options)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("tidemark: ")
    assert "Traceback" not in done.stderr


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text('{"machine": "x"}')
    with pytest.raises(StartProblem, match=r"costs\.json"):
        read_costs(tmp_path / "costs.json")
