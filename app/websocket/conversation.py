"""One client's side of the stream once it is open: its messages, in order, and its end."""

import time
from collections.abc import Coroutine
from typing import Any

import structlog

from app.domain.protocol import Close, InvalidMessage
from app.websocket.admission import Identity
from app.websocket.answers import refuse
from app.websocket.connection import Connection, IsolationBreach
from app.websocket.limits import MessageBudget
from app.websocket.outlet import Outlet
from app.websocket.stream import Stream

log = structlog.get_logger(__name__)


class Conversation:
    """Begins with the greeting. A :class:`app.websocket.transport.Reader`."""

    __slots__ = ("_budget", "_connection", "_opened")

    def __init__(self, opened: Stream, connection: Connection) -> None:
        self._opened = opened
        self._connection = connection
        self._budget = MessageBudget(opened.limits.max_messages_per_s)
        connection.outlet.send(opened.answers.hello(connection))
        opened.manager.begin(connection)

    def take(self, text: str | None) -> Coroutine[Any, Any, None] | None:
        """Carry out a message. What is given back, if anything, is to be awaited before the next."""
        if self._connection.is_closed or not self._is_allowed(text):
            return None
        try:
            work = self._opened.answers.answer(self._connection, text)
        except InvalidMessage as error:
            self._refuse(error)
            return None
        except Exception as error:
            self._fail(error)
            raise
        return None if work is None else self._finish(work)

    def gone(self) -> None:
        """The client is not there any more, or was sent away."""
        self._opened.manager.leave(self._connection)

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except InvalidMessage as error:
            self._refuse(error)
        except Exception as error:
            self._fail(error)
            raise

    def _is_allowed(self, text: str | None) -> bool:
        """Whether a message is within the limits."""
        limits, budget = self._opened.limits, self._budget
        if not budget.take(time.monotonic()):
            if budget.is_abused:
                self._connection.close(Close.RATE_LIMITED, "too many messages")
            elif budget.is_first_refusal:
                detail = f"at most {limits.max_messages_per_s} messages a second; this one was not carried out"
                refuse(self._connection, "rate_limited", detail, None)
            return False
        if text is not None and len(text) > limits.max_message_bytes:
            self._connection.close(Close.TOO_BIG, "message too big")
            return False
        return True

    def _refuse(self, error: InvalidMessage) -> None:
        refuse(self._connection, error.code, error.detail, error.request_id)
        if not self._budget.take_malformed(time.monotonic()):
            self._connection.close(Close.POLICY, "too many invalid messages")

    def _fail(self, error: Exception) -> None:
        """A bug: this conversation ends, or the process where one user was about to see another's data."""
        if isinstance(error, IsolationBreach):
            log.error("stream.isolation_breached", exc_info=error)
            self._opened.crash()
            return
        log.error("stream.conversation_failed", exc_info=error)
        self._connection.close(Close.INTERNAL_ERROR, "internal error")


def begin(opened: Stream, identity: Identity, address: str | None, outlet: Outlet) -> Conversation | None:
    """Begin to talk to an accepted client, or send it away where there is no room for it."""
    if not opened.manager.has_room_for(identity.user_id) or opened.manager.refusal(address) is not None:
        outlet.close(Close.TOO_MANY_CONNECTIONS, "too many connections")
        return None
    return Conversation(opened, opened.manager.enter(identity, address, outlet))
