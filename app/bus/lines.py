"""Connections that listen: one to a single server, one per shard of a cluster. None outlives its first trouble."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from app.bus.cluster import ClusterRedis
from app.bus.slots import slot_of_key
from app.bus.topology import Address

_MOST_WAITING: Final = 100
"""Messages of all shards together that wait here; beyond that they wait in the connections."""

ChannelsBySlot: TypeAlias = Mapping[int, Sequence[str]]
"""One command subscribes to the channels of one slot only."""


class Message(msgspec.Struct, frozen=True):
    """One published payload."""

    channel: str
    payload: bytes


class Line(Protocol):
    """Subscribed for as long as it works. It fails with a RedisError, OSError or TimeoutError."""

    async def next(self) -> Message:
        """The next message; waits for ever."""


class ServerLine:
    """One pub/sub connection. With ``sharded`` it hears SPUBLISH, else PUBLISH."""

    def __init__(self, pubsub: "PubSub", *, sharded: bool = False) -> None:
        self._pubsub = pubsub
        self._confirmation = "ssubscribe" if sharded else "subscribe"

    async def subscribe(self, channels: Sequence[str]) -> None:
        """Hear these channels too; returns when the server has confirmed each."""
        if self._confirmation == "ssubscribe":
            await self._pubsub.ssubscribe(*channels)
        else:
            await self._pubsub.subscribe(*channels)
        waiting = set(channels)
        while waiting:
            message = await self._pubsub.get_message(timeout=None)
            if message is not None and message["type"] == self._confirmation:
                waiting.discard(message["channel"].decode())

    async def next(self) -> Message:
        while True:
            message = _message(await self._pubsub.get_message(timeout=None))
            if message is not None:
                return message

    async def next_within(self, timeout_s: float) -> Message | None:
        """The next message, or None after silence. Raises TimeoutError if the server does not answer then."""
        for is_last in (False, True):
            reply = await self._pubsub.get_message(timeout=timeout_s)
            if reply is not None:
                return _message(reply)
            if not is_last:
                await self._pubsub.ping()
        raise TimeoutError


def _message(reply: dict[str, Any] | None) -> Message | None:
    """What was published, if anything was. Raises ConnectionResetError where the subscription is not what it was."""
    if reply is None or reply["type"] == "pong":
        return None
    if reply["type"] in {"message", "smessage"}:
        return Message(reply["channel"].decode(), reply["data"])
    # redis-py reconnected behind our back, or a shard gave the slot away: messages may be lost.
    raise ConnectionResetError


class ClusterLine:
    """The lines to all shards that have some of the channels. The first to fail ends it.

    What several shards sent before it was looked at comes in the order of the
    channels: name first what the others follow from. A shard that is silent for
    ``timeout_s`` is asked whether it is there, and given as long to answer: the
    others would hide its silence.
    """

    def __init__(self, cluster: ClusterRedis, timeout_s: float) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._heard: asyncio.Queue[tuple[int, Message | Exception]] = asyncio.Queue(_MOST_WAITING)
        self._sorted: deque[Message | Exception] = deque()

    async def next(self) -> Message:
        if not self._sorted:
            heard = [await self._heard.get()]
            # Whoever has something from the same turn of the loop hands it over now.
            await asyncio.sleep(0)
            while not self._heard.empty():
                heard.append(self._heard.get_nowait())
            self._sorted.extend(item for _, item in sorted(heard, key=itemgetter(0)))
        item = self._sorted.popleft()
        if isinstance(item, Exception):
            raise item
        return item

    async def subscribe(self, line: ServerLine, address: Address, by_slot: ChannelsBySlot) -> None:
        """Hear a shard's channels."""
        with self._cluster.doubting(address):
            for channels in by_slot.values():
                await line.subscribe(channels)

    async def listen(self, rank: int, line: ServerLine, address: Address, slots: Iterable[int]) -> None:
        """Pass one shard's messages on until it fails, or is no longer the one that owns the slots."""
        try:
            while True:
                message = await line.next_within(self._timeout_s)
                if message is not None:
                    await self._heard.put((rank, message))
                if any(self._cluster.slots.owner(slot) != address for slot in slots):
                    raise ConnectionResetError
        except (RedisError, OSError) as error:
            self._cluster.doubt(address)
            await self._heard.put((rank, error))


@asynccontextmanager
async def open_line(redis: "Redis", channels: Sequence[str], timeout_s: float) -> AsyncIterator[Line]:
    """Subscribe, and stay so for as long as the block runs. Raises what a line fails with."""
    if isinstance(redis, ClusterRedis):
        async with _cluster_line(redis, channels, timeout_s) as line:
            yield line
    else:
        async with _pubsub(redis, timeout_s) as pubsub:
            async with asyncio.timeout(timeout_s):
                await (server_line := ServerLine(pubsub)).subscribe(channels)
            yield server_line


@asynccontextmanager
async def _cluster_line(cluster: ClusterRedis, channels: Sequence[str], timeout_s: float) -> AsyncIterator[Line]:
    cluster_line = ClusterLine(cluster, timeout_s)
    shards: list[tuple[ServerLine, Address, ChannelsBySlot]] = []
    async with AsyncExitStack() as opened:
        async with asyncio.timeout(timeout_s):
            for address, by_slot in (await _homes(cluster, channels)).items():
                pubsub = await opened.enter_async_context(_pubsub(cluster.node(address), timeout_s))
                line = ServerLine(pubsub, sharded=True)
                await cluster_line.subscribe(line, address, by_slot)
                shards.append((line, address, by_slot))
        tasks = [
            asyncio.create_task(cluster_line.listen(rank, *shard), name="bus.shard")
            for rank, shard in enumerate(shards)
        ]
        try:
            yield cluster_line
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def _homes(cluster: ClusterRedis, channels: Sequence[str]) -> dict[Address, dict[int, list[str]]]:
    homes: dict[Address, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for channel in channels:
        slot = slot_of_key(channel)
        homes[await cluster.owner(slot)][slot].append(channel)
    return homes


async def _pass_on(reply: Any) -> Any:
    """A published message as it is. redis-py (8.1) would write each out for a debug log that nobody reads."""
    return reply


@asynccontextmanager
async def _pubsub(redis: "Redis", timeout_s: float) -> "AsyncIterator[PubSub]":
    pubsub = redis.pubsub(push_handler_func=_pass_on)
    try:
        yield pubsub
    finally:
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
