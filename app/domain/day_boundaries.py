"""Days as a user counts them: from midnight to midnight of a time zone, 23 to 25 hours long.

A midnight that a zone skips (clocks go from 00:00 to 01:00) is the moment of the
skip; of one that it has twice, the first counts.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple


class LocalDay(NamedTuple):
    """A calendar day of some time zone; ``start`` is in it, ``end`` is not. Both in UTC."""

    day: date
    start: datetime
    end: datetime


def midnight(day: date, zone: tzinfo) -> datetime:
    """When a day begins, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def day_of(moment: datetime, zone: tzinfo) -> LocalDay:
    """The day that a moment falls into."""
    return _local_day(moment.astimezone(zone).date(), zone)


def days_until(moment: datetime, zone: tzinfo, count: int) -> list[LocalDay]:
    """The last ``count`` days up to and with the one of a moment, the oldest first."""
    last = moment.astimezone(zone).date()
    return [_local_day(last - timedelta(days=back), zone) for back in reversed(range(count))]


def midnights_between(start: datetime, end: datetime, zone: tzinfo) -> list[datetime]:
    """Every midnight from ``start`` to ``end``, both included, in UTC."""
    day = start.astimezone(zone).date()
    found: list[datetime] = []
    while (moment := midnight(day, zone)) <= end:
        if moment >= start:
            found.append(moment)
        day += timedelta(days=1)
    return found


def _local_day(day: date, zone: tzinfo) -> LocalDay:
    return LocalDay(day, midnight(day, zone), midnight(day + timedelta(days=1), zone))
