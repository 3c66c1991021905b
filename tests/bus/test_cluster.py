"""What only a cluster has: slots that move, shards that are told apart, operations on several."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from app.bus import keys
from app.bus.cluster import ClusterRedis
from app.bus.connection import BusUnavailable, connect, deadline
from app.bus.interest import InterestPublisher, read_interesting_symbols
from app.bus.messages import PriceFlush
from app.bus.prices import PriceBoard, PricePublisher, decode_flush, read_prices
from app.bus.slots import NoSlot, slot_of, slot_of_key
from app.bus.subscription import Message, Resync, Subscription
from tests.bus.test_prices import flush, price
from tests.exchanges.waiting import running
from tests.redis_servers import ClusterServers, Node, everywhere, until

TIMEOUT_S = 2.0


@pytest.fixture
async def redis(cluster_servers: ClusterServers) -> AsyncIterator[ClusterRedis]:
    client = connect(cluster_servers.url, TIMEOUT_S)
    assert isinstance(client, ClusterRedis)
    await everywhere(client, "FLUSHALL")
    yield client
    await client.aclose()


def names_on_every_shard(servers: ClusterServers) -> list[str]:
    """One name per shard."""
    named: dict[int, str] = {}
    for number in range(100):
        named.setdefault(servers.owner(slot_of_key(f"name-{number}")).port, f"name-{number}")
    assert len(named) == 3
    return list(named.values())


class Move:
    """A slot on its way from its owner to another shard, and back."""

    def __init__(self, servers: ClusterServers, slot: int) -> None:
        self._servers = servers
        self._slot = slot
        self.source = servers.owner(slot)
        self.target = next(node for node in servers.nodes if self._is_other_master(node))

    def _is_other_master(self, node: Node) -> bool:
        return node is not self.source and node.says("replication")["role"] == "master"

    def begin(self) -> None:
        source, target = (node.ask("CLUSTER", "MYID") for node in (self.source, self.target))
        self.target.ask("CLUSTER", "SETSLOT", self._slot, "IMPORTING", source)
        self.source.ask("CLUSTER", "SETSLOT", self._slot, "MIGRATING", target)

    def carry(self, *names: str) -> None:
        self.source.ask(
            "MIGRATE", "127.0.0.1", self.target.port, "", 0, 1000, "AUTH", self.target.password, "KEYS", *names
        )

    def finish(self) -> None:
        owner = self.target.ask("CLUSTER", "MYID")
        for node in (self.target, self.source, *self._servers.nodes):
            if node.says("replication")["role"] == "master":
                node.ask("CLUSTER", "SETSLOT", self._slot, "NODE", owner)

    def undo(self) -> None:
        back = Move(self._servers, self._slot)
        if back.source is not self.source:
            for node in (back.source, back.target):
                node.ask("FLUSHALL")
            back.target = self.source
            back.begin()
            back.finish()
        self._servers.restore()


async def test_commands_find_their_keys_before_while_and_after_a_slot_moves(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    slot = slot_of_key("{moved}")
    await redis.set("{moved}:old", b"1")
    move = Move(cluster_servers, slot)
    try:
        move.begin()
        assert await redis.get("{moved}:old") == b"1"
        await deadline(redis.set("{moved}:new", b"2"), TIMEOUT_S)
        assert move.target.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
        pipeline = redis.pipeline(transaction=False)
        pipeline.get("{moved}:old")
        pipeline.get("{moved}:new")
        pipeline.set("elsewhere", b"3")
        assert await pipeline.execute() == [b"1", b"2", True]

        move.carry("{moved}:old")
        move.finish()
        assert await redis.get("{moved}:old") == b"1"
        pipeline = redis.pipeline(transaction=True)
        pipeline.get("{moved}:old")
        pipeline.set("{moved}:new", b"4")
        assert await pipeline.execute() == [b"1", True]
        assert move.target.ask("GET", "{moved}:new") == "4"
    finally:
        move.undo()


async def test_a_transaction_on_a_slot_half_way_is_unavailability_and_not_a_bug(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    move = Move(cluster_servers, slot_of_key("{moved}"))
    try:
        move.begin()
        pipeline = redis.pipeline(transaction=True)
        pipeline.set("{moved}:a", b"1")
        with pytest.raises(BusUnavailable):
            await deadline(pipeline.execute(), TIMEOUT_S)
    finally:
        move.finish()
        move.undo()


async def test_a_stale_map_is_corrected_by_the_first_command(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    pipelines = [redis.pipeline(transaction=is_transaction) for is_transaction in (True, False)]
    await redis.ping()
    slot = slot_of_key("key")
    elsewhere = next(address for address in await redis.primaries() if address != redis.slots.owner(slot))

    for number, pipeline in enumerate(pipelines):
        redis.slots.move(slot, elsewhere)
        pipeline.set("key", str(number))
        assert await pipeline.execute() == [True]
        assert await redis.get("key") == str(number).encode()


async def test_a_channel_that_moves_to_another_shard_is_a_resync(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    move = Move(cluster_servers, slot_of_key("{moved}"))
    try:
        async with aclosing(Subscription(redis, ["{moved}"], silence_s=None).events()) as events:
            assert await anext(events) == Resync()
            move.begin()
            move.finish()
            async with asyncio.timeout(10):
                assert await anext(events) == Resync()
                await redis.publish("{moved}", b"after")
                assert await anext(events) == Message("{moved}", b"after")
    finally:
        move.undo()


def carried_to_everybody(servers: ClusterServers) -> int:
    """How many messages of classic pub/sub went from node to node."""
    said = "\n".join(node.ask("CLUSTER", "INFO") for node in servers.nodes)
    return sum(map(int, re.findall(r"messages_publish_sent:(\d+)", said)))


async def test_messages_stay_in_their_shard(redis: ClusterRedis, cluster_servers: ClusterServers) -> None:
    before = carried_to_everybody(cluster_servers)
    for name in names_on_every_shard(cluster_servers):
        await redis.publish(name, b"1")
        pipeline = redis.pipeline(transaction=False)
        pipeline.publish(name, b"2")
        await pipeline.execute()
    assert carried_to_everybody(cluster_servers) == before

    # That this would show: a message of the other kind.
    cluster_servers.nodes[0].ask("PUBLISH", "name", b"3")
    assert carried_to_everybody(cluster_servers) > before


async def test_of_what_waits_from_several_shards_the_channel_named_first_comes_first(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    channels = names_on_every_shard(cluster_servers)
    for order in (channels, channels[::-1]):
        async with aclosing(Subscription(redis, order, silence_s=None).events()) as events:
            assert await anext(events) == Resync()
            for _ in range(5):
                for channel in order:
                    # From outside the loop, which stands still: it finds everything at once.
                    assert cluster_servers.owner(slot_of_key(channel)).ask("SPUBLISH", channel, "x") == 1
                heard = [await anext(events) for _ in order]
                assert heard == [Message(channel, b"x") for channel in order]


async def test_a_shard_that_says_nothing_is_asked_whether_it_is_there(
    redis: ClusterRedis, cluster_servers: ClusterServers
) -> None:
    talking, silent, _ = names_on_every_shard(cluster_servers)
    subscription = Subscription(redis, [talking, silent], silence_s=5.0, timeout_s=0.2)

    async def talk() -> None:
        while True:
            with suppress(BusUnavailable):
                await deadline(redis.publish(talking, b"1"), TIMEOUT_S)
            await asyncio.sleep(0.02)

    async def listen() -> None:
        async with aclosing(subscription.events()) as events:
            async for _ in events:
                pass

    try:
        async with running(talk()), running(listen()):
            await asyncio.sleep(1.0)
            assert subscription.reconnects == 0
            with cluster_servers.owner(slot_of_key(silent)).stalled():
                await until(lambda: subscription.reconnects > 0)
    finally:
        cluster_servers.restore()


async def test_what_spans_shards_is_refused_unless_it_can_be_done_apart(redis: ClusterRedis) -> None:
    with pytest.raises(NoSlot):
        await redis.delete("a", "b")
    with pytest.raises(NoSlot, match="RANDOMKEY"):
        await redis.randomkey()
    with pytest.raises(NoSlot):
        await redis.eval("return 1", 2, "a", "b")

    assert await read_interesting_symbols(redis, TIMEOUT_S) == set()
    for number in range(6):
        await InterestPublisher(redis, f"w{number}", TIMEOUT_S).heartbeat(set(), {f"S{number}"})
    assert await read_interesting_symbols(redis, TIMEOUT_S) == {f"S{number}" for number in range(6)}


def test_what_one_operation_needs_is_on_one_shard() -> None:
    prices = [keys.PRICES, keys.PRICE_HEAD, keys.PRICE_EPOCH, keys.INSTRUMENTS, keys.PRICE_CHANNEL]
    assert len({slot_of_key(name) for name in prices}) == 1
    assert slot_of_key(keys.online("w1")) == slot_of_key(keys.watched("w1"))
    assert slot_of_key(keys.INSTANCES) == slot_of_key(keys.INTEREST_CHANNEL)
    assert slot_of(("DEL", keys.PRICES, keys.PRICE_HEAD, keys.INSTRUMENTS)) == slot_of_key(keys.PRICES)
    assert len({slot_of_key(keys.pnl_channel(f"w{number}")) for number in range(50)}) > 40


async def test_no_reader_of_a_flush_finds_an_older_hash(redis: ClusterRedis) -> None:
    board = PriceBoard()
    gaps = 0
    publisher = PricePublisher(redis, TIMEOUT_S)
    async with aclosing(Subscription(redis, [keys.PRICE_CHANNEL], silence_s=None).events()) as events:
        assert await anext(events) == Resync()
        for number in range(1, 30):
            await publisher.publish(flush(number, price(f"S{number}", "1")))
            message = await anext(events)
            assert isinstance(message, Message)
            sent: PriceFlush = decode_flush(message.payload)
            if number % 5 == 0:
                gaps += 1
                head, prices = await read_prices(redis, TIMEOUT_S)
                assert head is not None
                assert head.flush >= sent.flush
                board.load(head, prices)
            assert board.apply(sent) in {"applied", "old", "gap"}
    assert gaps == 5
    assert len(board.prices) >= 25
