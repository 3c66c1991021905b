"""What one web process knows of its users' P&L: a mirror of part of the P&L worker's book.

Structure (who holds what) arrives as whole rows and is kept as objects;
figures that move arrive as columns by slot and are kept in arrays, so taking
over a flush costs the same few array operations for ten rows or ten thousand.
Everything remembers the *ordinal* of the commit that last changed it, which is
all a connection needs to find what it has not seen.
"""

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.bus.messages import Columns, MarkUpdate, PnlFlush, RateUpdate, RowUpdate, UserUpdate
from app.domain.decimals import to_units
from app.websocket.json_text import json_text

_KEPT_CLOSED_ROWS = 256
"""Closed rows kept per user for connections that have not seen them; a slower one gets a snapshot."""

_FIRST_SLOTS = 1024


class Figures:
    """One exact amount per slot: ``high·2^64 + low`` in units of 1e-18, and when it last changed."""

    __slots__ = ("changed", "high", "low")

    def __init__(self) -> None:
        self.high: NDArray[np.int64] = np.zeros(_FIRST_SLOTS, np.int64)
        self.low: NDArray[np.uint64] = np.zeros(_FIRST_SLOTS, np.uint64)
        self.changed: NDArray[np.int64] = np.zeros(_FIRST_SLOTS, np.int64)

    def apply(self, columns: Columns, ordinal: int) -> None:
        """Take over a message's columns. Raises ValueError when they are not as long as each other."""
        slots = np.frombuffer(columns.slots, np.int32)
        high = np.frombuffer(columns.high, np.int64)
        low = np.frombuffer(columns.low, np.uint64)
        if not len(slots) == len(high) == len(low):
            raise ValueError("columns of different lengths")
        if not len(slots):
            return
        if int(slots.min()) < 0:
            raise ValueError("a negative slot")
        self._grow_to(int(slots.max()) + 1)
        self.high[slots] = high
        self.low[slots] = low
        self.changed[slots] = ordinal

    def value(self, slot: int) -> int | None:
        """The amount at a slot, or None where none ever arrived."""
        if slot >= len(self.changed) or not self.changed[slot]:
            return None
        return (int(self.high[slot]) << 64) | int(self.low[slot])

    def forget(self, slots: NDArray[np.intp]) -> None:
        """What is at these slots is void until it comes again."""
        self.changed[slots] = 0

    def changed_at(self, slot: int) -> int:
        return int(self.changed[slot]) if slot < len(self.changed) else 0

    def reserve(self, slot: int) -> None:
        """Make room, so that arrays of known slots can index without a check."""
        self._grow_to(slot + 1)

    def _grow_to(self, size: int) -> None:
        have = len(self.changed)
        if size <= have:
            return
        more = max(size, have * 2) - have
        self.high = np.concatenate([self.high, np.zeros(more, np.int64)])
        self.low = np.concatenate([self.low, np.zeros(more, np.uint64)])
        self.changed = np.concatenate([self.changed, np.zeros(more, np.int64)])


class Mark:
    """The price that values a symbol's rows. ``flagged`` is when it last became stale, fresh, known or unknown."""

    __slots__ = ("flagged", "fresh_ms", "is_stale", "price", "source", "text")

    def __init__(self, update: MarkUpdate, flagged: int) -> None:
        self.price = update.price
        self.source = update.source
        self.is_stale = update.is_stale
        self.fresh_ms = update.fresh_ms
        self.flagged = flagged
        self.text = "null" if update.price is None else f'"{update.price}"'


class Rate:
    """How much of a currency an asset is worth. ``changed`` is when its value or its staleness last did."""

    __slots__ = ("changed", "fresh_ms", "is_stale", "text", "value")

    changed: int

    def __init__(self, update: RateUpdate, known: "Rate | None", ordinal: int) -> None:
        self.text = update.rate
        self.value = None if update.rate is None else Decimal(update.rate)
        self.is_stale = update.is_stale
        self.fresh_ms = update.fresh_ms
        is_same = known is not None and (known.text, known.is_stale) == (update.rate, update.is_stale)
        self.changed = known.changed if known is not None and is_same else ordinal


