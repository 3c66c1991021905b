"""The P&L worker's real messages, taken over by the web process: both sides mean the same."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from app.bus.interest import digest
from app.bus.messages import Interest, PriceHead
from app.bus.pnl import decode_pnl_flush, encode_pnl_flush
from app.domain.book import Book
from app.domain.pnl_snapshot import Prices, pnl_snapshot
from app.domain.positions import AccountBook, AssetBook, Position, UserBook
from app.domain.prices import StreamPosition
from app.domain.rates import RateBook
from app.websocket import frames
from app.websocket.state import StreamState
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from tests.websocket.market import LIVE, closed, instrument, now_ms, position, price, price_flush

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SHIBUSDT", "DOGEUSDT"]
MOVING = ("mark_price", "unrealized_pnl", "unrealized_pnl_pct", "is_stale")
CONVERTED = (*MOVING, "rate_to_reporting", "unrealized_pnl_reported")
ACCOUNT = AccountBook(account_id="account-of-alice")


class Pair:
    """A P&L worker's book and publication, and the state of the web process they tell."""

    def __init__(self) -> None:
        self.book = Book(5000)
        self.watchers = Watchers(self.book)
        self.publication = Publication(self.book, self.watchers, CacheRound(), book_epoch=3)
        self.state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        self.state.load_prices(PriceHead(7, 1, now_ms(), LIVE), {}, 0.0)
        self.state.offer_prices(price_flush(2), 0.0)
        self.state.check_silence(0.0)
        self.flush = 2
        self.held: dict[str, Position] = {}
        self.accounts: tuple[AccountBook, ...] = ()
        self.rates = RateBook([instrument("BTCUSDT"), instrument("ETHUSDT"), instrument("USDTEUR", "EUR")])
        self.book.set_rates(self.rates)
        self.as_of_ms = 0

    def load(self, *held: Position, accounts: Sequence[AccountBook] = (ACCOUNT,)) -> None:
        self.held = {one.position_id: one for one in held}
        self.accounts = tuple(accounts)
        self.book.upsert_user(self.user_book())
        self.watchers.apply(Interest("web", digest(["alice"]), added=["alice"]))

    def user_book(self) -> UserBook:
        return UserBook(
            user_id="alice",
            ledger_seq=1,
            currency="USDT",
            accounts=self.accounts,
            positions=tuple(self.held.values()),
            day_base=0,
        )

    def price(self, prices: dict[str, str]) -> int:
        """New prices. Gives the last commit before them."""
        self.book.set_prices([price(symbol, value) for symbol, value in prices.items()])
        return self.tell()

    def tell(self) -> int:
        before = self.state.ordinal
        self.flush += 1
        moment = self.as_of_ms = now_ms()
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

    def snapshot(self) -> dict[str, Any]:
        """The whole P&L by the plain form of the arithmetic."""
        prices = Prices(self.book.prices.known, self.rates, self.as_of_ms, 5000)
        return pnl_snapshot(self.user_book(), prices, StreamPosition(7, self.flush))

    def expected(self) -> str:
        """The total of it."""
        unrealized: str = self.snapshot()["totals"]["unrealized_pnl"]
        return unrealized

    def shown(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The snapshots of totals and of positions, as a connection gets them."""
        view = self.state.mirror.users["alice"]
        totals = json.loads(frames.pnl_snapshot(self.state, view))["pnl"]
        return totals, json.loads(frames.positions_snapshot(self.state, view))["positions"]


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


def test_converted_rows_balances_and_totals_are_those_of_the_snapshot_over_many_flushes() -> None:
    pair = Pair()
    one = 10**18
    deposits = (
        AssetBook(asset="BTC", deposited=one // 3, deposited_reported=20_000 * one),
        AssetBook(asset="ETH", deposited=7 * one, deposited_reported=9_000 * one),
        AssetBook(asset="DOGE", deposited=one, deposited_reported=one),
    )
    accounts = [
        AccountBook(account_id="account-of-alice", assets=deposits),
        AccountBook(account_id="other", valuation="exit", assets=deposits[:1]),
    ]
    pair.load(
        position("p1", "BTCUSDT", "0.5", "64000.1"),
        position("p2", "ETHBTC", "-3.00001", "0.0412", settle="BTC"),
        position("p3", "BTCEUR", "0.25", "59000", settle="EUR"),
        msgspec.structs.replace(position("p4", "BTCUSDT", "-0.1", "64000"), account_id="other"),
        msgspec.structs.replace(position("p5", "BTCEUR", "2", "59000", settle="EUR"), account_id="other"),
        accounts=accounts,
    )
    chance = random.Random(2)
    ranges = {"BTCUSDT": 70000, "ETHUSDT": 3000, "ETHBTC": 0.05, "BTCEUR": 60000, "USDTEUR": 1, "DOGEUSDT": 1}
    rows: dict[str, dict[str, Any]] = {}
    totals: dict[str, Any] = {}
    for step in range(60):
        # The rate of EUR comes late, that of DOGE never.
        symbols = sorted(ranges)[: -1 if step < 10 else None]
        moved = {name: f"{ranges[name] * chance.uniform(0.9, 1.1):.8f}" for name in chance.sample(symbols, 2)}
        frame = pair.update(pair.price(moved))
        for row in frame.get("positions", []):
            rows[row["position_id"]] = rows.get(row["position_id"], {}) | row
        totals |= frame.get("pnl", {})
        plain = pair.snapshot()
        shown, positions = pair.shown()
        assert shown == plain["totals"]
        assert positions == plain["positions"]
        assert totals == {name: plain["totals"][name] for name in totals}
        summed = sum(Decimal(row["unrealized_pnl_reported"] or 0) for row in positions)
        assert summed == Decimal(totals["unrealized_pnl"])
        for row in plain["positions"]:
            told = CONVERTED if row["settle_asset"] != "USDT" else MOVING
            assert {name: rows[row["position_id"]][name] for name in told} == {name: row[name] for name in told}
    assert totals["unpriced"] == ["DOGE"]


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
