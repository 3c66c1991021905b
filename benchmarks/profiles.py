"""How much load, for how long."""

import resource
from dataclasses import dataclass, replace
from typing import Any, Final

from app.settings import Settings
from app.websocket.descriptors import connections_permitted
from benchmarks.processes import available_bytes

_SPARE_DESCRIPTORS: Final = 500
_BYTES_PER_USER: Final = 150_000
"""Memory that a user takes on this machine in all: both ends of a socket, rows, book, kernel."""
_BASE_BYTES: Final = 1_200_000_000
_USERS_PER_CLIENT: Final = 15_000
_UNEVEN: Final = 1.2


@dataclass(frozen=True)
class Profile:
    """One run. ``hz`` is what each user may get at most; times are in seconds."""

    name: str
    users: int
    hz: float = 10.0
    positions: int = 10
    watched: int = 10
    symbols: int = 2_000
    ticks_per_s: int = 2500
    web_workers: int = 2
    warm_up_s: float = 5.0
    measure_s: float = 20.0

    @property
    def client_processes(self) -> int:
        """How many load clients: as few as can hold the sockets, for each takes a share of the machine."""
        return -(-self.users // min(_descriptors() - _SPARE_DESCRIPTORS, _USERS_PER_CLIENT))

    def obstacle(self) -> str | None:
        """Why this machine cannot do it, if it cannot."""
        # Connections are not shared out evenly, hence the margin.
        most = connections_permitted(Settings.model_fields["stream_max_connections"].default)
        needed = int(self.users / self.web_workers * _UNEVEN)
        if needed > most:
            return (
                f"a web process may have to take {needed} connections and can take {most}: raise --workers or ulimit -n"
            )
        memory = _BASE_BYTES + self.users * _BYTES_PER_USER
        if memory > available_bytes():
            return f"about {memory / 1e9:.1f} GB of memory are needed and {available_bytes() / 1e9:.1f} GB available"
        return None


def raise_descriptor_limit() -> None:
    """Take as many file descriptors as are permitted, as the processes to be measured do."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _descriptors() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("smoke", 50, symbols=100, ticks_per_s=500, web_workers=1, warm_up_s=1.0, measure_s=3.0),
        Profile("1k", 1_000),
        Profile("5k", 5_000),
        Profile("10k", 10_000),
        Profile("25k", 25_000),
        Profile("1k-busy", 1_000, ticks_per_s=20_000),
        Profile("5k-busy", 5_000, ticks_per_s=20_000),
        Profile("10k-busy", 10_000, ticks_per_s=20_000),
        Profile("25k-busy", 25_000, ticks_per_s=20_000),
    )
}


def chosen(names: str, **changes: Any) -> list[Profile]:
    """Profiles by a comma-separated list of names, with the fields that were given by option.

    ``5k@2`` is 5k with two updates a second. Raises ValueError.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name.partition("@")[0] not in PROFILES]
    if unknown or not wanted:
        raise ValueError(f"no profile {', '.join(unknown) or 'given'}; there are {', '.join(PROFILES)}")
    given = {name: value for name, value in changes.items() if value is not None}
    return [replace(_named(name), **given) for name in wanted]


def _named(name: str) -> Profile:
    profile, _, hz = name.partition("@")
    if not hz:
        return PROFILES[profile]
    try:
        return replace(PROFILES[profile], name=name, hz=float(hz))
    except ValueError:
        raise ValueError(f"{name}: {hz} is no number of updates") from None
