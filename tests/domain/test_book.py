"""The vectorised book gives the integers of the plain form, whatever happens to it."""

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain import book as book_module
from app.domain.book import Book
from app.domain.instruments import Instrument
from app.domain.positions import AccountBook, Converted, Position, Realized
from app.domain.prices import Price
from app.domain.rates import RateBook
from app.domain.slack_matrix import SlackMatrix
from app.domain.valuation import Totals, currency_effect
from app.domain.wide import join
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    account_books,
    account_of,
    any_price,
    closed,
    instrument,
    plain_totals,
    plainly,
    position,
    positions,
    price,
    prices,
    quoted,
    user_book,
)

ONE = 10**18
LARGEST = 2**127 - 1
RATES = RateBook(INSTRUMENTS)


def book_of(*of_users: tuple[Position, ...], at: Iterable[Price] = ()) -> Book:
    book = Book(STALE_AFTER_MS)
    book.set_rates(RATES)
    for number, held in enumerate(of_users):
        book.upsert_user(user_book(*held, user_id=f"u{number + 1}"))
    book.set_prices(at)
    book.revalue(NOW_MS)
    return book


def row_worth(book: Book, user_id: str = "u1") -> dict[str, int]:
    """Unrealised profit by position id; rows without a price are missing."""
    holder = book.find(user_id)
    assert holder is not None
    rows, high, low = book.row_worth(np.array(list(holder.rows.values()), np.int32))
    by_row = {
        int(row): join(int(high_part), int(low_part)) for row, high_part, low_part in zip(rows, high, low, strict=True)
    }
    return {position_id: by_row[row] for position_id, row in holder.rows.items() if row in by_row}


def held_in_128_bits(value: int) -> int:
    return max(-LARGEST, min(value, LARGEST))


def assert_like_plain_form(
    book: Book, users: dict[str, dict[str, Position]], known: dict[str, Price], rates: RateBook = RATES
) -> None:
    for user_id, held in users.items():
        holder = book.find(user_id)
        assert holder is not None
        plain = plainly(user_book(*held.values(), user_id=user_id, accounts=holder.accounts), known, rates)
        assert book.unrealized(holder.slot) == held_in_128_bits(plain.totals.unrealized_pnl)
        assert (holder.sums.gross, holder.sums.fees) == (plain.totals.realized.gross, plain.totals.realized.fees)
        assert_balances_like(book, user_id, plain.totals)
        assert row_worth(book, user_id) == {
            one.position.position_id: held_in_128_bits(one.value.unrealized_pnl)
            for one in plain.positions
            if one.value.unrealized_pnl is not None and one.value.mark is not None
        }
        lacks = {slot for slot in range(len(book)) if slot not in book.day_bases()}
        assert (holder.slot in lacks) == any(one.reported.unrealized_pnl is None for one in plain.positions)


def assert_balances_like(book: Book, user_id: str, plain: Totals) -> None:
    holder = book.find(user_id)
    assert holder is not None
    values = {book.rates.pairs[pair][0]: book.rates.value(pair) for pair in holder.pairs}
    balances = [(asset, one.held, one.booked) for (_, asset), one in holder.sums.balances.items()]
    effect, unknown = currency_effect(balances, values)
    assert effect == plain.fx_pnl
    assert unknown <= set(plain.unpriced)
    assert holder.sums.deposited == plain.net_deposits
    assert holder.sums.is_complete == plain.fees_are_complete


