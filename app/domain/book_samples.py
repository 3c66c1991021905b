"""What everybody in the book is worth at the prices of one moment, a slice of users at a time.

The prices of the moment are kept aside (they are few), so that however long it
takes to go through all users, all are valued at the same ones. A user is taken
whole at one time: what he realised and what he holds belong together.

Rows that the vectors carry are valued by them, as :mod:`app.domain.book` does it;
the others one by one, and users with balances in other assets wholly by
:mod:`app.domain.pnl_snapshot`. All give the same integers.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec
import numpy as np

from app.domain.book import Book, Holder
from app.domain.candles import NOTHING, Figures
from app.domain.excursions import Excursion, Excursions
from app.domain.pnl_snapshot import Prices, value_book
from app.domain.position_rows import Kind
from app.domain.positions import NOTHING_REALIZED, AccountBook, Realized, is_known, reported_of
from app.domain.valuation import Totals, value_position
from app.domain.wide import Floats, High, Indices, Low, Mask, join, split, sum_by

MAX_ROWS = 4000
"""How many rows a slice may have before another begins: a few milliseconds of work."""
MAX_USERS = 100


class FrozenPrices(msgspec.Struct, frozen=True):
    """All prices as they were at a moment, as vectors by column and by symbol.

    ``at_ms`` is the minute that they are kept for, ``marks`` are those of the
    columns in use, by name.
    """

    at_ms: int
    prices: Prices
    low: Low
    floats: Floats
    carried: Mask
    stale: Mask
    marks: Mapping[str, Decimal]


class Sample(msgspec.Struct, frozen=True):
    """What a scope is worth. ``account_id`` is None for all accounts of a user together."""

    scope_id: str
    user_id: str
    account_id: str | None
    figures: Figures


class Slice(msgspec.Struct, frozen=True):
    """The samples of some users; what is to be saved of positions that ended; where the next slice begins."""

    samples: list[Sample]
    ended: list[Excursion]
    next_slot: int


class _Leaf(msgspec.Struct, frozen=True):
    """What an open position brings into its account, as long as its row has this slot and version."""

    slot: int
    version: int
    account_id: str
    realized: Realized
    is_known: bool


class _Valued(msgspec.Struct, frozen=True):
    """Rows of several users one after the other. ``ends`` is where those of each end."""

    ends: Sequence[int]
    rows: Indices
    high: High
    low: Low
    priced: Mask
    stale: Mask

    def of(self, number: int) -> slice:
        """The places of a user's rows."""
        return slice(self.ends[number - 1] if number else 0, self.ends[number])


