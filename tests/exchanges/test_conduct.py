"""The rules of conduct: pacing, weight, back-off, liveness, subscriptions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.exchanges.binance.backoff import Backoff
from app.exchanges.binance.interest import Allocation, Interest
from app.exchanges.binance.liveness import ConnectionState, Liveness
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.subscriptions import Refusals, Subscriptions
from app.exchanges.binance.timing import Timing
from app.exchanges.binance.weights import WeightBudget

# Quarters of a second are exact in binary, so that equal moments are equal.
moments = st.integers(0, 40).map(lambda quarters: quarters / 4)


class TestPacing:
    @given(st.lists(moments, max_size=60), st.integers(1, 6))
    def test_no_rolling_window_ever_holds_more_than_the_limit(self, pauses: list[float], limit: int) -> None:
        pacing = RollingLimit(limit, 1.0)
        now, sent = 0.0, []
        for pause in pauses:
            now += pause
            now += pacing.delay_s(now)
            assert pacing.delay_s(now) == 0.0
            pacing.spend(now)
            sent.append(now)

        for start in sent:
            assert sum(start <= at < start + 1.0 for at in sent) <= limit

    def test_what_could_not_wait_delays_what_can(self) -> None:
        pacing = RollingLimit(4, 1.0)
        for _ in range(6):
            pacing.spend(0.5)

        assert pacing.delay_s(0.75) == 0.75


class TestBackoff:
    @given(st.integers(1, 200), st.floats(0.01, 5), st.floats(1, 100), st.integers())
    def test_a_delay_is_within_the_bounds_of_full_jitter(
        self, failures: int, base_s: float, cap_s: float, seed: int
    ) -> None:
        backoff = Backoff(base_s, cap_s, random.Random(seed).uniform)

        for n in range(failures):
            assert 0 <= backoff.next_delay_s() <= min(cap_s, base_s * 2**n)

    def test_the_jitter_is_full(self) -> None:
        low = Backoff(1.0, 30.0, lambda least, _: least)
        high = Backoff(1.0, 30.0, lambda _, most: most)

        assert [low.next_delay_s() for _ in range(3)] == [0.0, 0.0, 0.0]
        assert [high.next_delay_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]

    def test_what_the_server_asks_for_is_the_floor(self) -> None:
        assert Backoff(0.5, 30.0).next_delay_s(at_least_s=120.0) == 120.0

    def test_only_a_reset_starts_over(self) -> None:
        backoff = Backoff(1.0, 30.0, lambda _, most: most)
        backoff.next_delay_s()
        backoff.next_delay_s()
        backoff.reset()

        assert backoff.next_delay_s() == 1.0


calls = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 80), st.one_of(st.none(), st.integers(0, 2000))), max_size=60
)


class TestWeights:
    @given(calls)
    def test_a_third_of_the_limit_stays_unused_in_every_minute(
        self, calls: list[tuple[float, int, int | None]]
    ) -> None:
        budget = WeightBudget(limit=1000, unused_share=0.3)
        now = 0.0
        spent: dict[int, int] = {}
        for pause, weight, others in calls:
            now += pause
            if budget.delay_s(weight, now) == 0:
                budget.spend(weight, now)
                minute = int(now // 60)
                spent[minute] = spent.get(minute, 0) + weight
                assert spent[minute] <= 700
            if others is not None:
                budget.observe(others, now)

    def test_the_exchanges_own_count_is_believed_when_it_is_higher(self) -> None:
        budget = WeightBudget(limit=1000)
        budget.observe(699, 30.0)

        assert budget.delay_s(1, 30.0) == 0.0
        assert budget.delay_s(2, 30.0) == 30.0

    def test_a_new_minute_starts_from_nothing(self) -> None:
        budget = WeightBudget(limit=1000)
        budget.spend(700, 59.0)

        assert budget.delay_s(20, 59.0) == 1.0
        assert budget.delay_s(20, 60.0) == 0.0

    def test_nothing_is_asked_until_the_time_a_refusal_names(self) -> None:
        budget = WeightBudget()
        budget.refused(429, 17.0, 30.0)

        assert budget.delay_s(1, 31.0) == 16.0
        assert budget.delay_s(1, 47.0) == 0.0

    def test_a_clock_that_is_set_back_makes_no_wait_longer(self) -> None:
        budget = WeightBudget()
        budget.refused(429, 30.0, 100_000.0)

        assert budget.delay_s(1, 89_200.0) == 30.0
        assert budget.delay_s(1, 89_231.0) == 0.0

    def test_a_ban_without_a_time_lasts_two_minutes(self) -> None:
        assert WeightBudget().refused(418, None, 30.0) == 120.0

    def test_a_refusal_without_a_time_lasts_to_the_end_of_the_minute(self) -> None:
        assert WeightBudget().refused(429, None, 45.0) == 15.0

    def test_a_shorter_refusal_does_not_shorten_a_longer_one(self) -> None:
        budget = WeightBudget()
        budget.refused(418, 300.0, 0.0)
        budget.refused(429, 5.0, 1.0)

        assert budget.delay_s(1, 100.0) == 200.0


class TestLiveness:
    timing = Timing(first_data_s=8, stale_s=5, data_age_s=10, silence_s=60)

    def opened(self) -> Liveness:
        liveness = Liveness(self.timing)
        assert liveness.state(0.0) is ConnectionState.CONNECTING
        liveness.opened(0.0)
        return liveness

    def test_only_data_makes_a_connection_live(self) -> None:
        liveness = self.opened()
        assert liveness.state(1.0) is ConnectionState.OPEN
        liveness.acked()
        assert liveness.state(1.0) is ConnectionState.ACKED
        liveness.data(1.0)
        assert liveness.state(1.0) is ConnectionState.LIVE

    def test_a_connection_that_is_acknowledged_and_silent_is_given_up(self) -> None:
        liveness = self.opened()
        liveness.acked()
        liveness.frame(7.5)

        assert liveness.failure(7.9) is None
        assert liveness.failure(8.0) == "no first data arrived"

    def test_a_connection_whose_data_stops_turns_stale_and_is_then_given_up(self) -> None:
        liveness = self.opened()
        liveness.data(1.0)
        liveness.frame(10.5)

        assert liveness.state(6.5) is ConnectionState.STALE
        assert liveness.failure(10.9) is None
        assert liveness.failure(11.0) == "data stopped arriving"

    def test_a_stale_connection_turns_live_again_with_data(self) -> None:
        liveness = self.opened()
        liveness.data(1.0)
        liveness.data(7.0)

        assert liveness.state(7.0) is ConnectionState.LIVE

    def test_a_check_is_never_later_than_data_that_begins_and_stops_again_may_need_it(self) -> None:
        liveness = Liveness(Timing(first_data_s=100, data_age_s=10, silence_s=60))
        liveness.opened(0.0)

        assert liveness.check_at(1.0) == 11.0

    def test_a_ping_is_a_sign_of_life(self) -> None:
        patient = Liveness(Timing(first_data_s=1000, data_age_s=1000, silence_s=60))
        patient.opened(0.0)
        patient.frame(50.0)

        assert patient.failure(109.0) is None
        assert patient.failure(110.0) == "no frame of any kind arrived"
        assert patient.check_at(109.0) == 110.0


class TestSubscriptions:
    def test_a_batch_is_bounded_and_the_next_waits_for_its_answer(self) -> None:
        subscriptions = Subscriptions(2, Refusals())
        desired = {"a", "b", "c"}

        first = subscriptions.next_request(desired)
        assert first is not None
        assert (first.method, first.params, first.id) == ("SUBSCRIBE", ["a", "b"], 1)
        assert subscriptions.next_request(desired) is None
        subscriptions.confirm(1)
        second = subscriptions.next_request(desired)
        assert second is not None
        assert (second.params, second.id) == (["c"], 2)
        assert not subscriptions.is_settled(desired)
        subscriptions.confirm(2)
        assert subscriptions.is_settled(desired)
        assert subscriptions.next_request(desired) is None

    def test_what_nobody_wants_any_more_is_unsubscribed(self) -> None:
        subscriptions = Subscriptions(200, Refusals())
        subscriptions.next_request({"a", "b"})
        subscriptions.confirm(1)

        request = subscriptions.next_request({"b"})

        assert request is not None
        assert (request.method, request.params) == ("UNSUBSCRIBE", ["a"])

    def test_an_answer_to_something_else_changes_nothing(self) -> None:
        subscriptions = Subscriptions(200, Refusals())
        subscriptions.next_request({"a"})
        subscriptions.confirm(77)

        assert subscriptions.is_waiting
        assert not subscriptions.is_settled({"a"})

    def test_streams_of_a_refused_batch_are_tried_one_by_one_after_the_others(self) -> None:
        refusals = Refusals()
        first = Subscriptions(2, refusals)
        first.next_request({"bad", "good"})
        first.refuse(None)

        # The exchange has closed the connection; the next one knows what is in doubt.
        second = Subscriptions(2, refusals)
        desired = {"bad", "good", "new"}
        asked = []
        while (request := second.next_request(desired)) is not None:
            asked.append(request.params)
            second.refuse(request.id) if "bad" in request.params else second.confirm(request.id)

        assert asked == [["new"], ["bad"], ["good"]]
        assert refusals.refused == {"bad"}
        assert second.is_settled(desired)

    @given(st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=8), max_size=20), st.integers(1, 4))
    def test_whatever_is_desired_is_in_the_end_exactly_what_is_subscribed(
        self, wishes: list[set[str]], batch: int
    ) -> None:
        subscriptions = Subscriptions(batch, Refusals())
        at_exchange: set[str] = set()
        for desired in wishes:
            while (request := subscriptions.next_request(desired)) is not None:
                assert len(request.params) <= batch
                change = at_exchange.update if request.method == "SUBSCRIBE" else at_exchange.difference_update
                change(request.params)
                subscriptions.confirm(request.id)
            assert at_exchange == desired


class TestInterest:
    def test_a_symbol_lingers_after_nobody_wants_it(self) -> None:
        interest = Interest(linger_s=10)
        interest.update({"A"}, 0.0)

        assert interest.update(set(), 9.0) == {"A"}
        assert interest.update(set(), 11.0) == set()

    def test_a_symbol_wanted_again_does_not_go(self) -> None:
        interest = Interest(linger_s=10)
        interest.update({"A"}, 0.0)
        interest.update({"A"}, 9.0)

        assert interest.update(set(), 15.0) == {"A"}

    @given(st.lists(st.frozensets(st.integers(0, 30).map(str), max_size=25), min_size=1, max_size=15))
    def test_every_symbol_has_one_place_and_keeps_it(self, wishes: list[frozenset[str]]) -> None:
        allocation = Allocation(first_capacity=2, capacity=3)
        before: dict[str, int] = {}
        for wanted in wishes:
            places = allocation.assign(wanted)
            where = {symbol: number for number, place in enumerate(places) for symbol in place}
            assert where.keys() == wanted
            assert sum(map(len, places)) == len(wanted)
            assert len(places[0]) <= 2
            assert all(len(place) <= 3 for place in places[1:])
            assert all(where[symbol] == before[symbol] for symbol in wanted & before.keys())
            before = where

    @pytest.mark.parametrize("wanted", [frozenset(), frozenset({"A"})])
    def test_the_first_connection_is_always_there(self, wanted: frozenset[str]) -> None:
        assert Allocation(2, 3).assign(wanted) == [wanted]