class AnyHistory(RuleBasedStateMachine):
    """Loads, events and prices in any order: totals and rows are always those of the plain form."""

    @initialize()
    def start(self) -> None:
        self.book = Book(STALE_AFTER_MS)
        self.rates = RateBook()
        self.users: dict[str, dict[str, Position]] = {}
        self.prices: dict[str, Price] = {}
        self.count = 0

    def _new_ids(self, count: int) -> list[str]:
        self.count += count
        return [f"p{self.count - n}" for n in range(count)]

    @rule(data=st.data(), user_id=st.sampled_from(["u1", "u2", "u3"]), size=st.integers(0, 9))
    def load(self, data: st.DataObject, user_id: str, size: int) -> None:
        accounts = data.draw(account_books(user_id))
        mine = st.sampled_from([account.account_id for account in accounts])
        held = [
            data.draw(positions(position_id, user_id, account=data.draw(mine))) for position_id in self._new_ids(size)
        ]
        known = {account.account_id for account in accounts}
        kept = [p for p in list(self.users.get(user_id, {}).values())[::2] if p.account_id in known]
        holder = self.book.find(user_id)
        seq = 1 if holder is None else holder.ledger_seq + 3
        loaded = user_book(*kept, *held, user_id=user_id, ledger_seq=seq, accounts=accounts)
        assert self.book.upsert_user(loaded) == "applied"
        self.users[user_id] = {p.position_id: p for p in [*kept, *held]}

    @precondition(lambda self: self.users)
    @rule(data=st.data(), watch=st.booleans())
    def event(self, data: st.DataObject, watch: bool) -> None:
        user_id = data.draw(st.sampled_from(sorted(self.users)))
        held = self.users[user_id]
        changed = [
            msgspec.structs.replace(
                data.draw(positions(position_id, user_id, before.version + 1)),
                instrument=before.instrument,
                account_id=before.account_id,
                converted=None if before.converted is None else Converted(gross=Decimal(self.count), is_complete=True),
            )
            for position_id, before in list(held.items())[:2]
        ]
        new = [data.draw(positions(position_id, user_id)) for position_id in self._new_ids(1)]
        gone = [closed(before) for before in list(held.values())[2:4]]
        holder = self.book.find(user_id)
        assert holder is not None
        if watch:
            self.book.watch(holder.slot)
        assert self.book.apply_positions(user_id, holder.ledger_seq + 1, [*changed, *new, *gone]) == "applied"
        for after in [*changed, *new]:
            held[after.position_id] = after
        for before in gone:
            del held[before.position_id]

    @rule(symbols=st.lists(st.sampled_from([i.symbol for i in INSTRUMENTS]), min_size=1), data=st.data())
    def tick(self, symbols: list[str], data: st.DataObject) -> None:
        fresh = [data.draw(any_price(symbol)) for symbol in symbols]
        self.prices.update({p.symbol: p for p in fresh})
        self.book.set_prices(fresh)

    @rule(symbols=st.sets(st.sampled_from([i.symbol for i in INSTRUMENTS])))
    def switch_source(self, symbols: set[str]) -> None:
        self.prices = {symbol: price(symbol, "17.5") for symbol in symbols}
        self.book.replace_prices(self.prices)

    @rule(listed=st.lists(st.sampled_from(INSTRUMENTS)))
    def list_anew(self, listed: list[Instrument]) -> None:
        self.rates = RateBook(listed)
        self.book.set_rates(self.rates)

    @invariant()
    def is_exact(self) -> None:
        self.book.revalue(NOW_MS)
        assert_like_plain_form(self.book, self.users, self.prices, self.rates)

    @invariant()
    def holds_the_symbols_of_its_positions_and_rates(self) -> None:
        held = {p.symbol for by_id in self.users.values() for p in by_id.values()}
        needed = {symbol for pair in self.book.rates.pairs for symbol in self.rates.symbols(*pair)}
        assert self.book.held_symbols() == held | needed

    @invariant()
    def watched_rows_are_those_that_stand(self) -> None:
        book = self.book
        standing = {row for slot in book._watched for row in book.holder(slot).rows.values()}
        everything = np.ones(len(book.prices), np.bool_)
        assert sorted(book.watched_rows(everything).tolist()) == sorted(standing)

    @invariant()
    def gives_back_what_it_was_given(self) -> None:
        for user_id, held in self.users.items():
            holder = self.book.find(user_id)
            assert holder is not None
            assert {p.position_id: p for p in self.book.user_book(holder.slot).positions} == held


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=80, stateful_step_count=15, deadline=None)


