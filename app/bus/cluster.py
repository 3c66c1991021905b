"""A Redis Cluster, used like one server: each command goes to the shard of its key.

Made of redis-py's ordinary clients, one per node, so that each keeps what the
bus relies on with a single server: a pool that waits, no hidden retries, a
pub/sub connection of its own. redis-py's ``RedisCluster`` has none of these (see
docs/decisions/0011-redis-topologies.md). What is added is the map of slots: read
at the first use, after a redirection, and whenever a node did not answer.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.bus.pool import open_pool
from app.bus.slots import SlotMap, sharded, slot_of, slot_of_key
from app.bus.topology import Address, Cluster

T = TypeVar("T")
K = TypeVar("K")
Command: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""The words of a command, and what redis-py needs to read its reply."""

_MOST_REDIRECTIONS: Final = 3
_PATIENCE: Final = 4
"""So many nodes may be dead before reading the map takes longer than a command may."""

_LOST: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    ClusterDownError,
    MovedError,
    OSError,
    asyncio.CancelledError,
)
"""After these the map may be wrong. A command is cancelled when its deadline passed."""


class ClusterRedis(Redis):
    """The shards of a cluster. A command whose keys are on several raises NoSlot, but for SUNION and PING."""

    def __init__(self, cluster: Cluster, timeout_s: float, max_connections: int) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._nodes: dict[Address, Redis] = {}
        self._suspects: set[Address] = set()
        self._is_doubtful = True
        self._lock = asyncio.Lock()
        self.slots = SlotMap()
        # Never used to connect: every command goes through a client of one node.
        super().__init__(connection_pool=self.node(cluster.seeds[0]).connection_pool)

    def node(self, address: Address) -> Redis:
        """A client of one node. Closed with this one, or when the node leaves the cluster."""
        if address not in self._nodes:
            pool = open_pool(self._cluster.node.at(address).url, self._timeout_s, self._max_connections)
            self._nodes[address] = Redis.from_pool(pool)
        return self._nodes[address]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections to every node."""
        while self._nodes:
            _, node = self._nodes.popitem()
            await node.aclose(close_connection_pool)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """Commands sent together; see :class:`ClusterPipeline` for what a transaction is here."""
        return ClusterPipeline(self, is_transaction=transaction)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command on the shard of its keys, wherever that has moved to."""
        if args[0] == "PING":
            return all(await _all(self.node(address).ping() for address in await self.primaries()))
        if args[0] == "SUNION":
            return await self._union(args[1:])
        words = sharded(args)

        async def run(node: Redis) -> Any:
            return await node.execute_command(*words, **options)  # type: ignore[no-untyped-call]

        return await self.at_slot(slot_of(words), run, asked=(words, options))

    async def at_slot(self, slot: int, run: Callable[[Redis], Awaitable[Any]], *, asked: Command | None = None) -> Any:
        """Run something on the owner of a slot, again where it turns out that another one owns it.

        While a slot is being moved its keys are in two places; the command
        ``asked``, if given, is then put to the other one.
        """
        for _ in range(_MOST_REDIRECTIONS):
            owner = await self.owner(slot)
            try:
                with self.doubting(owner):
                    return await run(self.node(owner))
            except MovedError as moved:
                self.slots.move(slot, _target(moved, owner))
            except AskError as elsewhere:
                if asked is None:
                    raise
                return await self._ask(_target(elsewhere, owner), asked)
        raise ClusterDownError(f"slot {slot} was moved {_MOST_REDIRECTIONS} times")

    async def _ask(self, address: Address, command: Command) -> Any:
        with self.doubting(address):
            _, result = await _send(self.node(address), [(("ASKING",), {}), command], is_transaction=False)
        if isinstance(result, Exception):
            raise result
        return result

    async def _union(self, keys: Sequence[str]) -> set[bytes]:
        by_slot: dict[int, list[str]] = defaultdict(list)
        for key in keys:
            by_slot[slot_of_key(key)].append(key)
        pipeline = self.pipeline(transaction=False)
        for of_slot in by_slot.values():
            pipeline.sunion(of_slot)
        found: list[set[bytes]] = await pipeline.execute()
        return set().union(*found)

    # The map

    async def primaries(self) -> list[Address]:
        """Every server that owns slots."""
        await self._know()
        return sorted(self.slots.primaries)

    async def owner(self, slot: int) -> Address:
        """Who serves a slot. Raises ClusterDownError or ConnectionError."""
        await self._know()
        return self.slots.owner(slot)

    @contextmanager
    def doubting(self, address: Address) -> Iterator[None]:
        """Read the map again before the next command, if a node cannot be reached here."""
        try:
            yield
        except _LOST:
            self.doubt(address)
            raise

    def doubt(self, address: Address) -> None:
        """A node that should be there is not, or does not serve."""
        self._is_doubtful = True
        self._suspects.add(address)

    async def _know(self) -> None:
        if not self._is_doubtful:
            return
        async with self._lock:
            if self._is_doubtful:
                await self._read_map()
                self._is_doubtful = False

    async def _read_map(self) -> None:
        """Ask one node after the other, those last that just failed, until one knows."""
        known = [*self._cluster.seeds, *self.slots.primaries, *self.slots.replicas]
        candidates = sorted(set(known), key=lambda address: (address in self._suspects, random.random()))
        reason: Exception = RedisConnectionError("no node knows of a shard")
        for address in candidates:
            self._suspects.add(address)
            try:
                async with asyncio.timeout(self._timeout_s / _PATIENCE):
                    answer = await self.node(address).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (RedisError, OSError, TimeoutError) as error:
                reason = error
                continue
            if self.slots.replace(answer, address):
                self._suspects.clear()
                await self._forget_strangers()
                return
        raise RedisConnectionError(f"no node of the cluster tells its shards: {reason}") from reason

    async def _forget_strangers(self) -> None:
        known = {*self._cluster.seeds, *self.slots.primaries, *self.slots.replicas}
        for address in self._nodes.keys() - known:
            node = self._nodes.pop(address)
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(self._timeout_s / _PATIENCE):
                    await node.aclose()


