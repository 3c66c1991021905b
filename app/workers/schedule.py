"""A beat that does not drift: late beats are skipped, never caught up in a burst."""

import asyncio


class Schedule:
    """Beats every ``period_s`` of the running loop's clock, from now on."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._now = asyncio.get_running_loop().time
        self._next = self._now() + period_s

    async def beat(self) -> None:
        """Wait for the next beat."""
        now = self._now()
        if now > self._next:
            missed = int((now - self._next) / self._period_s) + 1
            self._next += missed * self._period_s
        await asyncio.sleep(self._next - now)
        self._next += self._period_s
