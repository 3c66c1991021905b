"""One stream and those who listen to it. A message is encoded once per format, and only for listeners."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from app.simulator import messages
from app.simulator.frames import TEXT, frame

Build = Callable[[int], list[bytes]]
"""Gives the payloads for a unit of time in microseconds: 1000 or 1."""


class Format(NamedTuple):
    """How a connection wants its messages."""

    combined: bool
    unit_us: int


class Subscriber(Protocol):
    """A connection, as far as a stream knows it."""

    @property
    def format(self) -> Format:
        """How it wants its messages."""

    def deliver(self, whole: bytes) -> None:
        """Take one data frame."""


class Topic:
    """One stream and its subscribers."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Dictionaries for their order: messages go out in the order of subscription on every run.
        self._subscribers: dict[Format, dict[Subscriber, None]] = {}

    @property
    def idle(self) -> bool:
        """Whether nobody listens."""
        return not self._subscribers

    def add(self, subscriber: Subscriber) -> None:
        """Let a connection listen."""
        self._subscribers.setdefault(subscriber.format, {})[subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        """Let it listen no more."""
        group = self._subscribers.get(subscriber.format, {})
        group.pop(subscriber, None)
        if not group:
            self._subscribers.pop(subscriber.format, None)

    def publish(self, build: Build) -> None:
        """Send what ``build`` gives to every subscriber, each in its format."""
        for wanted, group in self._subscribers.items():
            for payload in build(wanted.unit_us):
                whole = frame(TEXT, messages.combined(self.name, payload) if wanted.combined else payload)
                for subscriber in group:
                    subscriber.deliver(whole)
