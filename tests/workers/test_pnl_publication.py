"""What web instances are told adds up, for them, to the plain form's figures. No I/O: only messages."""

import random
from decimal import Decimal

import msgspec
import pytest

from app.bus.interest import digest
from app.bus.messages import Interest, PnlFlush
from app.bus.pnl import decode_pnl_flush, encode_pnl_flush
from app.domain.book import Book
from app.domain.decimals import convert_units, format_decimal
from app.domain.positions import AccountBook, AssetBook, Position, Realized
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.websocket.mirror import PnlMirror, Row
from app.workers import pnl_publication
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.prepared_users import PreparedUsers
from app.workers.watchers import Watchers
from tests.domain.books import (
    INSTRUMENTS,
    NOW_MS,
    STALE_AFTER_MS,
    account_of,
    closed,
    instrument,
    plain_totals,
    position,
    price,
    quoted,
    user_book,
)
from tests.workers.desk import stale_marks, statement_of

ONE = 10**18


class Desk:
    """A book, its publication, and web instances that hear every flush."""

    def __init__(self, *, book_epoch: int = 1) -> None:
        self.book = Book(STALE_AFTER_MS)
        self.book.set_rates(RateBook(INSTRUMENTS))
        self.watchers = Watchers(self.book)
        self.publication = Publication(self.book, self.watchers, CacheRound(), book_epoch=book_epoch)
        self.mirrors: dict[str, PnlMirror] = {}
        self.flush = 0

    def connect(self, instance_id: str, *users: str) -> PnlMirror:
        instance = self.watchers.join(instance_id)
        self.watchers.replace(instance_id, instance.users | set(users))
        return self.mirrors.setdefault(instance_id, PnlMirror(lambda _: True))

    def speak(self, *, silent: bool = False, as_of_ms: int = NOW_MS) -> dict[str, PnlFlush]:
        self.flush += 1
        place = StreamPosition(1, self.flush)
        said = dict(self.publication.compose(place, as_of_ms=as_of_ms, event_ms=NOW_MS, silent=silent))
        for instance_id, flush in said.items():
            heard = decode_pnl_flush(encode_pnl_flush(flush))
            assert heard == flush
            self.mirrors[instance_id].apply(heard, self.flush)
        return said


def rows_of(mirror: PnlMirror, user_id: str) -> dict[str, int | None]:
    """Unrealised profit by symbol, as an instance knows it."""
    view = mirror.users[user_id]
    return {row.symbol: mirror.row_unrealized.value(row.slot) for row in view.rows.values()}


def total_of(mirror: PnlMirror, user_id: str) -> int | None:
    return mirror.user_unrealized.value(mirror.users[user_id].slot)


def desk_with(*held: Position, at: tuple[Price, ...] = ()) -> Desk:
    desk = Desk()
    desk.book.upsert_user(user_book(*held))
    desk.book.set_prices(at)
    return desk


