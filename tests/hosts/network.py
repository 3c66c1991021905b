"""Hosts as network namespaces of this machine, joined by a switch, and links that can be cut.

The switch is a bridge in a namespace of its own: nothing is added to the machine's
own network, and every address exists inside namespaces of this object only.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_SUBNET = "10.77.0"
_PREFIX = "tidemark-test"
_NAMESPACES = Path("/run/netns")
_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has: what is sent to it vanishes, as on a cut cable."""

_CLONE_NEWNET = 0x40000000


class Network:
    """Create it with :meth:`build`; :meth:`remove` takes everything away, processes inside included."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._tag = f"{_PREFIX}-{os.getpid()}"
        self.addresses: Mapping[str, str] = {host: f"{_SUBNET}.{number}" for number, host in enumerate(hosts, 11)}
        self._cut: set[tuple[str, str]] = set()
        self._down: set[str] = set()

    def namespace(self, host: str) -> str:
        return f"{self._tag}-{host}"

    @property
    def _switch(self) -> str:
        return self.namespace("switch")

    # Building

    def build(self) -> None:
        """Raises CalledProcessError where namespaces are not allowed."""
        sweep()
        _ip("netns", "add", self._switch)
        _batch(self._switch, ["link add name switch type bridge", "link set dev switch up"])
        for host, address in self.addresses.items():
            namespace = self.namespace(host)
            _ip("netns", "add", namespace)
            _batch(
                self._switch,
                [
                    f"link add name {host} type veth peer name eth0 netns {namespace}",
                    f"link set dev {host} master switch up",
                ],
            )
            _batch(
                namespace,
                ["link set dev lo up", f"address add {address}/24 dev eth0", "link set dev eth0 up"],
            )

    def remove(self) -> None:
        for host in (*self.addresses, "switch"):
            remove_namespace(self.namespace(host))

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """How to run a command on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *command]

    @contextmanager
    def entered(self, host: str) -> Iterator[None]:
        """Make this thread part of a host: sockets and children of the block live there."""
        with Path("/proc/thread-self/ns/net").open() as home, (_NAMESPACES / self.namespace(host)).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    # Breaking

    def cut(self, one: str, other: str) -> None:
        """Lose everything between two hosts, in both directions, without a word to either."""
        for here, there in ((one, other), (other, one)):
            _batch(
                self.namespace(here),
                [f"neighbour replace {self.addresses[there]} lladdr {_NOBODY} dev eth0 nud permanent"],
            )
        self._cut.add((one, other))

    def unplug(self, host: str) -> None:
        """Take a host's one link down."""
        _batch(self._switch, [f"link set dev {host} down"])
        self._down.add(host)

    def heal(self) -> None:
        """Make every link whole again."""
        for one, other in self._cut:
            for here, there in ((one, other), (other, one)):
                _batch(self.namespace(here), [f"neighbour delete {self.addresses[there]} dev eth0"])
        for host in self._down:
            _batch(self._switch, [f"link set dev {host} up"])
        self._cut.clear()
        self._down.clear()

    def connections(self, host: str, port: int) -> int:
        """How many TCP connections of this port a host counts as established."""
        command = ["cat", "/proc/net/tcp"]
        found = subprocess.run(self.command(host, command), capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in found.splitlines()[1:]]
        return sum(int(row[1].rpartition(":")[2], 16) == port and row[3] == "01" for row in rows)


def why_not() -> str | None:
    """Why namespaces cannot be used here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    probe = f"{_PREFIX}-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _batch(probe, ["link add name a type veth peer name b", "link add name c type bridge"])
        _ip("netns", "exec", probe, "true")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}"
    finally:
        remove_namespace(probe)
    return None


def sweep() -> None:
    """Remove what a test run that was killed left behind."""
    for path in _NAMESPACES.glob(f"{_PREFIX}-*"):
        pid = path.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove_namespace(path.name)


def remove_namespace(namespace: str) -> None:
    """Kill what runs inside, and remove it. Nothing happens where there is none."""
    if not (_NAMESPACES / namespace).exists():
        return
    inside = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout
    for pid in inside.split():
        if int(pid) != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


def _batch(namespace: str, lines: Sequence[str]) -> None:
    subprocess.run(
        ["ip", "-netns", namespace, "-batch", "-"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
