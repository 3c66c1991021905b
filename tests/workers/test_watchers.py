"""Who watches whom, by announcements that may get lost."""

import pytest

from app.bus.interest import digest
from app.bus.messages import Interest
from app.domain.book import Book
from app.domain.shards import Shard
from app.workers.cache_round import CacheRound, rows_at_once
from app.workers.watchers import Watchers
from tests.domain.books import STALE_AFTER_MS, position, user_book


def watchers() -> Watchers:
    book = Book(STALE_AFTER_MS)
    for user_id in ("u1", "u2"):
        book.upsert_user(user_book(position(f"p of {user_id}", user_id=user_id), user_id=user_id))
    return Watchers(book)


def test_announcements_in_full_need_no_look_at_the_set() -> None:
    known = watchers()

    assert known.apply(Interest("w1", digest(["u1", "u2"]), added=["u1", "u2"]))
    assert known.apply(Interest("w1", digest(["u2"]), removed=["u1"]))
    assert known.instances["w1"].users == {"u2"}


def test_a_lost_announcement_shows_in_the_digest_of_the_next() -> None:
    known = watchers()
    known.apply(Interest("w1", digest(["u1"]), added=["u1"]))

    assert not known.apply(Interest("w1", digest(["u1", "u2", "u3"]), added=["u3"]))

    known.replace("w1", {"u1", "u2", "u3"})
    assert known.apply(Interest("w1", digest(["u1", "u2", "u3"])))


def test_the_book_watches_a_user_as_long_as_one_instance_follows_him() -> None:
    known = watchers()
    book = known._book
    for instance_id in ("w1", "w2"):
        known.replace(instance_id, {"u1"})
        known.follow(known.instances[instance_id], "u1", 0)

    known.leave("w1")
    assert book.is_watched(0)
    known.replace("w2", set())
    assert not book.is_watched(0)


def test_who_only_waits_is_not_followed() -> None:
    known = watchers()
    known.replace("w1", {"u1"})

    known.replace("w1", set())

    assert not known.instances["w1"].waiting
    assert not known._book.is_watched(0)


def test_a_sequence_goes_on_though_its_instance_was_forgotten() -> None:
    known = watchers()
    known.join("w1")
    assert [known.next_sequence("w1") for _ in range(2)] == [1, 2]

    known.leave("w1")
    known.join("w1")

    assert known.next_sequence("w1") == 3


def test_the_cache_writes_who_changed_once_a_second_longest_waiting_first() -> None:
    cache = CacheRound()
    cache.mark([5, 3, 700])
    assert cache.next(10.0, 2) == [3, 5]
    cache.note_written(3, 10.0)
    cache.note_written(5, 10.1)
    cache.mark([3])

    assert cache.next(10.9, 9) == [700]
    assert cache.next(11.0, 9) == [700, 3]


def test_who_did_not_change_is_not_written_again() -> None:
    cache = CacheRound()
    cache.mark([1])
    cache.note_written(1, 10.0)

    assert cache.next(99.0, 9) == []


@pytest.mark.parametrize(
    ("watched", "rows"), [(0, 300), (100_000, 300), (250_000, 521), (480_000, 1000), (1_000_000, 1000)]
)
def test_everybody_is_written_before_what_was_written_last_is_over_within_what_a_flush_can_wait(
    watched: int, rows: int
) -> None:
    assert rows_at_once(watched, 60, 0.1) == rows


def test_who_is_asked_for_comes_first_each_second_whether_anything_changed_or_not() -> None:
    cache = CacheRound()
    cache.mark([1, 2, 3])
    cache.ask(3, 10.0)
    cache.ask(900, 10.0)
    assert cache.next(10.0, 3) == [3, 900, 1]
    for slot in (3, 900, 1):
        cache.note_written(slot, 10.0)

    assert cache.next(10.9, 3) == [2]
    assert cache.next(11.0, 3) == [3, 900, 2]


def test_who_is_asked_for_no_more_is_left_out() -> None:
    cache = CacheRound()
    cache.ask(1, 10.0)
    cache.ask(2, 30.0)
    cache.ask(1, 40.0)
    assert (cache.next(80.0, 9), cache.next(90.0, 9)) == ([2, 1], [1])
    assert not cache.is_asked(2)

    assert cache.next(100.0, 9) == []


def test_of_many_the_cache_chooses_those_who_waited_longest() -> None:
    cache = CacheRound()
    cache.mark(range(1000))
    assert len(cache.next(1.0, 1000)) == 1000
    for slot in range(1000):
        cache.note_written(slot, 1000.0 - slot)
    cache.mark(range(1000))

    assert cache.next(2000.0, 5) == [999, 998, 997, 996, 995]


def test_users_of_other_shards_count_in_the_digest_and_are_never_waited_for() -> None:
    mine, other = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    known = Watchers(Book(STALE_AFTER_MS), Shard(1, 2))

    assert known.apply(Interest("w1", digest([mine, other]), added=[mine, other]))
    assert list(known.instances["w1"].waiting) == [mine]
    assert known.apply(Interest("w1", digest([mine]), removed=[other]))


def test_an_instance_that_asks_another_shard_again_is_not_forgotten() -> None:
    known = Watchers(Book(STALE_AFTER_MS), Shard(1, 2))
    known.join("w1")

    known.apply(Interest("w1", 0, gone=True, shard="0/2"))
    assert "w1" in known.instances
    known.apply(Interest("w1", 0, gone=True, shard="1/2"))
    assert "w1" not in known.instances