def test_a_newcomer_is_told_the_whole_of_himself_at_once() -> None:
    desk = desk_with(position("p1", cost="50"), position("p2", instrument("ETHUSDT")), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")

    said = desk.speak()["w1"]

    assert [(user.user_id, user.full, len(user.rows)) for user in said.users] == [("u1", True, 2)]
    assert [(mark.mark, mark.price) for mark in said.marks] == [("BTCUSDT", "80"), ("ETHUSDT", None)]
    assert rows_of(mirror, "u1") == {"BTCUSDT": 30 * ONE, "ETHUSDT": None}
    assert total_of(mirror, "u1") == 30 * ONE


def test_a_row_statement_has_every_field_but_those_that_move_with_the_price() -> None:
    desk = desk_with(position("p1", cost="50"))
    desk.connect("w1", "u1")

    row = desk.speak()["w1"].users[0].rows[0]

    assert row.cost_basis == str(50 * ONE)
    statement = msgspec.json.decode(row.statement + "}")
    assert statement["entry_price"] == "50"
    assert statement["realized_pnl"] == "0"
    assert "unrealized_pnl" not in statement
    assert "mark_price" not in statement


def test_nothing_is_repeated_that_did_not_change() -> None:
    desk = desk_with(position("p1"), position("p2", instrument("ETHUSDT")), at=(price("BTCUSDT", "80"),))
    desk.connect("w1", "u1")
    desk.speak()

    said = desk.speak()["w1"]

    assert (said.users, said.marks, said.user_unrealized.slots, said.row_unrealized.slots) == ([], [], b"", b"")


def test_a_new_price_moves_only_what_is_held_in_its_symbol() -> None:
    desk = desk_with(
        position("p1", cost="50"),
        position("p2", instrument("ETHUSDT"), cost="50"),
        at=(price("BTCUSDT", "80"), price("ETHUSDT", "60")),
    )
    mirror = desk.connect("w1", "u1")
    desk.speak()

    desk.book.set_prices([price("ETHUSDT", "61"), price("XRPUSDT", "1")])
    said = desk.speak()["w1"]

    assert [mark.mark for mark in said.marks] == ["ETHUSDT"]
    assert len(said.row_unrealized.slots) == 4
    assert rows_of(mirror, "u1") == {"BTCUSDT": 30 * ONE, "ETHUSDT": 11 * ONE}
    assert total_of(mirror, "u1") == 41 * ONE


def test_an_instance_hears_of_its_own_users_only() -> None:
    desk = desk_with(position("p1"), at=(price("BTCUSDT", "80"),))
    desk.book.upsert_user(user_book(position("p2", user_id="u2"), user_id="u2"))
    one, two = desk.connect("w1", "u1"), desk.connect("w2", "u2")
    desk.speak()

    desk.book.set_prices([price("BTCUSDT", "81")])
    desk.book.apply_positions("u2", 2, [position("p3", user_id="u2")])
    said = desk.speak()

    assert set(one.users) == {"u1"}
    assert set(two.users) == {"u2"}
    assert not said["w1"].users
    assert (len(said["w1"].row_unrealized.slots), len(said["w2"].row_unrealized.slots)) == (4, 8)


def test_a_change_of_positions_is_told_with_its_figures_in_the_same_message() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"), price("ETHUSDT", "60")))
    mirror = desk.connect("w1", "u1")
    desk.speak()

    changed = position("p1", qty="2", cost="130", version=2)
    desk.book.apply_positions("u1", 2, [changed, position("p2", instrument("ETHUSDT"), cost="50")])
    said = desk.speak()["w1"]

    assert [(user.full, user.ledger_seq, len(user.rows)) for user in said.users] == [(False, 2, 2)]
    assert [mark.mark for mark in said.marks] == ["ETHUSDT"]
    assert rows_of(mirror, "u1") == {"BTCUSDT": 30 * ONE, "ETHUSDT": 10 * ONE}
    assert total_of(mirror, "u1") == 40 * ONE


def test_a_closed_position_is_told_a_last_time() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    slot = desk.speak()["w1"].users[0].rows[0].slot

    desk.book.apply_positions("u1", 2, [closed(position("p1", cost="50"), cash="28")])
    update = desk.speak()["w1"].users[0]

    assert [(row.slot, row.is_open, row.realized_pnl) for row in update.rows] == [(slot, False, str(28 * ONE))]
    assert update.figures["realized_pnl_gross"] == str(28 * ONE)
    assert rows_of(mirror, "u1") == {}
    assert total_of(mirror, "u1") == 0


def test_a_position_that_vanished_from_the_database_is_named() -> None:
    desk = desk_with(position("p1"), position("p2"))
    mirror = desk.connect("w1", "u1")
    slots = [row.slot for row in desk.speak()["w1"].users[0].rows]

    desk.book.upsert_user(user_book(position("p1"), ledger_seq=5))
    update = desk.speak()["w1"].users[0]

    assert (update.rows, update.removed_slots) == ([], slots[1:])
    assert len(mirror.users["u1"].rows) == 1


def test_a_user_nobody_has_in_the_book_is_asked_for_and_told_once_he_is_there() -> None:
    desk = Desk()
    mirror = desk.connect("w1", "u1")
    assert not desk.speak()["w1"].users
    assert desk.publication.missing_users() == {"u1"}
    assert not desk.publication.has_news

    desk.book.upsert_user(user_book(realized=Realized(gross=7)))

    assert desk.publication.has_news
    desk.speak()
    assert mirror.users["u1"].realized_pnl == 7
    assert total_of(mirror, "u1") == 0


def test_many_newcomers_are_told_over_several_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnl_publication, "SNAPSHOT_ROWS", 4)
    desk = Desk()
    for number in range(5):
        held = [position(f"p{number}.{n}", user_id=f"u{number}") for n in range(3 if number else 9)]
        desk.book.upsert_user(user_book(*held, user_id=f"u{number}"))
    desk.connect("w1", *(f"u{number}" for number in range(5)))

    told = [[user.user_id for user in desk.speak()["w1"].users] for _ in range(6)]

    assert told == [["u0"], ["u1"], ["u2"], ["u3"], ["u4"], []]


