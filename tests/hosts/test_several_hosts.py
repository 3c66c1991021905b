"""Links between hosts are cut under a trader who watches three web hosts at once.

Whatever is cut: no number is wrong, none is shown as live that is old, hosts that
are not concerned go on, and all is well again soon after the link is.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx2
import pytest
import websockets
from redis import Redis

from app.bus import keys
from app.bus.pnl import decode_pnl_flush
from app.repositories.layouts import role_of
from tests.e2e.trader import PASSWORD
from tests.hosts.cluster import HOSTS_OF, LEASE_TTL_MS, SHARDS, WEB_PORT, Cluster, poll, role_for
from tests.hosts.watcher import Watcher

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(120)]

Watchers = dict[str, Watcher]

TAKEOVER_S = LEASE_TTL_MS / 1000 + 8
"""A lease's time, a poll, the load, on a machine with other work."""


async def all_live(watchers: Watchers, within_s: float) -> None:
    await asyncio.gather(*(watcher.until_live(within_s) for watcher in watchers.values()))


async def all_see(watchers: Watchers, position_id: str, within_s: float) -> None:
    await asyncio.gather(*(watcher.until_row(position_id, within_s) for watcher in watchers.values()))


async def test_a_web_host_without_redis_shows_stale_and_the_others_go_on(cluster: Cluster, watchers: Watchers) -> None:
    cut_off, elsewhere = watchers["web1"], watchers["web2"]

    cluster.network.cut("web1", "redis")

    await cut_off.until_stale(8)
    opened = await elsewhere.open("BNBUSDT", "long", "3")
    await elsewhere.until_row(opened["position_id"], 5)
    await elsewhere.until_live(5)
    assert opened["position_id"] not in cut_off.rows
    cluster.network.heal()
    await all_see(watchers, opened["position_id"], 20)
    await all_live(watchers, 10)
    assert cut_off.events[-1]["seq"] == elsewhere.events[-1]["seq"]


async def test_a_web_host_without_postgresql_refuses_writes_and_streams_on(
    cluster: Cluster, watchers: Watchers
) -> None:
    cut_off = watchers["web1"]

    cluster.network.cut("web1", "postgres")

    body = {"symbol": "BNBUSDT", "side": "long", "quantity": "3"}
    answer = await cut_off.rest.post("/api/v1/positions", json=body, headers={"Idempotency-Key": "cut"})
    assert answer.status_code == 503, answer.text
    await all_live(watchers, 5)
    cluster.network.heal()

    async def written() -> str:
        again = await cut_off.rest.post("/api/v1/positions", json=body, headers={"Idempotency-Key": "cut"})
        return str(again.json()["position_id"]) if again.status_code == 201 else ""

    position_id = await poll(written, 20, "the write to be taken")
    await all_see(watchers, position_id, 10)
    assert cut_off.rows[position_id]["quantity"] == "3"


async def test_a_price_worker_without_postgresql_is_replaced_and_fenced(cluster: Cluster, watchers: Watchers) -> None:
    before = await cluster.active("price")

    cluster.network.cut(before.host, "postgres")

    after = await cluster.taken_over("price", before, TAKEOVER_S)
    assert after.epoch > before.epoch
    # Redis tells it, which it can still reach: no need to wait for the link.
    await cluster.ended(before.host)
    await all_live(watchers, 15)
    assert {watcher.place[0] for watcher in watchers.values()} == {after.epoch}


async def test_a_price_worker_without_redis_is_replaced(cluster: Cluster, watchers: Watchers) -> None:
    before = await cluster.active("price")

    cluster.network.cut(before.host, "redis")

    await cluster.taken_over("price", before, TAKEOVER_S)
    await all_live(watchers, 15)


async def test_a_price_worker_without_its_exchange_turns_every_number_stale_until_it_has_it_again(
    cluster: Cluster, watchers: Watchers
) -> None:
    for host in ("price1", "price2"):
        cluster.network.cut(host, "exchange")

    await asyncio.gather(*(watcher.until_stale(12) for watcher in watchers.values()))
    last = {host: watcher.totals["unrealized_pnl"] for host, watcher in watchers.items()}
    assert len(set(last.values())) == 1
    cluster.network.heal()
    await all_live(watchers, 25)


