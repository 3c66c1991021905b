"""Logs are one line per event, hold no secrets, and cannot be flooded by one event."""

import json
import logging
import subprocess
import sys
from pathlib import Path

from app.entry.logging import RepeatLimiter, redact

SCRIPT = """
import logging
import structlog
from app.entry.logging import configure_logging
configure_logging(level="info", log_format={format!r}, process="worker")
structlog.get_logger("ours").info("bus.away", reason="two\\nlines", password="hidden")
logging.getLogger("theirs").warning("lost %d of %d", 1, 2)
try:
    secret_local = "hidden"
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("ours").exception("process.failed")
"""


def log_of(log_format: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(format=log_format)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout == ""
    return ran.stderr


def record(event: str, name: str = "ours") -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, __file__, 1, {"event": event}, None, None)  # type: ignore[arg-type]


def test_every_event_is_one_line_of_json() -> None:
    first, second, third = map(json.loads, log_of("json").splitlines())

    assert (first["event"], first["reason"], first["level"], first["process"]) == (
        "bus.away",
        "two\nlines",
        "info",
        "worker",
    )
    assert (second["event"], second["logger"], second["level"]) == ("lost 1 of 2", "theirs", "warning")
    assert "ZeroDivisionError" in third["exception"]


def test_no_format_shows_secrets_or_local_variables() -> None:
    assert "hidden" not in log_of("json").replace('secret_local = "hidden"', "")
    assert "hidden" not in log_of("console").replace('secret_local = "hidden"', "")


def test_what_is_secret_is_known_by_its_name() -> None:
    event = redact(None, "info", {"event": "login", "Password": "x", "authorization": "x", "user": "ann"})

    assert event == {"event": "login", "Password": "[redacted]", "authorization": "[redacted]", "user": "ann"}


def test_an_event_that_repeats_is_left_out_and_counted() -> None:
    clock = [0.0]
    limiter = RepeatLimiter(lambda: clock[0])

    assert [limiter.filter(record("bus.away")) for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.filter(record("another"))
    assert limiter.filter(record("bus.away", "elsewhere"))

    clock[0] = 10.0
    after = record("bus.away")
    assert limiter.filter(after)
    assert after.msg == {"event": "bus.away", "left_out": 2}


def test_the_limiter_remembers_a_bounded_number_of_events() -> None:
    limiter = RepeatLimiter(lambda: 0.0)

    for number in range(5000):
        limiter.filter(record(f"event {number}"))

    assert len(limiter._seen) <= 500
