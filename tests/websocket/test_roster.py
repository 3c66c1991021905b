"""Seats: given out, taken back, and never two people's at once."""

import numpy as np

from app.domain.protocol import Close
from app.websocket.admission import Identity
from app.websocket.connection import Connection
from app.websocket.outlet import QueuedOutlet
from app.websocket.roster import NEVER, NOBODY, Roster
from app.websocket.tables import Lists, Marks, Prices, Seats


async def nowhere(*_: object) -> None:
    """Takes anything."""


def newcomer(roster: Roster, name: str = "c") -> Connection:
    outlet = QueuedOutlet(nowhere, nowhere, stall_s=1)
    return Connection(name, Identity("alice", "s", 2**52), None, outlet, 10, roster)


def test_numbers_that_came_back_are_given_out_again() -> None:
    seats = Seats(1)
    assert [seats.take() for _ in range(3)] == [1, 2, 3]
    seats.give_back(2)
    assert [seats.take(), seats.take()] == [2, 4]


def test_lists_that_come_and_go_take_no_more_room() -> None:
    lists = Lists()
    kept = lists.put([7, 8, 9])
    for count in range(1, 5000):
        numbers = list(range(count % 50))
        at = lists.put(numbers)
        assert lists.items[at : at + len(numbers)].tolist() == numbers
        lists.drop(at, len(numbers))
    assert lists.items[kept : kept + 3].tolist() == [7, 8, 9]
    assert len(lists.items) <= 1024


def test_what_grows_keeps_what_it_holds() -> None:
    roster = Roster()
    people = [newcomer(roster, str(number)) for number in range(300)]
    for number, one in enumerate(people):
        one.sent = number
        roster.begin(one.seat)
    assert [one.sent for one in people] == list(range(300))
    assert roster.serving == 300
    assert np.count_nonzero(roster.due != NEVER) == 300
    marks, prices = Marks(), Prices()
    for number in range(200):
        marks.say(marks.add(), number, is_known=True, is_stale=False, text=str(number))
        prices.say(prices.take(), number, 1, str(number))
    assert marks.table["flagged"].tolist()[:200] == list(range(200))
    assert prices.table["changed"].tolist()[:200] == list(range(200))


def test_a_text_that_does_not_fit_is_said_to_be_too_long_and_leaves_its_neighbours_alone() -> None:
    marks = Marks()
    first, second, third = marks.add(), marks.add(), marks.add()
    marks.say(third, 3, is_known=True, is_stale=False, text="third")
    marks.say(second, 2, is_known=True, is_stale=False, text="x" * 5000)
    assert marks.table["length"].tolist()[:3] == [0, -1, 5]
    assert (marks.table["flagged"][first], marks.table["flagged"][third]) == (0, 3)


def test_who_has_left_can_be_written_to_without_harm_to_who_came_after() -> None:
    roster = Roster()
    leaver = newcomer(roster)
    roster.begin(leaver.seat)
    seat = leaver.seat
    roster.leave(leaver)
    successor = newcomer(roster)
    assert successor.seat == seat
    leaver.sent = 99
    leaver.visible = False
    leaver.close(Close.NORMAL, "")
    roster.hurry(leaver.seat)
    roster.leave(leaver)
    assert (successor.sent, successor.visible, successor.is_closed) == (0, True, False)
    assert leaver.is_closed
    assert roster.due[NOBODY] == NEVER
    assert roster.serving == 0


def test_a_closed_connection_is_served_no_more_whoever_is_in_a_hurry() -> None:
    roster = Roster()
    one = newcomer(roster)
    roster.begin(one.seat)
    one.close(Close.NORMAL, "")
    roster.hurry(one.seat)
    assert roster.due[one.seat] == NEVER
    assert roster.serving == 0


def test_a_hidden_tab_rests_for_longer_than_it_asked_for() -> None:
    roster = Roster()
    one = newcomer(roster)
    assert roster.rest[one.seat] == 0.1
    one.visible = False
    assert roster.rest[one.seat] == 5.0
    one.max_hz = 0.1
    assert roster.rest[one.seat] == 10.0
    one.visible = True
    one.max_hz = 20
    assert roster.rest[one.seat] == 0.05