class Row:
    """One open position."""

    __slots__ = (
        "changed",
        "cost_basis",
        "head",
        "mark",
        "pair",
        "realized_pnl",
        "slot",
        "statement",
        "symbol",
        "version",
    )

    def __init__(self, update: RowUpdate, currency: str, changed: int) -> None:
        self.slot = update.slot
        self.symbol = update.symbol
        self.version = update.version
        self.cost_basis = int(update.cost_basis)
        self.realized_pnl = to_units(Decimal(update.statement["realized_pnl"]))
        settle: str = update.statement["settle_asset"]
        self.mark = update.mark
        self.pair = None if settle == currency else (settle, currency)
        """Which rate it is reported at, None where nothing is to be converted."""
        self.statement = json_text(update.statement)[:-1]
        """What does not move with the price, as a JSON object without its end: a third of a dictionary."""
        self.changed = changed
        self.head = f'{{"position_id":{json_text(update.position_id)},"symbol":{json_text(update.symbol)},'


class UserView:
    """One user: the rows, the figures that do not move with the price, and when they last changed."""

    __slots__ = (
        "_marks",
        "_ordered",
        "_slots",
        "balances",
        "changed",
        "closed",
        "closed_unkept",
        "currency",
        "day_base",
        "fees",
        "fees_are_complete",
        "foreign",
        "funding",
        "ledger_seq",
        "net_deposits",
        "realized_pnl_gross",
        "reset",
        "rows",
        "slot",
        "user_id",
    )

    def __init__(self, update: UserUpdate, ordinal: int) -> None:
        self.user_id = update.user_id
        self.rows: dict[int, Row] = {}
        self.closed: deque[tuple[int, Row]] = deque()
        self.closed_unkept = 0
        self.reset = ordinal
        """When what a connection knows of this user stopped being a base for changes."""
        self._ordered: tuple[Row, ...] | None = None
        self._slots: NDArray[np.intp] | None = None
        self._marks: frozenset[str] | None = None
        self.apply(update, ordinal)

    def apply(self, update: UserUpdate, ordinal: int) -> None:
        """Take over changed figures and rows."""
        figures = update.figures
        self.slot = update.slot
        self.ledger_seq = update.ledger_seq
        self.currency = update.currency
        self.realized_pnl_gross = int(figures["realized_pnl_gross"] or 0)
        self.fees = int(figures["fees"] or 0)
        self.funding = int(figures["funding"] or 0)
        self.net_deposits = int(figures["net_deposits"] or 0)
        self.balances = [(one.asset, int(one.held), int(one.booked)) for one in update.balances]
        day_base = figures["day_base"]
        self.day_base = None if day_base is None else int(day_base)
        self.fees_are_complete = update.fees_are_complete
        self.changed = ordinal
        for row in update.rows:
            self._apply_row(row, ordinal)
        for slot in update.removed_slots:
            if self.rows.pop(slot, None) is not None:
                self.reset = ordinal  # It vanished without a last statement: only a snapshot says so.
        self.foreign = any(row.pair is not None for row in self.rows.values())
        """Whether any row is reported at a rate."""
        self._ordered = self._slots = self._marks = None

    def _apply_row(self, update: RowUpdate, ordinal: int) -> None:
        row = Row(update, self.currency, ordinal)
        if update.is_open:
            self.rows[update.slot] = row
            return
        self.rows.pop(update.slot, None)
        self.closed.append((ordinal, row))
        if len(self.closed) > _KEPT_CLOSED_ROWS:
            self.closed_unkept, _ = self.closed.popleft()

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees + self.funding

    @property
    def marks(self) -> frozenset[str]:
        """What values the open rows."""
        if self._marks is None:
            self._marks = frozenset(row.mark for row in self.rows.values())
        return self._marks

    @property
    def ordered_rows(self) -> tuple[Row, ...]:
        """The open rows; ``slots`` has the same order."""
        if self._ordered is None:
            self._ordered = tuple(self.rows.values())
        return self._ordered

    @property
    def slots(self) -> NDArray[np.intp]:
        """The slots of the open rows, in the order of ``ordered_rows``, ready to index arrays."""
        if self._slots is None:
            self._slots = np.fromiter(self.rows, np.intp, len(self.rows))
        return self._slots


