"""The book: every user's exact unrealised profit at once.

A user's unrealised profit is Σ quantity·price − Σ cost. Quantities are a sparse
matrix (users × symbols, one entry per position), prices a vector, so everybody
is valued by two multiplications: one modulo 2^64, which is exact whatever
overflows, and one in floats, which only has to tell the multiple of 2^64
(:mod:`app.domain.wide`). Quantities and prices are integers of 1e-9, so a
product is in units of 1e-18 without rounding, as leaf rounding wants it.

What this cannot carry exactly is *odd* and valued one by one
(:mod:`app.domain.odd_rows`): a quantity or a price with more than nine
decimals, an inverse instrument, a position worth more than
:data:`MAX_NOTIONAL`. What settles in another asset than its user's currency is
valued with the others and then converted (:mod:`app.domain.foreign_rows`). All
give the same integers as :mod:`app.domain.valuation`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from app.domain.decimals import exact, to_units
from app.domain.foreign_rows import ForeignRows
from app.domain.odd_rows import OddRows
from app.domain.packed import Packer
from app.domain.position_rows import COARSE, Kind, Measure, PositionRows
from app.domain.positions import AccountBook, Position, UserBook
from app.domain.price_vector import NANO, PriceVector
from app.domain.prices import Basis, Price, source_on
from app.domain.rates import RateBook
from app.domain.rates_in_use import RatesInUse
from app.domain.selection import Selection
from app.domain.slack_matrix import SlackMatrix, grown
from app.domain.sums import Sums
from app.domain.wide import High, Indices, Low, Mask, add, find_high, join, low_part, split
from app.domain.wide_conversion import RATE_LIMIT

Applied: TypeAlias = Literal["applied", "gap", "old"]

MAX_NOTIONAL = 10_000_000_000
"""The most that a position, or its cost, may be worth to be valued with the others (in money)."""

MAX_TERMS = 2048
"""The most positions of one user that are valued together.

