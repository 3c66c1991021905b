"""What processes cost, from /proc: CPU time, waiting for a core, memory."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class Usage(NamedTuple):
    """Since the start of a process or of several, in seconds. ``waited_s``: ready to run, but no core was free."""

    cpu_s: float = 0.0
    waited_s: float = 0.0

    def since(self, earlier: "Usage") -> "Usage":
        return Usage(self.cpu_s - earlier.cpu_s, self.waited_s - earlier.waited_s)


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with suppress(*_GONE):
            for thread in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return found


def usage(pids: Iterable[int]) -> Usage:
    """What some processes have used together, their threads included."""
    cpu_s = waited_s = 0.0
    for pid in pids:
        with suppress(*_GONE):
            user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            cpu_s += (int(user) + int(system)) * _TICK_S
            for thread in Path(f"/proc/{pid}/task").iterdir():
                waited_s += int((thread / "schedstat").read_text().split()[1]) / 1e9
    return Usage(cpu_s, waited_s)


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory of processes, what they share divided among them (Pss)."""
    total = 0
    for pid in pids:
        with suppress(*_GONE):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def usage_by_role(roles: Mapping[str, int]) -> dict[str, Usage]:
    """For each named process, what its whole family has used."""
    return {role: usage(family(pid)) for role, pid in roles.items()}


def machine_busy_s() -> float:
    """Seconds of CPU that everything on this machine has used since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) * _TICK_S


def available_bytes() -> int:
    """Memory that programs can still have."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_name() -> str:
    """What the processor calls itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
