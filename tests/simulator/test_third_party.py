"""An unmodified client of other people's making works against the simulator."""

import asyncio
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_LOCK = _HERE / "third_party.lock"
_ENVIRONMENTS = _HERE.parents[1] / ".venv-thirdparty"
_INSTALL_WITHIN_S = 150
_RUN_WITHIN_S = 45


async def _run(*command: str | Path, within_s: float) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(within_s):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        output, _ = await process.communicate()
    return process.returncode, output.decode(errors="replace")


async def _environment() -> Path:
    """The interpreter of an environment that holds the client; made once per lock file and Python version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]
    directory = _ENVIRONMENTS / f"python{version}-{digest}"
    python, complete = directory / "bin" / "python", directory / "complete"
    if complete.exists():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    code, output = await _run(sys.executable, "-m", "venv", directory, within_s=60)
    assert code == 0, output
    options = ("--quiet", "--no-deps", "--disable-pip-version-check", "--require-hashes", "-r", _LOCK)
    code, output = await _run(python, "-m", "pip", "install", *options, within_s=_INSTALL_WITHIN_S)
    assert "DO NOT MATCH THE HASHES" not in output, output
    if code != 0:
        pytest.skip(f"python-binance cannot be installed here: {output.strip().splitlines()[-1:]}")
    complete.touch()
    return python


@pytest.mark.timeout(300)
async def test_an_unmodified_python_binance_reads_rest_and_streams_and_comes_back_after_a_close(start) -> None:
    python = await _environment()
    simulator = await start(ticks_per_s=1000)
    code, output = await _run(
        python, _HERE / "third_party_client.py", simulator.rest_url, simulator.ws_url, within_s=_RUN_WITHIN_S
    )
    assert code == 0, output
    summary = json.loads(output.splitlines()[-1])
    assert summary["symbols"] == summary["prices"] == len(simulator.exchange.markets)
    assert summary["klines"] == 5
    assert float(summary["quote"]["bidPrice"]) < float(summary["quote"]["askPrice"])
    assert all(count >= 10 for count in summary["received"].values())
    assert summary["errors"], "the client noticed the close"
    state = simulator.control.state()
    assert state["opened"] == 2
    assert state["closed_for_limits"] == 0
    sys.stdout.write(output)
