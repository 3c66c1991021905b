"""Figures by slot: what is here has a seat, what is not takes no room and has no value."""

import numpy as np
import pytest

from app.bus.messages import Columns
from app.websocket.figures import Figures, RowFigures, seats_of
from tests.websocket.market import columns


def test_a_figure_is_found_by_its_slot() -> None:
    figures = Figures()
    figures.seat(7)
    figures.seat(900_000)
    figures.apply(columns({7: -5, 900_000: 2**70}), 1)
    assert (figures.value(7), figures.value(900_000)) == (-5, 2**70)


def test_what_comes_for_a_slot_that_is_not_here_is_left_out() -> None:
    figures = Figures()
    figures.seat(7)
    figures.apply(columns({7: 1, 8: 2, 5_000_000: 3, -1: 4, -(2**31): 5}), 1)
    assert [figures.value(slot) for slot in (7, 8, 5_000_000)] == [1, None, None]
    figures.seat(8)
    assert figures.value(8) is None


def test_a_seat_that_is_given_out_again_has_no_value_until_one_comes() -> None:
    figures = RowFigures()
    figures.seat(1)
    figures.apply(columns({1: 111}), 1)
    figures.leave(1)
    assert figures.seat(2) == 1
    assert (figures.value(1), figures.value(2)) == (None, None)
    figures.apply(columns({1: 5, 2: 222}), 2)
    assert (figures.value(1), figures.value(2)) == (None, 222)


def test_leaving_twice_gives_the_seat_back_once() -> None:
    figures = Figures()
    figures.seat(1)
    figures.leave(1)
    figures.leave(1)
    figures.leave(77)
    assert len({figures.seat(2), figures.seat(3)}) == 2


def test_slots_that_come_and_go_for_ever_take_no_more_room() -> None:
    figures = Figures()
    figures.seat(0)
    for slot in range(1, 200_000):
        figures.seat(slot)
        if slot > 20:
            figures.leave(slot - 20)
    assert len(figures) == 21
    assert len(figures.changed) < 1000
    assert len(figures._pages._blocks) < 20_000
    assert len(figures._pages._block_of) < 1000


def test_arrays_grow_and_keep_what_they_hold() -> None:
    figures = RowFigures()
    seats = seats_of(figures, range(3000))
    figures.cost[seats] = np.arange(3000)
    figures.apply(columns({slot: slot * 10**20 for slot in range(3000)}), 4)
    seats_of(figures, range(3000, 9000))
    assert [figures.value(slot) for slot in (0, 1, 2999, 3000)] == [0, 10**20, 2999 * 10**20, None]
    assert figures.cost[seats[2999]] == 2999


def test_columns_that_contradict_themselves_are_refused() -> None:
    figures = Figures()
    with pytest.raises(ValueError, match="different lengths"):
        figures.apply(Columns(slots=bytes(8), high=bytes(8), low=bytes(8)), 1)
    with pytest.raises(ValueError, match="negative slot"):
        figures.seat(-1)