async def test_a_pnl_worker_without_postgresql_is_replaced_and_no_longer_heard(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    role = role_for(watchers["web1"].user_id)
    before = await cluster.active(role)

    with heard(cluster, role) as epochs, undisturbed(neighbours):
        cluster.network.cut(before.host, "postgres")
        after = await cluster.taken_over(role, before, TAKEOVER_S)
        opened = await watchers["web1"].open("BNBUSDT", "long", "3")
        await all_see(watchers, opened["position_id"], 15)
        await all_live(watchers, 15)
        epochs.clear()
        await poll(lambda: both_speak(epochs, before.epoch, after.epoch), 5, "the old one to go on speaking")
        await all_live(watchers, 5)

    assert cluster.processes[before.host].pid is not None
    cluster.network.heal()
    await cluster.ended(before.host)
    await all_live(watchers, 5)


async def test_a_pnl_worker_without_redis_is_replaced(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    role = role_for(watchers["web1"].user_id)
    before = await cluster.active(role)

    with undisturbed(neighbours):
        cluster.network.cut(before.host, "redis")

        await cluster.taken_over(role, before, TAKEOVER_S)
        await all_live(watchers, 15)


async def test_a_pnl_host_that_is_gone_is_replaced_and_ends_when_it_is_back(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    role = role_for(watchers["web1"].user_id)
    before = await cluster.active(role)

    with undisturbed(neighbours):
        cluster.network.unplug(before.host)

        after = await cluster.taken_over(role, before, TAKEOVER_S)
        closing_one = next(iter(watchers["web2"].rows))
        await watchers["web2"].close(closing_one)
        await all_live(watchers, 15)
        assert all(closing_one not in watcher.rows for watcher in watchers.values())
        cluster.network.heal()
        await cluster.ended(before.host, 20)
    assert await cluster.active(role) == after


async def test_a_killed_shard_is_taken_over_and_the_other_one_is_not_concerned(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    role = role_for(watchers["web1"].user_id)
    before = await cluster.active(role)

    with undisturbed(neighbours):
        killed_at = time.monotonic()
        cluster.processes[before.host].kill()
        after = await cluster.taken_over(role, before, TAKEOVER_S)
        taken_s = time.monotonic() - killed_at
        opened = await watchers["web1"].open("BNBUSDT", "long", "3")
        await all_see(watchers, opened["position_id"], 15)
        await all_live(watchers, 15)
        told = (
            f"a lease of {LEASE_TTL_MS} ms: taken over after {taken_s:.1f} s, all live after {since(killed_at):.1f} s"
        )
        sys.stdout.write(told + "\n")

    assert after.epoch > before.epoch
    assert after.host not in {(await cluster.active(other)).host for other in HOSTS_OF if other != role}


async def test_with_fewer_workers_than_shards_those_of_nobody_are_stale_and_the_others_live(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    """Two of three die: the third takes one shard, whichever is free first."""
    roles = {role_for(watchers["web1"].user_id): watchers, role_for(neighbours["web1"].user_id): neighbours}
    before = {role: await cluster.active(role) for role in roles}

    for holder in before.values():
        cluster.processes[holder.host].kill()

    async def taken() -> str | None:
        for role, holder in before.items():
            now = await cluster.holder(role)
            if now is not None and now.host != holder.host:
                return role
        return None

    served = await poll(taken, TAKEOVER_S, "the last worker to take a shard")
    assert served is not None
    (orphaned,) = (role for role in roles if role != served)
    await all_live(roles[served], 15)
    await asyncio.gather(*(watcher.until_totals_stale(10) for watcher in roles[orphaned].values()))
    await all_live(roles[served], 5)
    cluster.revive()
    await all_live(roles[orphaned], 30)
    assert await cluster.holder(orphaned) is not None


async def test_redis_gone_for_everybody_turns_every_number_stale_until_it_is_back(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    everybody = [*watchers.values(), *neighbours.values()]

    cluster.network.unplug("redis")

    await asyncio.gather(*(watcher.until_stale(10) for watcher in everybody))
    cluster.network.heal()
    await all_live(watchers, 30)
    await all_live(neighbours, 30)


async def test_postgresql_gone_for_everybody_stops_writes_and_no_number(
    cluster: Cluster, watchers: Watchers, neighbours: Watchers
) -> None:
    with undisturbed(neighbours), undisturbed(watchers):
        cluster.network.unplug("postgres")

        body = {"symbol": "BNBUSDT", "side": "long", "quantity": "3"}
        refused = await watchers["web1"].rest.post("/api/v1/positions", json=body)
        assert refused.status_code == 503, refused.text
        await asyncio.sleep(2 * LEASE_TTL_MS / 1000)
        await all_live(watchers, 5)
        cluster.network.heal()
        # Every lease ran out meanwhile, and standbys may be the first to find the database again.
        opened = await reopened(watchers["web1"], body)
        await all_see(watchers, opened, 20)
    await cluster.manned(30)


async def test_a_client_whose_cable_is_cut_is_reaped_and_comes_back(cluster: Cluster, watchers: Watchers) -> None:
    assert cluster.network.connections("web3", WEB_PORT) >= 1
    watcher = watchers["web3"]

    cluster.network.cut("desk", "web3")

    async def reaped() -> bool:
        return cluster.network.connections("web3", WEB_PORT) == 0

    await poll(reaped, 20, "the web host to give the connection up")
    await watchers["web1"].until_live(5)
    cluster.network.heal()
    # A page finds out by the silence; this client is told.
    await watcher.hang_up()
    await watcher.listen("BTCUSDT", "ETHUSDT")
    await watcher.until_live(10)


async def test_behind_a_proxy_that_ends_tls_browsers_get_a_secure_session(cluster: Cluster) -> None:
    url, origin = cluster.web["web3"].url, "https://desk.example"
    await cluster.restart(
        "web3",
        TIDEMARK_ENVIRONMENT="production",
        TIDEMARK_PUBLIC_ORIGINS=origin,
        FORWARDED_ALLOW_IPS=cluster.address("desk"),
    )
    try:
        await cluster.ready()
        said_by_proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}
        async with httpx2.AsyncClient(base_url=url, headers={**said_by_proxy, "Origin": origin}) as browser:
            login = {"username": "behind-a-proxy", "password": PASSWORD}
            answer = await browser.post("/api/v1/auth/register", json=login)
        assert answer.status_code == 201, answer.text
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-tidemark=")
        assert "; Secure" in cookie

        headers = {**said_by_proxy, "Cookie": cookie.partition(";")[0]}
        stream = f"{cluster.web['web3'].stream_url}"
        async with websockets.connect(
            stream,
            origin=origin,  # type: ignore[arg-type]
            additional_headers=headers,
            subprotocols=["tidemark.v1.json"],  # type: ignore[list-item]
        ) as socket:
            assert '"hello"' in str(await socket.recv())
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(
                stream,
                origin="https://elsewhere.example",  # type: ignore[arg-type]
                additional_headers=headers,
                subprotocols=["tidemark.v1.json"],  # type: ignore[list-item]
            )
    finally:
        await cluster.restart("web3")


async def reopened(watcher: Watcher, body: dict[str, str]) -> str:
    """Open a position as soon as that is possible again."""

    async def opened() -> str:
        answer = await watcher.rest.post("/api/v1/positions", json=body, headers={"Idempotency-Key": "again"})
        return str(answer.json()["position_id"]) if answer.status_code == 201 else ""

    return await poll(opened, 20, "a write to be taken")


def since(moment: float) -> float:
    return time.monotonic() - moment


@contextmanager
def undisturbed(watchers: Watchers) -> Iterator[None]:
    """Nothing that happens in the block makes their figures stale."""
    for watcher in watchers.values():
        watcher.look_from_here()
    yield
    for host, watcher in watchers.items():
        assert not watcher.was_stale, f"{host} was told that its figures are stale"


@contextmanager
def heard(cluster: Cluster, role: str) -> Iterator[list[int]]:
    """The book epochs of a shard's P&L messages on the bus, as they come."""
    epochs: list[int] = []

    def take(message: dict[str, Any]) -> None:
        flush = decode_pnl_flush(message["data"])
        if role_of(SHARDS[flush.shard]) == role:
            epochs.append(flush.book_epoch)

    with Redis.from_url(cluster.redis_socket_url) as redis, closing(redis.pubsub()) as pubsub:
        pubsub.psubscribe(**{keys.pnl_channel("*"): take})
        listening = pubsub.run_in_thread(sleep_time=0.1, daemon=True)
        try:
            yield epochs
        finally:
            listening.stop()
            listening.join(5)


async def both_speak(epochs: list[int], old: int, new: int) -> bool:
    return {old, new} <= set(epochs)
