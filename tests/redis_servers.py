"""Redis as several servers: a master with Sentinels, a cluster. Private ports, temporary folders, always stopped."""

import asyncio
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis as blocking
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from app.bus.cluster import ClusterRedis
from app.bus.slots import slot_of_key
from app.embedded.redis import server_program
from app.embedded.tether import spawn
from app.supervision.claims import free_port

SERVICE = "tidemark"
_START_S = 15.0
_PASSWORD = "sécret:@/"
_QUOTED = quote(_PASSWORD, safe="")
_SENTINEL_PASSWORD = "watch"
_MEMORY_ONLY = (
    "--save",
    "",
    "--appendonly",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--loglevel",
    "notice",
    "--requirepass",
    _PASSWORD,
    "--primaryauth",
    _PASSWORD,
)


def wait_until(what: str, condition: Callable[[], bool], within_s: float = _START_S) -> None:
    """Poll, for servers that take their time. Raises TimeoutError."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.02)


async def everywhere(redis: Redis, *command: Any) -> list[Any]:
    """Run a command that has no key on every server that can be written to."""
    if not isinstance(redis, ClusterRedis):
        return [await redis.execute_command(*command)]
    return [await redis.node(address).execute_command(*command) for address in await redis.primaries()]


async def all_keys(redis: Redis) -> list[bytes]:
    return [key for keys in await everywhere(redis, "KEYS", "*") for key in keys]


class Node:
    """One valkey-server process on a port of its own."""

    password = _PASSWORD

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port("127.0.0.1")
        self.directory = directory / str(self.port)
        self.directory.mkdir(parents=True)
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = spawn(
                [server_program(), *self.command()],
                directory=self.directory,
                death_signal=signal.SIGKILL,
                user=None,
                log=log.fileno(),
                env={"LC_ALL": "C"},
            )
        wait_until(f"server on port {self.port}", self._answers)

    def command(self) -> tuple[str, ...]:
        return ("--port", str(self.port), "--bind", "127.0.0.1", *_MEMORY_ONLY, *self.options)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """At once, without a word to anybody: what a crash is like. A paused one too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=5)
            self._process = None

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            if self._process is not None:
                self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: Any) -> Any:
        """Run a command from outside the event loop."""
        with self._client(protocol=2) as client:
            return client.execute_command(*command)

    def says(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        with self._client(protocol=3) as client:
            said: dict[str, Any] = client.info(section)
            return said

    def _client(self, protocol: int) -> blocking.Redis:
        return blocking.Redis(
            port=self.port, password=self.password, decode_responses=True, protocol=protocol, socket_timeout=5
        )

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except RedisConnectionError:
            return False


class _SentinelNode(Node):
    password = _SENTINEL_PASSWORD

    def command(self) -> tuple[str, ...]:
        return (str(self.directory / "sentinel.conf"), "--sentinel")


class SentinelServers:
    """A master, a replica and three Sentinels that need half a second to give a master up."""

    def __init__(self, directory: Path) -> None:
        self.servers = [Node(directory), Node(directory)]
        self.sentinels = [_SentinelNode(directory) for _ in range(3)]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:{_QUOTED}@{places}/{SERVICE}?db=0&sentinel_password={_SENTINEL_PASSWORD}"

    def start(self) -> None:
        master, replica = self.servers
        master.start()
        replica.start()
        replica.ask("REPLICAOF", "127.0.0.1", master.port)
        self._write_configurations()
        for sentinel in self.sentinels:
            sentinel.start()
        self.restore()

    def stop(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.stop()

    def master(self) -> Node:
        """Whom the Sentinels name."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    def master_of(self, key: str) -> Node:
        """Who serves a key: always the same one."""
        return self.master()

    def restore(self) -> None:
        """Start what was stopped, and wait until all is well again."""
        for node in (*self.servers, *self.sentinels):
            if not node.is_running:
                node.start()
        master = self.master()
        for server in self.servers:
            if server is not master and server.says("replication")["role"] == "master":
                # Sentinels would do it too, some ten seconds later.
                server.ask("REPLICAOF", "127.0.0.1", master.port)
        wait_until("a replica in step", lambda: self._is_well(self.master()), 30.0)

    def _is_well(self, master: Node) -> bool:
        (other,) = (server for server in self.servers if server is not master)
        if master.says("replication")["role"] != "master" or other.says("replication")["role"] != "slave":
            return False
        return other.says("replication")["master_link_status"] == "up" and all(
            "odown" not in state and "sdown" not in state for state in map(self._flags, self.sentinels)
        )

    def _flags(self, sentinel: Node) -> str:
        fields = sentinel.ask("SENTINEL", "MASTER", SERVICE)
        return str(dict(zip(fields[::2], fields[1::2], strict=True))["flags"])

    def _write_configurations(self) -> None:
        """Everybody knows everybody, so that nobody has to be found first."""
        master, replica = self.servers
        ids = {sentinel.port: secrets.token_hex(20) for sentinel in self.sentinels}
        for sentinel in self.sentinels:
            lines = [
                f"port {sentinel.port}",
                "bind 127.0.0.1",
                f"sentinel myid {ids[sentinel.port]}",
                f"requirepass {_SENTINEL_PASSWORD}",
                f"sentinel sentinel-pass {_SENTINEL_PASSWORD}",
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
                f'sentinel auth-pass {SERVICE} "{_PASSWORD}"',
                f"sentinel down-after-milliseconds {SERVICE} 500",
                f"sentinel failover-timeout {SERVICE} 2000",
                f"sentinel known-replica {SERVICE} 127.0.0.1 {replica.port}",
            ]
            lines += [
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {port} {identity}"
                for port, identity in ids.items()
                if port != sentinel.port
            ]
            (sentinel.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")


class _ClusterNode(Node):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.bus_port = free_port("127.0.0.1")
        self.options = (
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", "800", "--cluster-replica-validity-factor", "0"),
            *("--cluster-allow-replica-migration", "no"),
        )


class ClusterServers:
    """Three masters with a replica each, who need about a second to give a master up."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [_ClusterNode(directory) for _ in range(6)]

    @property
    def url(self) -> str:
        return f"redis+cluster://:{_QUOTED}@" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[:3], self.nodes[3:]
        for number, master in enumerate(masters):
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            master.ask("CLUSTER", "ADDSLOTSRANGE", 16384 * number // 3, 16384 * (number + 1) // 3 - 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        wait_until("everybody to know everybody", lambda: all(self._known(node) == 6 for node in self.nodes))
        for master, replica in zip(masters, replicas, strict=True):
            identity = master.ask("CLUSTER", "MYID")
            wait_until("a master to be known as one", lambda: self._replicates(replica, identity))  # noqa: B023
        self.restore()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def owner(self, slot: int) -> Node:
        """Who serves a slot."""
        asked = next(node for node in self.nodes if node.is_running)
        for first, last, owner, *_ in _slots(asked):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == int(owner[1]))
        raise LookupError(slot)

    def master_of(self, key: str) -> Node:
        """Who serves a key."""
        return self.owner(slot_of_key(key))

    def restore(self) -> None:
        """Start what was stopped, and wait until all is well again."""
        for node in self.nodes:
            if not node.is_running:
                node.start()
        wait_until("the cluster to be whole", lambda: all(map(self._is_well, self.nodes)), 30.0)

    def _is_well(self, node: Node) -> bool:
        replication = node.says("replication")
        is_linked = replication["role"] == "master" or replication["master_link_status"] == "up"
        is_whole = len(_slots(node)) == 3 and all(len(shard) == 4 for shard in _slots(node))
        return is_linked and is_whole and "cluster_state:ok" in node.ask("CLUSTER", "INFO")

    def _known(self, node: Node) -> int:
        return len(node.ask("CLUSTER", "NODES").splitlines())

    def _replicates(self, replica: Node, identity: str) -> bool:
        try:
            replica.ask("CLUSTER", "REPLICATE", identity)
        except ResponseError:
            return False
        return True


def _slots(node: Node) -> list[Any]:
    slots: list[Any] = node.ask("CLUSTER", "SLOTS")
    return slots


Servers = SentinelServers | ClusterServers


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
