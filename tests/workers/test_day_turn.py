"""When a UTC day begins."""

from datetime import UTC, date, datetime

import pytest

from app.workers.day_turn import DayTurn, Turn

MINUTE_MS = 60_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_the_first_flush_after_midnight_begins_the_day_for_everybody() -> None:
    day = DayTurn()
    told = [
        day.at(at(moment))
        for moment in ("2026-03-01 12:00:00", "2026-03-01 23:59:59.999", "2026-03-02 00:00:00", "2026-03-02 00:00:00.1")
    ]

    assert told == [None, None, Turn(date(2026, 3, 2), "everybody"), None]


@pytest.mark.parametrize(
    ("start", "turn"),
    [
        ("2026-03-02 00:00:03", Turn(date(2026, 3, 2), "missing")),
        ("2026-03-02 00:05:01", None),
        ("2026-03-01 23:59:59", None),
    ],
)
def test_a_worker_started_just_after_midnight_fills_in_for_the_one_before(start: str, turn: Turn | None) -> None:
    assert DayTurn().at(at(start)) == turn


def test_a_clock_that_goes_back_begins_no_day_twice() -> None:
    day = DayTurn()
    day.at(at("2026-03-01 23:59:00"))
    assert day.at(at("2026-03-02 00:00:00")) is not None

    assert day.at(at("2026-03-01 23:59:59")) is None
    assert day.at(at("2026-03-02 00:00:01")) is None