class ClusterPipeline(Pipeline):
    """Commands sent together, each to the shard of its key.

    A transaction is one per slot: the commands of a slot happen together or not
    at all, and the slots follow each other in the order in which they are first
    named. So what is named later is never there without what is named earlier.
    Without a transaction all shards are written to at once.
    """

    def __init__(self, cluster: ClusterRedis, *, is_transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, is_transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands; their results in order. The first error among them is raised, if wanted."""
        commands: list[Command] = [(sharded(args), dict(options)) for args, options in self.command_stack]
        self.command_stack = []
        run = self._in_turn if self.is_transaction else self._at_once
        results = await run(commands)
        if raise_on_error:
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    async def _in_turn(self, commands: list[Command]) -> list[Any]:
        results: list[Any] = [None] * len(commands)
        for slot, places in _grouped(slot_of(words) for words, _ in commands).items():
            of_slot = [commands[place] for place in places]
            done = await self._cluster.at_slot(slot, partial(_send, commands=of_slot, is_transaction=True))
            for place, result in zip(places, done, strict=True):
                results[place] = result
        return results

    async def _at_once(self, commands: list[Command]) -> list[Any]:
        owners = [await self._cluster.owner(slot_of(words)) for words, _ in commands]
        groups = _grouped(owners)
        done = await _all(self._at(owner, [commands[place] for place in places]) for owner, places in groups.items())
        results: list[Any] = [None] * len(commands)
        for places, of_owner in zip(groups.values(), done, strict=True):
            for place, result in zip(places, of_owner, strict=True):
                results[place] = result
        for place, (words, options) in enumerate(commands):
            if isinstance(results[place], AskError):
                results[place] = await self._cluster.execute_command(*words, **options)
        return results

    async def _at(self, owner: Address, commands: list[Command]) -> list[Any]:
        with self._cluster.doubting(owner):
            results = await _send(self._cluster.node(owner), commands, is_transaction=False)
        if any(isinstance(result, ClusterDownError) for result in results):
            self._cluster.doubt(owner)
        return results


async def _send(node: Redis, commands: list[Command], *, is_transaction: bool) -> list[Any]:
    pipeline = node.pipeline(transaction=is_transaction)
    for words, options in commands:
        pipeline.execute_command(*words, **options)
    results: list[Any] = await pipeline.execute(raise_on_error=False)
    return results


def _grouped(names: Iterable[K]) -> dict[K, list[int]]:
    """Where each name stands, names in the order of their first place."""
    places: dict[K, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    return places


def _target(redirection: AskError, asked: Address) -> Address:
    """Where a redirection leads; without a host it is at the one that was asked."""
    return redirection.host or asked[0], redirection.port


async def _all(works: Iterable[Awaitable[T]]) -> list[T]:
    """Everything at once, waiting for all; then the first failure is raised."""
    started = list(works)
    if len(started) == 1:
        return [await started[0]]
    done = await asyncio.gather(*started, return_exceptions=True)
    results: list[T] = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