class PnlMirror:
    """The state that :class:`PnlFlush` messages of one P&L shard add up to. Does no I/O."""

    def __init__(self, is_wanted: Callable[[str], bool]) -> None:
        self._is_wanted = is_wanted
        self.book_epoch = 0
        self._sequence: int | None = None
        self.old_epochs = 0
        self.holes = 0
        self._forget()

    def _forget(self) -> None:
        self.users: dict[str, UserView] = {}
        self.marks: dict[str, Mark] = {}
        self.rates: dict[tuple[str, str], Rate] = {}
        """By asset and currency."""
        self.rated = 0
        """When any rate last changed."""
        self.priced: set[str] = set()
        self.stale: set[str] = set()
        self.flagged = 0
        self.user_unrealized = Figures()
        self.row_unrealized = Figures()

    def desynchronise(self) -> None:
        """Messages were lost: nobody's rows can be trusted until they come whole again."""
        self.users.clear()
        self._sequence = None

    def drop(self, user_id: str) -> None:
        """Nobody of this user is connected any more."""
        self.users.pop(user_id, None)

    def apply(self, flush: PnlFlush, ordinal: int) -> Literal["applied", "old", "hole"]:
        """Take over a message. ``hole``: applied, but everything must be asked for again.

        Raises:
            ValueError, KeyError: the message contradicts itself.
        """
        if flush.book_epoch < self.book_epoch:
            self.old_epochs += 1
            return "old"
        outcome = self._follow(flush)
        if outcome != "old":
            self._take(flush, ordinal)
        return outcome

    def _follow(self, flush: PnlFlush) -> Literal["applied", "old", "hole"]:
        """Judge a message by its epoch and sequence, and forget what they make void."""
        if flush.book_epoch > self.book_epoch:
            self.book_epoch = flush.book_epoch
            self._forget()
        elif self._sequence is not None and flush.sequence <= self._sequence:
            return "old"
        elif self._sequence is not None and flush.sequence != self._sequence + 1:
            self.holes += 1
            self.desynchronise()
            self._sequence = flush.sequence
            return "hole"
        self._sequence = flush.sequence
        return "applied"

    def _take(self, flush: PnlFlush, ordinal: int) -> None:
        for rate in flush.rates:
            self._take_rate(rate, ordinal)
        for user in flush.users:
            self._take_user(user, ordinal)
        for mark in flush.marks:
            self._take_mark(mark, ordinal)
        self.user_unrealized.apply(flush.user_unrealized, ordinal)
        self.row_unrealized.apply(flush.row_unrealized, ordinal)

    def _take_rate(self, update: RateUpdate, ordinal: int) -> None:
        pair = (update.asset, update.currency)
        rate = self.rates[pair] = Rate(update, self.rates.get(pair), ordinal)
        self.rated = max(self.rated, rate.changed)

    def _take_user(self, update: UserUpdate, ordinal: int) -> None:
        view = self.users.get(update.user_id)
        if update.full and self._is_wanted(update.user_id):
            view = self.users[update.user_id] = UserView(update, ordinal)
            self._reserve(view)
            self.row_unrealized.forget(view.slots)
        elif view is not None:
            view.apply(update, ordinal)
            self._reserve(view)
        # Else a change to rows that are not known here: the whole is on its way, or nobody is connected.

    def _reserve(self, view: UserView) -> None:
        self.user_unrealized.reserve(view.slot)
        self.row_unrealized.reserve(max(view.rows, default=0))

    def _take_mark(self, update: MarkUpdate, ordinal: int) -> None:
        name = update.mark
        known = self.marks.get(name)
        is_priced = update.price is not None
        is_same = known is not None and known.is_stale == update.is_stale and (known.price is not None) == is_priced
        flagged = known.flagged if known is not None and is_same else ordinal
        self.marks[name] = Mark(update, flagged)
        if is_same:
            return
        self.flagged = ordinal
        (self.priced.add if is_priced else self.priced.discard)(name)
        (self.stale.add if update.is_stale else self.stale.discard)(name)
