"""Everything a child writes is kept, within bounds; what matters is shown, within bounds."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.supervision.output import LogFile, ProcessOutput, read_line


@pytest.mark.parametrize(
    ("raw", "level"),
    [
        ('{"event": "x", "level": "warning"}', "warning"),
        ('{"event": "x", "level": "info"}', "info"),
        ("[2026-01-01 00:00:00 +0000] [7] [ERROR] Exception in worker process", "error"),
        ("[2026-01-01 00:00:00 +0000] [7] [INFO] Error while closing socket", "info"),
        ("Error: 'gunicorn.conf.py' doesn't exist", "error"),
        ("Traceback (most recent call last):", "info"),
        ("[not json", "info"),
        ("{not json", "info"),
        ('{"a": [1]}', "info"),
        ("[]", "info"),
    ],
)
def test_a_line_has_the_level_that_its_writer_gave_it(raw: str, level: str) -> None:
    assert read_line(raw).level == level


def test_a_traceback_is_written_below_its_event() -> None:
    record = {"event": "process.failed", "level": "critical", "timestamp": "T", "exception": "Traceback\nValueError"}

    assert read_line(json.dumps(record)).text == "T critical process.failed\nTraceback\nValueError"


def test_a_log_never_takes_more_than_three_files(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "worker.log", limit_bytes=100)
    for number in range(100):
        log.write(f"line {number}")
    log.close()

    assert {path.name for path in tmp_path.iterdir()} == {"worker.log", "worker.log.1", "worker.log.2"}
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert "line 99" in (tmp_path / "worker.log").read_text()


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def output(tmp_path: Path, clock: list[float], shown: list[str]) -> Iterator[ProcessOutput]:
    output = ProcessOutput("web", LogFile(tmp_path / "web.log"), shown.append, now=lambda: clock[0])
    yield output
    output.close()


def test_the_same_trouble_is_shown_once_a_minute(
    output: ProcessOutput, clock: list[float], shown: list[str], tmp_path: Path
) -> None:
    for attempt in range(50):
        output.take(f'{{"event": "bus.away", "level": "warning", "attempt": {attempt}}}')
        output.take(f"ERROR {attempt} again")
    assert len(shown) == 2

    clock[0] = 60.0
    output.take('{"event": "bus.away", "level": "warning", "attempt": 50}')
    assert len(shown) == 3
    assert len((tmp_path / "web.log").read_text().splitlines()) == 101


def test_a_storm_of_different_errors_is_shown_in_part(
    output: ProcessOutput, clock: list[float], shown: list[str], tmp_path: Path
) -> None:
    for number in range(1000):
        output.take(f"ERROR {'x' * number}")
    assert len(shown) == 11
    assert shown[-1] == f"web: more of this in {tmp_path / 'web.log'}"

    clock[0] = 11.0
    output.take("ERROR of another kind")
    assert shown[-1] == "web: ERROR of another kind"


def test_json_lines_stay_json_where_asked_for(tmp_path: Path) -> None:
    shown: list[str] = []
    output = ProcessOutput("web", LogFile(tmp_path / "web.log"), shown.append, as_json=True)
    record = '{"event": "x", "level": "warning"}'

    output.take(record)
    output.close()

    assert shown == [record]
    assert (tmp_path / "web.log").read_text() == f"{record}\n"
