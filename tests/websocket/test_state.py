"""What a frame is built from: staging, staleness, gaps, and figures that add up."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from app.bus.messages import BalanceUpdate, MarkUpdate, PriceHead
from app.domain import protocol
from app.domain.prices import Feed, StreamPosition
from app.websocket import frames
from app.websocket.frames import Interest
from app.websocket.state import STAGING_S, StreamState
from tests.websocket.market import LIVE, Trader, closed, columns, pnl_flush, position, price, price_flush, row_update

T0 = 1_000_000


def state_at_flush(flush: int = 1, *, now: float = 0.0) -> StreamState:
    """A state that has just heard a flush without prices."""
    state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=now)
    state.load_prices(PriceHead(7, flush - 1, T0, LIVE), {}, 0.0)
    state.offer_prices(price_flush(flush, as_of_ms=T0), now)
    state.commit_overdue(now + STAGING_S)
    return state


def alice() -> Trader:
    return Trader(
        "alice", 4, {10: position("p1", "BTCUSDT", "0.5", "64000.10"), 11: position("p2", "ETHUSDT", "-3", "2500")}
    )


PRICES = {"BTCUSDT": "67000.15", "ETHUSDT": "2499.5"}


def state_with_alice() -> tuple[StreamState, Trader]:
    state, trader = state_at_flush(), alice()
    state.offer_pnl(pnl_flush(1, 1, [trader], PRICES, users=[trader.update(full=True)]), 0.0)
    return state, trader


def state_with_bitcoin() -> tuple[StreamState, Trader]:
    """A state, and a trader of whom it does not know yet: he has a pair of coins, and deposited two at 100 each."""
    held = {1: position("p1", "BTCUSDT", "1", "100"), 2: position("p2", "ETHBTC", "1", "0.05", settle="BTC")}
    trader = Trader("alice", 0, held)
    trader.net_deposits = 200 * 10**18
    trader.balances = [BalanceUpdate("BTC", str(2 * 10**18), str(200 * 10**18))]
    return state_at_flush(), trader


def update_of(state: StreamState, since: int, *, watched: bool = True, user: str = "alice") -> dict[str, Any] | None:
    interest = Interest(
        lane=state.lane_of(user),
        watched=state.watched.values() if watched else (),
        view=state.view_of(user),
        pnl=True,
        positions=True,
        since=since,
        pnl_since=since,
        positions_since=since,
        merged=1,
    )
    (text,) = frames.updates([interest])
    if text is None:
        return None
    msgspec.json.decode(text, type=protocol.ServerMessage)
    decoded: dict[str, Any] = json.loads(text)
    return decoded


class TestStaging:
    def test_prices_wait_for_the_pnl_of_the_same_flush(self) -> None:
        state = state_at_flush()
        state.watch("BTCUSDT")
        state.offer_prices(price_flush(2, [price("BTCUSDT", "67000.15")]), 0.0)
        assert state.position == StreamPosition(7, 1)
        assert state.watched["BTCUSDT"].price is None

        state.offer_pnl(pnl_flush(1, 2), 0.01)
        assert state.position == StreamPosition(7, 2)
        assert state.watched["BTCUSDT"].price is not None

    def test_prices_go_alone_when_pnl_is_late(self) -> None:
        state = state_at_flush()
        state.offer_prices(price_flush(2), 0.0)
        assert not state.commit_overdue(STAGING_S / 2)
        assert state.commit_overdue(STAGING_S)
        assert state.position == StreamPosition(7, 2)

    def test_prices_do_not_wait_at_all_while_pnl_is_known_to_be_away(self) -> None:
        state = state_at_flush()
        state.check_silence(1.5)
        state.offer_prices(price_flush(2), 1.6)
        assert state.position == StreamPosition(7, 2)

    def test_the_board_for_rest_does_not_wait(self) -> None:
        state = state_at_flush()
        state.offer_prices(price_flush(2, [price("BTCUSDT", "67000.15")]), 0.0)
        assert state.board.prices["BTCUSDT"].price == Decimal("67000.15")

    def test_late_pnl_still_moves_the_stream_forward(self) -> None:
        state, trader = state_with_alice()
        state.offer_prices(price_flush(2), 0.0)
        state.commit_overdue(1.0)
        state.offer_pnl(pnl_flush(2, 2, [trader], PRICES), 1.1)
        assert state.position == StreamPosition(7, 2, 1)
        state.offer_pnl(pnl_flush(3, 2, [trader], PRICES, revision=1), 1.2)
        assert state.position == StreamPosition(7, 2, 2)

    def test_the_sequence_never_repeats_even_when_a_flush_runs_out_of_revisions(self) -> None:
        state, trader = state_with_alice()
        seen = set()
        for sequence in range(2, 150):
            state.offer_pnl(pnl_flush(sequence, 1, [trader], PRICES), 0.0)
            seen.add((state.step, state.position.seq))
        assert len({step for step, _ in seen}) == len({seq for _, seq in seen})
        assert max(seq for _, seq in seen) == 199

    def test_heartbeats_use_no_place_up_so_changes_show_however_long_no_prices_come(self) -> None:
        state, trader = state_with_alice()
        for sequence in range(2, 202):
            state.offer_pnl(pnl_flush(sequence, 1), 0.5)
        before = state.step

        trader.ledger_seq = 2
        state.offer_pnl(pnl_flush(202, 1, users=[trader.update(full=False)], revision=1), 0.5)

        assert state.step == before + 1

    def test_a_gap_is_reported_and_the_hash_heals_it(self) -> None:
        state = state_at_flush()
        state.watch("BTCUSDT")
        assert state.offer_prices(price_flush(4), 0.0) == "gap"
        state.load_prices(PriceHead(7, 4, T0, LIVE), {"BTCUSDT": price("BTCUSDT", "1")}, 0.0)
        assert state.watched["BTCUSDT"].price is not None
        assert state.offer_prices(price_flush(4), 0.0) == "old"
        assert state.offer_prices(price_flush(5), 0.0) == "applied"

    def test_an_older_price_epoch_is_refused(self) -> None:
        state = state_at_flush()
        assert state.offer_prices(price_flush(9, epoch=6), 0.0) == "old"

    def test_the_staging_place_is_bounded(self) -> None:
        state = state_at_flush()
        for flush in range(2, 200):
            state.offer_prices(price_flush(flush), 0.0)
        assert state.position.flush > 150


class TestStaleness:
    def test_a_price_becomes_stale_by_the_price_workers_clock_and_says_so_once(self) -> None:
        state = state_at_flush()
        state.watch("BTCUSDT")
        state.check_silence(1.5)
        state.offer_prices(price_flush(2, [price("BTCUSDT", "67000", fresh_ms=T0)], as_of_ms=T0), 1.6)
        before = state.ordinal
        state.offer_prices(price_flush(3, as_of_ms=T0 + 5000), 1.7)
        assert update_of(state, before) is None

        state.offer_prices(price_flush(4, as_of_ms=T0 + 5001), 1.8)
        stale = update_of(state, before)
        assert stale is not None
        assert stale["prices"][0]["is_stale"] is True

        before = state.ordinal
        state.offer_prices(price_flush(5, as_of_ms=T0 + 5101), 1.9)
        assert update_of(state, before) is None

    def test_a_price_that_keeps_coming_does_not_become_stale(self) -> None:
        state = state_at_flush()
        watched = state.watch("BTCUSDT")
        state.check_silence(1.5)
        for flush in range(2, 200):
            moment = T0 + flush * 100
            state.offer_prices(price_flush(flush, [price("BTCUSDT", "1", fresh_ms=moment)], as_of_ms=moment), 1.6)
            assert not watched.is_stale

    def test_without_flushes_everything_is_stale_once_and_the_feed_is_down(self) -> None:
        state, _ = state_with_alice()
        state.watch("BTCUSDT")
        state.offer_prices(price_flush(2, [price("BTCUSDT", "67000", fresh_ms=T0)], as_of_ms=T0), 0.1)
        state.offer_pnl(pnl_flush(2, 2), 0.1)
        before = state.ordinal
        assert state.check_silence(3.5)
        frame = update_of(state, before)
        assert frame is not None
        assert frame["prices"][0]["is_stale"] is True
        assert frame["pnl"]["is_stale"] is True
        assert [row["is_stale"] for row in frame["positions"]] == [True, True]
        assert state.health.feed() == Feed(state="down", source="binance", age_ms=None)
        assert not state.check_silence(4.0)

    def test_what_is_found_at_the_start_is_not_live_before_the_first_flush(self) -> None:
        state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        old = price("BTCUSDT", "1", fresh_ms=T0)
        state.load_prices(PriceHead(7, 1, T0, LIVE), {"BTCUSDT": old}, 0.0)
        watched = state.watch("BTCUSDT")
        assert (watched.is_stale, state.health.feed().state) == (True, "down")

        state.offer_prices(price_flush(2, as_of_ms=T0 + 7_200_000), 0.1)
        assert watched.is_stale
        state.offer_prices(
            price_flush(3, [price("BTCUSDT", "2", fresh_ms=T0 + 7_200_000)], as_of_ms=T0 + 7_200_100), 0.2
        )
        state.commit_overdue(0.4)
        assert (watched.is_stale, state.health.feed().state) == (False, "live")

    def test_the_first_flush_after_a_silence_makes_everything_fresh_again(self) -> None:
        state, _ = state_with_alice()
        state.watch("BTCUSDT")
        state.offer_prices(price_flush(2, [price("BTCUSDT", "67000", fresh_ms=T0)], as_of_ms=T0), 0.1)
        state.check_silence(3.5)
        state.offer_prices(price_flush(3, as_of_ms=T0 + 1000), 3.6)
        assert not state.watched["BTCUSDT"].is_stale
        assert state.health.feed().state == "live"

    def test_flushes_that_are_read_seconds_late_are_shown_as_stale_until_the_process_has_caught_up(self) -> None:
        state = state_at_flush()
        watched = state.watch("BTCUSDT")
        for tenth in range(1, 100):
            # Ten a second are sent, but from the third second on only five a second are read.
            now = tenth / 10 if tenth <= 30 else 3 + (tenth - 30) / 5
            moment = T0 + tenth * 100
            fresh = [price("BTCUSDT", str(tenth), fresh_ms=moment)]
            state.offer_prices(price_flush(1 + tenth, fresh, as_of_ms=moment), now)
            state.check_silence(now)
            state.commit_overdue(now + 1)
            behind_s = now - tenth / 10
            assert watched.is_stale is (behind_s > 3.001), behind_s
        assert state.health.degraded == ["prices", "pnl"]

        moment = T0 + 17_000
        state.offer_prices(price_flush(101, [price("BTCUSDT", "1", fresh_ms=moment)], as_of_ms=moment), 17.1)
        state.commit_overdue(18.0)
        assert not watched.is_stale

    def test_another_price_worker_counts_by_another_clock(self) -> None:
        state = state_at_flush()
        watched = state.watch("BTCUSDT")
        moment = T0 - 3_600_000
        successor = price_flush(1, [price("BTCUSDT", "1", fresh_ms=moment)], epoch=8, as_of_ms=moment)
        state.load_prices(PriceHead(8, 1, moment, LIVE), {}, 1.0)
        state.offer_prices(successor, 1.0)
        state.offer_prices(price_flush(2, [price("BTCUSDT", "2", fresh_ms=moment)], epoch=8, as_of_ms=moment), 1.1)
        state.commit_overdue(2.0)
        assert not watched.is_stale

    def test_silent_pnl_is_named_and_marked_while_prices_stay_live(self) -> None:
        state, _ = state_with_alice()
        for tenth in range(1, 40):
            state.offer_prices(price_flush(1 + tenth, as_of_ms=T0 + tenth * 100), tenth / 10)
        before = state.ordinal
        state.check_silence(3.9)
        frame = update_of(state, before)
        assert state.health.degraded == ["pnl"]
        assert state.health.feed().state == "live"
        assert frame is not None
        assert frame["pnl"]["is_stale"] is True

    def test_a_stale_mark_marks_the_row_and_the_total(self) -> None:
        state, _trader = state_with_alice()
        before = state.ordinal
        state.offer_pnl(pnl_flush(2, 2, [], {"ETHUSDT": "2499.5"}, stale=["ETHUSDT"]), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        assert frame["pnl"]["is_stale"] is True
        assert [(row["symbol"], row["is_stale"]) for row in frame["positions"]] == [("ETHUSDT", True)]


class TestFigures:
    def test_rows_and_total_of_a_frame_add_up_exactly(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        moved = {"BTCUSDT": "66999.123456789", "ETHUSDT": "2501.000000001"}
        state.offer_pnl(pnl_flush(2, 2, [trader], moved), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        rows = {row["symbol"]: Decimal(row["unrealized_pnl"]) for row in frame["positions"]}
        assert rows["BTCUSDT"] == Decimal("0.5") * Decimal("66999.123456789") - Decimal("0.5") * Decimal("64000.10")
        assert rows["ETHUSDT"] == Decimal(-3) * Decimal("2501.000000001") + 3 * Decimal(2500)
        assert sum(rows.values()) == Decimal(frame["pnl"]["unrealized_pnl"])
        assert Decimal(frame["pnl"]["realized_pnl"]) == Decimal("-0.2")
        assert Decimal(frame["pnl"]["total_pnl"]) == sum(rows.values()) - Decimal("0.2")
        assert frame["pnl"]["equity"] == frame["pnl"]["total_pnl"]

    def test_amounts_beyond_64_bits_survive(self) -> None:
        state = state_at_flush()
        whale = Trader("alice", 0, {0: position("p", "BTCUSDT", "1000000", "1")})
        state.offer_pnl(pnl_flush(1, 1, [whale], {"BTCUSDT": "70000.5"}, users=[whale.update(full=True)]), 0.0)
        snapshot = json.loads(frames.pnl_snapshot(state, state.mirror.users["alice"]))
        assert snapshot["pnl"]["unrealized_pnl"] == "69999500000"
        assert snapshot["pnl"]["gross_exposure"] == "70000500000"

    def test_only_rows_that_moved_are_in_an_update(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        only_btc = Trader("alice", 4, {10: trader.held[10]})
        state.offer_pnl(pnl_flush(2, 2, [only_btc], {"BTCUSDT": "1"}), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        assert [row["position_id"] for row in frame["positions"]] == ["p1"]

    def test_a_position_without_a_price_is_null_and_named(self) -> None:
        state, trader = state_at_flush(), alice()
        users = [trader.update(full=True)]
        state.offer_pnl(pnl_flush(1, 1, [trader], {"BTCUSDT": "67000.15"}, users=users), 0.0)
        view = state.mirror.users["alice"]
        totals = json.loads(frames.pnl_snapshot(state, view))["pnl"]
        rows = {row["symbol"]: row for row in json.loads(frames.positions_snapshot(state, view))["positions"]}
        assert rows["ETHUSDT"]["unrealized_pnl"] is None
        assert rows["ETHUSDT"]["mark_price"] is None
        assert totals["unpriced"] == ["ETHUSDT"]
        assert totals["is_complete"] is False
        assert totals["unrealized_pnl"] == rows["BTCUSDT"]["unrealized_pnl"]

    def test_a_priced_row_whose_figure_never_came_is_null_not_zero(self) -> None:
        state, trader = state_at_flush(), alice()
        state.offer_pnl(pnl_flush(1, 1, [], PRICES, users=[trader.update(full=True)]), 0.0)
        rows = json.loads(frames.positions_snapshot(state, state.mirror.users["alice"]))["positions"]
        assert [row["unrealized_pnl"] for row in rows] == [None, None]

    def test_a_position_in_another_asset_counts_at_the_rate(self) -> None:
        state, trader = state_with_bitcoin()
        now = {"BTCUSDT": "110", "ETHBTC": "0.06"}
        flush = pnl_flush(1, 1, [trader], now, users=[trader.update(full=True)], rates={"BTC": "110"})
        state.offer_pnl(flush, 0.0)
        view = state.mirror.users["alice"]
        totals = json.loads(frames.pnl_snapshot(state, view))["pnl"]
        rows = {row["symbol"]: row for row in json.loads(frames.positions_snapshot(state, view))["positions"]}
        assert (totals["unrealized_pnl"], totals["gross_exposure"]) == ("11.1", "116.6")
        assert (rows["ETHBTC"]["unrealized_pnl"], rows["ETHBTC"]["unrealized_pnl_reported"]) == ("0.01", "1.1")
        assert [rows[symbol]["rate_to_reporting"] for symbol in ("BTCUSDT", "ETHBTC")] == ["1", "110"]
        assert totals["is_complete"] is True

    def test_without_a_rate_the_position_and_the_asset_are_named(self) -> None:
        state, trader = state_with_bitcoin()
        now = {"BTCUSDT": "110", "ETHBTC": "0.06"}
        state.offer_pnl(pnl_flush(1, 1, [trader], now, users=[trader.update(full=True)]), 0.0)
        view = state.mirror.users["alice"]
        totals = json.loads(frames.pnl_snapshot(state, view))["pnl"]
        rows = {row["symbol"]: row for row in json.loads(frames.positions_snapshot(state, view))["positions"]}
        assert totals["unrealized_pnl"] == "10"
        assert totals["unpriced"] == ["BTC", "ETHBTC"]
        assert totals["is_complete"] is False
        assert (rows["ETHBTC"]["unrealized_pnl"], rows["ETHBTC"]["unrealized_pnl_reported"]) == ("0.01", None)

    def test_a_rate_that_moves_alone_is_told_with_the_rows_and_the_effect_on_balances(self) -> None:
        state, trader = state_with_bitcoin()
        now = {"BTCUSDT": "110", "ETHBTC": "0.06"}
        flush = pnl_flush(1, 1, [trader], now, users=[trader.update(full=True)], rates={"BTC": "110"})
        state.offer_pnl(flush, 0.0)
        before = state.ordinal
        moved = pnl_flush(2, 2, [trader], now, rates={"BTC": "120"})
        state.offer_pnl(msgspec.structs.replace(moved, marks=[], row_unrealized=columns({})), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        (row,) = frame["positions"]
        assert (row["rate_to_reporting"], row["unrealized_pnl"], row["unrealized_pnl_reported"]) == (
            "120",
            "0.01",
            "1.2",
        )
        # Two coins were deposited at 100 each.
        assert frame["pnl"]["fx_pnl"] == "40"
        assert "net_deposits" not in frame["pnl"]
        assert frame["pnl"]["unrealized_pnl"] == "11.2"
        assert Decimal(frame["pnl"]["equity"]) == 200 + Decimal(frame["pnl"]["total_pnl"]) + 40

    def test_a_stale_rate_makes_its_rows_and_the_total_stale(self) -> None:
        state, trader = state_with_bitcoin()
        now = {"BTCUSDT": "110", "ETHBTC": "0.06"}
        state.offer_pnl(pnl_flush(1, 1, [trader], now, users=[trader.update(full=True)], rates={"BTC": "110"}), 0.0)
        before = state.ordinal
        state.offer_pnl(pnl_flush(2, 2, [trader], now, rates={"BTC": "110"}, stale=["BTC"]), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        assert {row["symbol"]: row["is_stale"] for row in frame["positions"]} == {"BTCUSDT": False, "ETHBTC": True}
        assert frame["pnl"]["is_stale"] is True

    def test_a_transfer_is_told_with_the_equity_it_makes(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        trader.net_deposits = 500 * 10**18
        state.offer_pnl(pnl_flush(2, 2, [], {}, users=[trader.update(full=False, rows=[])]), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        assert (frame["pnl"]["net_deposits"], frame["pnl"]["fx_pnl"]) == ("500", "0")
        assert Decimal(frame["pnl"]["equity"]) == 500 + Decimal(frame["pnl"]["total_pnl"])


class TestStructure:
    def test_a_snapshot_holds_every_field_of_the_contract(self) -> None:
        state, _ = state_with_alice()
        view = state.mirror.users["alice"]
        strict = msgspec.json.Decoder(protocol.Snapshot)
        pnl = strict.decode(frames.pnl_snapshot(state, view))
        positions = strict.decode(frames.positions_snapshot(state, view))
        assert isinstance(pnl.pnl, protocol.TotalsRow)
        assert isinstance(positions.positions, list)
        fields = {field for row in json.loads(frames.positions_snapshot(state, view))["positions"] for field in row}
        assert fields == set(protocol.PositionRow.__struct_fields__)
        totals = json.loads(frames.pnl_snapshot(state, view))["pnl"]
        assert set(totals) == set(protocol.TotalsRow.__struct_fields__)

    def test_an_opened_position_comes_whole(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        trader.held[12] = position("p3", "BTCUSDT", "1", "66000")
        news = trader.update(full=False, rows=[row_update(12, trader.held[12])])
        state.offer_pnl(pnl_flush(2, 2, [trader], PRICES, users=[news]), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        opened = next(row for row in frame["positions"] if row["position_id"] == "p3")
        assert set(opened) == set(protocol.PositionRow.__struct_fields__)
        assert opened["unrealized_pnl"] == "1000.15"
        assert opened["total_pnl"] == "1000.05"

    def test_a_closed_position_comes_once_with_its_status(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        gone = closed(trader.held.pop(10), "67000.15")
        trader.gone.append(gone)
        news = trader.update(full=False, rows=[row_update(10, gone)], removed=[10])
        state.offer_pnl(pnl_flush(2, 2, [trader], PRICES, users=[news]), 0.1)
        frame = update_of(state, before)
        assert frame is not None
        row = next(row for row in frame["positions"] if row["position_id"] == "p1")
        assert (row["status"], row["unrealized_pnl"], row["market_value"]) == ("closed", "0", "0")
        assert row["total_pnl"] == row["realized_pnl"] == "1499.925"
        assert Decimal(frame["pnl"]["unrealized_pnl"]) == Decimal("1.5")

        before = state.ordinal
        state.offer_pnl(pnl_flush(3, 3, [trader], PRICES), 0.2)
        frame = update_of(state, before)
        assert frame is not None
        assert [row["position_id"] for row in frame["positions"]] == ["p2"]

    def test_a_row_that_vanishes_without_a_word_makes_the_base_void(self) -> None:
        state, trader = state_with_alice()
        before = state.mirror.users["alice"].reset
        state.offer_pnl(pnl_flush(2, 2, users=[trader.update(full=False, rows=[], removed=[10])]), 0.1)
        assert state.mirror.users["alice"].reset > before


class TestSequence:
    def test_an_older_book_epoch_is_dropped_and_counted(self) -> None:
        state, trader = state_with_alice()
        before = state.ordinal
        assert state.offer_pnl(pnl_flush(9, 9, [trader], {"BTCUSDT": "1"}, book_epoch=2), 0.1) == "old"
        assert state.ordinal == before
        assert state.mirror.old_epochs == 1

    def test_a_newer_book_epoch_voids_slots_and_users(self) -> None:
        state, _ = state_with_alice()
        bob = Trader("bob", 4, {10: position("b1", "BTCUSDT", "1", "1", user_id="bob")})
        state.offer_pnl(pnl_flush(1, 2, [bob], PRICES, users=[bob.update(full=True)], book_epoch=4), 0.1)
        assert set(state.mirror.users) == {"bob"}

    def test_a_hole_voids_users_until_they_come_whole(self) -> None:
        state, trader = state_with_alice()
        assert state.offer_pnl(pnl_flush(3, 3, [trader], PRICES), 0.1) == "hole"
        assert state.mirror.users == {}
        news = trader.update(full=False, rows=[])
        state.offer_pnl(pnl_flush(4, 4, [trader], PRICES, users=[news]), 0.1)
        assert state.mirror.users == {}
        state.offer_pnl(pnl_flush(5, 5, [trader], PRICES, users=[trader.update(full=True)]), 0.1)
        assert set(state.mirror.users) == {"alice"}

    def test_a_repeated_message_is_dropped(self) -> None:
        state, trader = state_with_alice()
        assert state.offer_pnl(pnl_flush(1, 1, [trader], PRICES), 0.1) == "old"

    def test_users_who_are_not_here_are_not_kept(self) -> None:
        state = StreamState(stale_after_ms=5000, is_wanted=lambda user: user == "bob", now=0.0)
        trader = alice()
        state.offer_pnl(pnl_flush(1, 1, [trader], PRICES, users=[trader.update(full=True)]), 0.0)
        assert state.mirror.users == {}

    def test_a_message_that_contradicts_itself_is_refused(self) -> None:
        state, trader = state_with_alice()
        broken = pnl_flush(2, 2, [trader], PRICES)
        broken = msgspec.structs.replace(
            broken, user_unrealized=msgspec.structs.replace(broken.user_unrealized, low=b"")
        )
        with pytest.raises(ValueError, match="different lengths"):
            state.offer_pnl(broken, 0.1)

    def test_slots_far_beyond_what_was_seen_are_taken(self) -> None:
        state = state_at_flush()
        trader = Trader("alice", 500_000, {900_000: position("p", "BTCUSDT", "1", "1")})
        state.offer_pnl(pnl_flush(1, 1, [trader], {"BTCUSDT": "3"}, users=[trader.update(full=True)]), 0.0)
        assert json.loads(frames.pnl_snapshot(state, state.mirror.users["alice"]))["pnl"]["unrealized_pnl"] == "2"


def test_a_mark_without_a_price_unprices_its_rows() -> None:
    state, _trader = state_with_alice()
    before = state.ordinal
    gone = msgspec.structs.replace(pnl_flush(2, 2), marks=[MarkUpdate("ETHUSDT", None, None, False, 0)])
    state.offer_pnl(gone, 0.1)
    frame = update_of(state, before)
    assert frame is not None
    assert frame["pnl"]["unpriced"] == ["ETHUSDT"]
    assert frame["positions"][0]["unrealized_pnl"] is None