@given(
    st.lists(positions("?", "u1"), min_size=1, max_size=20),
    st.lists(prices, min_size=len(INSTRUMENTS), max_size=len(INSTRUMENTS)),
)
@settings(max_examples=150, deadline=None)
def test_any_portfolio_at_any_prices_is_worth_what_the_plain_form_says(held: list[Position], at: list[Decimal]) -> None:
    numbered = [msgspec.structs.replace(p, position_id=f"p{n}") for n, p in enumerate(held)]
    known = {i.symbol: price(i.symbol, value) for i, value in zip(INSTRUMENTS, at, strict=True)}

    before, after = book_of(tuple(numbered), at=known.values()), Book(STALE_AFTER_MS)
    after.set_prices(known.values())
    after.set_rates(RATES)
    after.upsert_user(user_book(*numbered))
    after.revalue(NOW_MS)

    for book in (before, after):
        assert_like_plain_form(book, {"u1": {p.position_id: p for p in numbered}}, known)


def test_the_largest_portfolio_valued_together_is_exact() -> None:
    held = tuple(
        position(
            f"p{n}",
            qty=Decimal("152587.890624999") * (1 if n % 3 else -1),
            cost="9999999999.999999999999999999",
        )
        for n in range(book_module.MAX_TERMS)
    )
    book = book_of(held, at=[price("BTCUSDT", "16383.999999999")])

    known = {"BTCUSDT": price("BTCUSDT", "65535.999999999")}
    book.set_prices(known.values())
    book.revalue(NOW_MS)

    assert not len(book._odd)
    assert_like_plain_form(book, {"u1": {p.position_id: p for p in held}}, known)


def test_more_positions_than_are_valued_together_are_exact_too() -> None:
    held = tuple(position(f"p{n}", qty="0.123456789") for n in range(book_module.MAX_TERMS + 5))
    known = {"BTCUSDT": price("BTCUSDT", "67000.123456789")}

    book = book_of(held, at=known.values())

    assert len(book._odd) == 5
    assert_like_plain_form(book, {"u1": {p.position_id: p for p in held}}, known)


def test_floats_alone_would_not_be_exact() -> None:
    """The control: the same book in binary floating point is wrong in a shown digit."""
    held = tuple(position(f"p{n}", qty=f"{n}1234.123456789", cost="0.1") for n in range(1, 200))
    exact = plain_totals(held, {"BTCUSDT": price("BTCUSDT", "67000.123456789")}).unrealized_pnl

    in_floats = sum(float(p.state.signed_qty) * 67000.123456789 - float(p.state.cost) for p in held)

    assert Fraction(in_floats) * 10**8 // 1 != exact // 10**10


def test_a_position_without_a_price_is_in_no_total_until_it_has_one() -> None:
    held = (position("p1", cost="50"), position("p2", instrument("ETHUSDT"), cost="70"))
    book = book_of(held, at=[price("BTCUSDT", "80")])
    assert book.unrealized(0) == 30 * ONE
    assert row_worth(book) == {"p1": 30 * ONE}

    book.set_prices([price("ETHUSDT", "71")])
    book.revalue(NOW_MS)

    assert book.unrealized(0) == 31 * ONE
    assert row_worth(book) == {"p1": 30 * ONE, "p2": ONE}


