"""Telling the workers who is here: users whose P&L is wanted, symbols that are watched.

A page that reloads leaves and comes back within a second, so a user who left is
kept for a moment: nothing has to be sent again for a return.
"""

import asyncio
from collections.abc import Callable, Iterable, Set
from typing import NoReturn, Protocol

from app.bus.connection import BusUnavailable
from app.domain.shards import Shard

_HEARTBEAT_S = 1.0
_LINGER_S = 2.0
_GATHER_S = 0.02
"""How long arrivals are gathered into one message."""


class InterestOutlet(Protocol):
    """Where interest is published (:class:`app.bus.interest.InterestPublisher`). All may raise BusUnavailable."""

    async def announce(self, added: Iterable[str], removed: Iterable[str]) -> None: ...

    async def heartbeat(self, users: Set[str], symbols: Set[str]) -> None: ...

    async def reset(self, shard: Shard | None = None) -> None: ...

    async def leave(self) -> None: ...


class Announcer:
    """Publishes changes of interest at once, and everything in short each second."""

    def __init__(
        self,
        outlet: InterestOutlet,
        *,
        symbols: Callable[[], Set[str]],
        on_gone: Callable[[str], None],
        on_bus: Callable[[bool], None],
        clock: Callable[[], float],
    ) -> None:
        self._outlet = outlet
        self._symbols = symbols
        self._on_gone = on_gone
        self._on_bus = on_bus
        self._clock = clock
        self._here: set[str] = set()
        self._leaving: dict[str, float] = {}
        self._added: set[str] = set()
        self._removed: set[str] = set()
        self._again: set[str] = set()
        self._must_reset: set[Shard | None] = set()
        self._symbols_changed = False
        self._wake = asyncio.Event()

    def is_wanted(self, user_id: str) -> bool:
        """Whether P&L of this user is of interest here."""
        return user_id in self._here

    def arrive(self, user_id: str) -> None:
        """A user's first connection opened."""
        self._leaving.pop(user_id, None)
        if user_id not in self._here:
            self._here.add(user_id)
            self._removed.discard(user_id)
            self._added.add(user_id)
            self._wake.set()

    def leave(self, user_id: str) -> None:
        """A user's last connection closed."""
        self._leaving[user_id] = self._clock()

    def change_symbols(self) -> None:
        """A symbol got its first watcher or lost its last."""
        self._symbols_changed = True
        self._wake.set()

    def ask_again(self, shard: Shard | None) -> None:
        """Something was lost: have everything about everybody here (of a shard) sent again."""
        self._must_reset.add(shard)
        self._wake.set()

    def ask_for(self, users: Set[str]) -> None:
        """Have everything about some users sent again."""
        self._again |= users
        if self._again:
            self._wake.set()

    async def run(self) -> NoReturn:
        """Publish for ever. An unreachable bus is reported, and what it missed is said again."""
        beat_at = float("-inf")
        while True:
            await self._wait(beat_at + _HEARTBEAT_S - self._clock())
            try:
                is_due = self._clock() - beat_at >= _HEARTBEAT_S
                if is_due or self._symbols_changed:
                    beat_at = self._clock()
                    self._symbols_changed = False
                    await self._outlet.heartbeat(self._here, self._symbols())
                await self._announce()
            except BusUnavailable:
                self._must_reset.add(None)
                self._on_bus(True)
                await asyncio.sleep(_HEARTBEAT_S / 2)
            else:
                self._on_bus(False)

    async def _wait(self, longest_s: float) -> None:
        if longest_s > 0:
            try:
                async with asyncio.timeout(longest_s):
                    await self._wake.wait()
            except TimeoutError:
                return
        await asyncio.sleep(_GATHER_S)
        self._wake.clear()

    async def _announce(self) -> None:
        self._part_with_leavers()
        added, self._added = self._added, set()
        removed, self._removed = self._removed, set()
        if added or removed:
            await self._outlet.announce(added, removed)
        again, self._again = self._again & self._here, set()
        if self._must_reset:
            for shard in {None} if None in self._must_reset else set(self._must_reset):
                await self._outlet.reset(shard)
                self._must_reset.discard(shard)
            self._must_reset.clear()
        elif again:
            await self._outlet.announce((), again)
            await self._outlet.announce(again, ())

    def _part_with_leavers(self) -> None:
        now = self._clock()
        gone = [user_id for user_id, since in self._leaving.items() if now - since >= _LINGER_S]
        for user_id in gone:
            del self._leaving[user_id]
            self._here.discard(user_id)
            self._removed.add(user_id)
            self._added.discard(user_id)
            self._on_gone(user_id)
