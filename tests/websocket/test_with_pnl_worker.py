"""The P&L worker's real messages, taken over by the web process: both sides mean the same."""

import json
import random
from decimal import Decimal
from typing import Any

from app.bus.interest import digest
from app.bus.messages import Interest, PriceHead
from app.bus.pnl import decode_pnl_flush, encode_pnl_flush
from app.domain.book import Book
from app.domain.decimals import format_units
from app.domain.positions import ClosedFigures, Position, UserBook
from app.domain.prices import StreamPosition
from app.domain.valuation import total, value_position
from app.websocket import frames
from app.websocket.state import StreamState
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from tests.websocket.market import LIVE, closed, now_ms, position, price

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SHIBUSDT", "DOGEUSDT"]


class Pair:
    """A P&L worker's book and publication, and the state of the web process they tell."""

    def __init__(self) -> None:
        self.book = Book(5000)
        self.watchers = Watchers(self.book)
        self.publication = Publication(self.book, self.watchers, CacheRound(), book_epoch=3)
        self.state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        self.state.load_prices(PriceHead(7, 1, now_ms(), LIVE), {}, 0.0)
        self.flush = 1
        self.held: dict[str, Position] = {}

    def load(self, *held: Position) -> None:
        self.held = {one.position_id: one for one in held}
        self.book.upsert_user(
            UserBook(
                user_id="alice",
                account_id="account-of-alice",
                ledger_seq=1,
                currency="USDT",
                positions=held,
                closed=ClosedFigures(),
                day_base=0,
            )
        )
        self.watchers.apply(Interest("web", digest(["alice"]), added=["alice"]))

    def price(self, prices: dict[str, str]) -> int:
        """New prices. Gives the last commit before them."""
        self.book.set_prices([price(symbol, value) for symbol, value in prices.items()])
        return self.tell()

    def tell(self) -> int:
        before = self.state.ordinal
        self.flush += 1
        moment = now_ms()
        event_ms = moment if self.book.prices.known else 0
        told = self.publication.compose(StreamPosition(7, self.flush), as_of_ms=moment, event_ms=event_ms)
        for _, message in told:
            outcome = self.state.offer_pnl(decode_pnl_flush(encode_pnl_flush(message)), 0.0)
            assert outcome == "applied"
        return before

    def update(self, since: int) -> dict[str, Any]:
        view = self.state.mirror.users["alice"]
        interest = frames.Interest(self.state.only_lane, (), view, True, True, since, since, since, merged=1)
        (text,) = frames.updates([interest])
        assert text is not None
        decoded: dict[str, Any] = json.loads(text)
        return decoded

    def expected(self) -> str:
        """The total by the plain form of the arithmetic."""
        known = self.book.prices.known
        valued = [(one, value_position(one, known.get(one.symbol), now_ms(), 5000)) for one in self.held.values()]
        return format_units(total(valued, "USDT", 0).unrealized_pnl)


def test_totals_and_rows_are_the_plain_arithmetic_over_many_flushes() -> None:
    pair = Pair()
    pair.load(
        position("p1", "BTCUSDT", "0.5", "64000.1"),
        position("p2", "ETHUSDT", "-3.00001", "2500"),
        position("p3", "SHIBUSDT", "123456789", "0.00001234"),
        position("p4", "DOGEUSDT", "-77", "0.123"),
    )
    chance = random.Random(1)
    rows: dict[str, Decimal] = {}
    for step in range(50):
        moved = SYMBOLS if step == 0 else chance.sample(SYMBOLS, 2)
        before = pair.price({symbol: f"{chance.uniform(0.00001, 70000):.8f}" for symbol in moved})
        frame = pair.update(before)
        rows |= {row["position_id"]: Decimal(row["unrealized_pnl"]) for row in frame["positions"]}
        assert frame["pnl"]["unrealized_pnl"] == pair.expected()
        assert sum(rows.values()) == Decimal(frame["pnl"]["unrealized_pnl"])


def test_before_any_price_no_moment_of_the_exchange_is_told() -> None:
    pair = Pair()
    pair.load(position("p1", "BTCUSDT", "0.5", "64000"))

    assert pair.update(pair.tell())["event_ms"] == 0
    assert pair.update(pair.price({"BTCUSDT": "65000"}))["event_ms"] > 0


def test_opening_and_closing_are_told_whole() -> None:
    pair = Pair()
    first = position("p1", "BTCUSDT", "0.5", "64000.1")
    pair.load(first)
    pair.price({"BTCUSDT": "65000", "ETHUSDT": "2500"})

    second = position("p2", "ETHUSDT", "1", "2400")
    pair.held["p2"] = second
    assert pair.book.apply_positions("alice", 2, [second]) == "applied"
    frame = pair.update(pair.tell())
    assert [(row["position_id"], row["status"]) for row in frame["positions"]] == [("p2", "open")]
    assert frame["pnl"]["unrealized_pnl"] == pair.expected() == "599.95"
    assert pair.state.mirror.users["alice"].ledger_seq == 2

    gone = closed(first, "65000")
    del pair.held["p1"]
    assert pair.book.apply_positions("alice", 3, [gone]) == "applied"
    frame = pair.update(pair.tell())
    assert [(row["position_id"], row["status"]) for row in frame["positions"]] == [("p1", "closed")]
    assert frame["pnl"]["unrealized_pnl"] == pair.expected() == "100"
    assert frame["pnl"]["total_pnl"] == "599.75"


def test_without_a_price_the_position_is_named_until_it_has_one() -> None:
    pair = Pair()
    pair.load(position("p1", "BTCUSDT", "0.5", "64000.1"))
    before = pair.tell()
    assert pair.update(before)["pnl"]["unpriced"] == ["BTCUSDT"]
    frame = pair.update(pair.price({"BTCUSDT": "64000.1"}))
    assert frame["pnl"]["unpriced"] == []
    assert frame["pnl"]["is_complete"] is True
    assert frame["positions"][0]["mark_price"] == "64000.1"


def test_asking_again_gives_the_whole_again() -> None:
    pair = Pair()
    pair.load(position("p1", "BTCUSDT", "0.5", "64000.1"))
    pair.price({"BTCUSDT": "65000"})
    pair.state.mirror.desynchronise()
    pair.watchers.apply(Interest("web", 0, gone=True))
    pair.watchers.apply(Interest("web", digest(["alice"]), added=["alice"]))
    pair.tell()
    totals = json.loads(frames.pnl_snapshot(pair.state, pair.state.mirror.users["alice"]))
    assert totals["pnl"]["unrealized_pnl"] == pair.expected()
