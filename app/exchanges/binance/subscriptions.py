"""What a connection is subscribed to, against what it should be. Does no I/O.

One request is under way at a time. The exchange checks only the spelling of a
stream and answers a misspelt one with an error and a close; the whole batch is
then in doubt. So streams in doubt are asked for one by one after all others, and
one that is refused alone is not asked for again.
"""

from collections.abc import Set
from typing import Literal

import msgspec

Method = Literal["SUBSCRIBE", "UNSUBSCRIBE"]


class Request(msgspec.Struct, frozen=True):
    """A control message. Ids are integers: the only kind that every market accepts."""

    method: Method
    params: list[str]
    id: int


class Refusals:
    """What was refused on any connection of a line: it outlives them."""

    def __init__(self) -> None:
        self.doubtful: set[str] = set()
        self.refused: set[str] = set()

    def add(self, streams: list[str]) -> None:
        """A request for these streams was refused."""
        if len(streams) == 1:
            self.doubtful.discard(streams[0])
            self.refused.add(streams[0])
        else:
            self.doubtful.update(streams)


class Subscriptions:
    """The subscriptions of one connection."""

    def __init__(self, batch: int, refusals: Refusals) -> None:
        self._batch = batch
        self._refusals = refusals
        self._confirmed: set[str] = set()
        self._under_way: Request | None = None
        self._last_id = 0

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._under_way is not None

    def is_settled(self, desired: Set[str]) -> bool:
        """Whether everything desired is confirmed, but for what the exchange refuses."""
        return not desired - self._confirmed - self._refusals.refused

    def next_request(self, desired: Set[str]) -> Request | None:
        """What to send next; None when an answer is awaited or nothing is to do."""
        if self._under_way is not None:
            return None
        missing = desired - self._confirmed - self._refusals.refused
        surplus = self._confirmed - desired
        if sure := missing - self._refusals.doubtful:
            self._start("SUBSCRIBE", sorted(sure)[: self._batch])
        elif surplus:
            self._start("UNSUBSCRIBE", sorted(surplus)[: self._batch])
        elif missing:
            self._start("SUBSCRIBE", [min(missing)])
        return self._under_way

    def confirm(self, request_id: int | str | None) -> None:
        """The request under way was accepted. Answers to anything else are ignored."""
        request = self._under_way
        if request is None or request.id != request_id:
            return
        self._under_way = None
        if request.method == "SUBSCRIBE":
            self._confirmed.update(request.params)
            self._refusals.doubtful.difference_update(request.params)
        else:
            self._confirmed.difference_update(request.params)

    def refuse(self, request_id: int | str | None) -> Request | None:
        """The request under way was refused; gives it. An error may come without an id."""
        request = self._under_way
        if request is None or request_id not in (request.id, None):
            return None
        self._under_way = None
        if request.method == "SUBSCRIBE":
            self._refusals.add(request.params)
        else:
            self._confirmed.difference_update(request.params)
        return request

    def _start(self, method: Method, params: list[str]) -> None:
        self._last_id += 1
        self._under_way = Request(method, params, self._last_id)
