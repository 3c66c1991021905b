"""What each web instance is told: whole users first, then only what changed.

Turns the book into :class:`app.bus.messages.PnlFlush`, one per instance and
place in the stream. Does no I/O, so every rule of the message is tested without a bus.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from app.bus.messages import Columns, MarkUpdate, PnlFlush, RateUpdate, UserUpdate
from app.domain.book import Book, Change, Holder, Valuation
from app.domain.decimals import format_decimal
from app.domain.prices import StreamPosition
from app.domain.row_statements import RowStatements
from app.domain.shards import EVERYBODY, Shard
from app.domain.wide import High, Indices, Low, Mask
from app.workers.cache_round import CacheRound
from app.workers.prepared_users import PreparedUsers
from app.workers.user_updates import changed_user, whole_user
from app.workers.watchers import Instance, Watchers

SNAPSHOT_ROWS = 3000
"""Most rows of newly watched users in the flushes of one moment, which take some 30 ms; the rest come with the next."""

PREPARED_ROWS = 5
"""So many prepared rows cost what one does that is not."""

MOST_ROWS_AT_ONCE = 4000
"""Most such rows for one instance: 3 MB, which it takes in within a tenth of a second."""


class _Moment:
    """What all instances are told of from: one valuation, and everything that changed up to it."""

    def __init__(
        self, book: Book, valuation: Valuation, changes: Mapping[int, Change], statements: RowStatements
    ) -> None:
        self.valuation = valuation
        self.changed_users = {slot: changed_user(book, slot, change, statements) for slot, change in changes.items()}
        self.changed_rows = np.array([row for change in changes.values() for row in change.rows], np.int32)
        # A changed row whose price moved too is among the watched ones.
        others = self.changed_rows[~valuation.values_changed[book.rows.column[self.changed_rows]]]
        moved = np.concatenate((book.watched_rows(valuation.values_changed), others))
        self.rows, self.high, self.low = book.row_worth(moved)
        self.row_users = book.rows.user.take(self.rows).astype(np.intp)


class Publication:
    """Composes flushes.

    ``book_epoch`` is the fencing epoch of this worker, ``layout`` that of the
    number of shards. ``statements`` get those of the rows that are told.
    """

    def __init__(
        self,
        book: Book,
        watchers: Watchers,
        cache: CacheRound,
        *,
        book_epoch: int,
        shard: Shard = EVERYBODY,
        layout: int = 0,
        prepared: PreparedUsers | None = None,
        statements: RowStatements | None = None,
    ) -> None:
        self.layout = layout
        self._prepared = PreparedUsers(book) if prepared is None else prepared
        self._statements = RowStatements(book) if statements is None else statements
        self._book = book
        self._watchers = watchers
        self._cache = cache
        self._book_epoch = book_epoch
        self._shard = shard

    @property
    def has_news(self) -> bool:
        """Whether there is something to say besides prices."""
        return self._book.has_changes or any(
            self._book.find(user_id) is not None
            for instance in self._watchers.instances.values()
            for user_id in instance.waiting
        )

    @property
    def is_telling(self) -> bool:
        """Whether any instance waits for whole users."""
        return any(instance.waiting for instance in self._watchers.instances.values())

    def missing_users(self) -> set[str]:
        """Users that somebody watches and the book does not have."""
        return {
            user_id
            for instance in self._watchers.instances.values()
            for user_id in instance.waiting
            if self._book.find(user_id) is None
        }

    def compose(
        self, place: StreamPosition, *, as_of_ms: int, event_ms: int, silent: bool = False
    ) -> list[tuple[str, PnlFlush]]:
        """One flush per live instance: every price, row and total in it is of one moment."""
        book = self._book
        valuation = book.revalue(as_of_ms, silent=silent)
        moment = _Moment(book, valuation, book.take_changes(), self._statements)
        marks: dict[int, MarkUpdate] = {}
        rates: dict[int, RateUpdate] = {}
        instances = list(self._watchers.instances.values())
        waiting = sum(bool(instance.waiting) for instance in instances)
        flushes: list[tuple[str, PnlFlush]] = []
        self._cache.mark(list(moment.changed_users))
        self._cache.mark(list(book.watched_at(valuation.rates_turned)))
        for instance in instances:
            users, user_slots, rows = self._changes_for(instance, moment)
            new_users, new_slots, new_rows = self._newcomers(instance, SNAPSHOT_ROWS // max(waiting, 1))
            told_of = np.concatenate((user_slots, new_slots))  # nobody is in both
            self._cache.mark(told_of)
            # Before the marks, which end the search for what an instance needs no more.
            told_rates = self._rates_for(instance, moment, new_slots, rates)
            flushes.append(
                (
                    instance.instance_id,
                    PnlFlush(
                        shard=self._shard.number,
                        book_epoch=self._book_epoch,
                        sequence=self._watchers.next_sequence(instance.instance_id),
                        position=place,
                        as_of_ms=as_of_ms,
                        event_ms=event_ms,
                        users=[*users, *new_users],
                        marks=self._marks_for(instance, moment, new_rows, marks),
                        user_unrealized=_user_columns(valuation, told_of),
                        row_unrealized=self._row_columns(rows, new_rows),
                        shards=self._shard.shards,
                        layout=self.layout,
                        rates=told_rates,
                    ),
                )
            )
        return flushes

    def _changes_for(
        self, instance: Instance, moment: _Moment
    ) -> tuple[list[UserUpdate], Indices, tuple[Indices, High, Low]]:
        """What changed of the users that an instance already follows."""
        following = instance.following(len(self._book))
        users = [update for slot, update in moment.changed_users.items() if following[slot]]
        slots = np.flatnonzero(moment.valuation.users_changed & following).astype(np.int32)
        chosen = following.take(moment.row_users)
        return users, slots, (moment.rows.compress(chosen), moment.high.compress(chosen), moment.low.compress(chosen))

    def _newcomers(self, instance: Instance, most_rows: int) -> tuple[list[UserUpdate], Indices, Indices]:
        """Whole users an instance waits for, at least one, as many as there is room for."""
        updates: list[UserUpdate] = []
        slots: list[int] = []
        rows: list[int] = []
        cost = 0.0
        for holder in self._next_waiting(instance):
            prepared = self._prepared.find(holder)
            cost += len(holder.rows) / (PREPARED_ROWS if prepared is not None else 1)
            if updates and (cost > most_rows or len(rows) + len(holder.rows) > MOST_ROWS_AT_ONCE):
                break
            updates.append(whole_user(self._book, holder, self._statements) if prepared is None else prepared)
            slots.append(holder.slot)
            rows.extend(holder.rows.values())
            self._watchers.follow(instance, holder.user_id, holder.slot)
        return updates, np.array(slots, np.int32), np.array(rows, np.int32)

    def _next_waiting(self, instance: Instance) -> Iterable[Holder]:
        found = (self._book.find(user_id) for user_id in list(instance.waiting))
        return islice((holder for holder in found if holder is not None), SNAPSHOT_ROWS)

    def _marks_for(
        self, instance: Instance, moment: _Moment, new_rows: Indices, known: dict[int, MarkUpdate]
    ) -> list[MarkUpdate]:
        """Marks that changed or that the instance needs for the first time."""
        columns = self._book.rows.column
        told = instance.told(len(self._book.prices))
        if instance.has_lost_users:
            self._forget_marks(instance, told)
        due = told & moment.valuation.marks_changed
        following = instance.following(len(self._book))
        changed = moment.changed_rows[following[self._book.rows.user[moment.changed_rows]]]
        needed = np.zeros(len(told), np.bool_)
        needed[columns[changed]] = True
        needed[columns[new_rows]] = True
        due |= needed & ~told
        told |= needed
        return [
            known.get(column) or known.setdefault(column, self._mark(column, moment.valuation.stale))
            for column in np.flatnonzero(due).tolist()
        ]

    def _forget_marks(self, instance: Instance, told: Mask) -> None:
        """Tell no more of symbols that only users who left had."""
        everywhere = np.ones(len(told), np.bool_)
        rows = self._book.watched_rows(everywhere)
        rows = rows[instance.following(len(self._book))[self._book.rows.user[rows]]]
        needed = np.zeros(len(told), np.bool_)
        needed[self._book.rows.column[rows]] = True
        told &= needed
        instance.has_lost_users = False

    def _mark(self, column: int, stale: Mask) -> MarkUpdate:
        quote, name = self._book.prices.quote(column), self._book.prices.name(column)
        if quote is None:
            return MarkUpdate(name, None, None, is_stale=False, fresh_ms=0)
        return MarkUpdate(name, format_decimal(quote.price), quote.source, bool(stale[column]), quote.fresh_ms)

    def _rates_for(
        self, instance: Instance, moment: _Moment, new_slots: Indices, known: dict[int, RateUpdate]
    ) -> list[RateUpdate]:
        """Rates that changed or that the instance needs for the first time."""
        book = self._book
        if not len(book.rates):
            return []
        told = instance.told_rates(len(book.rates))
        following = instance.following(len(book))
        if instance.has_lost_users:
            told &= [following[list(slots)].any() for slots in book.users_of_rates]
        due = told & moment.valuation.rates_changed
        needed = self._needed_rates([*(slot for slot in moment.changed_users if following[slot]), *new_slots.tolist()])
        due |= needed & ~told
        told |= needed
        return [
            known.get(pair) or known.setdefault(pair, self._rate(pair, moment.valuation.stale_rates))
            for pair in np.flatnonzero(due).tolist()
        ]

    def _needed_rates(self, slots: Iterable[int]) -> Mask:
        needed = np.zeros(len(self._book.rates), np.bool_)
        for slot in slots:
            needed[list(self._book.holder(slot).pairs)] = True
        return needed

    def _rate(self, pair: int, stale: Mask) -> RateUpdate:
        rates = self._book.rates
        asset, currency = rates.pairs[pair]
        value = rates.value(pair)
        if value is None:
            return RateUpdate(asset, currency, None, is_stale=False, fresh_ms=0)
        return RateUpdate(asset, currency, format_decimal(value), bool(stale[pair]), rates.fresh_ms(pair))

    def _row_columns(self, rows: tuple[Indices, High, Low], new_rows: Indices) -> Columns:
        numbers, high, low = rows
        if len(new_rows):
            new_numbers, new_high, new_low = self._book.row_worth(new_rows)
            numbers = np.concatenate((numbers, new_numbers))
            high, low = np.concatenate((high, new_high)), np.concatenate((low, new_low))
        return Columns(self._book.rows.slot.take(numbers).tobytes(), high.tobytes(), low.tobytes())


def _user_columns(valuation: Valuation, slots: Indices) -> Columns:
    at = slots.astype(np.intp)
    return Columns(
        slots.astype(np.int32).tobytes(), valuation.high.take(at).tobytes(), valuation.low.take(at).tobytes()
    )
