"""Users split over several P&L workers: nothing of one shard may touch another's users."""

import json
from typing import Any

import msgspec
import pytest

from app.bus.messages import PnlFlush, PriceHead
from app.domain.prices import StreamPosition
from app.domain.shards import shard_of
from app.websocket import frames
from app.websocket.state import STAGING_S, StreamState
from tests.websocket.market import LIVE, Trader, pnl_flush, position, price, price_flush

ADA, BOB = "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"
T0 = 1_000_000


def ada() -> Trader:
    """Of shard 0, in slots that Bob has in shard 1."""
    return Trader(ADA, 4, {10: position("ada-btc", "BTCUSDT", "1", "60000", user_id=ADA)})


def bob() -> Trader:
    return Trader(BOB, 4, {10: position("bob-eth", "ETHUSDT", "-2", "2000", user_id=BOB)})


class Split:
    """The state of a web process, and two shards that talk to it."""

    def __init__(self, *users: str, layout: int = 1, shards: int = 2) -> None:
        self.state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        self.state.load_prices(PriceHead(7, 0, T0, LIVE), {}, 0.0)
        self.state.offer_prices(price_flush(1, as_of_ms=T0), 0.0)
        self.state.commit_overdue(STAGING_S)
        self.layout, self.shards = layout, shards
        self.sequences = dict.fromkeys(range(shards), 0)
        for user in users or (ADA, BOB):
            self.state.arrive(user)

    def said(
        self, shard: int, flush: int, traders: list[Trader], prices: dict[str, str], *, full: bool = False, **more: Any
    ) -> PnlFlush:
        self.sequences[shard] += 1
        users = [trader.update(full=True) for trader in traders] if full else []
        message = pnl_flush(self.sequences[shard], flush, traders, prices, users=users, **more)
        return msgspec.structs.replace(message, shard=shard, shards=self.shards, layout=self.layout)

    def say(self, shard: int, flush: int, traders: list[Trader], prices: dict[str, str], **more: Any) -> str:
        now = more.pop("now", 0.0)
        return self.state.offer_pnl(self.said(shard, flush, traders, prices, **more), now)

    def unrealized(self, user: str) -> str | None:
        view = self.state.view_of(user)
        if view is None:
            return None
        figures: str = json.loads(frames.pnl_snapshot(self.state, view))["pnl"]["unrealized_pnl"]
        return figures

    def place(self, user: str) -> StreamPosition:
        return self.state.lane_of(user).position


BTC, ETH = {"BTCUSDT": "61000"}, {"ETHUSDT": "1900"}


def loaded(**more: Any) -> Split:
    split = Split(**more)
    split.say(0, 1, [ada()], BTC, full=True)
    split.say(1, 1, [bob()], ETH, full=True)
    return split


def test_the_users_are_of_different_shards() -> None:
    assert [shard_of(user, 2) for user in (ADA, BOB)] == [0, 1]


class TestSlots:
    def test_the_same_slots_of_two_shards_do_not_mix(self) -> None:
        split = loaded()

        assert (split.unrealized(ADA), split.unrealized(BOB)) == ("1000", "200")
        split.say(0, 2, [ada()], {"BTCUSDT": "62000"})
        assert (split.unrealized(ADA), split.unrealized(BOB)) == ("2000", "200")

    def test_in_one_mirror_they_would(self) -> None:
        """The control: told as one shard, the later figures show up with the wrong user."""
        state = StreamState(stale_after_ms=5000, is_wanted=lambda user: True, now=0.0)
        state.load_prices(PriceHead(7, 1, T0, LIVE), {}, 0.0)
        state.offer_pnl(pnl_flush(1, 1, [ada()], BTC, users=[ada().update(full=True)]), 0.0)
        state.offer_pnl(pnl_flush(2, 1, [bob()], ETH, users=[bob().update(full=True)], revision=1), 0.0)

        view = state.view_of(ADA)
        assert view is not None
        assert json.loads(frames.pnl_snapshot(state, view))["pnl"]["unrealized_pnl"] == "200"

    def test_a_user_told_by_the_wrong_shard_is_not_taken(self) -> None:
        split = Split()
        split.say(1, 1, [ada()], BTC, full=True)

        assert all(not lane.mirror.users for lane in split.state.lanes)

    def test_stale_marks_of_one_shard_do_not_reach_the_other(self) -> None:
        split = loaded()
        split.say(1, 2, [bob()], {"ETHUSDT": "1900", "BTCUSDT": "1"}, stale=["BTCUSDT", "ETHUSDT"])

        ada_view, bob_view = split.state.view_of(ADA), split.state.view_of(BOB)
        assert ada_view is not None
        assert bob_view is not None
        assert not json.loads(frames.pnl_snapshot(split.state, ada_view))["pnl"]["is_stale"]
        assert json.loads(frames.pnl_snapshot(split.state, bob_view))["pnl"]["is_stale"]


