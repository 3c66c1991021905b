"""Samples of the book are those of the plain form at the prices of their moment, and know how far positions went."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import book_samples
from app.domain.book import Book
from app.domain.book_samples import BookSampler, FrozenPrices, Sample, figures_of
from app.domain.candles import NOTHING, Figures
from app.domain.excursions import Excursion
from app.domain.instruments import Instrument
from app.domain.positions import Position, Realized, UserBook
from app.domain.prices import Price
from app.domain.rates import RateBook
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    account_books,
    account_of,
    closed,
    decimals,
    instrument,
    plainly,
    position,
    price,
    quoted,
    user_book,
)

ONE = 10**18
RATES = RateBook(INSTRUMENTS)
HOME = [one for one in INSTRUMENTS if one.settle == "USDT"]

prices = st.one_of(decimals(2, 5), decimals(9, 5), decimals(13, 5))


@st.composite
def any_prices(draw: st.DrawFn) -> dict[str, Price]:
    side = st.none() | prices
    known = [one.symbol for one in INSTRUMENTS if draw(st.booleans())]
    return {
        symbol: msgspec.structs.replace(
            quoted(symbol, draw(prices), draw(side), draw(side), draw(side), draw(side)),
            fresh_ms=NOW_MS - draw(st.sampled_from([0, STALE_AFTER_MS + 1])),
        )
        for symbol in known
    }


@st.composite
def users(draw: st.DrawFn, user_id: str) -> UserBook:
    """A user whose balances may all be in the reporting currency, with one account or several."""
    accounts = draw(account_books(user_id))
    instruments: Sequence[Instrument] = INSTRUMENTS
    if draw(st.booleans()):
        instruments = HOME
        usdt = [[book for book in account.assets if book.asset == "USDT"] for account in accounts]
        accounts = tuple(
            msgspec.structs.replace(account, assets=tuple(books)) for account, books in zip(accounts, usdt, strict=True)
        )
    held = [
        position(
            f"{user_id} p{number}",
            draw(st.sampled_from(instruments)),
            qty=draw(st.one_of(decimals(3, 3, signed=True), decimals(18, 4, signed=True)).filter(bool)),
            cost=draw(decimals(18, 8, signed=True)),
            user_id=user_id,
            account=draw(st.sampled_from(accounts)).account_id,
            fees=draw(decimals(20, 3, signed=True)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    return user_book(*held, user_id=user_id, accounts=accounts)


def sampled(sampler: BookSampler, frozen: FrozenPrices, book: Book) -> list[Sample]:
    """All slices."""
    samples: list[Sample] = []
    slot = 0
    while slot < len(book):
        part = sampler.sample(frozen, slot)
        assert part.next_slot > slot
        samples += part.samples
        slot = part.next_slot
    return samples


def expected(user: UserBook, known: dict[str, Price]) -> dict[str, Figures]:
    """By scope: every account that has anything, and the sum of them where there are several."""
    held = {one.account_id for one in user.positions}
    figures = {
        account.account_id: figures_of(totals)
        for account, totals in plainly(user, known).accounts
        if account.assets or account.account_id in held
    }
    return {**figures, user.user_id: sum(figures.values(), NOTHING)} if len(figures) > 1 else figures


@settings(max_examples=25)
@given(users("u1"), users("u2"), users("u3"), any_prices(), any_prices())
def test_samples_are_those_of_the_plain_form_whatever_prices_do_meanwhile(
    one: UserBook, two: UserBook, three: UserBook, known: dict[str, Price], later: dict[str, Price]
) -> None:
    book = Book(STALE_AFTER_MS)
    book.set_rates(RATES)
    book.upsert_user(one)
    book.upsert_user(two)
    book.set_prices(known.values())
    sampler = BookSampler(book)

    frozen = sampler.freeze(NOW_MS, NOW_MS, STALE_AFTER_MS, silent=False)
    book.set_prices(later.values())
    book.upsert_user(three)
    samples = sampled(sampler, frozen, book)

    assert {sample.scope_id: sample.figures for sample in samples} == {
        scope_id: figures for user in (one, two, three) for scope_id, figures in expected(user, known).items()
    }
    assert len({sample.scope_id for sample in samples}) == len(samples)


def book_of(*held: Position, at: str = "100") -> tuple[Book, BookSampler]:
    book = Book(STALE_AFTER_MS)
    book.upsert_user(user_book(*held))
    book.set_prices([price("BTCUSDT", at)])
    return book, BookSampler(book)


def sample_at(book: Book, sampler: BookSampler, value: str | None = None, *, silent: bool = False) -> list[Sample]:
    if value is not None:
        book.set_prices([price("BTCUSDT", value)])
    return sampled(sampler, sampler.freeze(NOW_MS, NOW_MS, STALE_AFTER_MS, silent=silent), book)


def test_while_the_feed_is_silent_every_sample_with_a_price_in_it_is_stale() -> None:
    book, sampler = book_of(position())
    book.upsert_user(user_book(user_id="u2", realized=Realized(gross=5)))

    assert [sample.figures.is_stale for sample in sample_at(book, sampler)] == [False, False]
    assert [sample.figures.is_stale for sample in sample_at(book, sampler, silent=True)] == [True, False]


def test_who_never_had_anything_is_not_sampled() -> None:
    book, sampler = book_of()

    assert sample_at(book, sampler) == []


def test_without_a_price_what_is_realised_is_known_and_the_rest_is_not() -> None:
    book, sampler = book_of(position(of=instrument("SOLUSDT"), fees=Decimal(3)))

    figures = sample_at(book, sampler)[0].figures

    assert (figures.fees, figures.unrealized_pnl, figures.pnl, figures.is_complete) == (3 * ONE, None, None, False)


def test_users_are_taken_in_slices() -> None:
    book = Book(STALE_AFTER_MS)
    for number in range(book_samples.MAX_USERS + 1):
        book.upsert_user(user_book(position(f"p{number}", user_id=f"u{number}"), user_id=f"u{number}"))
    sampler = BookSampler(book)
    frozen = sampler.freeze(NOW_MS, NOW_MS, STALE_AFTER_MS, silent=False)

    first = sampler.sample(frozen, 0)

    assert (len(first.samples), first.next_slot) == (book_samples.MAX_USERS, book_samples.MAX_USERS)
    assert len(sampler.sample(frozen, first.next_slot).samples) == 1


def test_marks_are_those_of_the_prices_in_use() -> None:
    book, sampler = book_of(position())
    book.set_prices([price("ETHUSDT", "10")])

    assert sampler.freeze(NOW_MS, NOW_MS, STALE_AFTER_MS, silent=False).marks == {"BTCUSDT": Decimal(100)}


def worst_and_best(excursions: Sequence[Excursion]) -> dict[str, tuple[int, int]]:
    return {one.position_id: (one.worst // ONE, one.best // ONE) for one in excursions}


def test_excursions_are_the_lowest_and_highest_of_all_samples() -> None:
    book, sampler = book_of(position("p1"), position("p2", qty="-2", cost="-200"))
    for value in ("103", "95", "101"):
        sample_at(book, sampler, value)

    assert worst_and_best(sampler.excursions.unsaved(10)) == {"p1": (-5, 3), "p2": (-6, 10)}
    assert sampler.excursions.unsaved(10) == []
    sample_at(book, sampler, "100")
    assert sampler.excursions.unsaved(10) == []
    sample_at(book, sampler, "94")
    assert worst_and_best(sampler.excursions.unsaved(1)) == {"p1": (-6, 3)}


def test_what_ended_is_told_once_and_its_row_begins_anew() -> None:
    book, sampler = book_of(position("p1"))
    sample_at(book, sampler, "95")
    book.apply_positions("u1", 2, [closed(position("p1"))])

    assert worst_and_best(sampler.excursions.ended()) == {"p1": (-5, -5)}
    assert sampler.excursions.ended() == []

    book.apply_positions("u1", 3, [position("p2")])
    sample_at(book, sampler, "104")
    book.apply_positions("u1", 4, [closed(position("p2"))])
    book.apply_positions("u1", 5, [position("p3")])
    book.set_prices([price("BTCUSDT", "101")])
    part = sampler.sample(sampler.freeze(NOW_MS, NOW_MS, STALE_AFTER_MS, silent=False), 0)

    assert worst_and_best(part.ended) == {"p2": (4, 4)}
    assert worst_and_best(sampler.excursions.unsaved(10)) == {"p3": (1, 1)}


def test_all_accounts_of_a_user_are_of_one_moment() -> None:
    held = [position("p1", account=account_of("u1")), position("p2", account=account_of("u1", 1))]
    book = Book(STALE_AFTER_MS)
    accounts = tuple(
        msgspec.structs.replace(user_book().accounts[0], account_id=account_of("u1", number)) for number in range(3)
    )
    book.upsert_user(user_book(*held, accounts=accounts))
    book.set_prices([price("BTCUSDT", "103")])

    found = {sample.scope_id: sample.figures.unrealized_pnl for sample in sample_at(book, BookSampler(book))}

    assert found == {account_of("u1"): 3 * ONE, account_of("u1", 1): 3 * ONE, "u1": 6 * ONE}
