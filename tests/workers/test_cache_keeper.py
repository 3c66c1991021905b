"""Which answers are written, and how many at a time."""

import msgspec

from app.domain.book import Book
from app.domain.positions import AccountBook
from app.domain.prices import StreamPosition
from app.workers.cache_keeper import CacheKeeper
from app.workers.cache_round import CacheRound
from tests.domain.books import NOW_MS, STALE_AFTER_MS, account_of, position, price, user_book

PLACE = StreamPosition(1, 1)


class Desk:
    """Users with so many positions each, all of them watched, whose answers are due."""

    def __init__(self, *rows: int, accounts: int = 1) -> None:
        self.book = Book(STALE_AFTER_MS)
        self.book.set_prices([price("BTCUSDT", "110")])
        for number, count in enumerate(rows):
            user_id = f"u{number}"
            held = (position(f"{user_id}-{row}", user_id=user_id) for row in range(count))
            own = [AccountBook(account_id=account_of(user_id, n)) for n in range(accounts)]
            self.book.upsert_user(user_book(*held, user_id=user_id, accounts=own))
            self.book.watch(number)
        self.due = CacheRound()
        self.due.mark(range(len(rows)))
        self.keeper = CacheKeeper(self.book, self.due, ttl_s=60, stale_after_ms=STALE_AFTER_MS)

    def written(self, now: float = 100.0, *, silent: bool = False) -> dict[str, bytes]:
        return self.keeper.next_bodies(now, NOW_MS, PLACE, silent=silent)


def test_as_many_users_are_written_as_have_so_many_rows() -> None:
    desk = Desk(150, 140, 20)

    assert [list(desk.written()) for _ in range(3)] == [["u0", "u1"], ["u2"], []]


def test_users_who_are_written_one_by_one_count_for_more() -> None:
    desk = Desk(50, 10, 10, accounts=2)

    assert [list(desk.written()) for _ in range(2)] == [["u0"], ["u1", "u2"]]


def test_a_user_of_any_size_is_written() -> None:
    assert list(Desk(2000).written()) == ["u0"]


def test_who_is_watched_no_more_is_left_out_unless_he_is_asked_for() -> None:
    desk = Desk(1, 1, 1)
    for slot in range(3):
        desk.book.unwatch(slot)
    desk.keeper.ask("u1", 100.0)
    desk.keeper.ask("nobody", 100.0)

    assert list(desk.written()) == ["u1"]
    assert list(desk.written(101.0)) == ["u1"]


def test_while_the_feed_is_silent_no_price_is_fresh() -> None:
    desk = Desk(1)
    assert b'"is_stale":false' in desk.written()["u0"]
    desk.due.mark([0])

    body = msgspec.json.decode(desk.written(102.0, silent=True)["u0"])

    assert (body["totals"]["is_stale"], body["positions"][0]["is_stale"]) == (True, True)
