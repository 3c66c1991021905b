"""What one web process knows of its users' P&L: a mirror of part of the P&L worker's book.

Structure (who holds what) arrives as whole rows and is kept as objects;
figures that move arrive as columns by slot and are kept in arrays, so taking
over a flush costs the same few array operations for ten rows or ten thousand.
Everything remembers the *ordinal* of the commit that last changed it, which is
all a connection needs to find what it has not seen.
"""

from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from sys import intern
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.bus.messages import MarkUpdate, PnlFlush, RateUpdate, RowUpdate, UserUpdate
from app.domain.decimals import format_units
from app.websocket.figures import RowFigures, UserFigures, seats_of
from app.websocket.json_text import flag, json_text
from app.websocket.tables import Marks

_KEPT_CLOSED_ROWS = 256
"""Closed rows kept per user for connections that have not seen them; a slower one gets a snapshot."""


class Mark:
    """A price that values rows. ``flagged`` is when it last became stale, fresh, known or unknown.

    ``before`` and ``after`` are what a row says of it around its own figures.
    """

    __slots__ = ("after", "before", "flagged", "fresh_ms", "is_stale", "price", "seat", "source")

    def __init__(self, seat: int) -> None:
        self.seat = seat
        self.price: str | None = None
        self.source: str | None = None
        self.is_stale = False
        self.fresh_ms = 0
        self.flagged = 0
        self.before = self.after = ""

    def take(self, update: MarkUpdate, ordinal: int) -> bool:
        """Take over what was said. Whether more than the price is new."""
        is_same = bool(self.flagged) and self.is_stale == update.is_stale
        is_same = is_same and (self.price is None) == (update.price is None)
        self.price = update.price
        self.source = update.source
        self.is_stale = update.is_stale
        self.fresh_ms = update.fresh_ms
        self.before = f'"mark_price":"{update.price}","unrealized_pnl":"'
        if not is_same:
            self.flagged = ordinal
            self.after = after_fraction(is_stale=update.is_stale)
        return not is_same


def after_fraction(*, is_stale: bool) -> str:
    """What follows the last figure of a row, but for its version."""
    return f',"is_stale":{flag(is_stale)},"version":'


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
        "end",
        "head",
        "is_inverse",
        "mark",
        "pair",
        "realized_pnl",
        "slot",
        "statement",
        "symbol",
        "version",
    )

    def __init__(self, update: RowUpdate, currency: str, mark: Mark, changed: int) -> None:
        self.slot = update.slot
        self.symbol = intern(update.symbol)
        self.mark = mark
        self.cost_basis = int(update.cost_basis)
        self.realized_pnl = int(update.realized_pnl)
        self.is_inverse = update.is_inverse
        self.pair = None if update.settle_asset == currency else (update.settle_asset, currency)
        """Which rate it is reported at, None where nothing is to be converted."""
        self.statement = update.statement
        """What does not move with the price, as a JSON object without its end: a third of a dictionary."""
        self.changed = changed
        self.head = f'{{"position_id":{json_text(update.position_id)},"symbol":{json_text(update.symbol)},'
        self.version = update.version
        # Versions are small numbers, and many rows have the same.
        self.end = intern(f"{update.version}}}")


