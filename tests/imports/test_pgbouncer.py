"""Imports with PgBouncer in transaction mode in between: COPY and cursors of the server stay within a transaction."""

import pytest

from app.imports import booking
from tests.pgbouncer import PgBouncer

from . import test_booking, test_job

test_fills_that_happened_before_others_are_booked_in_their_place = (
    test_booking.test_fills_that_happened_before_others_are_booked_in_their_place
)
test_of_two_who_work_on_one_import_only_its_holder_books_it = (
    test_job.test_of_two_who_work_on_one_import_only_its_holder_books_it
)


@pytest.fixture
def database_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """A database of this test's own, reached through the pooler."""
    return pgbouncer.url_of(database_url)


@pytest.fixture
def written_every(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written in the middle of a chain, while its old fills are still being read."""
    monkeypatch.setattr(booking, "_AT_ONCE", 20)
