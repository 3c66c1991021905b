"""Late is what takes longer than the least; a clock that is off is not late."""

from hypothesis import given
from hypothesis import strategies as st

from app.domain.lateness import ClockOffset, Lane

NOW = 1_700_000_000_000


def settled(skew_ms: int = 0) -> ClockOffset:
    """An offset learnt from ten seconds of messages, each 20 ms under way; their clock is ahead by the skew."""
    clock = ClockOffset()
    for step in range(100):
        clock.lateness_ms(NOW + step * 100 + skew_ms - 20, NOW + step * 100)
    return clock


@given(st.integers(-30_000, 30_000))
def test_a_constant_skew_is_not_lateness(skew_ms: int) -> None:
    clock = settled(skew_ms)

    assert clock.lateness_ms(NOW + 10_000 + skew_ms - 25, NOW + 10_000) == 5


def test_a_message_from_before_a_stall_is_late_by_the_length_of_the_stall() -> None:
    clock = settled()

    assert clock.lateness_ms(NOW + 10_000, NOW + 20_000) == 9_980


def test_a_silence_of_any_length_forgets_nothing() -> None:
    clock = settled()

    assert clock.lateness_ms(NOW + 10_000, NOW + 3_610_000) == 3_599_980


def test_a_delay_that_lasts_becomes_the_new_normal_when_the_window_is_full_of_it() -> None:
    clock = settled()
    late = [clock.lateness_ms(NOW + at - 5_020, NOW + at) for at in range(10_000, 60_000, 100)]

    assert late[0] == 5_000
    assert late[-1] == 0


def test_a_delay_that_lasts_stays_a_delay_if_the_exchange_says_its_time() -> None:
    clock = settled()
    for at in range(10_000, 60_000, 100):
        clock.bound(NOW + at + 15, NOW + at, NOW + at + 30)
        assert clock.lateness_ms(NOW + at - 5_000, NOW + at) in range(4_980, 5_001)


def test_a_clock_set_back_makes_nothing_late_once_the_exchange_says_its_time() -> None:
    clock = settled(skew_ms=0)
    clock.bound(NOW + 10_015 - 30_000, NOW + 10_000, NOW + 10_030)

    assert clock.lateness_ms(NOW + 10_080 - 30_000, NOW + 10_100) in range(40)


def test_a_clock_set_forward_makes_nothing_late_at_all() -> None:
    clock = settled()

    assert clock.lateness_ms(NOW + 10_000 + 30_000, NOW + 10_020) == 0


def test_an_old_answer_about_the_time_no_longer_counts() -> None:
    clock = settled()
    clock.bound(NOW - 30_000, NOW, NOW)

    assert clock.lateness_ms(NOW + 70_000 - 20, NOW + 70_000) == 0


def test_a_time_of_another_day_is_no_time() -> None:
    clock = settled()

    assert clock.lateness_ms(0, NOW) is None
    assert clock.lateness_ms(10**18, NOW) is None
    assert clock.lateness_ms(NOW + 10_000 - 20, NOW + 10_000) == 0


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(-40_000, 40_000)), min_size=1, max_size=80))
def test_nothing_is_ever_early(messages: list[tuple[int, int]]) -> None:
    clock, now = ClockOffset(), NOW
    for pause, offset in messages:
        now += pause
        late = clock.lateness_ms(now - offset, now)
        assert late is not None
        assert late >= 0


def test_within_one_interval_the_worst_lateness_counts_for_what_has_no_time() -> None:
    lane = Lane()
    lane.note(5_000, interval=1)
    lane.note(10, interval=1)

    assert lane.late_ms(1) == 5_000
    assert lane.late_ms(2) == 10


def test_a_new_interval_starts_anew() -> None:
    lane = Lane()
    lane.note(5_000, interval=1)
    lane.note(10, interval=2)

    assert lane.late_ms(2) == 10