class UserView:
    """One user: the rows, the figures that do not move with the price, and when they last changed."""

    __slots__ = (
        "_ordered",
        "_seats",
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
        "realized_text",
        "remarks",
        "reset",
        "rows",
        "seat",
        "serial",
        "slot",
        "user_id",
    )

    def __init__(self, update: UserUpdate, mirror: "PnlMirror", ordinal: int) -> None:
        self.user_id = update.user_id
        self.serial = mirror.next_serial()
        """Nobody else in this process ever has it."""
        self.slot = update.slot
        self.seat = mirror.user_unrealized.seat(update.slot)
        self.rows: dict[int, Row] = {}
        self.closed: deque[tuple[int, Row]] | None = None
        """Closed rows, with the commit that closed them. Few users have any, and an empty deque takes 600 bytes."""
        self.closed_unkept = 0
        self.reset = ordinal
        """When what a connection knows of this user stopped being a base for changes."""
        self.apply(update, mirror, ordinal)

    def apply(self, update: UserUpdate, mirror: "PnlMirror", ordinal: int) -> None:
        """Take over changed figures and rows."""
        figures = update.figures
        self.ledger_seq = update.ledger_seq
        self.currency = intern(update.currency)
        self.realized_pnl_gross = int(figures["realized_pnl_gross"] or 0)
        self.fees = int(figures["fees"] or 0)
        self.funding = int(figures["funding"] or 0)
        self.net_deposits = int(figures["net_deposits"] or 0)
        self.balances = tuple((one.asset, int(one.held), int(one.booked)) for one in update.balances)
        day_base = figures["day_base"]
        self.day_base = None if day_base is None else int(day_base)
        self.fees_are_complete = update.fees_are_complete
        self.changed = ordinal
        self.realized_text = format_units(self.realized_pnl)
        mirror.user_unrealized.settle(self.seat, self.realized_pnl, self.day_base, self.net_deposits)
        for row in update.rows:
            self._apply_row(row, mirror, ordinal)
        for slot in update.removed_slots:
            if self._remove(slot, mirror):
                self.reset = ordinal  # It vanished without a last statement: only a snapshot says so.
        self.foreign = any(row.pair is not None for row in self.rows.values())
        """Whether any row is reported at a rate."""
        self._ordered: tuple[Row, ...] | None = None
        self._seats: NDArray[np.intp] | None = None
        self.remarks: tuple[int, str] | None = None
        """What is said of the totals as a whole, and the commit at which that was written."""
        self._describe(mirror)

    def _describe(self, mirror: "PnlMirror") -> None:
        """Say in the tables what :attr:`rows` and the rest of this say."""
        mirror.user_unrealized.hold(self.seat, self.seats_in(mirror.row_unrealized).tolist())
        mirror.user_unrealized.describe(
            self.seat,
            serial=self.serial,
            restated=self.changed,
            reset=self.reset,
            is_plain=not self.is_converted,
            is_complete=self.fees_are_complete,
        )

    def _apply_row(self, update: RowUpdate, mirror: "PnlMirror", ordinal: int) -> None:
        row = Row(update, self.currency, mirror.mark_of(update.mark), ordinal)
        if update.is_open:
            self.rows[update.slot] = row
            mirror.row_unrealized.describe(
                mirror.row_unrealized.seat(update.slot),
                head=row.head,
                cost=row.cost_basis,
                owner=self.serial,
                version=row.version,
                mark=row.mark.seat,
            )
            return
        self._remove(update.slot, mirror)
        if self.closed is None:
            self.closed = deque()
        self.closed.append((ordinal, row))
        if len(self.closed) > _KEPT_CLOSED_ROWS:
            self.closed_unkept, _ = self.closed.popleft()

    def _remove(self, slot: int, mirror: "PnlMirror") -> bool:
        mirror.row_unrealized.leave(slot)
        return self.rows.pop(slot, None) is not None

    def leave(self, mirror: "PnlMirror") -> None:
        """Give the seats back: nobody looks at this any more."""
        for slot in self.rows:
            mirror.row_unrealized.leave(slot)
        mirror.user_unrealized.leave(self.slot)

    @property
    def is_converted(self) -> bool:
        """Whether any figure of the totals depends on a rate."""
        return self.foreign or bool(self.balances)

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees + self.funding

    @property
    def marks(self) -> Iterator[Mark]:
        """What values the open rows."""
        return (row.mark for row in self.rows.values())

    @property
    def ordered_rows(self) -> tuple[Row, ...]:
        """The open rows; ``seats_in`` has the same order."""
        if self._ordered is None:
            self._ordered = tuple(self.rows.values())
        return self._ordered

    def seats_in(self, figures: RowFigures) -> NDArray[np.intp]:
        """The seats of the open rows, in the order of ``ordered_rows``."""
        if self._seats is None:
            self._seats = seats_of(figures, self.rows)
        return self._seats


class PnlMirror:
    """The state that :class:`PnlFlush` messages of one P&L shard add up to. Does no I/O."""

    def __init__(self, is_wanted: Callable[[str], bool], serials: Iterator[int] | None = None) -> None:
        self._is_wanted = is_wanted
        self._arrived: set[str] = set()
        self._serials = count(1) if serials is None else serials
        self.book_epoch = 0
        self._sequence: int | None = None
        self.old_epochs = 0
        self.holes = 0
        self._forget()

    def _forget(self) -> None:
        self.users: dict[str, UserView] = {}
        self.marks: dict[str, Mark] = {}
        self.mark_table = Marks()
        self.rates: dict[tuple[str, str], Rate] = {}
        """By asset and currency."""
        self.rated = 0
        """When any rate last changed."""
        self.flagged = 0
        """The commit at which a mark last became stale, fresh, known or unknown."""
        self.user_unrealized = UserFigures()
        self.row_unrealized = RowFigures()

    def take_arrived(self) -> set[str]:
        """Users who came whole since the last call."""
        arrived, self._arrived = self._arrived, set()
        return arrived

    def next_serial(self) -> int:
        """A number that no view had before, in this mirror or another."""
        return next(self._serials)

    def mark_of(self, name: str) -> Mark:
        """A mark by its name, also before anything was said of it."""
        mark = self.marks.get(name)
        if mark is None:
            mark = self.marks[name] = Mark(self.mark_table.add())
        return mark

    def desynchronise(self) -> None:
        """Messages were lost: nobody's rows can be trusted until they come whole again."""
        self.users.clear()
        self.user_unrealized = UserFigures()
        self.row_unrealized = RowFigures()
        self._sequence = None

    def drop(self, user_id: str) -> None:
        """Nobody of this user is connected any more."""
        view = self.users.pop(user_id, None)
        if view is not None:
            view.leave(self)

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
        if update.full and self._is_wanted(update.user_id):
            self.drop(update.user_id)
            self.users[update.user_id] = UserView(update, self, ordinal)
            self._arrived.add(update.user_id)
        elif (view := self.users.get(update.user_id)) is not None:
            view.apply(update, self, ordinal)
        # Else a change to rows that are not known here: the whole is on its way, or nobody is connected.

    def _take_mark(self, update: MarkUpdate, ordinal: int) -> None:
        mark = self.mark_of(update.mark)
        if mark.take(update, ordinal):
            self.flagged = ordinal
        is_known = mark.price is not None
        self.mark_table.say(mark.seat, mark.flagged, is_known=is_known, is_stale=mark.is_stale, text=mark.before)
