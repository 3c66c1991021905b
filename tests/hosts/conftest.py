"""One cluster for all tests of a module, whole again after each."""

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.system import run_apart
from tests.hosts.cluster import WEB, Cluster, role_for
from tests.hosts.network import why_not
from tests.hosts.watcher import Watcher, agree


@pytest.fixture(scope="module")
def _whole_cluster() -> Iterator[Cluster]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    directory = Path(tempfile.mkdtemp(prefix="tidemark-hosts-"))
    cluster = Cluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def cluster(_whole_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, with every process running and every link whole; the test runs on the host ``desk``."""
    monkeypatch.setenv("NO_PROXY", "*")
    with _whole_cluster.network.entered("desk"):
        run_apart(_whole_cluster.ready())
        yield _whole_cluster
    _whole_cluster.revive()


@pytest.fixture
async def watchers(cluster: Cluster) -> AsyncIterator[dict[str, Watcher]]:
    """One user with two positions, connected to each web host; at the end all must have seen the same figures."""
    async with AsyncExitStack() as opened:
        first, *others = [await opened.enter_async_context(Watcher(cluster.web[host])) for host in WEB]
        await first.register()
        await _settle(first, others)
        watching = dict(zip(WEB, (first, *others), strict=True))
        yield watching
        _compare(watching)


@pytest.fixture
async def neighbours(cluster: Cluster, watchers: dict[str, Watcher]) -> AsyncIterator[dict[str, Watcher]]:
    """Another user, of the other shard, connected to two of the web hosts; what he sees is compared as well."""
    hosts = WEB[:2]
    async with AsyncExitStack() as opened:
        first, other = [await opened.enter_async_context(Watcher(cluster.web[host])) for host in hosts]
        while True:
            first.username = f"neighbour-{secrets.token_hex(4)}"
            await first.register()
            me = (await first.rest.get("/api/v1/me")).json()
            if role_for(me["user_id"]) != role_for(watchers["web1"].user_id):
                break
        await _settle(first, [other])
        watching = dict(zip(hosts, (first, other), strict=True))
        yield watching
        _compare(watching)


async def _settle(first: Watcher, others: list[Watcher]) -> None:
    """Log the others in as the first, open two positions, and listen until all have both."""
    for other in others:
        other.username = first.username
        await other.login()
    await first.open("BTCUSDT", "long", "0.5")
    await first.open("ETHUSDT", "short", "2")
    for watcher in (first, *others):
        await watcher.listen("BTCUSDT", "ETHUSDT")
    for watcher in (first, *others):
        await watcher.until(lambda watcher=watcher: len(watcher.rows) == 2, what="both rows")
        await watcher.fresh_update()


def _compare(watching: dict[str, Watcher]) -> None:
    for watcher in watching.values():
        watcher.assert_sound()
    agree(list(watching.values()))