def test_users_that_were_written_down_go_out_many_at_a_time_and_never_more_than_an_instance_takes_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pnl_publication, "SNAPSHOT_ROWS", 6)
    monkeypatch.setattr(pnl_publication, "PREPARED_ROWS", 5)
    monkeypatch.setattr(pnl_publication, "MOST_ROWS_AT_ONCE", 16)
    desk = Desk()
    prepared = PreparedUsers(desk.book)
    desk.publication = Publication(desk.book, desk.watchers, CacheRound(), book_epoch=1, prepared=prepared)
    for number in range(9):
        held = [position(f"p{number}.{n}", user_id=f"u{number}") for n in range(3)]
        desk.book.upsert_user(user_book(*held, user_id=f"u{number}"))
        assert prepared.prepare(f"u{number}") == 3
    assert prepared.prepare("nobody") == 0
    desk.book.upsert_user(user_book(position("p1.0", user_id="u1", version=2), user_id="u1", ledger_seq=2))
    desk.connect("w1", *(f"u{number}" for number in range(9)))

    told = []
    for _ in range(4):
        desk.flush += 1
        [(_, flush)] = desk.publication.compose(StreamPosition(1, desk.flush), as_of_ms=NOW_MS, event_ms=NOW_MS)
        heard = decode_pnl_flush(encode_pnl_flush(flush))
        told.append([(user.user_id, user.ledger_seq, len(user.rows)) for user in heard.users])
        assert heard.user_unrealized == flush.user_unrealized

    assert told[0] == [("u0", 1, 3), ("u1", 2, 1), *((f"u{n}", 1, 3) for n in (2, 3, 4, 5))]
    assert told[1:] == [[(f"u{n}", 1, 3) for n in (6, 7, 8)], [], []]


def test_who_left_is_not_told_of_and_his_symbols_are_forgotten() -> None:
    desk = desk_with(position("p1"), at=(price("BTCUSDT", "80"),))
    desk.connect("w1", "u1")
    desk.speak()

    desk.watchers.replace("w1", set())
    desk.book.set_prices([price("BTCUSDT", "81")])
    said = desk.speak()["w1"]

    assert (said.users, said.marks, said.user_unrealized.slots, said.row_unrealized.slots) == ([], [], b"", b"")
    assert not desk.book.is_watched(0)


def test_who_comes_back_gets_the_whole_again_with_its_marks() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    desk.speak()
    desk.watchers.replace("w1", set())
    desk.speak()
    mirror.drop("u1")

    desk.connect("w1", "u1")
    said = desk.speak()["w1"]

    assert [user.full for user in said.users] == [True]
    assert [mark.mark for mark in said.marks] == ["BTCUSDT"]
    assert rows_of(mirror, "u1") == {"BTCUSDT": 30 * ONE}


