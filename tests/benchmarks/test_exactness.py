"""The exactness of streamed totals: a random book against fractions reckoned from its fills."""

from app.domain.book import Book
from app.domain.rates import RateBook
from app.websocket.mirror import PnlMirror
from benchmarks.exactness import Crowd, Outcome, Size, compare, exactness

SMALL = Size(positions=200, users=4, symbols=20, streamed=0, changes=0)


def test_every_user_of_a_random_book_is_exact_to_the_last_digit_in_the_stream() -> None:
    outcome = exactness(Size(positions=25_000, users=500, symbols=300, streamed=500, changes=1000))

    assert outcome.wrong == []
    assert (outcome.users, outcome.positions) == (500, 25_000)
    assert outcome.smallest < 10**-20
    assert outcome.largest > 10**12


def test_a_price_that_differs_in_its_last_digit_would_be_noticed() -> None:
    crowd, book, outcome = Crowd(SMALL), Book(5000), Outcome()
    book.set_rates(RateBook(crowd.instruments))
    book.set_prices(crowd.move(crowd.instruments))
    for user in crowd.users():
        book.upsert_user(user)
    book.revalue(0)
    compare(book, PnlMirror(lambda _: True), crowd, outcome, "as it is")
    assert outcome.wrong == []

    crowd.prices = {symbol: price.next_plus() for symbol, price in crowd.prices.items()}
    compare(book, PnlMirror(lambda _: True), crowd, outcome, "otherwise")

    assert len(outcome.wrong) == SMALL.users