class TestStaging:
    def test_prices_wait_for_all_shards_and_show_with_the_figures_of_all(self) -> None:
        split = loaded()
        before = split.place(ADA)
        split.state.watch("BTCUSDT")
        split.state.offer_prices(price_flush(2, [price("BTCUSDT", "62000")]), 0.1)

        assert split.say(0, 2, [ada()], {"BTCUSDT": "62000"}) == "waiting"
        assert (split.unrealized(ADA), split.place(ADA)) == ("1000", before)
        assert split.state.watched["BTCUSDT"].price is None

        assert split.say(1, 2, [bob()], ETH) == "applied"
        assert (split.unrealized(ADA), split.place(ADA)) == ("2000", StreamPosition(7, 2))
        assert split.place(BOB) == StreamPosition(7, 2)
        assert split.state.watched["BTCUSDT"].price is not None

    def test_the_order_in_which_shards_speak_makes_no_difference(self) -> None:
        splits = [loaded(), loaded()]
        for split, order in zip(splits, ((0, 1), (1, 0)), strict=True):
            split.state.offer_prices(price_flush(2), 0.1)
            for shard in order:
                split.say(shard, 2, [ada() if shard == 0 else bob()], BTC if shard == 0 else ETH)
            split.say(0, 2, [ada()], {"BTCUSDT": "60500"}, revision=1)

        one, other = ([(s.unrealized(user), s.place(user)) for user in (ADA, BOB)] for s in splits)
        assert one == other == [("500", StreamPosition(7, 2, 1)), ("200", StreamPosition(7, 2))]

    def test_a_late_shard_holds_the_others_up_no_longer_than_it_may(self) -> None:
        split = loaded()
        split.state.offer_prices(price_flush(2), 0.1)
        split.say(0, 2, [ada()], {"BTCUSDT": "62000"})

        assert split.state.commit_overdue(0.1 + STAGING_S)
        assert (split.unrealized(ADA), split.place(ADA)) == ("2000", StreamPosition(7, 2))

    def test_what_came_of_a_flush_and_after_it_is_shown_in_order(self) -> None:
        split = loaded()
        split.state.offer_prices(price_flush(2), 0.1)
        split.say(0, 2, [ada()], {"BTCUSDT": "62000"})
        split.say(0, 2, [ada()], {"BTCUSDT": "63000"}, revision=1)
        split.say(1, 2, [bob()], ETH)

        assert (split.unrealized(ADA), split.place(ADA)) == ("3000", StreamPosition(7, 2, 1))
        assert split.place(BOB) == StreamPosition(7, 2)
        assert split.state.take_doubtful() == {}

    def test_a_shard_without_users_here_is_not_waited_for(self) -> None:
        split = Split(ADA)
        split.say(0, 1, [ada()], BTC, full=True)
        split.state.offer_prices(price_flush(2), 0.1)

        assert split.say(0, 2, [ada()], {"BTCUSDT": "62000"}) == "applied"

    def test_a_shard_known_to_be_away_is_not_waited_for(self) -> None:
        split = loaded()
        split.say(0, 1, [ada()], BTC, revision=1, now=1.4)
        split.state.check_silence(1.5)
        split.state.offer_prices(price_flush(2), 1.6)

        assert split.say(0, 2, [ada()], {"BTCUSDT": "62000"}, now=1.6) == "applied"

    def test_a_broken_message_that_waited_costs_only_its_own_shard(self) -> None:
        split = loaded()
        split.state.offer_prices(price_flush(2), 0.1)
        broken = split.said(0, 2, [ada()], BTC)
        columns = msgspec.structs.replace(broken.user_unrealized, low=b"")
        split.state.offer_pnl(msgspec.structs.replace(broken, user_unrealized=columns), 0.1)
        split.say(1, 2, [bob()], {"ETHUSDT": "1800"})

        assert (split.unrealized(ADA), split.unrealized(BOB)) == (None, "400")
        assert list(split.state.take_doubtful()) == [0]


