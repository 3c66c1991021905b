"""The inbox holds so much and no more; what it drops stands as a Resync."""

import asyncio

from app.bus.subscription import Message, Resync
from app.workers.inbox import Inbox


def message(number: int, size: int = 1) -> Message:
    return Message("prices", bytes([number]) * size)


def test_messages_come_out_in_order_once() -> None:
    inbox = Inbox()
    for number in range(3):
        inbox.put(message(number))

    assert inbox.take() == [message(0), message(1), message(2)]
    assert inbox.take() == []


def test_a_resync_makes_what_came_before_superfluous() -> None:
    inbox = Inbox()
    inbox.put(message(1))
    inbox.put(Resync())
    inbox.put(message(2))

    assert inbox.take() == [Resync(), message(2)]


def test_too_many_messages_become_one_resync() -> None:
    inbox = Inbox(most_messages=3)
    for number in range(5):
        inbox.put(message(number))

    assert inbox.take() == [Resync(), message(4)]
    assert inbox.overflows == 1


def test_too_many_bytes_become_one_resync() -> None:
    inbox = Inbox(most_bytes=10)
    inbox.put(message(1, 8))
    inbox.put(message(2, 8))

    assert inbox.take() == [Resync()]


async def test_waiting_ends_with_a_message_or_its_time() -> None:
    inbox = Inbox()
    await asyncio.wait_for(inbox.wait(0.01), 1)
    inbox.put(message(1))
    await asyncio.wait_for(inbox.wait(60), 1)
