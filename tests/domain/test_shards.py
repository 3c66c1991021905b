"""Which shard a user belongs to: a function everybody agrees on, for ever."""

from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.shards import EVERYBODY, Shard, shard_of, shards_of


@pytest.mark.parametrize(
    ("user_id", "shards", "expected"),
    [
        ("00000000-0000-4000-8000-000000000000", 7, 0),
        ("00000000-0000-4000-8000-00000000000a", 7, 3),
        ("123e4567-e89b-42d3-a456-426614174000", 64, 0),
        ("ffffffff-ffff-4fff-bfff-ffffffffffff", 10, 5),
    ],
)
def test_the_shard_of_a_user_never_changes(user_id: str, shards: int, expected: int) -> None:
    assert shard_of(user_id, shards) == expected


@given(st.uuids(), st.integers(1, 64))
def test_every_user_belongs_to_exactly_one_shard(user_id: UUID, shards: int) -> None:
    assert sum(shard.has(str(user_id)) for shard in shards_of(shards)) == 1


def test_users_are_spread_evenly() -> None:
    counts = Counter(shard_of(str(uuid4()), 8) for _ in range(16_000))

    assert len(counts) == 8
    assert max(counts.values()) < 1.2 * 2000


def test_the_letter_case_of_an_id_makes_no_difference() -> None:
    user_id = str(uuid4())
    assert shard_of(user_id, 13) == shard_of(user_id.upper(), 13)


def test_where_nothing_is_split_everybody_is_one() -> None:
    assert Shard(0, 1) == EVERYBODY
    assert EVERYBODY.has("not even a UUID")
