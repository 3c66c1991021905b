"""From the spool into the ledger: all fills of a file in one transaction.

Fills that come after all of their chain are added to what stands. Where one
comes before others, its chain is booked anew from its first fill, old and new in
the order they happened; positions keep their ids where the same fill opens them.
Memory does not grow with the file: rows are written every few thousand fills.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime
from itertools import islice
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.cycles import Payment, TooLarge
from app.domain.ids import OrderedIds
from app.domain.import_chain import ChainBook, Holding, PositionChange, Touched
from app.domain.imports import Faults, Progress
from app.domain.ledger import ContradictoryFill, Fill, Funding
from app.domain.positions import Position
from app.imports.spool import OWN_ID, Chain, Spool, SpooledFill
from app.repositories.bulk import BulkLedger, ChainPlace, StoredFill, StoredTrade, trade_line
from app.repositories.fills import Holder
from app.repositories.positions import PositionRepository

_AT_ONCE: Final = 5000
"""Fills that are booked before their rows are written."""


class Booking:
    """Books the fills of a spool for one account, within the caller's transaction.

    What cannot be booked goes to ``faults``: where there are any afterwards, the
    caller undoes the transaction. With ``is_dry`` nothing is written.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        holder: Holder,
        *,
        ids: OrderedIds,
        now: datetime,
        is_dry: bool,
        progress: Progress,
        faults: Faults,
    ) -> None:
        self._ledger = BulkLedger(connection)
        self._positions = PositionRepository(connection)
        self._holder = holder
        self._ids = ids
        self._now = now
        self._is_dry = is_dry
        self._progress = progress
        self._faults = faults
        self._lines: list[str] = []
        self._changes: list[PositionChange] = []
        self._moved: list[tuple[str, Touched]] = []
        self._paid: list[tuple[str, str, Payment]] = []
        self._reopened = _Reopened()
        self.has_failed = False
        """Whether a fill could not be booked although its row is a fill."""
        self.opened = 0
        """How many more positions are open than before."""
        self.first_at: datetime | None = None
        """When the first fill that was booked happened."""

    @property
    def _writes(self) -> bool:
        """Whether rows are written: not when it is certain that they will be undone."""
        return not self._is_dry and not self.has_failed

    async def run(self, spool: Spool) -> None:
        """Book everything. Raises DatabaseUnavailable, PositionChanged."""
        for chain in spool.chains():
            await self._book_chain(chain, spool.of_chain(chain))
        await self._flush()

    async def _book_chain(self, chain: Chain, rows: Iterator[SpooledFill]) -> None:
        key = chain.key
        place = ChainPlace(self._holder.user_id, self._holder.account_id, key.symbol, key.position_side, key.strategy)
        is_traded = await self._ledger.has_traded(place.user_id, place.account_id, place.symbol)
        async with aclosing(self._unknown(place, rows) if is_traded else _each(rows)) as fills:
            first = await anext(fills, None)
            if first is None:
                return
            assert first.fill.executed_at is not None
            self.first_at = min(self.first_at or first.fill.executed_at, first.fill.executed_at)
            try:
                if await self._is_late(chain, place, first.fill.executed_at, is_traded=is_traded):
                    await self._replay(chain, place, first, fills)
                else:
                    await self._append(chain, place, first, fills)
            except _Stopped:
                return

    async def _is_late(self, chain: Chain, place: ChainPlace, at: datetime, *, is_traded: bool) -> bool:
        """Whether anything of a chain comes after a moment: fills, or funding stamps that what they leave is due."""
        last_at = await self._ledger.last_at(place) if is_traded else None
        if last_at is not None and at < last_at:
            return True
        return chain.instrument.market != "spot" and await self._ledger.has_stamp_since(place.symbol, at)

    async def _append(
        self, chain: Chain, place: ChainPlace, first: SpooledFill, fills: AsyncIterator[SpooledFill]
    ) -> None:
        standing = await self._standing(place)
        book = ChainBook(self._holding(chain), standing, self._ids.next)
        self._book_new(book, place, first)
        async for row in fills:
            self._book_new(book, place, row)
            await self._flush_when_full(book)
        self._take_changes(book, standing)

    async def _replay(
        self, chain: Chain, place: ChainPlace, first: SpooledFill, fills: AsyncIterator[SpooledFill]
    ) -> None:
        """Book a chain anew, with what comes into it."""
        standing = await self._standing(place)
        stamps = await self._stamps(chain, place, _at(first))
        book = ChainBook(self._holding(chain), None, self._ids.next, stamps)
        await self._flush()
        self._reopened = _Reopened()
        async with aclosing(_merged(self._ledger.trades_of(place), first, fills)) as merged:
            async for one in merged:
                await self._suspend_once(place)
                if isinstance(one, StoredTrade):
                    self._book_again(book, one)
                else:
                    self._book_new(book, place, one)
                await self._flush_when_full(book)
        book.finish()
        self._take_changes(book, standing)
        await self._flush()
        if self._writes:
            await self._ledger.forget_empty(place)

    async def _suspend_once(self, place: ChainPlace) -> None:
        # Not before the cursor has seen the positions as they stood.
        if self._writes and not self._reopened.is_suspended:
            await self._ledger.suspend(place)
            self._reopened.is_suspended = True

    async def _stamps(self, chain: Chain, place: ChainPlace, at: datetime) -> list[Funding]:
        if chain.instrument.market == "spot":
            return []
        first_at = await self._ledger.first_at(place)
        return await self._ledger.stamps(place, at if first_at is None else min(first_at, at))

    def _book_new(self, book: ChainBook, place: ChainPlace, row: SpooledFill) -> None:
        touched = self._book(book, row.fill, row.number)
        if self._writes:
            self._lines.append(trade_line(self._ids.next(), place, touched, row.fill, self._now))
        self._progress.rows_booked += 1

    def _book_again(self, book: ChainBook, stored: StoredTrade) -> None:
        trade = stored.trade
        touched = self._book(book, trade.fill, None, self._reopened.id_for(stored))
        if touched != Touched(trade.position_id, trade.opened_position_id):
            self._moved.append((trade.fill_id, touched))

    def _book(self, book: ChainBook, fill: Fill, row: int | None, opens_as: str | None = None) -> Touched:
        try:
            return book.book(fill, opens_as)
        except (TooLarge, ContradictoryFill) as problem:
            # What comes after it in its chain would fail for the same reason.
            self._faults.add(row, None, str(problem))
            self.has_failed = True
            raise _Stopped from None

    async def _flush_when_full(self, book: ChainBook) -> None:
        if len(self._lines) + len(self._moved) >= _AT_ONCE or book.changes >= _AT_ONCE:
            self._take(book)
            await self._flush()

    def _take(self, book: ChainBook) -> None:
        self._changes += book.take_changes(self._now)
        self._paid += [(book.symbol, *paid) for paid in book.take_payments()]

    def _take_changes(self, book: ChainBook, standing: Position | None) -> None:
        self._take(book)
        self.opened += book.is_open - (standing is not None)

    async def _flush(self) -> None:
        """Write what is booked: positions first, for the trades name them."""
        changes, lines, moved, paid = self._changes, self._lines, self._moved, self._paid
        self._changes, self._lines, self._moved, self._paid = [], [], [], []
        if not self._writes:
            return
        await self._ledger.write_positions(await self._changed(changes))
        await self._ledger.write_trades(lines)
        await self._ledger.reassign(moved)
        await self._ledger.write_payments(self._holder.user_id, paid)

    async def _changed(self, changes: Sequence[PositionChange]) -> list[PositionChange]:
        """Without the positions that a replay left as they were."""
        again = [change.position.position_id for change in changes if not change.is_new]
        stored = {one.position_id: one for one in await self._positions.of_ids(self._holder.user_id, again)}
        return [
            change
            for change in changes
            if change.is_new or not _is_same(change.position, stored.get(change.position.position_id))
        ]

    async def _unknown(self, place: ChainPlace, rows: Iterator[SpooledFill]) -> AsyncGenerator[SpooledFill]:
        """The fills that are not in the ledger yet."""
        while page := list(islice(rows, _AT_ONCE)):
            ids = [row.fill.trade_id for row in page if row.fill.trade_id is not None]
            own = [trade_id.removeprefix(OWN_ID) for trade_id in ids if trade_id.startswith(OWN_ID)]
            known = await self._ledger.known(place.account_id, place.symbol, ids, own)
            deleted = await self._ledger.deleted(place.account_id, place.symbol, ids, own)
            for row in page:
                assert row.fill.trade_id is not None
                stored = known.get(row.fill.trade_id)
                same = StoredFill(row.fill.side, row.fill.quantity, row.fill.price)
                if row.fill.trade_id in deleted or stored == same:
                    self._progress.repeated_in_ledger += 1
                elif stored is None:
                    yield row
                else:
                    self._faults.add(
                        row.number, "trade_id", f"{row.fill.trade_id} is another fill of {place.symbol} in the ledger"
                    )

    async def _standing(self, place: ChainPlace) -> Position | None:
        return await self._positions.standing(
            place.user_id, place.account_id, place.symbol, place.strategy, place.position_side
        )

    def _holding(self, chain: Chain) -> Holding:
        return Holding(
            user_id=self._holder.user_id,
            account_id=self._holder.account_id,
            currency=self._holder.currency,
            instrument=chain.instrument,
        )


