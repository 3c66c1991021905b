"""When the P&L worker speaks."""

from app.domain.prices import REVISIONS_PER_FLUSH, StreamPosition
from app.workers.pnl_pace import SILENT_AFTER_S, PnlPace


def speak(pace: PnlPace, now: float, *, has_news: bool = False) -> str | None:
    said = pace.due(now, has_news=has_news)
    if said == "revision":
        pace.revise()
    if said is not None:
        pace.spoke(said, now)
    return said


def flushed_pace() -> PnlPace:
    pace = PnlPace(0.0)
    pace.flushed(3, 7, 1_000_000, 0.0)
    assert speak(pace, 0.0) == "flush"
    return pace


def test_every_flush_is_followed_once() -> None:
    pace = flushed_pace()

    assert speak(pace, 0.01) is None
    pace.flushed(3, 8, 1_000_100, 0.1)
    assert (speak(pace, 0.1), pace.place) == ("flush", StreamPosition(3, 8))


def test_news_wait_a_quarter_of_a_second_for_a_flush() -> None:
    pace = flushed_pace()

    assert speak(pace, 0.2, has_news=True) is None
    assert (speak(pace, 0.25, has_news=True), pace.place) == ("revision", StreamPosition(3, 7, 1))


def test_news_that_a_flush_overtakes_need_no_revision() -> None:
    pace = flushed_pace()
    pace.flushed(3, 8, 1_000_100, 0.1)

    assert (speak(pace, 0.3, has_news=True), pace.place) == ("flush", StreamPosition(3, 8))


def test_without_anything_to_say_it_says_so_each_second() -> None:
    pace = flushed_pace()

    assert [speak(pace, tenth / 10) for tenth in range(1, 31)].count("heartbeat") == 2 + 1
    assert pace.place == StreamPosition(3, 7)


def test_silent_prices_are_told_once_and_a_flush_ends_the_silence() -> None:
    pace = flushed_pace()
    said = [speak(pace, SILENT_AFTER_S + tenth / 10) for tenth in range(-5, 30)]

    assert said.count("revision") == 1
    assert pace.is_silent
    pace.flushed(3, 8, 1_010_000, 7.0)
    assert not pace.is_silent


def test_revisions_end_at_their_bound_and_heartbeats_go_on() -> None:
    pace = flushed_pace()
    for step in range(1, 300):
        speak(pace, step * 0.3, has_news=True)

    assert pace.place.revision == REVISIONS_PER_FLUSH - 1
    assert speak(pace, 301 * 0.3 + 1, has_news=True) == "heartbeat"


def test_time_goes_on_between_flushes_by_the_price_worker_s_clock() -> None:
    pace = PnlPace(0.0)
    assert pace.as_of_ms(1.0, 555) == 555
    pace.flushed(3, 7, 1_000_000, 2.0)
    assert pace.as_of_ms(2.05, 555) == 1_000_000
    speak(pace, 2.05)

    assert pace.as_of_ms(2.5, 555) == 1_000_500