def test_a_position_settled_in_another_asset_counts_as_its_converted_leaves() -> None:
    held = (position("p1", cost="50"), position("p2", instrument("ETHBTC", settle="BTC"), cost="0.07"))

    book = book_of(held, at=[price("BTCUSDT", "80"), price("ETHBTC", "0.08")])

    assert row_worth(book) == {"p1": 30 * ONE, "p2": ONE // 100}
    assert book.unrealized(0) == 30 * ONE + 80 * ONE // 100
    assert not len(book._odd)


def test_a_leaf_is_rounded_when_it_is_converted_not_the_difference_of_two() -> None:
    held = (position("p1", instrument("USDTEUR", settle="EUR"), qty="1", cost="1.000000000000000002"),)

    book = book_of(held, at=[price("USDTEUR", "3")])

    # Into USDT by dividing: 3 / 3 less 1.000000000000000002 / 3, which rounds to 0.333333333333333334.
    assert book.unrealized(0) == ONE - 333333333333333334
    assert row_worth(book) == {"p1": 2 * ONE - 2}


def test_a_position_without_a_rate_is_in_no_total_until_it_has_one() -> None:
    held = (position("p1", instrument("ETHBTC", settle="BTC"), cost="0.07"),)
    book = book_of(held, at=[price("ETHBTC", "0.08")])
    assert (book.unrealized(0), book.day_bases()) == (0, {})

    book.set_prices([price("BTCUSDT", "80")])
    changed = book.revalue(NOW_MS)

    assert book.unrealized(0) == 8 * ONE // 10
    assert (changed.users_changed.tolist(), list(changed.rates_turned)) == ([True], [0])

    book.replace_prices({"ETHBTC": price("ETHBTC", "0.08")})
    book.revalue(NOW_MS)
    assert (book.unrealized(0), book.rates.value(0)) == (0, None)


def test_the_symbols_of_a_rate_are_held_though_nobody_stands_in_them() -> None:
    book = book_of((position("p1", instrument("BTCGBP", "linear", settle="GBP")),))

    assert book.held_symbols() == {"BTCGBP", "GBPEUR", "USDTEUR"}

    told = book.held_version
    book.set_rates(RateBook([instrument("GBPUSDT")]))
    assert book.held_symbols() == {"BTCGBP", "GBPUSDT"}
    assert book.held_version > told


def test_a_stale_price_in_a_rate_makes_the_rate_stale() -> None:
    held = (position("p1", instrument("ETHBTC", settle="BTC")),)
    book = book_of(held, at=[price("ETHBTC", "0.08"), price("BTCUSDT", "80", fresh_ms=NOW_MS - 3000)])

    assert book.revalue(NOW_MS).stale_rates.tolist() == [False]
    later = book.revalue(NOW_MS + 3000)

    assert (later.stale_rates.tolist(), later.rates_changed.tolist()) == ([True], [True])
    assert book.rates.fresh_ms(0) == NOW_MS - 3000


@pytest.mark.parametrize(
    ("valuation", "qty", "worth"),
    [
        pytest.param("auto", "1", "102", id="by default"),
        pytest.param("mid", "1", "101", id="the middle"),
        pytest.param("last", "1", "104", id="the last trade"),
        pytest.param("mark", "1", "105", id="the mark"),
        pytest.param("exit", "1", "100", id="a long at the bid"),
        pytest.param("exit", "-1", "-102", id="a short at the ask"),
    ],
)
def test_an_account_is_valued_by_the_price_it_asks_for(valuation: Any, qty: str, worth: str) -> None:
    account = AccountBook(account_id=account_of("u1"), valuation=valuation)
    sides = [Decimal(side) for side in ("102", "100", "102", "104", "105")]
    book = book_of(at=[quoted("BTCUSDT", *sides)])

    book.upsert_user(user_book(position("p1", qty=qty, cost="0"), accounts=[account]))
    book.revalue(NOW_MS)

    assert book.unrealized(0) == int(worth) * ONE
    assert not len(book._odd)


def test_accounts_valued_otherwise_share_no_column() -> None:
    accounts = [AccountBook(account_id=account_of("u1")), AccountBook(account_id="exit", valuation="exit")]
    held = [position("p1", cost="0"), position("p2", cost="0", account="exit")]
    book = book_of(at=[quoted("BTCUSDT", *(Decimal(side) for side in ("102", "100", "104", "102", "102")))])
    book.upsert_user(user_book(*held, accounts=accounts))
    book.revalue(NOW_MS)

    book.set_prices([quoted("BTCUSDT", *(Decimal(side) for side in ("102", "99", "105", "102", "102")))])
    valuation = book.revalue(NOW_MS)

    assert valuation.values_changed.tolist() == [False, True]
    assert [book.prices.name(column) for column in range(2)] == ["BTCUSDT", "BTCUSDT bid"]
    assert row_worth(book) == {"p1": 102 * ONE, "p2": 99 * ONE}


def test_a_price_that_is_not_given_any_more_takes_its_positions_out_of_the_total() -> None:
    account = AccountBook(account_id=account_of("u1"), valuation="exit")
    book = book_of(at=[quoted("BTCUSDT", *(Decimal(side) for side in ("102", "100", "104", "102", "102")))])
    book.upsert_user(user_book(position("p1", cost="10"), accounts=[account]))
    book.revalue(NOW_MS)
    assert book.unrealized(0) == 90 * ONE

    book.set_prices([quoted("BTCUSDT", Decimal(102), None, None, Decimal(102), None)])
    book.revalue(NOW_MS)

    assert (book.unrealized(0), row_worth(book), book.day_bases()) == (0, {}, {})


def test_an_account_that_is_valued_otherwise_from_now_on_keeps_its_rows() -> None:
    sides = [Decimal(side) for side in ("102", "100", "104", "102", "102")]
    book = book_of((position("p1", cost="10"),), at=[quoted("BTCUSDT", *sides)])
    row = book.holder(0).rows["p1"]

    changed = AccountBook(account_id=account_of("u1"), valuation="exit")
    book.upsert_user(user_book(position("p1", cost="10"), ledger_seq=2, accounts=[changed]))
    book.revalue(NOW_MS)

    assert book.unrealized(0) == 90 * ONE
    assert book.holder(0).rows["p1"] == row
    assert book.held_symbols() == {"BTCUSDT"}


def test_an_event_of_an_account_that_is_not_known_is_asked_of_the_database() -> None:
    book = book_of((position("p1"),))

    assert book.apply_positions("u1", 2, [position("p2", account="new")]) == "gap"


def test_a_rate_too_steep_for_arrays_is_converted_one_by_one() -> None:
    held = (position("p1", instrument("ETHBTC", settle="BTC"), cost="0.07"),)
    known = {one.symbol: one for one in (price("ETHBTC", "0.08"), price("BTCUSDT", "80"))}
    book = book_of(held, at=known.values())

    known["BTCUSDT"] = price("BTCUSDT", 10**12)
    book.set_prices([known["BTCUSDT"]])
    book.revalue(NOW_MS)

    assert len(book._odd) == 1
    assert_like_plain_form(book, {"u1": {"p1": held[0]}}, known)


def test_a_price_that_soars_moves_what_outgrew_the_vectors() -> None:
    held = (position("p1", qty="1000000", cost="1000000"), position("p2", qty="0.5", cost="1"))
    book = book_of(held, at=[price("BTCUSDT", "1")])
    assert not len(book._odd)

    known = {"BTCUSDT": price("BTCUSDT", "123456789.123456789")}
    book.set_prices(known.values())
    book.revalue(NOW_MS)

    assert len(book._odd) == 1
    assert_like_plain_form(book, {"u1": {p.position_id: p for p in held}}, known)


def test_an_absurd_position_reads_as_the_largest_figure_and_disturbs_nobody() -> None:
    absurd = position("p1", qty=Decimal(10) ** 18, cost="1")
    book = book_of((absurd,), (position("p2", cost="50", user_id="u2"),), at=[price("BTCUSDT", "67000")])

    assert book.unrealized(0) == LARGEST
    assert row_worth(book) == {"p1": LARGEST}
    assert book.unrealized(1) == 66950 * ONE


def test_an_event_already_known_changes_nothing() -> None:
    book = book_of((position("p1", cost="50"),), at=[price("BTCUSDT", "80")])

    assert book.apply_positions("u1", 1, [position("p1", cost="70", version=2)]) == "old"

    book.revalue(NOW_MS)
    assert book.unrealized(0) == 30 * ONE


@pytest.mark.parametrize(
    ("user_id", "seq", "changed"),
    [
        pytest.param("u1", 3, position("p1", cost="70", version=3), id="an event is missing"),
        pytest.param("u9", 1, position("p1", user_id="u9"), id="the user is unknown"),
        pytest.param("u1", 2, closed(position("p7")), id="the closed position is unknown"),
    ],
)
def test_what_cannot_be_known_from_an_event_is_asked_of_the_database(user_id: str, seq: int, changed: Position) -> None:
    book = book_of((position("p1", cost="50"),), at=[price("BTCUSDT", "80")])

    assert book.apply_positions(user_id, seq, [changed]) == "gap"

    book.revalue(NOW_MS)
    assert book.unrealized(0) == 30 * ONE
    holder = book.find("u1")
    assert holder is not None
    assert holder.ledger_seq == 1


def test_a_load_older_than_what_is_known_is_refused() -> None:
    book = book_of((position("p1"),))
    assert book.apply_positions("u1", 2, [position("p2")]) == "applied"

    assert book.upsert_user(user_book(position("p1"), ledger_seq=1)) == "old"

    assert set(book.holder(0).rows) == {"p1", "p2"}


def test_a_closed_position_leaves_its_profit_behind_and_nothing_else() -> None:
    book = book_of((position("p1", cost="50"),), at=[price("BTCUSDT", "80")])

    book.apply_positions("u1", 2, [closed(position("p1", cost="50"), cash="12.5", fees="0.5")])
    book.revalue(NOW_MS)

    holder = book.holder(0)
    assert (holder.sums.gross, holder.sums.fees, book.unrealized(0)) == (25 * ONE // 2, ONE // 2, 0)
    assert book.held_symbols() == set()


def test_a_row_slot_is_never_used_again_though_its_row_is() -> None:
    book = book_of((position("p1"),))
    row = book.holder(0).rows["p1"]
    slot = int(book.rows.slot[row])

    book.apply_positions("u1", 2, [closed(position("p1"))])
    book.apply_positions("u1", 3, [position("p2")])

    assert book.holder(0).rows["p2"] == row
    assert book.rows.slot[row] != slot


def test_only_users_whose_figure_moved_are_marked() -> None:
    book = book_of(
        (position("p1"),), (position("p2", instrument("ETHUSDT"), user_id="u2"),), at=[price("BTCUSDT", "5")]
    )

    book.set_prices([price("BTCUSDT", "6")])

    valuation = book.revalue(NOW_MS)
    assert valuation.users_changed.tolist() == [True, False]
    assert valuation.values_changed.tolist() == [True, False]


def test_the_same_price_again_is_news_of_its_age_but_not_of_any_value() -> None:
    book = book_of((position("p1"),), at=[price("BTCUSDT", "5")])

    book.set_prices([price("BTCUSDT", "5", fresh_ms=NOW_MS + 1)])

    valuation = book.revalue(NOW_MS)
    assert not valuation.values_changed.any()
    assert valuation.marks_changed.tolist() == [True]


def test_a_price_turns_stale_by_time_alone_and_all_do_when_the_feed_is_silent() -> None:
    held = (position("p1"), position("p2", instrument("ETHUSDT")))
    book = book_of(held, at=[price("BTCUSDT", "5"), price("ETHUSDT", "5", fresh_ms=NOW_MS - 3000)])

    later = book.revalue(NOW_MS + 3000)
    silent = book.revalue(NOW_MS + 3000, silent=True)

    assert (later.stale.tolist(), later.marks_changed.tolist()) == ([False, True], [False, True])
    assert (silent.stale.tolist(), silent.marks_changed.tolist()) == ([True, True], [True, False])


def test_changes_are_kept_of_watched_users_only() -> None:
    book = book_of((position("p1"),), (position("p2", user_id="u2"),))
    book.watch(0)

    book.apply_positions("u1", 2, [closed(position("p1")), position("p3")])
    book.apply_positions("u2", 2, [closed(position("p2", user_id="u2"))])

    changes = book.take_changes()
    assert list(changes) == [0]
    assert changes[0].rows == {book.holder(0).rows["p3"]}
    assert [p and p.status for p in changes[0].ended.values()] == ["closed"]
    assert not book.has_changes


def test_a_user_whose_total_lacks_a_price_has_no_base_for_the_day() -> None:
    book = book_of(
        (position("p1", cost="50"),),
        (position("p2", instrument("ETHUSDT"), user_id="u2"),),
        (position("p3", instrument("INVUSDT", "inverse"), user_id="u3"),),
        at=[price("BTCUSDT", "80")],
    )

    assert book.day_bases() == {0: 30 * ONE}


def test_a_load_that_began_before_midnight_does_not_bring_the_old_base_back() -> None:
    book = book_of((position("p1"),), at=[price("BTCUSDT", "100")])
    book.start_day({0: 1000})

    book.upsert_user(user_book(position("p1"), ledger_seq=2, day_base=7))

    assert book.holder(0).day_base == 1000


def test_closed_figures_count_though_nothing_is_open() -> None:
    book = Book(STALE_AFTER_MS)
    book.upsert_user(user_book(realized=Realized(gross=7, fees=2, funding=1)))
    book.revalue(NOW_MS)

    assert book.day_bases() == {0: 6}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=120))
