"""When a UTC day begins."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from app.domain.book import Book
from app.workers.day_turn import DayStart, DayTurn, Turn
from tests.domain.books import NOW_MS, STALE_AFTER_MS, position, price, user_book

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


TODAY = date(2026, 3, 2)
ONE = 10**18


def book_of(*day_bases: int | None) -> Book:
    """Users with a profit of 10 each."""
    book = Book(STALE_AFTER_MS)
    for number, base in enumerate(day_bases):
        user_id = f"u{number}"
        held = position(f"p{number}", user_id=user_id, cash=Decimal(-100))
        book.upsert_user(user_book(held, user_id=user_id, day_base=base))
    book.set_prices([price("BTCUSDT", "110")])
    book.revalue(NOW_MS)
    return book


def bases_of(book: Book) -> list[int | None]:
    return [book.holder(slot).day_base for slot in range(len(book))]


def test_bases_are_of_one_moment_and_are_set_some_users_at_a_time() -> None:
    book = book_of(1, 2, 3)
    start = DayStart(book, users_at_once=2)
    assert start.begin(Turn(TODAY, "everybody")) == dict.fromkeys(range(3), 10 * ONE)
    assert bases_of(book) == [1, 2, 3]

    start.step()
    assert bases_of(book) == [10 * ONE, 10 * ONE, 3]
    book.set_prices([price("BTCUSDT", "500")])
    book.revalue(NOW_MS)
    book.upsert_user(user_book(user_id="new", day_base=7))
    start.step()
    start.step()

    assert bases_of(book) == [10 * ONE, 10 * ONE, 10 * ONE, 7]
    assert book.holder(2).base_day == TODAY


def test_only_missing_bases_are_filled_in() -> None:
    book = book_of(1, None, 3)
    start = DayStart(book)
    assert start.begin(Turn(TODAY, "missing")) == {1: 10 * ONE}

    start.step()

    assert bases_of(book) == [1, 10 * ONE, 3]


def test_a_base_that_a_correction_left_unknown_is_not_set_whether_it_was_yet_or_not() -> None:
    book = book_of(1, 2, 3)
    start = DayStart(book, users_at_once=1)
    start.begin(Turn(TODAY, "everybody"))
    start.step()

    start.forget("u0", TODAY)
    start.forget("u1", TODAY)
    start.forget("u2", date(2026, 3, 1))
    start.forget("nobody", TODAY)
    start.step()
    start.step()

    assert bases_of(book) == [None, None, 10 * ONE]