class _Stopped(Exception):
    """A chain cannot be booked; why is among the faults."""


class _Reopened:
    """Finds the ids by which positions go on in a replay: each goes to the one fill that opened it."""

    def __init__(self) -> None:
        self.is_suspended = False
        self._at: datetime | None = None
        self._given: set[str] = set()

    def id_for(self, stored: StoredTrade) -> str | None:
        """The id of what a stored fill opens, should it open something again."""
        at = stored.trade.executed_at
        if at != self._at:
            self._at, self._given = at, set()
        # A position was opened at its own time, so an id can only be claimed twice by fills of one moment.
        if stored.opens is None or stored.opens in self._given:
            return None
        self._given.add(stored.opens)
        return stored.opens


async def _each(rows: Iterator[SpooledFill]) -> AsyncGenerator[SpooledFill]:
    for row in rows:
        yield row


async def _merged(
    stored: AsyncIterator[StoredTrade], first: SpooledFill, fills: AsyncIterator[SpooledFill]
) -> AsyncGenerator[StoredTrade | SpooledFill]:
    """Old and new fills in the order they happened; of one moment the old ones come first."""
    waiting: SpooledFill | None = first
    async for one in stored:
        while waiting is not None and _at(waiting) < one.trade.executed_at:
            yield waiting
            waiting = await anext(fills, None)
        yield one
    while waiting is not None:
        yield waiting
        waiting = await anext(fills, None)


def _at(row: SpooledFill) -> datetime:
    assert row.fill.executed_at is not None
    return row.fill.executed_at


def _is_same(position: Position, stored: Position | None) -> bool:
    """Whether a position is stored as it is booked, but for how often it was written."""
    return stored is not None and (
        position.state,
        position.converted,
        position.status,
        position.opened_at,
        position.closed_at,
    ) == (stored.state, stored.converted, stored.status, stored.opened_at, stored.closed_at)
