"""The newest state, once per process: what every connection's next frame is built from.

Prices and P&L arrive on two channels. A price flush waits (is *staged*) for the
P&L of the same flush, so that prices, rows and totals of a frame belong
together; a P&L worker that is late or absent holds prices up by no more than
:data:`STAGING_S`. Taking over what belongs together is a *commit*: it moves the
stream's position forward and gives everything it changes one new ordinal.

Where the users are split over several P&L workers, each shard has a lane, and
prices wait for every shard that has users here; what came of the others waits
with them. A shard that is known to be away is not waited for.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Literal

from app.bus.messages import PnlFlush, PriceFlush, PriceHead
from app.bus.prices import PriceBoard
from app.domain.decimals import format_decimal
from app.domain.prices import Price, StreamPosition
from app.domain.shards import EVERYBODY, shard_of, shards_of
from app.websocket.flush_clock import FlushClock
from app.websocket.health import SILENT_AFTER_S, StreamHealth
from app.websocket.json_text import flag, json_text, quoted
from app.websocket.lane import Lane, same_flush
from app.websocket.mirror import PnlMirror, UserView
from app.websocket.tables import Prices

STAGING_S = 0.1
"""How long prices wait for the P&L of the same flush."""

_MOST_STAGED = 32


class WatchedPrice:
    """The price of a symbol somebody here watches, encoded once per change for all of them."""

    __slots__ = ("changed", "event_ms", "is_stale", "price", "seat", "symbol", "text")

    def __init__(self, symbol: str, seat: int) -> None:
        self.symbol = symbol
        self.seat = seat
        self.price: Price | None = None
        self.event_ms = 0
        self.is_stale = False
        self.changed = 0
        self.text: str | None = None

    def encoded(self) -> str:
        """The ``PriceRow`` as JSON text. Only for a known price."""
        if self.text is None:
            assert self.price is not None
            self.text = _encode_price(self.price, self.is_stale)
        return self.text


class StreamState:
    """Committed prices and P&L, where the stream stands, and how well it is. Reads no clock, does no I/O.

    ``now`` is always the monotonic clock in seconds.
    """

    def __init__(self, *, stale_after_ms: int, is_wanted: Callable[[str], bool], now: float) -> None:
        self._stale_after_ms = stale_after_ms
        self.board = PriceBoard()
        """The newest prices, for REST: ahead of the stream by what is staged."""
        self.prices: dict[str, Price] = {}
        self.watched: dict[str, WatchedPrice] = {}
        self.price_table = Prices()
        self._unsaid: dict[WatchedPrice, None] = {}
        """Those that the table does not have as they are."""
        self._is_wanted = is_wanted
        self._serials = count(1)
        self.lanes: tuple[Lane, ...] = (Lane(EVERYBODY, is_wanted, now, self._serials),)
        self._layout = 0
        self._next: tuple[int, set[int]] = (0, set())
        """The newest layout that is not shown yet, and which of its shards were heard."""
        self.ordinal = 0
        self.flushes = 0
        self.as_of_ms = 0
        self._flush_clock = FlushClock()
        self.price_gaps = 0
        self.old_layouts = 0

        self._staged: deque[tuple[float, PriceFlush]] = deque()
        self._missed: tuple[int, int] | None = None
        """The flush that could not be taken over, for it followed something unknown."""
        self._expiring: list[tuple[int, str]] = []
        self._in_expiring: set[str] = set()

        self.health = StreamHealth()
        self._doubtful: dict[int, Exception | None] = {}

    def lane_of(self, user_id: str) -> Lane:
        """The lane of a user's shard."""
        lanes = self.lanes
        return lanes[0] if len(lanes) == 1 else lanes[shard_of(user_id, len(lanes))]

    def view_of(self, user_id: str) -> UserView | None:
        """What is known of a user's P&L."""
        return self.lane_of(user_id).mirror.users.get(user_id)

    @property
    def only_lane(self) -> Lane:
        """The lane of everybody. For who knows that the users are not split."""
        assert len(self.lanes) == 1
        return self.lanes[0]

    @property
    def mirror(self) -> PnlMirror:
        return self.only_lane.mirror

    @property
    def position(self) -> StreamPosition:
        return self.only_lane.position

    @property
    def step(self) -> int:
        return self.only_lane.step

    def arrive(self, user_id: str) -> None:
        """A user is here: his shard is needed."""
        self.lane_of(user_id).users.add(user_id)

    def drop(self, user_id: str) -> None:
        """Nobody of this user is connected any more."""
        lane = self.lane_of(user_id)
        lane.users.discard(user_id)
        lane.mirror.drop(user_id)

    def desynchronise(self) -> None:
        """Messages were lost, nobody knows whose."""
        for lane in self.lanes:
            lane.desynchronise()

    def take_doubtful(self) -> dict[int, Exception | None]:
        """Shards of which messages were lost since the last call, and what was wrong with one that was no loss."""
        taken, self._doubtful = self._doubtful, {}
        return taken

    def offer_prices(self, flush: PriceFlush, now: float) -> Literal["applied", "old", "gap"]:
        """Stage a price flush. ``gap``: it follows something unknown; :meth:`load_prices` first."""
        outcome = self.board.apply(flush)
        if outcome == "gap":
            self.price_gaps += 1
            self._missed = (flush.epoch, flush.flush)
        if outcome != "applied":
            return outcome
        self._heard_prices(flush.epoch, flush.as_of_ms, now)
        self._staged.append((now, flush))
        if len(self._staged) > _MOST_STAGED or not any(lane.is_awaited for lane in self.lanes):
            self._commit_upto(self._newest_staged())
        return "applied"

    def load_prices(self, head: PriceHead | None, prices: Mapping[str, Price], now: float) -> None:
        """Take over the price hash: at the start, and after a gap.

        It may be hours old. Only if it is what a flush announced does it end a silence.
        """
        if head is None or (head.epoch, head.flush) < (self.board.epoch, self.board.flush):
            return
        self.board.load(head, prices)
        self._staged.clear()
        if self._missed is not None and (head.epoch, head.flush) >= self._missed:
            self._missed = None
            self._heard_prices(head.epoch, head.as_of_ms, now)
        changed = [price for symbol, price in prices.items() if self.prices.get(symbol) != price]
        self.prices = dict(prices)
        whole = [PriceFlush(head.epoch, head.flush, head.as_of_ms, 0, head.feed, changed)]
        self._commit(whole, self._take_over((lane, lane.take_waiting(None)) for lane in self.lanes))

    def _heard_prices(self, epoch: int, as_of_ms: int, now: float) -> None:
        # What waited to be read is as old as that makes it: a process that is far behind shows nothing as live.
        sent_at = self._flush_clock.sent_at(epoch, as_of_ms, now)
        self.health.heard_prices(sent_at)
        if self.health.prices_are_silent and now - sent_at <= SILENT_AFTER_S:
            # What is known from before the silence is as old as that makes it.
            self.as_of_ms = as_of_ms
            for lane in self.lanes:
                lane.as_of_ms = as_of_ms
            self.check_silence(now)

    def offer_pnl(self, flush: PnlFlush, now: float) -> Literal["applied", "waiting", "old", "hole"]:
        """Commit a P&L flush with the price flushes it belongs to, once all shards that are awaited came as far.

        ``hole``: it was taken over, but users are to be asked for again.
        Raises ValueError or KeyError for a message that contradicts itself.
        """
        lane = self._lane_for(flush, now)
        if lane is None or lane.is_deposed(flush):
            return "old"
        lane.hear(flush)
        outcome = self._commit_ready(lane)
        if outcome != "old":
            lane.heard(now)
            if lane.is_late:
                self.check_silence(now)
        return outcome

    def _lane_for(self, flush: PnlFlush, now: float) -> Lane | None:
        """The lane that a message belongs to, or None where its layout is not the one that is shown."""
        if flush.layout < self._layout:
            self.old_layouts += 1
            return None
        if flush.layout > self._layout and not self._change_layout(flush, now):
            return None
        if flush.shards != len(self.lanes) or not 0 <= flush.shard < flush.shards:
            raise ValueError(f"shard {flush.shard} of {flush.shards} where there are {len(self.lanes)}")
        return self.lanes[flush.shard]

    def _change_layout(self, flush: PnlFlush, now: float) -> bool:
        """Show a new layout once all its shards were heard, or nothing of the old one is. Whether it is shown now."""
        if self._layout:
            if self._next[0] < flush.layout:
                self._next = (flush.layout, set())
            self._next[1].add(flush.shard)
            is_alive = any(lane.is_needed and not lane.is_silent for lane in self.lanes)
            if is_alive and len(self._next[1]) < flush.shards:
                return False
        is_first = not self._layout
        self._layout = flush.layout
        if not is_first or flush.shards != len(self.lanes):
            self._split(flush.shards, now)
        if not is_first:
            # What they said before they were listened to is to be said again.
            self._doubtful = dict.fromkeys(range(flush.shards))
        return True

    def _split(self, shards: int, now: float) -> None:
        """Split the users anew: what was known of them is void, but for how far the stream has come."""
        before = self.lanes
        self.lanes = tuple(Lane(shard, self._is_wanted, now, self._serials) for shard in shards_of(shards))
        for lane in self.lanes:
            for one in before:
                lane.follow(one)
            lane.is_silent = self.health.prices_are_silent
        for one in before:
            for user_id in one.users:
                self.arrive(user_id)

    def _commit_ready(self, lane: Lane) -> Literal["applied", "waiting", "old", "hole"]:
        """Commit what no longer waits for anything, now that a lane was heard of."""
        newest = lane.waiting[-1]
        if not self._staged or _place(self._staged[0][1]) > newest.position:
            return self._commit_alone(lane)
        reached = [other.reached for other in self.lanes if other.is_awaited and other is not lane]
        upto = same_flush(min([newest.position, *reached]))
        if _place(self._staged[0][1]) > upto:
            return "waiting"
        if len(self.lanes) == 1:
            return self._commit_alone(lane)
        self._commit_upto(upto)
        return "applied"

    def _commit_alone(self, lane: Lane) -> Literal["applied", "old", "hole"]:
        """Commit what one lane said, with the price flushes it belongs to; nobody else is concerned."""
        outcomes: list[Literal["applied", "old", "hole"]] = []
        taken: list[PnlFlush] = []
        for flush in lane.take_waiting(None):
            outcomes.append(lane.mirror.apply(flush, self.ordinal + 1))
            if outcomes[-1] != "old":
                taken.append(flush)
        if not taken:
            return "old"
        if "hole" in outcomes:
            self._doubtful[lane.shard.number] = None
        staged = self._take_staged(taken[-1].position)
        if staged or taken[-1].position > lane.position or any(map(_has_content, taken)):
            self._commit(staged, [(lane, flush) for flush in taken])
        else:
            # A mere heartbeat would use up a place, and without price flushes there are few.
            lane.as_of_ms = max(lane.as_of_ms, taken[-1].as_of_ms)
            self.as_of_ms = max(self.as_of_ms, taken[-1].as_of_ms)
        return outcomes[-1]

    def _commit_upto(self, upto: StreamPosition) -> None:
        """Commit prices, and what came of every lane, up to a flush."""
        pnl = self._take_over((lane, lane.take_waiting(upto)) for lane in self.lanes)
        self._commit(self._take_staged(upto), pnl)

    def _take_over(self, waited: Iterable[tuple[Lane, list[PnlFlush]]]) -> list[tuple[Lane, PnlFlush]]:
        """Apply messages that waited, for the commit that follows. A bad one costs its own shard only."""
        taken: list[tuple[Lane, PnlFlush]] = []
        for lane, flushes in waited:
            for flush in flushes:
                try:
                    outcome = lane.mirror.apply(flush, self.ordinal + 1)
                except (ValueError, KeyError) as error:
                    lane.mirror.desynchronise()
                    self._doubtful[lane.shard.number] = error
                    continue
                if outcome == "hole":
                    self._doubtful.setdefault(lane.shard.number, None)
                if outcome != "old":
                    taken.append((lane, flush))
        return taken

    def next_deadline(self) -> float | None:
        """When the oldest staged prices have waited long enough."""
        return self._staged[0][0] + STAGING_S if self._staged else None

    def commit_overdue(self, now: float) -> bool:
        """Commit prices that have waited long enough for their P&L. Whether there were any."""
        overdue = [flush for since, flush in self._staged if now - since >= STAGING_S]
        if not overdue:
            return False
        self._commit_upto(_place(overdue[-1]))
        return True

    def _newest_staged(self) -> StreamPosition:
        return _place(self._staged[-1][1])

    def _take_staged(self, upto: StreamPosition) -> list[PriceFlush]:
        taken: list[PriceFlush] = []
        while self._staged and _place(self._staged[0][1]) <= upto:
            taken.append(self._staged.popleft()[1])
        return taken

    def _commit(self, flushes: list[PriceFlush], pnl: list[tuple[Lane, PnlFlush]]) -> None:
        """Show price flushes, and P&L that was taken over, as one."""
        self.ordinal += 1
        self.flushes += len(flushes)
        for flush in flushes:
            self._take_prices(flush)
        if flushes:
            for lane in self.lanes:
                lane.as_of_ms = self.as_of_ms
        reached: dict[int, StreamPosition] = {}
        for lane, said in pnl:
            lane.event_ms = said.event_ms
            lane.as_of_ms = max(lane.as_of_ms, said.as_of_ms)
            self.as_of_ms = max(self.as_of_ms, said.as_of_ms)
            number = lane.shard.number
            reached[number] = max(reached.get(number, said.position), said.position)
        prices = [_place(flush) for flush in flushes]
        for lane in self.lanes:
            own = reached.get(lane.shard.number)
            if prices or own is not None:
                lane.advance(max([*prices, own] if own is not None else prices))

    def _take_prices(self, flush: PriceFlush) -> None:
        self.as_of_ms = flush.as_of_ms
        self.health.note_feed(flush.feed)
        for price in flush.prices:
            self.prices[price.symbol] = price
            watched = self.watched.get(price.symbol)
            if watched is not None:
                self._change(watched, price)
        self._expire()

    def _change(self, watched: WatchedPrice, price: Price) -> None:
        watched.price = price
        watched.event_ms = price.event_ms or price.received_ms
        watched.is_stale = self._is_stale(price)
        watched.changed = self.ordinal
        watched.text = None
        self._unsaid[watched] = None
        if not watched.is_stale and price.symbol not in self._in_expiring:
            self._in_expiring.add(price.symbol)
            heapq.heappush(self._expiring, (price.fresh_ms, price.symbol))

    def _expire(self) -> None:
        """Mark prices stale whose time has come. Each symbol is looked at once per stale period, not per flush."""
        while self._expiring and self.as_of_ms - self._expiring[0][0] > self._stale_after_ms:
            _, symbol = heapq.heappop(self._expiring)
            self._in_expiring.discard(symbol)
            watched = self.watched.get(symbol)
            if watched is not None and watched.price is not None:
                self._change_if_expired(watched, watched.price)

    def _change_if_expired(self, watched: WatchedPrice, price: Price) -> None:
        if price.is_stale(self.as_of_ms, self._stale_after_ms):
            if not watched.is_stale:
                self._change(watched, price)
        elif price.symbol not in self._in_expiring:
            self._in_expiring.add(price.symbol)
            heapq.heappush(self._expiring, (price.fresh_ms, price.symbol))

    def _is_stale(self, price: Price) -> bool:
        return self.health.prices_are_silent or price.is_stale(self.as_of_ms, self._stale_after_ms)

    def watch(self, symbol: str) -> WatchedPrice:
        """Start encoding a symbol: its first watcher is here."""
        watched = self.watched.get(symbol)
        if watched is None:
            watched = self.watched[symbol] = WatchedPrice(symbol, self.price_table.take())
            price = self.prices.get(symbol)
            if price is not None:
                self._change(watched, price)
        return watched

    def unwatch(self, symbol: str) -> None:
        """Stop encoding a symbol: its last watcher is gone."""
        watched = self.watched.pop(symbol, None)
        if watched is not None:
            self._unsaid.pop(watched, None)
            self.price_table.give_back(watched.seat)

    def say_prices(self) -> None:
        """Write into the table what changed since it was last done: each price once for all who watch it."""
        for watched in self._unsaid:
            self.price_table.say(watched.seat, watched.changed, watched.event_ms, watched.encoded())
        self._unsaid.clear()

    def check_silence(self, now: float) -> bool:
        """Compare what arrived with the clock. True if something was committed because of it."""
        prices_changed = self.health.check(now)
        silent = self.health.prices_are_silent
        ordinal = self.ordinal + 1
        changed = [lane for lane in self.lanes if lane.check(now, prices_are_silent=silent, ordinal=ordinal)]
        self.health.note_pnl(is_late=any(lane.is_late and lane.is_needed for lane in self.lanes))
        if not prices_changed and not changed:
            return False
        self.ordinal = ordinal
        for lane in self.lanes if prices_changed else changed:
            lane.advance(lane.position)
        if prices_changed:
            self._restate_prices()
        return True

    def _restate_prices(self) -> None:
        for watched in self.watched.values():
            if watched.price is not None:
                self._change(watched, watched.price)