def test_an_instance_that_asks_again_is_told_everything_and_its_sequence_goes_on() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    first = desk.speak()["w1"].sequence

    mirror.desynchronise()
    desk.watchers.apply(Interest("w1", 0, gone=True))
    desk.watchers.apply(Interest("w1", digest(["u1"]), added=["u1"]))
    again = desk.speak()["w1"]

    assert (first, again.sequence) == (1, 2)
    assert [user.full for user in again.users] == [True]
    assert total_of(mirror, "u1") == 30 * ONE


def test_a_message_that_got_lost_shows_as_a_hole() -> None:
    desk = desk_with(position("p1"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    desk.speak()
    desk.publication.compose(StreamPosition(1, 50), as_of_ms=NOW_MS, event_ms=NOW_MS)

    desk.speak()

    assert mirror.holes == 1


def test_an_older_epoch_is_refused_by_the_receiver_and_a_newer_one_starts_over() -> None:
    old, new = Desk(book_epoch=1), Desk(book_epoch=2)
    mirror = PnlMirror(lambda _: True)
    for desk, cost in ((old, "50"), (new, "60")):
        desk.book.upsert_user(user_book(position("p1", cost=cost)))
        desk.book.set_prices([price("BTCUSDT", "80")])
        desk.connect("w1", "u1")
        desk.mirrors["w1"] = mirror

    old.speak()
    new.speak()
    old.book.set_prices([price("BTCUSDT", "99")])
    old.speak()

    assert mirror.old_epochs == 1
    assert rows_of(mirror, "u1") == {"BTCUSDT": 20 * ONE}


def test_a_silent_feed_makes_every_mark_stale_without_moving_a_figure() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    desk.speak()

    said = desk.speak(silent=True)["w1"]

    assert [(mark.mark, mark.price, mark.is_stale) for mark in said.marks] == [("BTCUSDT", "80", True)]
    assert said.row_unrealized.slots == b""
    assert stale_marks(mirror) == {"BTCUSDT"}


def test_the_base_of_a_new_day_reaches_who_is_watched() -> None:
    desk = desk_with(position("p1", cost="50"), at=(price("BTCUSDT", "80"),))
    mirror = desk.connect("w1", "u1")
    desk.speak()

    desk.book.start_day(desk.book.day_bases())
    desk.speak()

    assert mirror.users["u1"].day_base == 30 * ONE


def test_what_settles_in_another_asset_is_told_in_it_with_the_rate_that_reports_it() -> None:
    held = (position("p1", cost="50"), position("p2", instrument("ETHBTC", settle="BTC"), cost="0.05"))
    desk = desk_with(*held, at=(price("BTCUSDT", "80"), price("ETHBTC", "0.06")))
    mirror = desk.connect("w1", "u1")

    said = desk.speak()["w1"]

    assert rows_of(mirror, "u1") == {"BTCUSDT": 30 * ONE, "ETHBTC": ONE // 100}
    assert total_of(mirror, "u1") == 30 * ONE + 80 * ONE // 100
    assert [(one.asset, one.currency, one.rate) for one in said.rates] == [("BTC", "USDT", "80")]


def test_a_rate_alone_moves_the_total_but_no_row() -> None:
    desk = desk_with(position("p2", instrument("ETHBTC", settle="BTC"), cost="0.05"), at=(price("ETHBTC", "0.06"),))
    mirror = desk.connect("w1", "u1")
    assert [one.rate for one in desk.speak()["w1"].rates] == [None]

    desk.book.set_prices([price("BTCUSDT", "80")])
    said = desk.speak()["w1"]

    assert ([one.rate for one in said.rates], said.row_unrealized.slots, said.users) == (["80"], b"", [])
    assert total_of(mirror, "u1") == 80 * ONE // 100
    assert not desk.speak()["w1"].rates


def test_a_stale_price_in_a_rate_is_told_with_the_rate() -> None:
    at = (price("BTCUSDT", "80", fresh_ms=NOW_MS - 3000), price("ETHBTC", "0.06"))
    desk = desk_with(position("p2", instrument("ETHBTC", settle="BTC"), cost="0.05"), at=at)
    desk.connect("w1", "u1")
    desk.speak()

    desk.book.set_prices([price("ETHBTC", "0.06", fresh_ms=NOW_MS + 3000)])
    said = desk.speak(as_of_ms=NOW_MS + 3000)["w1"]

    assert [(one.rate, one.is_stale, one.fresh_ms) for one in said.rates] == [("80", True, NOW_MS - 3000)]


def test_balances_in_other_assets_are_told_for_the_currency_effect() -> None:
    deposit = AssetBook(asset="BTC", deposited=2 * ONE, deposited_reported=150 * ONE)
    desk = Desk()
    desk.book.upsert_user(user_book(accounts=[AccountBook(account_id=account_of("u1"), assets=(deposit,))]))
    mirror = desk.connect("w1", "u1")

    desk.speak()

    view = mirror.users["u1"]
    assert (view.net_deposits, view.balances) == (150 * ONE, (("BTC", 2 * ONE, 150 * ONE),))
    assert list(mirror.rates) == [("BTC", "USDT")]


def test_an_instance_is_told_the_rates_of_its_own_users_while_they_are_there() -> None:
    desk = desk_with(position("p1", instrument("ETHBTC", settle="BTC")))
    desk.book.upsert_user(user_book(position("p2", user_id="u2"), user_id="u2"))
    desk.connect("w1", "u1", "u2")
    desk.connect("w2", "u2")
    said = desk.speak()
    assert (len(said["w1"].rates), len(said["w2"].rates)) == (1, 0)

    desk.watchers.replace("w1", {"u2"})
    desk.book.set_prices([price("BTCUSDT", "80")])
    said = desk.speak()

    assert (said["w1"].rates, said["w2"].rates) == ([], [])


def test_a_row_of_an_account_that_is_valued_otherwise_has_a_mark_of_its_own() -> None:
    accounts = [AccountBook(account_id=account_of("u1")), AccountBook(account_id="exit", valuation="exit")]
    sides = [Decimal(side) for side in ("80", "79", "81", "80", "80")]
    desk = Desk()
    desk.book.upsert_user(user_book(position("p1"), position("p2", account="exit"), accounts=accounts))
    desk.book.set_prices([quoted("BTCUSDT", *sides)])
    mirror = desk.connect("w1", "u1")

    said = desk.speak()["w1"]

    assert [(one.mark, one.price, one.source) for one in said.marks] == [
        ("BTCUSDT", "80", "mid"),
        ("BTCUSDT bid", "79", "bid"),
    ]
    assert [row.mark.price for row in mirror.users["u1"].rows.values()] == ["80", "79"]


class Storm:
    """Prices, fills, closes, reloads, comings, goings and resets, by chance; and what is true meanwhile."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.desk = Desk()
        self.symbols = [*(instrument(f"S{n}USDT") for n in range(5)), instrument("ETHBTC", settle="BTC")]
        self.priced = [*self.symbols, instrument("BTCUSDT")]
        self.known: dict[str, Price] = {}
        self.held: dict[str, dict[str, Position]] = {f"u{n}": {} for n in range(5)}
        self.seqs = dict.fromkeys(self.held, 0)
        self.made = 0
        for user_id in self.held:
            self.desk.book.upsert_user(user_book(user_id=user_id, ledger_seq=0))

    def tick(self, _: str) -> None:
        chosen = self.chance.sample(self.priced, 2)
        ticks = [price(i.symbol, Decimal(self.chance.randrange(1, 10**7)).scaleb(-4)) for i in chosen]
        self.known |= {tick.symbol: tick for tick in ticks}
        self.desk.book.set_prices(ticks)

    def open(self, user_id: str) -> None:
        self.made += 1
        new = position(
            f"p{self.made}",
            self.chance.choice(self.symbols),
            qty=Decimal(self.chance.randrange(-(10**6), 10**6) or 1).scaleb(-5),
            cost=Decimal(self.chance.randrange(10**9)).scaleb(-7),
            user_id=user_id,
        )
        self.held[user_id][new.position_id] = new
        self._event(user_id, new)

    def close(self, user_id: str) -> None:
        rows = self.held[user_id]
        if rows:
            self._event(user_id, closed(rows.pop(self.chance.choice(sorted(rows)))))

    def reload(self, user_id: str) -> None:
        rows = self.held[user_id]
        if rows:
            before = rows[self.chance.choice(sorted(rows))]
            rows[before.position_id] = msgspec.structs.replace(before, note="x", version=before.version + 1)
        self.seqs[user_id] += 2
        self.desk.book.upsert_user(user_book(*rows.values(), user_id=user_id, ledger_seq=self.seqs[user_id]))

    def move(self, _: str) -> None:
        instance_id = f"w{self.chance.randrange(3)}"
        users = set(self.chance.sample(sorted(self.held), self.chance.randrange(5)))
        mirror = self.desk.connect(instance_id)
        for left in self.desk.watchers.instances[instance_id].users - users:
            mirror.drop(left)
        self.desk.watchers.replace(instance_id, users)

    def reset(self, _: str) -> None:
        for instance_id in sorted(self.desk.mirrors)[:1]:
            users = set(self.desk.watchers.instances[instance_id].users)
            self.desk.mirrors[instance_id].desynchronise()
            self.desk.watchers.leave(instance_id)
            self.desk.connect(instance_id, *users)

    def _event(self, user_id: str, after: Position) -> None:
        self.seqs[user_id] += 1
        assert self.desk.book.apply_positions(user_id, self.seqs[user_id], [after]) == "applied"

    def step(self) -> None:
        actions = [self.tick, self.open, self.close, self.reload, self.move, self.reset]
        (action,) = self.chance.choices(actions, [7, 5, 2, 1, 3, 1])
        action(self.chance.choice(sorted(self.held)))
        self.desk.speak()

    def check(self) -> None:
        for instance_id, mirror in self.desk.mirrors.items():
            assert set(mirror.users) == self.desk.watchers.instances[instance_id].users
            for user_id in mirror.users:
                self._check_user(mirror, user_id)

    def _check_user(self, mirror: PnlMirror, user_id: str) -> None:
        view = mirror.users[user_id]
        plain = plain_totals(self.held[user_id].values(), self.known)
        told = {statement_of(row)["position_id"]: row for row in view.rows.values()}
        values = [mirror.row_unrealized.value(row.slot) for row in told.values()]
        rate = mirror.rates.get(("BTC", "USDT"))
        reported = [
            None if value is None else _reported(value, row, None if rate is None else rate.value)
            for value, row in zip(values, told.values(), strict=True)
        ]
        assert total_of(mirror, user_id) == plain.unrealized_pnl == sum(value or 0 for value in reported)
        assert view.ledger_seq == self.seqs[user_id]
        assert set(told) == set(self.held[user_id])
        for row in told.values():
            price_known = self.known.get(row.symbol)
            assert mirror.marks[row.symbol].price == (
                None if price_known is None else format_decimal(price_known.price)
            )


def _reported(value: int, row: Row, rate: Decimal | None) -> int | None:
    if row.pair is None:
        return value
    return None if rate is None else convert_units(value + row.cost_basis, rate) - convert_units(row.cost_basis, rate)


@pytest.mark.parametrize("seed", range(4))
def test_after_any_history_every_instance_knows_the_exact_figures_of_its_users(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(300):
        storm.step()
        storm.check()
