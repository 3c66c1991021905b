"""One P&L shard as a web process follows it: its figures, its place in the stream, when it was last heard.

Slots, sequences and revisions count per shard, so nothing of one lane means
anything in another. Prices are everybody's, but the place of a frame is that of
its user's lane: where two processes show a user the same place, his shard told
them the same figures.
"""

from collections import deque
from collections.abc import Callable, Iterator

from app.bus.messages import PnlFlush
from app.domain.prices import REVISIONS_PER_FLUSH, StreamPosition
from app.domain.shards import Shard
from app.websocket.health import DEGRADED_AFTER_S, SILENT_AFTER_S
from app.websocket.mirror import PnlMirror


class Lane:
    """What is known of one shard. ``now`` is always the monotonic clock in seconds."""

    def __init__(
        self, shard: Shard, is_wanted: Callable[[str], bool], now: float, serials: Iterator[int] | None = None
    ) -> None:
        self.shard = shard
        is_here = is_wanted if shard.shards == 1 else lambda who: shard.has(who) and is_wanted(who)
        self.mirror = PnlMirror(is_here, serials)
        self.users: set[str] = set()
        """Users of the shard who are connected here."""
        self.position = StreamPosition(0, 0)
        self.step = 0
        """How often the position moved on."""
        self.as_of_ms = 0
        self.event_ms = 0
        self.is_late = False
        """Not heard for so long that nothing waits for it."""
        self.is_silent = True
        """Not heard for so long that what is known of it is stale; or prices are."""
        self.silenced = 0
        """The commit at which its P&L as a whole became stale, or stopped being so."""
        self.reached = StreamPosition(0, 0)
        """The newest place that it was heard of."""
        self.waiting: deque[PnlFlush] = deque()
        """Messages that wait for other shards to reach the same flush."""
        self._heard_at = now
        self._newest_epoch = 0

    @property
    def is_needed(self) -> bool:
        """Whether anybody here is to see its figures. An only shard always is."""
        return self.shard.shards == 1 or bool(self.users)

    @property
    def is_awaited(self) -> bool:
        """Whether prices wait for its P&L of the same flush."""
        return self.is_needed and not self.is_late

    def is_deposed(self, flush: PnlFlush) -> bool:
        """Whether the sender has a successor. Counted, for its message is dropped."""
        if flush.book_epoch < max(self._newest_epoch, self.mirror.book_epoch):
            self.mirror.old_epochs += 1
            return True
        return False

    def hear(self, flush: PnlFlush) -> None:
        """Note a message that is to be taken over now or soon."""
        self._newest_epoch = max(self._newest_epoch, flush.book_epoch)
        self.reached = max(self.reached, flush.position)
        self.waiting.append(flush)

    def heard(self, now: float) -> None:
        self._heard_at = now

    def take_waiting(self, upto: StreamPosition | None) -> list[PnlFlush]:
        """What waits for a flush or an older one (None: whatever waits), in order."""
        taken: list[PnlFlush] = []
        while self.waiting and (upto is None or same_flush(self.waiting[0].position) <= upto):
            taken.append(self.waiting.popleft())
        return taken

    def desynchronise(self) -> None:
        """Messages were lost: nobody's rows can be trusted until they come whole again."""
        self.mirror.desynchronise()
        self.waiting.clear()

    def check(self, now: float, *, prices_are_silent: bool, ordinal: int) -> bool:
        """Compare what was heard with the clock. True if an answer changed, which is told with commit ``ordinal``."""
        before = (self.is_late, self.is_silent)
        self.is_late = now - self._heard_at > DEGRADED_AFTER_S
        self.is_silent = prices_are_silent or now - self._heard_at > SILENT_AFTER_S
        if self.is_silent != before[1]:
            self.silenced = ordinal
        return (self.is_late, self.is_silent) != before

    def advance(self, reached: StreamPosition) -> None:
        """Move on: a commit is always past the one before it, also when it came late."""
        here = self.position
        if reached > here:
            self.position = reached
            self.step += 1
        elif self.is_needed and here.revision + 1 < REVISIONS_PER_FLUSH:
            self.position = StreamPosition(here.epoch, here.flush, here.revision + 1)
            self.step += 1
        # Else nobody sees it, or there is no number left before the next flush: what changed waits for that.

    def follow(self, before: "Lane") -> None:
        """Go on past the place where another ended: the users of this one came from there."""
        self.position = max(self.position, before.position)
        self.step = max(self.step, before.step + 1)
        self.as_of_ms = max(self.as_of_ms, before.as_of_ms)


def same_flush(place: StreamPosition) -> StreamPosition:
    """The place of the price flush itself."""
    return StreamPosition(place.epoch, place.flush)
