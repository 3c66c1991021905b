"""Days of a time zone, also those on which clocks change."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.day_boundaries import day_of, days_until, midnight, midnights_between

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"]

moments = st.integers(0, 15 * 366 * 86_400).map(
    lambda second: datetime(2015, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", date(2026, 3, 29), 24),
        ("Europe/Berlin", date(2026, 3, 28), 24),
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/New_York", date(2026, 3, 8), 23),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        # Clocks there went from 00:00 to 01:00: the day began with the skip.
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
    ],
)
def test_a_day_is_as_long_as_clocks_make_it(zone: str, day: date, hours: float) -> None:
    start = midnight(day, ZoneInfo(zone))

    found = day_of(start, ZoneInfo(zone))
    assert (found.day, found.start) == (day, start)
    assert found.end - found.start == timedelta(hours=hours)


def test_a_midnight_belongs_to_the_day_that_begins() -> None:
    moment = datetime(2026, 3, 1, tzinfo=UTC)

    assert day_of(moment, UTC).day == date(2026, 3, 1)
    assert day_of(moment - timedelta(microseconds=1), UTC).day == date(2026, 2, 28)
    assert day_of(moment, ZoneInfo("America/New_York")).day == date(2026, 2, 28)


@given(moments, st.sampled_from(ZONES))
def test_days_follow_each_other_without_a_gap_and_hold_their_moments(moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    days = days_until(moment, zone, 5)

    assert len(days) == 5
    assert days[-1].start <= moment < days[-1].end
    assert all(before.end == after.start for before, after in pairwise(days))


@given(moments, st.sampled_from(ZONES))
def test_every_midnight_is_on_a_quarter_of_an_hour(moment: datetime, name: str) -> None:
    start = day_of(moment, ZoneInfo(name)).start

    assert start.minute % 15 == start.second == start.microsecond == 0


def test_midnights_between_two_moments_include_both() -> None:
    first = datetime(2026, 3, 1, tzinfo=UTC)

    assert midnights_between(first, first + timedelta(days=2), UTC) == [
        first + timedelta(days=number) for number in range(3)
    ]
    assert midnights_between(first + timedelta(seconds=1), first + timedelta(hours=23), UTC) == []
