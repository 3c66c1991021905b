"""Links between hosts are cut under a trader who watches three web hosts at once.

Whatever is cut: no number is wrong, none is shown as live that is old, hosts that
are not concerned go on, and all is well again soon after the link is.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx2
import pytest
import websockets
from redis import Redis

from app.bus import keys
from app.bus.pnl import decode_pnl_flush
from tests.e2e.trader import PASSWORD
from tests.hosts.cluster import LEASE_TTL_MS, WEB_PORT, Cluster, poll
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
    cluster: Cluster, watchers: Watchers
) -> None:
    before = await cluster.active("pnl")

    with heard(cluster) as epochs:
        cluster.network.cut(before.host, "postgres")
        after = await cluster.taken_over("pnl", before, TAKEOVER_S)
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


async def test_a_pnl_worker_without_redis_is_replaced(cluster: Cluster, watchers: Watchers) -> None:
    before = await cluster.active("pnl")

    cluster.network.cut(before.host, "redis")

    await cluster.taken_over("pnl", before, TAKEOVER_S)
    await all_live(watchers, 15)


async def test_a_pnl_host_that_is_gone_is_replaced_and_ends_when_it_is_back(
    cluster: Cluster, watchers: Watchers
) -> None:
    before = await cluster.active("pnl")

    cluster.network.unplug(before.host)

    after = await cluster.taken_over("pnl", before, TAKEOVER_S)
    closing_one = next(iter(watchers["web2"].rows))
    await watchers["web2"].close(closing_one)
    await all_live(watchers, 15)
    assert all(closing_one not in watcher.rows for watcher in watchers.values())
    cluster.network.heal()
    await cluster.ended(before.host, 20)
    assert await cluster.active("pnl") == after


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


@contextmanager
def heard(cluster: Cluster) -> Iterator[list[int]]:
    """The book epochs of all P&L messages on the bus, as they come."""
    epochs: list[int] = []
    with Redis.from_url(cluster.redis_socket_url) as redis, closing(redis.pubsub()) as pubsub:
        pubsub.psubscribe(
            **{keys.pnl_channel("*"): lambda message: epochs.append(decode_pnl_flush(message["data"]).book_epoch)}
        )
        listening = pubsub.run_in_thread(sleep_time=0.1, daemon=True)
        try:
            yield epochs
        finally:
            listening.stop()
            listening.join(5)


async def both_speak(epochs: list[int], old: int, new: int) -> bool:
    return {old, new} <= set(epochs)