class TestSilence:
    def test_only_the_users_of_a_silent_shard_are_stale_while_all_are_told_that_pnl_is_degraded(self) -> None:
        split = loaded()
        for tenth in range(1, 40):
            flush = price_flush(1 + tenth, [], as_of_ms=T0 + tenth * 100)
            split.state.offer_prices(flush, tenth / 10)
            split.say(0, 1 + tenth, [ada()], BTC, now=tenth / 10)
            split.state.commit_overdue(tenth / 10 + STAGING_S)
            split.state.check_silence(tenth / 10)

        stale = {
            user: json.loads(frames.pnl_snapshot(split.state, view))["pnl"]["is_stale"]
            for user in (ADA, BOB)
            if (view := split.state.view_of(user)) is not None
        }
        assert stale == {ADA: False, BOB: True}
        assert split.state.health.degraded == ["pnl"]

        split.say(1, 40, [bob()], ETH, full=True, book_epoch=4, now=4.0)
        assert split.state.health.degraded == []
        assert split.unrealized(BOB) == "200"

    def test_the_silence_of_a_shard_that_nobody_here_needs_is_not_told(self) -> None:
        split = Split(ADA)
        split.say(0, 1, [ada()], BTC, full=True, now=1.5)
        split.state.check_silence(2.0)
        assert split.state.health.degraded == []

        split.say(0, 1, [ada()], BTC, revision=1, now=2.5)
        split.state.arrive(BOB)
        split.state.check_silence(2.6)
        assert split.state.health.degraded == ["pnl"]


class TestTakeover:
    def test_a_new_epoch_of_one_shard_voids_nothing_of_another(self) -> None:
        split = loaded()
        split.sequences[1] = 0
        split.say(1, 2, [], {}, book_epoch=4)

        assert (split.unrealized(ADA), split.unrealized(BOB)) == ("1000", None)

    def test_epochs_of_different_shards_are_not_compared(self) -> None:
        split = loaded()
        split.say(1, 2, [bob()], ETH, full=True, book_epoch=9)

        assert split.say(0, 2, [ada()], {"BTCUSDT": "62000"}) == "applied"

    def test_a_hole_in_one_shard_is_asked_for_there_and_nowhere_else(self) -> None:
        split = loaded()
        split.sequences[0] += 1
        assert split.say(0, 2, [ada()], BTC) == "hole"

        assert split.state.take_doubtful() == {0: None}
        assert split.unrealized(BOB) == "200"


class TestLayout:
    def test_a_new_number_of_shards_is_shown_once_all_of_them_spoke(self) -> None:
        split = loaded()
        three = Split(layout=2, shards=3)
        traders = {shard_of(user, 3): trader() for user, trader in ((ADA, ada), (BOB, bob))}
        for shard in range(2):
            message = three.said(shard, 2, [traders[shard]], BTC | ETH, full=True)
            assert split.state.offer_pnl(message, 0.1) == "old"
        assert (split.unrealized(ADA), split.unrealized(BOB)) == ("1000", "200")

        split.state.offer_pnl(three.said(2, 2, [], {}), 0.2)

        assert len(split.state.lanes) == 3
        assert list(split.state.take_doubtful()) == [0, 1, 2]  # what was not listened to is asked for
        assert [split.unrealized(user) for user in (ADA, BOB)] == [None, None]
        split.state.offer_pnl(three.said(0, 3, [traders[0]], BTC, full=True), 0.3)
        assert split.unrealized(ADA) == "1000"

    def test_the_stream_goes_on_past_where_it_was(self) -> None:
        split = loaded()
        split.say(1, 1, [bob()], ETH, revision=5)
        before, steps = split.place(BOB), split.state.lane_of(BOB).step
        one = Split(layout=2, shards=1)
        split.state.offer_pnl(one.said(0, 1, [bob()], ETH, full=True), 0.1)

        assert split.place(BOB) > before
        assert split.state.lane_of(BOB).step > steps

    def test_an_old_number_of_shards_is_not_listened_to(self) -> None:
        split = loaded(layout=2)
        old = Split(layout=1, shards=1)

        assert split.state.offer_pnl(old.said(0, 9, [ada()], {"BTCUSDT": "1"}), 0.1) == "old"
        assert split.unrealized(ADA) == "1000"

    def test_where_the_old_shards_are_silent_the_new_ones_are_not_waited_for(self) -> None:
        split = loaded()
        split.state.check_silence(3.5)
        three = Split(layout=2, shards=3)

        split.state.offer_pnl(three.said(0, 2, [], {}), 3.6)

        assert len(split.state.lanes) == 3

    def test_a_message_that_names_another_number_in_the_same_layout_is_refused(self) -> None:
        split = loaded()
        with pytest.raises(ValueError, match="shard"):
            split.state.offer_pnl(msgspec.structs.replace(split.said(0, 2, [], {}), shards=5), 0.1)
