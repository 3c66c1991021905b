"""Many who ask at once: few questions, each asker his own answer, nobody left waiting."""

import asyncio
from collections.abc import Sequence

import pytest

from app.websocket.lookups import Lookups, Overrun
from tests.websocket.conftest import until


class Oracle:
    """Knows the square of everything, but not of 13. Answers when it is let."""

    def __init__(self) -> None:
        self.questions: list[list[int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failure: Exception | None = None

    async def ask(self, keys: Sequence[int]) -> Sequence[int | Exception]:
        self.questions.append(list(keys))
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure
        return [ValueError("unlucky") if key == 13 else key * key for key in keys]


async def test_whoever_asks_meanwhile_is_gathered_into_the_next_question() -> None:
    oracle = Oracle()
    lookups = Lookups(oracle.ask, within_s=5)
    oracle.may_answer.clear()
    first = asyncio.create_task(lookups.find(0))
    await until(lambda: oracle.questions == [[0]])
    others = [asyncio.create_task(lookups.find(key)) for key in (3, 1, 4, 15, 9, 2, 6)]
    await asyncio.sleep(0)
    oracle.may_answer.set()

    assert await asyncio.gather(first, *others) == [0, 9, 1, 16, 225, 81, 4, 36]
    assert oracle.questions == [[0], [3, 1, 4, 15, 9, 2, 6]]


async def test_a_crowd_beyond_one_question_waits_and_is_answered() -> None:
    oracle = Oracle()
    lookups = Lookups(oracle.ask, within_s=5, most_together=10)
    oracle.may_answer.clear()
    crowd = [asyncio.create_task(lookups.find(key)) for key in range(20, 115)]
    await until(lambda: bool(oracle.questions))
    oracle.may_answer.set()

    assert await asyncio.gather(*crowd) == [key * key for key in range(20, 115)]
    assert [len(question) for question in oracle.questions] == [1, *[10] * 9, 4]


async def test_one_that_fails_fails_alone() -> None:
    lookups = Lookups(Oracle().ask, within_s=5)

    found = await asyncio.gather(*map(lookups.find, range(10, 16)), return_exceptions=True)

    assert [type(answer) for answer in found] == [int, int, int, ValueError, int, int]


async def test_a_question_that_fails_fails_for_all_of_it_and_the_next_is_asked() -> None:
    oracle = Oracle()
    lookups = Lookups(oracle.ask, within_s=5)
    oracle.failure = OSError("away")
    found = await asyncio.gather(*map(lookups.find, range(5)), return_exceptions=True)
    assert all(isinstance(answer, OSError) for answer in found)

    oracle.failure = None
    assert await lookups.find(7) == 49


async def test_one_who_leaves_does_not_strand_those_he_asked_for() -> None:
    oracle = Oracle()
    lookups = Lookups(oracle.ask, within_s=5)
    oracle.may_answer.clear()
    asking = asyncio.create_task(lookups.find(1))
    await until(lambda: oracle.questions == [[1]])
    leader, follower = (asyncio.create_task(lookups.find(key)) for key in (2, 3))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(Overrun):
        await follower

    oracle.may_answer.set()
    assert await asking == 1
    assert await lookups.find(4) == 16


async def test_nobody_waits_for_ever() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    lookups = Lookups(oracle.ask, within_s=0.05)

    found = await asyncio.gather(*map(lookups.find, range(5)), return_exceptions=True)

    assert all(isinstance(answer, Overrun) for answer in found)
    oracle.may_answer.set()
    assert await lookups.find(2) == 4


async def test_no_more_than_so_many_may_wait() -> None:
    oracle = Oracle()
    oracle.may_answer.clear()
    lookups = Lookups(oracle.ask, within_s=5, most_waiting=3)
    waiting = [asyncio.create_task(lookups.find(key)) for key in range(3)]
    await until(lambda: bool(oracle.questions))
    with pytest.raises(Overrun):
        await lookups.find(4)
    oracle.may_answer.set()
    assert await asyncio.gather(*waiting) == [0, 1, 4]
