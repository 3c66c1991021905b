"""As many lines to one address as the followed symbols need."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from app.exchanges.binance.interest import Allocation
from app.exchanges.binance.line import Line
from app.exchanges.binance.liveness import ConnectionState

_DISCONNECTED = (ConnectionState.CONNECTING, ConnectionState.CLOSED)


class _OpenLine(NamedTuple):
    line: Line
    task: "asyncio.Task[NoReturn]"


class Lines:
    """Opens a line when the others are full, and closes it when they are enough.

    ``base_streams`` gives the streams of the line with a number that are never
    silent for long, ``streams_of`` those of a set of symbols. ``is_always_open``
    says that there is a line even when no symbol is followed.
    """

    def __init__(
        self,
        allocation: Allocation,
        base_streams: Callable[[int], frozenset[str]],
        streams_of: Callable[[frozenset[str]], frozenset[str]],
        *,
        is_always_open: bool = True,
    ) -> None:
        self._allocation = allocation
        self._base_streams = base_streams
        self._streams_of = streams_of
        self._is_always_open = is_always_open
        self._lines: list[_OpenLine] = []

    @property
    def states(self) -> list[ConnectionState]:
        """How each line is."""
        return [each.line.state for each in self._lines]

    @property
    def is_connected(self) -> bool:
        """Whether the first connection is open, be it silent."""
        return bool(self._lines) and self._lines[0].line.state not in _DISCONNECTED

    def follow(self, symbols: frozenset[str], tasks: asyncio.TaskGroup, new_line: Callable[[], Line]) -> None:
        """Spread exactly these symbols over the lines; a line that it needs runs as one of the tasks."""
        places = self._allocation.assign(symbols)
        if not symbols and not self._is_always_open:
            places = []
        while len(self._lines) < len(places):
            self._open(tasks, new_line())
        while len(self._lines) > len(places):
            self._lines.pop().task.cancel()
        for number, place in enumerate(places):
            self._lines[number].line.follow(self._base_streams(number) | self._streams_of(place))

    def _open(self, tasks: asyncio.TaskGroup, line: Line) -> None:
        number = len(self._lines)
        line.follow(self._base_streams(number))
        self._lines.append(_OpenLine(line, tasks.create_task(line.run(), name=f"binance.line-{number}")))
