"""Races over REST, with PgBouncer in transaction mode before the database."""

import pytest

from tests.pgbouncer import PgBouncer

from . import test_positions, test_trades

test_of_fifty_closes_at_once_exactly_one_happens = test_positions.test_of_fifty_closes_at_once_exactly_one_happens
test_first_fills_at_once_make_one_position = test_positions.test_first_fills_at_once_make_one_position
test_one_of_thirty_repetitions_at_once_happens_and_the_rest_get_its_answer = (
    test_positions.test_one_of_thirty_repetitions_at_once_happens_and_the_rest_get_its_answer
)
test_a_refused_request_does_not_use_its_key_up = test_positions.test_a_refused_request_does_not_use_its_key_up
test_of_two_edits_at_once_one_is_told_that_it_is_late = (
    test_positions.test_of_two_edits_at_once_one_is_told_that_it_is_late
)
test_the_same_trade_id_many_times_at_once_is_recorded_once = (
    test_trades.test_the_same_trade_id_many_times_at_once_is_recorded_once
)


@pytest.fixture
def database_url(database_url: str, pgbouncer: PgBouncer) -> str:
    """A database of this test's own, reached through the pooler."""
    return pgbouncer.url_of(database_url)
