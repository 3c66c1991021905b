"""A trader who also holds every number against the clock, and against what he saw elsewhere."""

import itertools
import time
from collections.abc import Mapping

from tests.e2e.trader import Frame, Trader

STALE_AFTER_MS = 5000
SILENT_AFTER_MS = 3000
SLACK_MS = 1500
"""For a busy machine: time between making a frame and reading it."""

Place = tuple[int, int]


class Watcher(Trader):
    """Fails on a price that is shown as live and is not."""

    _looked_from = 0

    def _take(self, frame: Frame) -> None:
        super()._take(frame)
        now_ms = time.time_ns() // 1_000_000
        for price in frame.get("prices", []):
            age_ms = now_ms - price["fresh_ms"]
            limit_ms = STALE_AFTER_MS + SILENT_AFTER_MS + SLACK_MS
            assert price["is_stale"] or age_ms <= limit_ms, f"shown as live at {age_ms} ms: {price}"

    @property
    def user_id(self) -> str:
        """As the stream greets him."""
        user_id: str = self.frames[0]["user_id"]
        return user_id

    @property
    def was_stale(self) -> bool:
        """Whether any frame since :meth:`look_from_here` marked his totals."""
        return any(frame.get("pnl", {}).get("is_stale", False) for frame in self.frames[self._looked_from :])

    def look_from_here(self) -> None:
        self._looked_from = len(self.frames)

    @property
    def is_live(self) -> bool:
        return bool(self.totals) and not self.totals["is_stale"]

    @property
    def is_stale(self) -> bool:
        """Whether totals and all prices are marked."""
        marked = [self.totals, *self.prices.values(), *self.rows.values()]
        return bool(self.totals) and all(each["is_stale"] for each in marked)

    async def until_stale(self, within_s: float) -> None:
        await self.until(lambda: self.is_stale, within_s, "everything to be marked stale")

    async def until_totals_stale(self, within_s: float) -> None:
        """Wait until figures are marked, whatever prices are."""
        await self.until(lambda: bool(self.totals.get("is_stale")), within_s, "the totals to be marked stale")

    async def until_live(self, within_s: float) -> None:
        """Wait for an update from now on that is live, with every row."""
        await self.fresh_update(within_s)
        await self.until(lambda: not any(row["is_stale"] for row in self.rows.values()), within_s, "live rows")

    async def until_row(self, position_id: str, within_s: float) -> None:
        await self.until(lambda: position_id in self.rows, within_s, f"the row {position_id}")

    def assert_sound(self) -> None:
        """No frame broke what must hold, and events came in order without holes."""
        if self._task is not None and self._task.done():
            self._task.result()
        numbers = [event["seq"] for event in self.events]
        assert all(later == earlier + 1 for earlier, later in itertools.pairwise(numbers)), numbers

    @property
    def figures(self) -> Mapping[Place, str]:
        """Total profit at each place of the stream."""
        return {
            (frame["epoch"], frame["seq"]): frame["pnl"]["unrealized_pnl"]
            for frame in self.frames
            if frame["type"] == "update" and "unrealized_pnl" in frame.get("pnl", {})
        }


def agree(watchers: list[Watcher]) -> None:
    """At the same place every host shows the same figure."""
    compared = 0
    for one, other in itertools.combinations(watchers, 2):
        shared = one.figures.keys() & other.figures.keys()
        compared += len(shared)
        different = {place: (one.figures[place], other.figures[place]) for place in shared}
        assert all(first == second for first, second in different.values()), different
    assert compared, "the hosts showed no place in common"