def _place(flush: PriceFlush) -> StreamPosition:
    return StreamPosition(flush.epoch, flush.flush)


def _has_content(flush: PnlFlush) -> bool:
    return bool(flush.users or flush.marks or flush.rates or flush.user_unrealized.slots or flush.row_unrealized.slots)


def _encode_price(price: Price, is_stale: bool) -> str:
    bid, ask, last = (None if part is None else format_decimal(part) for part in (price.bid, price.ask, price.last))
    return (
        f'{{"symbol":{json_text(price.symbol)},"price":"{format_decimal(price.price)}",'
        f'"bid":{quoted(bid)},"ask":{quoted(ask)},"last":{quoted(last)},'
        f'{_encode_mark(price)}"event_ms":{price.event_ms},"received_ms":{price.received_ms},'
        f'"fresh_ms":{price.fresh_ms},"is_stale":{flag(is_stale)}}}'
    )


def _encode_mark(price: Price) -> str:
    """What only contracts have; nothing for spot."""
    if price.mark is None:
        return ""
    rate = None if price.funding_rate is None else format_decimal(price.funding_rate)
    next_ms = "null" if price.next_funding_ms is None else price.next_funding_ms
    return f'"mark":"{format_decimal(price.mark)}","funding_rate":{quoted(rate)},"next_funding_ms":{next_ms},'
