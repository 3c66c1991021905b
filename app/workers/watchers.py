"""Which users are at which web instance, and what each instance was already told.

Fed by :class:`app.bus.messages.Interest`; does no I/O. What an instance was
told is kept in masks by user slot and by column, so that picking what to send
costs a few array operations however many users there are.
"""

from collections import Counter, OrderedDict
from collections.abc import Set

import numpy as np

from app.bus.interest import digest
from app.bus.messages import Interest
from app.domain.book import Book
from app.domain.shards import EVERYBODY, Shard
from app.domain.slack_matrix import grown
from app.domain.wide import Mask

_SEQUENCES_KEPT = 1024


class Instance:
    """One web instance."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        self.users: set[str] = set()
        self.digest = 0
        self.announced = 0
        """The digest it last announced."""
        self.has_lost_users = False
        """Whether users left since the marks it was told of were last looked through."""
        self.waiting: OrderedDict[str, None] = OrderedDict()
        """Users of the shard it has not been told of, in the order they came."""
        self._following: Mask = np.zeros(64, np.bool_)
        self._told: Mask = np.zeros(64, np.bool_)
        self._told_rates: Mask = np.zeros(16, np.bool_)

    @property
    def is_complete(self) -> bool:
        """Whether its users are known as it announced them."""
        return self.digest == self.announced

    def following(self, count: int) -> Mask:
        """By user slot: who it was told the whole of, and now follows."""
        self._following = grown(self._following, count)
        return self._following[:count]

    def told(self, count: int) -> Mask:
        """By column: of which symbols it knows the mark."""
        self._told = grown(self._told, count)
        return self._told[:count]

    def told_rates(self, count: int) -> Mask:
        """By pair: of which rates it knows."""
        self._told_rates = grown(self._told_rates, count)
        return self._told_rates[:count]


class Watchers:
    """All live instances. The book watches a user as long as any instance follows him.

    Users of other shards are known by id, for the digest counts them, and no more.
    """

    def __init__(self, book: Book, shard: Shard = EVERYBODY) -> None:
        self.instances: dict[str, Instance] = {}
        self._book = book
        self._shard = shard
        self._followers: Counter[int] = Counter()
        self._sequences: OrderedDict[str, int] = OrderedDict()

    def apply(self, interest: Interest) -> bool:
        """Take over an announcement. False: the instance knows more; read its set of users."""
        if interest.gone:
            if interest.shard in {None, self._shard.name}:
                self.leave(interest.instance_id)
            return True
        instance = self.join(interest.instance_id)
        for user_id in interest.removed:
            self._remove(instance, user_id)
        for user_id in interest.added:
            self._add(instance, user_id)
        instance.announced = interest.digest
        return instance.is_complete

    def join(self, instance_id: str) -> Instance:
        """An instance, new or known."""
        instance = self.instances.get(instance_id)
        if instance is None:
            instance = self.instances[instance_id] = Instance(instance_id)
        return instance

    def leave(self, instance_id: str) -> None:
        """Forget an instance, but not its sequence: if it comes back the count goes on."""
        instance = self.instances.pop(instance_id, None)
        if instance is not None:
            for slot in np.flatnonzero(instance.following(len(self._book))).tolist():
                self._unfollow(slot)

    def replace(self, instance_id: str, users: Set[str]) -> Instance:
        """Make an instance's users exactly these."""
        instance = self.join(instance_id)
        for user_id in instance.users - users:
            self._remove(instance, user_id)
        for user_id in sorted(users - instance.users):
            self._add(instance, user_id)
        instance.announced = instance.digest
        return instance

    def follow(self, instance: Instance, user_id: str, slot: int) -> None:
        """From now on, the instance knows the whole of a user and is told his changes."""
        instance.waiting.pop(user_id, None)
        instance.following(len(self._book))[slot] = True
        self._followers[slot] += 1
        if self._followers[slot] == 1:
            self._book.watch(slot)

    def next_sequence(self, instance_id: str) -> int:
        """Count one message to an instance."""
        sequence = self._sequences.pop(instance_id, 0) + 1
        self._sequences[instance_id] = sequence
        if len(self._sequences) > _SEQUENCES_KEPT:
            self._sequences.popitem(last=False)
        return sequence

    def _add(self, instance: Instance, user_id: str) -> None:
        if user_id not in instance.users:
            instance.users.add(user_id)
            instance.digest = (instance.digest + digest([user_id])) % 2**64
            if self._shard.has(user_id):
                instance.waiting[user_id] = None

    def _remove(self, instance: Instance, user_id: str) -> None:
        if user_id not in instance.users:
            return
        instance.users.discard(user_id)
        instance.digest = (instance.digest - digest([user_id])) % 2**64
        instance.waiting.pop(user_id, None)
        holder = self._book.find(user_id)
        following = instance.following(len(self._book))
        if holder is not None and following[holder.slot]:
            following[holder.slot] = False
            instance.has_lost_users = True
            self._unfollow(holder.slot)

    def _unfollow(self, slot: int) -> None:
        self._followers[slot] -= 1
        if not self._followers[slot]:
            del self._followers[slot]
            self._book.unwatch(slot)
