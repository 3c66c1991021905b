"""Who of the users belongs to which P&L worker."""

from typing import NamedTuple

MOST_SHARDS = 64


def shard_of(user_id: str, shards: int) -> int:
    """The shard of a user: the last 32 bits of the id, as a number, modulo the number of shards.

    They are random bits in every version of UUID that has any. PostgreSQL reckons
    the same from the text of the id, see ``app.repositories.books``. With one shard
    the id may be any text.
    """
    return 0 if shards == 1 else int(user_id[-8:], 16) % shards


class Shard(NamedTuple):
    """One of so many parts of the users, counted from zero."""

    number: int
    shards: int

    @property
    def name(self) -> str:
        """As it stands in roles and keys: ``0/1``."""
        return f"{self.number}/{self.shards}"

    def has(self, user_id: str) -> bool:
        """Whether a user belongs to it."""
        return shard_of(user_id, self.shards) == self.number


EVERYBODY = Shard(0, 1)


def shards_of(count: int) -> tuple[Shard, ...]:
    """All shards of a number of them."""
    return tuple(Shard(number, count) for number in range(count))