@settings(deadline=None)
def test_a_matrix_that_changes_in_place_multiplies_like_one_made_anew(steps: list[tuple[int, bool]]) -> None:
    matrix, entries = SlackMatrix(), {}
    for _ in range(5):
        matrix.add_row()
    for owner, (row, is_insert) in enumerate(steps):
        mine = [known for known, (of_row, _, _) in entries.items() if of_row == row]
        if is_insert or not mine:
            column, quantity = owner % 7, 2**63 + owner * 12345
            entries[owner] = (row, column, quantity)
            matrix.insert(
                row,
                np.array([owner], np.int32),
                np.array([column], np.int32),
                np.array([quantity], np.uint64),
                np.array([float(owner)]),
            )
        else:
            matrix.remove(row, mine[len(mine) // 2])
            del entries[mine[len(mine) // 2]]

    vector = np.arange(3, 10, dtype=np.uint64) * np.uint64(2**60)
    low, floats = matrix.multiply(vector, np.arange(3.0, 10.0))

    for row in range(5):
        mine = [(owner, column, quantity) for owner, (of_row, column, quantity) in entries.items() if of_row == row]
        assert matrix.used(row) == len(mine)
        assert int(low[row]) == sum(quantity * int(vector[column]) for _, column, quantity in mine) % 2**64
        assert float(floats[row]) == sum(owner * (column + 3.0) for owner, column, _ in mine)


def test_a_side_that_comes_and_goes_within_one_message_counts_once() -> None:
    account = AccountBook(account_id=account_of("u1"), valuation="mark")
    book = book_of()
    book.upsert_user(user_book(position("p1", cost="10"), accounts=[account]))
    given, missing = quoted("BTCUSDT", *[Decimal(100)] * 5), quoted("BTCUSDT", *[Decimal(100)] * 4, None)

    worth = []
    for told in ([given, missing, given], [missing, given], [missing, given, missing], [given]):
        book.set_prices(told)
        book.revalue(NOW_MS)
        worth.append(book.unrealized(0))

    assert worth == [90 * ONE, 90 * ONE, 0, 90 * ONE]


def test_a_correction_of_the_days_base_is_taken_over_and_one_into_the_unknown_too() -> None:
    book = book_of((position("p1"),))
    today = date(2026, 3, 2)
    loaded = user_book(position("p1"), ledger_seq=2)
    book.start_day({0: 7}, today)

    corrected = msgspec.structs.replace(loaded, ledger_seq=2, day_base=9, base_day=today)
    book.upsert_user(msgspec.structs.replace(corrected, day_base=5, base_day=date(2026, 3, 1)))
    assert book.holder(0).day_base == 7
    book.upsert_user(corrected)
    assert book.holder(0).day_base == 9
    book.forget_base("u1", date(2026, 3, 1))
    assert book.holder(0).day_base == 9
    book.forget_base("u1", today)
    assert book.holder(0).day_base is None
