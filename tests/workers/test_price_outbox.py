"""What is still to publish, whatever happens on the way; and what else the price worker keeps."""

import asyncio
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.domain.conflation import Drained
from app.domain.instruments import Instrument
from app.domain.prices import Price
from app.workers.listing import Listing
from app.workers.price_outbox import PriceOutbox
from app.workers.schedule import Schedule
from app.workers.steady_clock import SteadyClock


def price(symbol: str, value: int) -> Price:
    return Price(symbol, Decimal(value), "last", None, None, Decimal(value), None, 0, 0, 0)


def drained(*prices: Price) -> Drained:
    return Drained(len(prices), list(prices))


def instrument(symbol: str) -> Instrument:
    one = Decimal(1)
    return Instrument(
        symbol=symbol, market="spot", base=symbol, quote="USDT", settle="USDT", tick_size=one, step_size=one
    )


def test_the_newest_of_each_symbol_is_taken_once() -> None:
    outbox = PriceOutbox()
    outbox.add(drained(price("A", 1), price("B", 1)))
    outbox.add(drained(price("A", 2)))

    assert outbox.take() == (3, [price("A", 2), price("B", 1)])
    outbox.succeeded()
    assert outbox.take() == (0, [])


def test_what_came_while_a_flush_failed_wins_over_what_was_in_it() -> None:
    outbox = PriceOutbox()
    outbox.add(drained(price("A", 1), price("B", 1)))
    outbox.take()
    outbox.add(drained(price("A", 2)))
    outbox.failed()

    assert outbox.take() == (3, [price("A", 2), price("B", 1)])


def test_everything_that_ever_got_out_goes_out_again_when_the_bus_lost_it() -> None:
    outbox = PriceOutbox()
    outbox.add(drained(price("A", 1)))
    outbox.take()
    outbox.succeeded()
    outbox.republish()

    assert outbox.take() == (0, [price("A", 1)])


moves = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("ABCD"), st.integers(1, 9)),
        st.booleans(),
    ),
    max_size=40,
)


@given(moves)
def test_whatever_fails_the_bus_has_the_newest_of_everything_in_the_end(
    sequence: list[tuple[str, int] | bool],
) -> None:
    outbox = PriceOutbox()
    newest: dict[str, Price] = {}
    on_bus: dict[str, Price] = {}
    ticks = published_ticks = 0
    for move in [*sequence, True]:
        match move:
            case (str(symbol), int(value)):
                newest[symbol] = price(symbol, value)
                ticks += 1
                outbox.add(drained(newest[symbol]))
            case True:
                count, prices = outbox.take()
                published_ticks += count
                on_bus.update((each.symbol, each) for each in prices)
                outbox.succeeded()
            case _:
                outbox.take()
                on_bus.clear()  # the worst a failure may mean
                outbox.failed()

    assert on_bus == newest
    assert published_ticks == ticks


def test_a_symbol_that_is_listed_again_trades_again() -> None:
    listing = Listing()
    listing.update([instrument("A"), instrument("B")])
    listing.update([instrument("A")])
    listing.update([instrument("A"), instrument("B")])

    assert {each.symbol: each.status for each in listing.instruments} == {"A": "trading", "B": "trading"}


def test_what_another_process_saw_yields_to_what_is_known() -> None:
    listing = Listing()
    listing.update([instrument("A")])
    listing.update([])
    listing.remember([instrument("A"), instrument("B")])

    assert {each.symbol: each.status for each in listing.instruments} == {"A": "delisted", "B": "trading"}


async def test_missed_beats_are_skipped_and_the_rhythm_is_kept() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    schedule = Schedule(0.02)
    await schedule.beat()
    await asyncio.sleep(0.05)  # two beats are missed
    beats = []
    for _ in range(3):
        await schedule.beat()
        beats.append((loop.time() - start) / 0.02)

    # Never two beats within one period, and each soon after a multiple of it.
    assert beats[0] >= 4 - 0.05
    assert all(int(later + 0.05) > int(earlier + 0.05) for earlier, later in pairwise(beats))


def test_the_clock_never_runs_back() -> None:
    clock = SteadyClock()
    readings = [clock.now_ms() for _ in range(1000)]

    assert readings == sorted(readings)
