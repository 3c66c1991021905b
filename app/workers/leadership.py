"""Being the one active worker of a role: a lease in PostgreSQL, with an epoch that fences."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

import structlog

from app.repositories.database import DatabaseUnavailable

log = structlog.get_logger(__name__)

_SHORTEST_WAIT_S = 0.01
_MISSED = 0.6
"""Of a lease's time: less is left only when a renewal, due at two thirds, is late."""


class LeaseLost(Exception):
    """Another worker holds the lease now; this one must end."""


class Leases(Protocol):
    """Where leases are kept. Every method raises DatabaseUnavailable."""

    async def held_by_others(self, roles: Sequence[str], holder: str) -> dict[str, float]: ...
    async def acquire(self, role: str, holder: str, ttl_ms: int) -> int | None: ...
    async def renew(self, role: str, holder: str, epoch: int, ttl_ms: int) -> bool: ...
    async def release(self, role: str, holder: str, epoch: int) -> None: ...


class Leadership:
    """One worker's claim to a role, or to whichever of several is free. ``holder`` is unique to the process."""

    def __init__(self, leases: Leases, role: str | Sequence[str], holder: str, ttl_ms: int) -> None:
        self._leases = leases
        self._roles = (role,) if isinstance(role, str) else tuple(role)
        self._role = self._roles[0]
        self._holder = holder
        self._ttl_ms = ttl_ms
        self._interval_s = ttl_ms / 3000
        self._epoch = 0
        self._certain_until = 0.0
        self._left: Mapping[str, float] = {}
        self.others_are_active = asyncio.Event()
        """Set once it has to stand by because others hold every role."""

    @property
    def is_certain(self) -> bool:
        """Whether nobody else can hold the lease at this moment.

        False does not mean lost: the database may be away, or this process was
        stopped for a while. Then do nothing that an epoch does not fence.
        """
        return time.monotonic() < self._certain_until

    @property
    def role(self) -> str:
        """The role that is held."""
        return self._role

    @property
    def endangered(self) -> str | None:
        """A role whose holder seems to be gone, for it has not renewed its lease in time; None where there is none."""
        role = min(self._left, key=self._left.__getitem__, default=None)
        return role if role is not None and self._left[role] < _MISSED * self._ttl_ms / 1000 else None

    async def acquire(self) -> int:
        """Stand by until a lease is held; the result is its epoch."""
        reason = ""
        while True:
            asked_at = time.monotonic()
            try:
                epoch = await self._take_any()
            except DatabaseUnavailable as error:
                self._left = {}
                reason = self._stand_by(reason, f"the database cannot be asked: {error}")
            else:
                if epoch is not None:
                    self._epoch = epoch
                    self._note_held(asked_at)
                    log.info("lease.acquired", role=self._role, epoch=epoch)
                    return epoch
                self.others_are_active.set()
                reason = self._stand_by(reason, "another worker is active")
            await asyncio.sleep(self._until_next_look_s())

    def _until_next_look_s(self) -> float:
        """Until the next poll, for a lease may be let go at any time; or until one runs out, or is to be in danger."""
        wait_s = random.uniform(0.5, 1.0) * self._interval_s
        missed_s = _MISSED * self._ttl_ms / 1000
        for left_s in self._left.values():
            wait_s = min(wait_s, left_s if left_s < missed_s else left_s - missed_s + _SHORTEST_WAIT_S)
        return max(wait_s, _SHORTEST_WAIT_S)

    async def _take_any(self) -> int | None:
        """Take the first role that is free. Many may want the same one: the others then take the next."""
        self._left = await self._leases.held_by_others(self._roles, self._holder)
        for role in [role for role in self._roles if role not in self._left]:
            epoch = await self._leases.acquire(role, self._holder, self._ttl_ms)
            if epoch is not None:
                self._role = role
                return epoch
        return None

    async def keep(self) -> NoReturn:
        """Renew the lease for ever.

        Raises:
            LeaseLost: another worker has it. A database that cannot be reached
                is no such thing: nobody else can take the lease there either,
                and receivers drop an older epoch if somebody did.
        """
        while True:
            await asyncio.sleep(self._interval_s)
            asked_at = time.monotonic()
            try:
                is_held = await self._leases.renew(self._role, self._holder, self._epoch, self._ttl_ms)
            except DatabaseUnavailable as error:
                log.warning("lease.not_renewed", role=self._role, epoch=self._epoch, reason=str(error))
                continue
            if not is_held:
                raise LeaseLost(f"{self._role}: epoch {self._epoch} is over")
            self._note_held(asked_at)

    async def release(self) -> None:
        """Let the lease go, so that another need not wait for it to expire."""
        self._certain_until = 0.0
        try:
            await self._leases.release(self._role, self._holder, self._epoch)
        except DatabaseUnavailable as error:
            log.warning("lease.not_released", role=self._role, epoch=self._epoch, reason=str(error))

    def _note_held(self, asked_at: float) -> None:
        self._certain_until = asked_at + self._ttl_ms / 1000

    def _stand_by(self, said: str, reason: str) -> str:
        """Log why it waits, once per reason."""
        if reason != said:
            log.info("lease.standing_by", role=",".join(self._roles), reason=reason)
        return reason
