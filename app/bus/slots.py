"""Which shard of a cluster serves what: the slot of a command, and the owners of the slots."""

from collections.abc import Sequence, Set
from typing import Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ClusterDownError

from app.bus.topology import Address

_STRINGS: Final = {"GET", "SET", "EXPIRE", "PEXPIRE", "PEXPIREAT", "PEXPIRETIME", "TTL", "PTTL"}
_HASHES: Final = {"HGET", "HSET", "HGETALL", "HLEN"}
_SETS: Final = {"SADD", "SREM", "SMEMBERS", "SCARD", "ZADD", "ZREM", "ZCARD", "ZRANGEBYSCORE", "ZREMRANGEBYSCORE"}
_ONE_KEY: Final = _STRINGS | _HASHES | _SETS | {"SPUBLISH"}
_MANY_KEYS: Final = {"DEL", "EXISTS", "SUNION"}
_SCRIPTS: Final = {"EVAL", "EVALSHA"}


class NoSlot(TypeError):
    """A command that no single shard can run, or of which this module does not know where its keys are."""


def sharded(command: Sequence[Any]) -> tuple[Any, ...]:
    """The command as a cluster wants it: PUBLISH would be carried to every node, SPUBLISH stays in its shard."""
    return ("SPUBLISH", *command[1:]) if command[0] == "PUBLISH" else tuple(command)


def slot_of(command: Sequence[Any]) -> int:
    """The slot that a command is for. Raises NoSlot."""
    slots = {slot_of_key(key) for key in _keys_of(command)}
    if len(slots) != 1:
        raise NoSlot(f"{command[0]}: {len(slots)} slots, and one operation reaches the keys of one slot only")
    return slots.pop()


def slot_of_key(key: str | bytes) -> int:
    """The slot of a key or a channel."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def _keys_of(command: Sequence[Any]) -> Sequence[Any]:
    name = command[0]
    if name in _ONE_KEY:
        return command[1:2]
    if name in _MANY_KEYS:
        return command[1:]
    if name in _SCRIPTS:
        return command[3 : 3 + int(command[2])]
    raise NoSlot(f"{name}: where its keys are has to be said in {__name__}")


class SlotMap:
    """Who serves each slot, as some node said. ``version`` grows when an owner changes."""

    def __init__(self) -> None:
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self.replicas: Set[Address] = frozenset()
        self.version = 0

    @property
    def primaries(self) -> set[Address]:
        """Every server that owns a slot."""
        return {owner for owner in self._owners if owner is not None}

    def owner(self, slot: int) -> Address:
        """Raises ClusterDownError while nobody serves it."""
        owner = self._owners[slot]
        if owner is None:
            raise ClusterDownError(f"no node serves slot {slot}")
        return owner

    def move(self, slot: int, owner: Address) -> None:
        """A server said that another one serves a slot."""
        if self._owners[slot] != owner:
            self._owners[slot] = owner
            self.version += 1

    def replace(self, answer: Sequence[Any], asked: Address) -> bool:
        """Take over an answer to CLUSTER SLOTS. False, and nothing done, if it names no owner at all."""
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        replicas: set[Address] = set()
        for first, last, owner, *others in answer:
            owners[first : last + 1] = [_address(owner, asked)] * (last - first + 1)
            replicas.update(_address(other, asked) for other in others)
        if not any(owners):
            return False
        self.replicas = replicas
        if owners != self._owners:
            self._owners = owners
            self.version += 1
        return True


def _address(node: Sequence[Any], asked: Address) -> Address:
    """A node as CLUSTER SLOTS names it; without a host it is at the one that was asked."""
    host = (node[0] or b"").decode()
    return (asked[0] if host in {"", "?"} else host), int(node[1])