class BookSampler:
    """Samples one book. Waits for nothing, reads no clock."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.excursions = Excursions(book.rows)
        self._leaves: dict[int, _Leaf] = {}

    def freeze(self, at_ms: int, as_of_ms: int, stale_after_ms: int, *, silent: bool) -> FrozenPrices:
        """Keep the prices of this moment for the sample of ``at_ms``; ages count to ``as_of_ms``."""
        vector = self._book.prices
        columns = np.flatnonzero(vector.uses[: len(vector)]).tolist()
        marks = {vector.name(column): vector.value(column) for column in columns}
        return FrozenPrices(
            at_ms=at_ms,
            # While the feed is silent no price is fresh, however young.
            prices=Prices(dict(vector.known), self._book.rates.book, as_of_ms, -1 if silent else stale_after_ms),
            low=vector.low.copy(),
            floats=vector.floats.copy(),
            carried=vector.carried[: len(vector)].copy(),
            stale=vector.age(as_of_ms, silent=silent),
            marks={name: price for name, price in marks.items() if price is not None},
        )

    def sample(self, frozen: FrozenPrices, first_slot: int) -> Slice:
        """The samples of users from a slot on, as many as make a slice."""
        holders = self._take(first_slot)
        valued, ended = self._value(frozen, holders)
        unrealized = self._add_up(valued)
        samples: list[Sample] = []
        for number, holder in enumerate(holders):
            if holder.sums.balances:
                samples += self._in_plain_form(frozen, holder)
            elif len(holder.accounts) > 1:
                samples += self._by_account(holder, valued, valued.of(number))
            elif holder.accounts and (holder.rows or holder.accounts[0].assets):
                samples.append(_whole(holder, valued, valued.of(number), unrealized[number]))
        return Slice(samples, ended, first_slot + len(holders))

    def _take(self, first_slot: int) -> list[Holder]:
        holders: list[Holder] = []
        rows = 0
        for slot in range(first_slot, min(len(self._book), first_slot + MAX_USERS)):
            holder = self._book.holder(slot)
            rows += len(holder.rows)
            if holders and rows > MAX_ROWS:
                break
            holders.append(holder)
        return holders

    def _value(self, frozen: FrozenPrices, holders: Sequence[Holder]) -> tuple[_Valued, list[Excursion]]:
        """Value rows in their settle assets, and take note of how far they went."""
        ends = np.cumsum([len(holder.rows) for holder in holders], dtype=np.int64).tolist()
        rows = np.fromiter((row for holder in holders for row in holder.rows.values()), np.int32)
        columns = self._book.rows.column[rows]
        priced = (columns < len(frozen.low)) & (self._book.rows.kinds[rows] != Kind.ODD)
        priced[priced] = frozen.carried[columns[priced]]
        high, low = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint64)
        high[priced], low[priced] = self._book.rows.worth(rows[priced], frozen.low, frozen.floats)
        stale = np.zeros(len(rows), np.bool_)
        stale[priced] = frozen.stale[columns[priced]]
        for place in np.flatnonzero(~priced).tolist():
            self._value_one(frozen, int(rows[place]), place, (high, low, priced, stale))
        ended = self.excursions.note(rows[priced], high[priced], low[priced])
        return _Valued(ends, rows, high, low, priced, stale), ended

    def _value_one(self, frozen: FrozenPrices, row: int, place: int, arrays: tuple[High, Low, Mask, Mask]) -> None:
        """Value a row that the vectors do not carry; it stays without a price where there is none."""
        position = self._book.position(row)
        basis = self._book.holder(int(self._book.rows.user[row])).basis(position.account_id)
        prices = frozen.prices
        value = value_position(
            position, prices.prices.get(position.symbol), prices.as_of_ms, prices.stale_after_ms, basis
        )
        worth = value.unrealized_pnl
        if worth is not None:
            high, low, priced, stale = arrays
            high[place], low[place] = split(worth)
            priced[place], stale[place] = True, value.is_stale

    def _add_up(self, valued: _Valued) -> list[int]:
        """What the rows of each user add up to: of no meaning where any settles elsewhere."""
        users = np.repeat(np.arange(len(valued.ends)), np.diff([0, *valued.ends]))
        high, low = sum_by(users, valued.high, valued.low, len(valued.ends))
        return [join(*pair) for pair in zip(high.tolist(), low.tolist(), strict=True)]

    def _by_account(self, holder: Holder, valued: _Valued, places: slice) -> list[Sample]:
        """Each account of a user that ever had anything, and all together where there are several."""
        figures = {account.account_id: _closed_figures(account) for account in holder.accounts if account.assets}
        for place in range(places.start, places.stop):
            leaf = self._leaf(int(valued.rows[place]))
            worth = join(int(valued.high[place]), int(valued.low[place])) if valued.priced[place] else None
            figures[leaf.account_id] = figures.get(leaf.account_id, NOTHING) + Figures(
                realized_pnl_gross=leaf.realized.gross,
                fees=leaf.realized.fees,
                funding=leaf.realized.funding,
                unrealized_pnl=worth,
                fx_pnl=0 if worth is not None else None,
                is_complete=leaf.is_known and worth is not None,
                is_stale=bool(valued.stale[place]),
            )
        return _scopes(holder, figures)

    def _in_plain_form(self, frozen: FrozenPrices, holder: Holder) -> list[Sample]:
        valuation = value_book(self._book.user_book(holder.slot), frozen.prices)
        held = {one.position.account_id for one in valuation.positions}
        figures = {
            account.account_id: figures_of(totals)
            for account, totals in valuation.accounts
            if account.assets or account.account_id in held
        }
        return _scopes(holder, figures)

    def _leaf(self, row: int) -> _Leaf:
        slot, version = int(self._book.rows.slot[row]), int(self._book.rows.version[row])
        leaf = self._leaves.get(row)
        if leaf is None or (leaf.slot, leaf.version) != (slot, version):
            position = self._book.position(row)
            leaf = _Leaf(slot, version, position.account_id, reported_of(position), is_known(position))
            self._leaves[row] = leaf
        return leaf


def figures_of(totals: Totals) -> Figures:
    """What is kept of totals. Where a price or a rate is missing, what needs it is unknown."""
    is_priced = not totals.unpriced
    return Figures(
        realized_pnl_gross=totals.realized.gross,
        fees=totals.realized.fees,
        funding=totals.realized.funding,
        unrealized_pnl=totals.unrealized_pnl if is_priced else None,
        fx_pnl=totals.fx_pnl if is_priced else None,
        net_deposits=totals.net_deposits,
        is_complete=totals.is_complete,
        is_stale=totals.is_stale,
    )


def _whole(holder: Holder, valued: _Valued, places: slice, unrealized: int) -> Sample:
    """The one account of a user."""
    sums, is_priced = holder.sums, bool(valued.priced[places].all())
    figures = Figures(
        realized_pnl_gross=sums.gross,
        fees=sums.fees,
        funding=sums.funding,
        unrealized_pnl=unrealized if is_priced else None,
        fx_pnl=0 if is_priced else None,
        net_deposits=sums.deposited,
        is_complete=is_priced and sums.is_complete,
        is_stale=bool(valued.stale[places].any()),
    )
    account_id = holder.accounts[0].account_id
    return Sample(account_id, holder.user_id, account_id, figures)


def _closed_figures(account: AccountBook) -> Figures:
    """What closed positions and transfers left in an account."""
    reported = sum((book.reported for book in account.assets), NOTHING_REALIZED)
    return Figures(
        realized_pnl_gross=reported.gross,
        fees=reported.fees,
        funding=reported.funding,
        net_deposits=sum(book.deposited_reported for book in account.assets),
        is_complete=all(book.is_complete for book in account.assets),
    )


def _scopes(holder: Holder, figures: Mapping[str, Figures]) -> list[Sample]:
    samples = [Sample(account_id, holder.user_id, account_id, one) for account_id, one in figures.items()]
    if len(samples) > 1:
        samples.append(Sample(holder.user_id, holder.user_id, None, sum(figures.values(), NOTHING)))
    return samples
