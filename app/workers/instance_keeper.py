"""Knowing which web instances live and who is connected there, whatever messages got lost."""

import asyncio
from typing import NoReturn

import structlog
from redis.asyncio import Redis

from app.bus.connection import BusUnavailable
from app.bus.interest import live_instances, online_users
from app.bus.messages import Interest
from app.workers.watchers import Watchers

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 2.0


class InstanceKeeper:
    """Follows announcements, and reads the sets behind them where one is missing."""

    def __init__(self, watchers: Watchers, redis: "Redis", timeout_s: float) -> None:
        self._watchers = watchers
        self._redis = redis
        self._timeout_s = timeout_s
        self._doubtful: set[str] = set()
        self._look_now = asyncio.Event()

    def announced(self, interest: Interest) -> None:
        """Take over an announcement."""
        if not self._watchers.apply(interest):
            self._doubtful.add(interest.instance_id)
            self._look_now.set()

    def start_over(self) -> None:
        """Announcements may be lost, also one that asked for everything again: tell everybody everything."""
        for instance_id in list(self._watchers.instances):
            self._watchers.leave(instance_id)
        self._look_now.set()

    async def run(self) -> NoReturn:
        """Look every now and then, and at once where something is missing; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._look_now.wait()
            except TimeoutError:
                pass
            self._look_now.clear()
            try:
                await self._look()
            except BusUnavailable as error:
                log.warning("pnl_worker.instances_unknown", reason=str(error))
                await asyncio.sleep(_LOOK_EVERY_S / 2)

    async def _look(self) -> None:
        alive = await live_instances(self._redis, self._timeout_s)
        for instance_id in set(self._watchers.instances) - alive:
            self._watchers.leave(instance_id)
            self._doubtful.discard(instance_id)
        for instance_id in sorted(alive):
            if instance_id in self._doubtful or instance_id not in self._watchers.instances:
                users = await online_users(self._redis, instance_id, self._timeout_s)
                self._watchers.replace(instance_id, users)
                self._doubtful.discard(instance_id)