A sum of n floats of at most L is wrong by less than (n + 3)·2^-53·n·L: with
these two bounds 4.7, and the coarse costs add 0.1. That is below the 9.2 at which
:func:`app.domain.wide.find_high` would name the wrong multiple.
"""

_MAX_COST_UNITS = MAX_NOTIONAL * 10**18


_EVERYBODY = slice(None)
_NO_ROWS = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))


class Holder(msgspec.Struct):
    """A user in the book. Sums are of published leaves, in units of 1e-18, of his reporting currency."""

    user_id: str
    slot: int
    usual_account: str
    """The account whose id his packed positions do without."""
    currency: str
    ledger_seq: int
    accounts: tuple[AccountBook, ...]
    sums: Sums
    day_base: int | None
    base_day: date | None = None
    """The UTC day that began with the base, where that is known."""
    rows: dict[str, int] = msgspec.field(default_factory=dict)
    """Row by position id."""
    pairs: frozenset[int] = frozenset()
    """The rates that concern him."""

    def has_account(self, account_id: str) -> bool:
        return any(account.account_id == account_id for account in self.accounts)

    def basis(self, account_id: str) -> Basis:
        """What values the positions of an account."""
        for account in self.accounts:
            if account.account_id == account_id:
                return account.valuation
        return "auto"


class Change(msgspec.Struct):
    """What happened to a watched user since changes were last taken."""

    rows: set[int] = msgspec.field(default_factory=set)
    """Rows that are new or changed, and stand."""
    ended: dict[int, Position | None] = msgspec.field(default_factory=dict)
    """Row slots that ended, with the position as it closed (None: not known, it is only gone)."""


class Valuation(msgspec.Struct, frozen=True):
    """Everybody's unrealised profit (by user slot), and what changed since the valuation before.

    Prices are columns: a *value* changed where the price did, a *mark* also
    where only the price's times or its staleness did. Rates are pairs: they
    changed where their value, times or staleness did.
    """

    high: High
    low: Low
    users_changed: Mask
    values_changed: Mask
    marks_changed: Mask
    stale: Mask
    rates_changed: Mask
    stale_rates: Mask
    rates_turned: Sequence[int]
    """The pairs whose value changed."""


class Book:
    """The positions of many users, and what they are worth. Waits for nothing, reads no clock."""

    def __init__(self, stale_after_ms: int) -> None:
        self.prices = PriceVector(stale_after_ms)
        self.rows = PositionRows()
        self.rates = RatesInUse(self.prices)
        self.held_version = 0
        """Grows whenever :meth:`held_symbols` changes."""
        self._packer = Packer()
        self._odd = OddRows()
        self._foreign = ForeignRows(self.rows, self.prices, self.rates)
        self.users_of_rates: list[set[int]] = []
        """By pair: the slots of the users whom the rate concerns."""
        self._holders: list[Holder] = []
        self._by_user: dict[str, Holder] = {}
        self._matrix = SlackMatrix()
        self._cost_low: Low = np.zeros(64, np.uint64)
        self._cost_coarse: High = np.zeros(64, np.int64)
        self._high: High = np.zeros(0, np.int64)
        self._low: Low = np.zeros(0, np.uint64)
        self._watched: set[int] = set()
        self._watched_rows = Selection()
        self._changes: dict[int, Change] = {}

    # What is in the book

    def __len__(self) -> int:
        """How many users there are; their slots count up from 0."""
        return len(self._holders)

    def find(self, user_id: str) -> Holder | None:
        return self._by_user.get(user_id)

    def holder(self, slot: int) -> Holder:
        return self._holders[slot]

    def position(self, row: int) -> Position:
        """The position in a row that stands."""
        holder = self._holders[self.rows.user[row]]
        return self._packer.unpack(
            self.rows.packed[row],
            position_id=self.rows.position_ids[row],
            user_id=holder.user_id,
            usual_account=holder.usual_account,
        )

    def user_book(self, slot: int) -> UserBook:
        """A user as the database would give him."""
        holder = self._holders[slot]
        return UserBook(
            user_id=holder.user_id,
            ledger_seq=holder.ledger_seq,
            currency=holder.currency,
            accounts=holder.accounts,
            positions=tuple(self.position(row) for row in holder.rows.values()),
            day_base=holder.day_base,
        )

    def held_symbols(self) -> set[str]:
        """The symbols of all positions, and those that rates are made of."""
        return {self.prices.symbols[column] for column in np.flatnonzero(self.prices.uses)}

    # How it changes

    def upsert_user(self, book: UserBook) -> Applied:
        """Take over a user as the database has him; ``old`` if more is known already.

        Positions that did not change keep their rows.
        """
        holder = self._by_user.get(book.user_id)
        if holder is None:
            holder = self._add_holder(book)
        elif book.ledger_seq < holder.ledger_seq:
            return "old"
        before = holder.accounts, holder.currency
        holder.ledger_seq = book.ledger_seq
        holder.accounts, holder.currency = book.accounts, book.currency
        holder.sums = Sums.of(book.accounts, book.positions, book.currency)
        if holder.day_base is None or _corrects_base(book, holder):
            # Else it stays: a load that began before midnight still brings the day's before, and one right after
            # midnight comes before this day's was written down.
            holder.day_base, holder.base_day = book.day_base, book.base_day
        current = {position.position_id for position in book.positions}
        for position_id in [known for known in holder.rows if known not in current]:
            self._remove(holder, position_id, None)
        news = self._valued_otherwise(holder, *before)
        self._put(holder, [p for p in book.positions if p.account_id in news or self._is_news(holder, p)])
        self._note(holder)
        return "applied"

    def apply_positions(self, user_id: str, ledger_seq: int, positions: Sequence[Position]) -> Applied:
        """Take over the positions of one event; ``gap`` means: load the user from the database instead."""
        holder = self._by_user.get(user_id)
        if holder is None:
            return "gap"
        if ledger_seq <= holder.ledger_seq:
            return "old"
        if ledger_seq > holder.ledger_seq + 1 or not all(self._is_applicable(holder, one) for one in positions):
            return "gap"
        holder.ledger_seq = ledger_seq
        for position in positions:
            if position.status == "closed":
                self._close(holder, position)
        newer = [p for p in positions if p.status == "open" and self._is_newer(holder, p)]
        self._count_leaves(holder, newer)
        self._put(holder, newer)
        self._note(holder)
        return "applied"

    def set_prices(self, prices: Iterable[Price]) -> None:
        """Take newer prices, also of symbols that nobody holds."""
        turns = self.prices.set(prices)
        if turns.dropped:
            self._count_costs(turns.dropped, -1)
        if turns.carried:
            self._count_costs(turns.carried, 1)
        if turns.risen:
            self._make_odd(self._rows_too_large(turns.risen))
        if turns.too_fine:
            self._make_odd(self._vector_rows(turns.too_fine))
            self.prices.drop(turns.too_fine)
        if len(self._odd):
            for column in turns.moved:
                self._odd.reprice(column, self.prices.value(column))
        self.rates.moved(turns.moved)

    def replace_prices(self, prices: Mapping[str, Price]) -> None:
        """Take newer prices, and have none of any other symbol: those known were of another source."""
        missing = self.prices.missing(prices.keys())
        self._count_costs([column for column in missing if self.prices.carried[column]], -1)
        for column in missing:
            self._odd.reprice(column, None)
        self.prices.retain(prices.keys())
        self.rates.moved(missing)
        self.set_prices(prices.values())

    def set_rates(self, rates: RateBook) -> None:
        """Take over how assets are converted, from what is listed now."""
        self.rates.set_book(rates)
        self.held_version += 1

    def forget_base(self, user_id: str, day: date) -> None:
        """A correction left a user's total P&L at the beginning of a day unknown."""
        holder = self._by_user.get(user_id)
        if holder is not None and holder.base_day == day and holder.day_base is not None:
            holder.day_base = None
            self._note(holder)

    def start_day(self, bases: Mapping[int, int], day: date | None = None, slots: slice = _EVERYBODY) -> None:
        """Set total P&L at 00:00 UTC, by user slot, of everybody or of some slots.

        Who is not among the bases has none that is known.
        """
        for holder in self._holders[slots]:
            holder.day_base, holder.base_day = bases.get(holder.slot), day
            self._note(holder)

    def fill_day(self, bases: Mapping[int, int]) -> dict[int, int]:
        """Set the total P&L at 00:00 UTC of those who have none; the result is who that was."""
        filled = {slot: base for slot, base in bases.items() if self._holders[slot].day_base is None}
        for slot, base in filled.items():
            self._holders[slot].day_base = base
            self._note(self._holders[slot])
        return filled

    # What it is worth

    def revalue(self, as_of_ms: int, *, silent: bool = False) -> Valuation:
        """Value everybody. ``silent`` says that the price feed is, so that every price is stale."""
        count = len(self._holders)
        stale = self.prices.age(as_of_ms, silent=silent)
        values_changed, marks_changed = self.prices.take_changes()
        rates_turned = self.rates.refresh()
        rates_changed = self.rates.of_any(marks_changed)
        rates_changed[rates_turned] = True
        self._convert(values_changed, rates_turned)
        low, about = self._matrix.multiply(self.prices.low, self.prices.floats)
        low -= self._cost_low[:count]
        about -= self._cost_coarse[:count] / 10_000.0
        high = find_high(low, about * 1e18)
        if len(self._foreign):
            high, low = add(high, low, *self._foreign.totals(count))
        for slot, worth in self._odd.totals.items():
            high[slot], low[slot] = split(join(int(high[slot]), int(low[slot])) + worth)
        changed = np.ones(count, np.bool_)
        known = len(self._high)
        changed[:known] = (high[:known] != self._high) | (low[:known] != self._low)
        self._high, self._low = high, low
        return Valuation(
            high,
            low,
            changed,
            values_changed,
            marks_changed,
            stale,
            rates_changed=rates_changed,
            stale_rates=self.rates.of_any(stale),
            rates_turned=rates_turned,
        )

    def unrealized(self, slot: int) -> int:
        """A user's unrealised profit as last valued, in units of 1e-18."""
        return join(int(self._high[slot]), int(self._low[slot]))

    def row_worth(self, rows: Indices) -> tuple[Indices, High, Low]:
        """Unrealised profit of rows, in units of 1e-18; those without a price are left out."""
        if not len(rows):
            return _NO_ROWS
        rows = rows.compress(self.prices.priced.take(self.rows.column.take(rows)))
        high, low = self.rows.worth(rows, self.prices.low, self.prices.floats)
        if len(self._odd):
            for place in np.flatnonzero(self.rows.kinds[rows] == Kind.ODD):
                worth = self._odd.worth(int(rows[place]))
                assert worth is not None
                high[place], low[place] = split(worth)
        return rows, high, low

    def day_bases(self) -> dict[int, int]:
        """Total P&L as last valued, by user slot; without those whose total lacks a price."""
        unpriced = set(self.rows.user[self._unpriced_rows()].tolist())
        unpriced |= self._odd.unpriced_users() | self._foreign.unpriced_users()
        unrealized = zip(self._high.tolist(), self._low.tolist(), strict=True)
        return {
            holder.slot: holder.sums.realized + join(*worth)
            for holder, worth in zip(self._holders, unrealized, strict=False)
            if holder.slot not in unpriced
        }

    # Who is watched

    def watch(self, slot: int) -> None:
        """Keep a user's changes from now on, and his rows for :meth:`watched_rows`."""
        self._watched.add(slot)
        for row in self._holders[slot].rows.values():
            self._watched_rows.add(row, int(self.rows.column[row]))

    def unwatch(self, slot: int) -> None:
        self._watched.discard(slot)
        self._changes.pop(slot, None)
        for row in self._holders[slot].rows.values():
            self._watched_rows.discard(row)

    def is_watched(self, slot: int) -> bool:
        return slot in self._watched

    def watched_rows(self, columns: Mask) -> Indices:
        """Rows of watched users in the columns of a mask."""
        return self._watched_rows.within(columns)

    def are_watched(self, rows: Indices) -> Mask:
        """Which rows stand and are of watched users."""
        return self._watched_rows.holds(rows)

    @property
    def watched_row_count(self) -> int:
        """How many rows the watched users have."""
        return len(self._watched_rows)

    def watched_at(self, pairs: Iterable[int]) -> set[int]:
        """Slots of the watched users whom any of these rates concerns."""
        concerned: set[int] = set()
        for pair in pairs:
            concerned |= self.users_of_rates[pair]
        return concerned & self._watched

    @property
    def has_changes(self) -> bool:
        """Whether anything happened to a watched user."""
        return bool(self._changes)

    def take_changes(self) -> dict[int, Change]:
        """What happened to watched users since this was last called, by user slot."""
        changes, self._changes = self._changes, {}
        return changes

    # Inside

    def _add_holder(self, book: UserBook) -> Holder:
        slot = self._matrix.add_row()
        holder = Holder(
            user_id=book.user_id,
            slot=slot,
            usual_account=book.accounts[0].account_id if book.accounts else "",
            currency=book.currency,
            ledger_seq=book.ledger_seq,
            accounts=book.accounts,
            sums=Sums(book.currency),
            day_base=book.day_base,
            base_day=book.base_day,
        )
        self._holders.append(holder)
        self._by_user[book.user_id] = holder
        self._cost_low = grown(self._cost_low, slot + 1)
        self._cost_coarse = grown(self._cost_coarse, slot + 1)
        return holder

    def _valued_otherwise(self, holder: Holder, accounts: tuple[AccountBook, ...], currency: str) -> set[str]:
        """Which accounts' positions are to be entered again though they did not change."""
        if currency != holder.currency:
            return {account.account_id for account in holder.accounts}
        before = {account.account_id: account.valuation for account in accounts}
        return {
            account.account_id
            for account in holder.accounts
            if before.get(account.account_id, "auto") != account.valuation
        }

    def _is_applicable(self, holder: Holder, position: Position) -> bool:
        """Whether a changed position can be taken over without reading the user again."""
        # Whether a closed position that is not here closed just now, or long
        # ago and only its note changed, is not known here.
        is_known = position.status == "open" or position.position_id in holder.rows
        return is_known and holder.has_account(position.account_id)

    def _close(self, holder: Holder, position: Position) -> None:
        """A position closed: what it realised goes on counting."""
        holder.sums.count(self.position(holder.rows[position.position_id]), -1)
        holder.sums.count(position, 1)
        holder.accounts = tuple(
            account.with_closed(position) if account.account_id == position.account_id else account
            for account in holder.accounts
        )
        self._remove(holder, position.position_id, position)

    def _count_leaves(self, holder: Holder, positions: Sequence[Position]) -> None:
        """Bring what open positions realised into the sums, instead of what they had before."""
        for position in positions:
            row = holder.rows.get(position.position_id)
            if row is not None:
                holder.sums.count(self.position(row), -1)
            holder.sums.count(position, 1)

    def _is_news(self, holder: Holder, position: Position) -> bool:
        row = holder.rows.get(position.position_id)
        return row is None or self.rows.version[row] != position.version

    def _is_newer(self, holder: Holder, position: Position) -> bool:
        row = holder.rows.get(position.position_id)
        return row is None or self.rows.version[row] < position.version

    def _put(self, holder: Holder, positions: Sequence[Position]) -> None:
        """Enter positions that are new, or changed: those keep their row."""
        fresh = [position for position in positions if position.position_id not in holder.rows]
        for position in positions:
            row = holder.rows.get(position.position_id)
            if row is not None:
                self._replace(holder, row, position)
        if fresh:
            self._enter(holder, fresh)
        if holder.sums.balances:
            self._need_rates(holder)

    def _need_rates(self, holder: Holder) -> None:
        """Have the rates of the other assets that a user holds or settles anything in."""
        holder.pairs = frozenset(self._pair(asset, holder.currency) for asset in holder.sums.assets)
        for pair in holder.pairs:
            self.users_of_rates[pair].add(holder.slot)

    def _enter(self, holder: Holder, positions: Sequence[Position]) -> None:
        together = self._matrix.used(holder.slot)
        measures: list[Measure] = []
        for position in positions:
            measure = self._measure(holder, position, together)
            together += measure.kind is Kind.TOGETHER
            measures.append(measure)
        rows = self.rows.take(holder.slot, measures)
        for row, position, measure in zip(rows, positions, measures, strict=True):
            self.rows.position_ids[row] = position.position_id
            self.rows.packed[row] = self._packer.pack(position, holder.usual_account)
            holder.rows[position.position_id] = row
            self._hold(measure.column, 1)
        self._attach(holder, rows, positions, measures)
        self._follow(holder, rows, measures)

    def _replace(self, holder: Holder, row: int, position: Position) -> None:
        self._detach(row)
        column = int(self.rows.column[row])
        measure = self._measure(holder, position, self._matrix.used(holder.slot))
        self.rows.fill([row], [measure])
        self.rows.packed[row] = self._packer.pack(position, holder.usual_account)
        if measure.column != column:
            self._hold(column, -1)
            self._hold(measure.column, 1)
            self._watched_rows.discard(row)
        self._attach(holder, [row], [position], [measure])
        self._follow(holder, [row], [measure])

    def _remove(self, holder: Holder, position_id: str, closed: Position | None) -> None:
        """Take a position out of the rows; ``closed`` is how it ended, None where it is not known."""
        row = holder.rows.pop(position_id)
        self._detach(row)
        self._hold(int(self.rows.column[row]), -1)
        self._watched_rows.discard(row)
        if holder.slot in self._watched:
            change = self._changes.setdefault(holder.slot, Change())
            change.rows.discard(row)
            change.ended[int(self.rows.slot[row])] = closed
        self.rows.release([row])

    def _measure(self, holder: Holder, position: Position, together: int) -> Measure:
        """What the arrays keep of a position, and how it is valued."""
        source = source_on(holder.basis(position.account_id), is_long=position.state.signed_qty > 0)
        column = self.prices.column(position.symbol, source)
        version = position.version
        cost = to_units(position.state.cost)
        quantity = _nano_quantity(position)
        is_foreign = position.converted is not None
        if (
            quantity is None
            or self.prices.too_fine[column]
            or abs(cost) > _MAX_COST_UNITS
            or abs(quantity) * self.prices.ceiling[column] > MAX_NOTIONAL * float(NANO)
            or (self._is_steep_for(holder, position) if is_foreign else together >= MAX_TERMS)
        ):
            return Measure(Kind.ODD, column, version)
        return Measure(
            kind=Kind.APART if is_foreign else Kind.TOGETHER,
            column=column,
            version=version,
            qty_low=low_part(quantity),
            qty=quantity / NANO,
            cost_low=low_part(cost),
            cost_coarse=(cost + COARSE // 2) // COARSE,
        )

    def _is_steep_for(self, holder: Holder, position: Position) -> bool:
        return _is_steep(self.rates.value(self._pair(position.instrument.settle, holder.currency)))

    def _attach(
        self, holder: Holder, rows: Sequence[int], positions: Sequence[Position], measures: Sequence[Measure]
    ) -> None:
        """Bring rows into the user's total."""
        together: list[int] = []
        for row, position, measure in zip(rows, positions, measures, strict=True):
            if measure.kind is Kind.TOGETHER:
                together.append(row)
            elif measure.kind is Kind.ODD:
                self._add_odd(holder, row, position)
            else:
                self._foreign.add(row, self._pair(position.instrument.settle, holder.currency))
        if not together:
            return
        owners = np.array(together, np.int32)
        columns = self.rows.column[owners]
        self._matrix.insert(holder.slot, owners, columns, self.rows.qty_low[owners], self.rows.qty[owners])
        priced = owners[self.prices.carried[columns]]
        self._cost_low[holder.slot : holder.slot + 1] += self.rows.cost_low[priced].sum()
        self._cost_coarse[holder.slot] += self.rows.cost_coarse[priced].sum()

    def _detach(self, row: int) -> None:
        """Take a row out of its user's total."""
        kind, slot = self.rows.kind(row), int(self.rows.user[row])
        if kind is Kind.ODD:
            self._odd.remove(row)
        elif kind is Kind.APART:
            self._foreign.remove(row)
        elif kind is Kind.TOGETHER:
            self._matrix.remove(slot, row)
            if self.prices.carried[self.rows.column[row]]:
                self._cost_low[slot : slot + 1] -= self.rows.cost_low[row]
                self._cost_coarse[slot] -= self.rows.cost_coarse[row]

    def _add_odd(self, holder: Holder, row: int, position: Position) -> None:
        column = int(self.rows.column[row])
        is_foreign = position.converted is not None
        pair = self._pair(position.instrument.settle, holder.currency) if is_foreign else None
        rate = None if pair is None else self.rates.value(pair)
        price = self.prices.value(column)
        self._odd.add(row, position, user=holder.slot, column=column, price=price, pair=pair, rate=rate)

    def _pair(self, asset: str, currency: str) -> int:
        """The number of a rate, whose symbols are held from now on."""
        known = len(self.rates)
        pair = self.rates.pair(asset, currency)
        if len(self.rates) > known:
            self.held_version += 1
            self.users_of_rates.append(set())
        return pair

    def _convert(self, values_changed: Mask, rates_turned: Sequence[int]) -> None:
        """Convert what has another price or another rate."""
        for pair in rates_turned:
            if _is_steep(self.rates.value(pair)):
                self._make_odd(self._foreign.of_pair(pair))
            self._odd.convert(pair, self.rates.value(pair))
        self._foreign.revalue(values_changed, rates_turned)

    def _make_odd(self, rows: Indices) -> None:
        """From now on, value rows one by one."""
        for row in rows.tolist():
            self._detach(row)
            self.rows.make_odd(row)
            self._add_odd(self._holders[self.rows.user[row]], row, self.position(row))

    def _count_costs(self, columns: Sequence[int], sign: Literal[1, -1]) -> None:
        """Bring in (1) the costs of rows whose symbol had no price, or take them out (-1)."""
        rows = self._vector_rows(columns)
        rows = rows[self.rows.kinds[rows] == Kind.TOGETHER]
        count = np.add if sign == 1 else np.subtract
        count.at(self._cost_low, self.rows.user[rows], self.rows.cost_low[rows])
        count.at(self._cost_coarse, self.rows.user[rows], self.rows.cost_coarse[rows])

    def _vector_rows(self, columns: Sequence[int]) -> Indices:
        """The rows of columns that the arrays value."""
        chosen = np.zeros(len(self.prices), np.bool_)
        chosen[list(columns)] = True
        kinds = self.rows.kinds
        mask = chosen[self.rows.column[: len(kinds)]] & (kinds != Kind.VACANT) & (kinds != Kind.ODD)
        return np.flatnonzero(mask).astype(np.int32)

    def _rows_too_large(self, columns: Sequence[int]) -> Indices:
        rows = self._vector_rows(columns)
        return rows[np.abs(self.rows.qty[rows]) * self.prices.ceiling[self.rows.column[rows]] > MAX_NOTIONAL]

    def _unpriced_rows(self) -> Indices:
        kinds = self.rows.kinds
        mask = (kinds == Kind.TOGETHER) & ~self.prices.carried[self.rows.column[: len(kinds)]]
        return np.flatnonzero(mask).astype(np.int32)

    def _hold(self, column: int, count: int) -> None:
        before = int(self.prices.uses[column])
        self.prices.uses[column] = before + count
        if not before or not before + count:
            self.held_version += 1

    def _note(self, holder: Holder) -> None:
        if holder.slot in self._watched:
            self._changes.setdefault(holder.slot, Change())

    def _follow(self, holder: Holder, rows: Sequence[int], measures: Sequence[Measure]) -> None:
        """Keep what happened to the rows of a watched user."""
        if holder.slot not in self._watched:
            return
        self._changes.setdefault(holder.slot, Change()).rows.update(rows)
        for row, measure in zip(rows, measures, strict=True):
            self._watched_rows.add(row, measure.column)


def _corrects_base(book: UserBook, holder: Holder) -> bool:
    """Whether a load knows the base of the very day that the holder has one of."""
    return book.day_base is not None and book.base_day is not None and book.base_day == holder.base_day


def _is_steep(rate: Decimal | None) -> bool:
    """Whether a rate is more than arrays convert at."""
    return rate is not None and rate >= RATE_LIMIT


def _nano_quantity(position: Position) -> int | None:
    """Signed quantity times multiplier in steps of 1e-9, or None where that is not exact, or not linear."""
    instrument = position.instrument
    if instrument.market == "inverse":
        return None
    quantity = position.state.signed_qty
    if instrument.multiplier != 1:
        with exact():
            quantity = quantity * instrument.multiplier
    numerator, denominator = quantity.as_integer_ratio()
    return None if NANO % denominator else numerator * (NANO // denominator)
