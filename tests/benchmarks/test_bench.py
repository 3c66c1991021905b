"""The bench as a user runs it, at its smallest."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hops import BUS, FLUSH, INGEST, PNL, SOCKET, TOTAL, WEB

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
async def test_the_smoke_profile_measures_the_whole_system(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "run.py", "bench", "--profile", "smoke", "--seconds", "2", "--no-baselines"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "tick → socket" in done.stdout
    result = json.loads(output.read_text())["profiles"]["smoke"]
    metrics = result["metrics"]
    assert metrics["frames_per_user_s_min"] > 1
    assert metrics["unexpected_closes"] == metrics["unreadable_frames"] == 0
    assert metrics["ticks_taken_per_s"] > 100
    assert result["latency_ms"]["price"]["p50"] > 0
    assert {INGEST, FLUSH, BUS, PNL, WEB, SOCKET, TOTAL} == result["hops_ms"].keys()
    assert result["latency_ms"]["loop"]["p50"] > 0
    assert {"web", "pnl-worker", "price-worker", "simulator", "redis", "postgres", "client 0"} <= result["cpu"].keys()


async def test_a_result_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "run.py", "bench", "--part", "ingest", "--compare", str(tmp_path / "none.json")]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("tidemark: ")
    assert "Traceback" not in done.stderr
