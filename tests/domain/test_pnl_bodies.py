"""The body that is written for many at once is, byte for byte, the snapshot of each."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.book import Book
from app.domain.pnl_bodies import PnlBodies
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.positions import AccountBook, Position, UserBook
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.domain.row_statements import MOVING, RowStatements
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    account_of,
    any_price,
    asset_books,
    closed,
    instrument,
    position,
    positions,
    price,
    prices,
    user_book,
)

RATES = RateBook(INSTRUMENTS)
PLACE = StreamPosition(7, 1041, 3)
BTC, ETH = instrument("BTCUSDT"), instrument("ETHUSDT")


def book_of(users: Sequence[UserBook], at: Sequence[Price]) -> Book:
    book = Book(STALE_AFTER_MS)
    book.set_rates(RATES)
    for user in users:
        book.upsert_user(user)
    book.set_prices(at)
    return book


def snapshots(book: Book, moment: Prices) -> dict[str, bytes]:
    return {
        book.holder(slot).user_id: msgspec.json.encode(pnl_snapshot(book.user_book(slot), moment, PLACE))
        for slot in range(len(book))
    }


def assert_same(book: Book, bodies: PnlBodies, *, later_ms: int = 0, stale_after_ms: int = STALE_AFTER_MS) -> None:
    moment = Prices(book.prices.known, book.rates.book, NOW_MS + later_ms, stale_after_ms)
    assert bodies.write(range(len(book)), moment, PLACE) == snapshots(book, moment)


def ordinary(count: int) -> list[UserBook]:
    """Users of one account whose positions are as most are."""
    return [
        user_book(
            *(
                position(
                    f"p{number}-{row}",
                    (BTC, ETH)[row % 2],
                    qty=Decimal(number * 7 - 30 + row).scaleb(-3) or "1",
                    cost=Decimal((number - 9) * 1001 + row).scaleb(-4),
                    user_id=f"u{number}",
                    cash=Decimal(number).scaleb(-2),
                    fees=Decimal("0.0125"),
                    funding=Decimal("-0.3"),
                )
                for row in range(number % 13)
            ),
            user_id=f"u{number}",
            ledger_seq=number,
            day_base=None if number % 3 else number * 10**17,
        )
        for number in range(count)
    ]


@st.composite
def any_user(draw: st.DrawFn, user_id: str) -> UserBook:
    count = draw(st.integers(1, 2))
    names = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
    accounts = tuple(
        AccountBook(
            account_id=account_of(user_id, number),
            name=draw(names),
            valuation=draw(st.sampled_from(["auto", "mid", "exit"])),
            assets=tuple(draw(st.lists(asset_books, max_size=2, unique_by=lambda book: book.asset))),
        )
        for number in range(count)
    )
    held: list[Position] = []
    for number in range(draw(st.integers(0, 4))):
        account = draw(st.sampled_from(accounts)).account_id
        one = draw(positions(f"p{number}", user_id, account=account))
        held.append(msgspec.structs.replace(one, note=draw(names), strategy=draw(names)))
    base = draw(st.none() | st.integers(-(10**25), 10**25))
    return user_book(*held, user_id=user_id, accounts=accounts, day_base=base)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_body_is_the_snapshot_of_any_user_at_any_prices(data: st.DataObject) -> None:
    users = [data.draw(any_user(f"u{number}")) for number in range(data.draw(st.integers(1, 3)))]
    symbols = [one.symbol for one in INSTRUMENTS]
    some = data.draw(st.lists(st.sampled_from(symbols), unique=True))
    book = book_of(users, [data.draw(any_price(symbol)) for symbol in some])

    bodies = PnlBodies(book)
    assert_same(book, bodies, later_ms=data.draw(st.sampled_from([0, 4999, 5001])))
    book.set_prices([data.draw(any_price(symbol)) for symbol in symbols])
    assert_same(book, bodies, stale_after_ms=data.draw(st.sampled_from([-1, STALE_AFTER_MS])))


@settings(max_examples=20, deadline=None)
@given(st.lists(prices, min_size=2, max_size=2), st.integers(-1000, 6000))
def test_a_body_is_the_snapshot_where_many_are_written_together(values: list[Decimal], later_ms: int) -> None:
    book = book_of(ordinary(60), [price("BTCUSDT", values[0]), price("ETHUSDT", values[1], fresh_ms=NOW_MS - 100)])

    assert_same(book, PnlBodies(book), later_ms=later_ms)


def test_a_row_that_changed_or_took_the_place_of_another_is_written_as_it_is() -> None:
    users = ordinary(20)
    book = book_of(users, [price("BTCUSDT", "101.5"), price("ETHUSDT", "7")])
    bodies = PnlBodies(book)
    assert_same(book, bodies)
    first, second = users[12].positions[:2]
    changed = msgspec.structs.replace(second, note='new "words" %s', version=second.version + 1)

    book.apply_positions("u12", 13, [closed(first), changed, position("new", ETH, qty="3", user_id="u12")])

    assert_same(book, bodies)


def test_texts_have_a_bound_and_those_that_nobody_watches_make_way() -> None:
    book = book_of(ordinary(20), [price("BTCUSDT", "101.5"), price("ETHUSDT", "7")])
    statements = RowStatements(book, most_kept=20)
    rows = [np.array(list(book.holder(slot).rows.values()), np.int32) for slot in range(20)]
    book.watch(12)

    for number in [*range(20), 12]:
        statements.prepare(rows[number])
        for row in rows[number].tolist():
            assert f'"position_id":"{book.rows.position_ids[row]}"' in statements.whole(row, ("1",) * len(MOVING))
        assert len(statements) <= 20

    assert len(statements) == len(rows[12])
