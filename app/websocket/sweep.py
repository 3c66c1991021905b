"""Asking again whether sessions still hold, for the notice of an end can be lost."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from app.websocket.admission import Identity, Sessions, SessionsUnavailable
from app.websocket.connection import Connection

_ROUND_S = 25.0
"""Every session is asked about once in this time."""

_TOGETHER = 50
_SHORTEST_PAUSE_S = 0.01
_TIMEOUT_S = 2.0


class SessionSweep:
    """Ends the connections of sessions that are over, in rounds. Where nobody can tell, they stay."""

    def __init__(
        self,
        sessions: Sessions,
        connections: Callable[[], list[Connection]],
        end: Callable[[str, str | None], None],
        *,
        round_s: float = _ROUND_S,
    ) -> None:
        self._sessions = sessions
        self._connections = connections
        self._end = end
        self._round_s = round_s

    async def run(self) -> NoReturn:
        """Sweep for ever."""
        while True:
            identities = list({connection.identity for connection in self._connections()})
            batches = [identities[at : at + _TOGETHER] for at in range(0, len(identities), _TOGETHER)]
            pause = max(self._round_s / (len(batches) + 1), _SHORTEST_PAUSE_S)
            for batch in batches:
                await asyncio.gather(*(self._check(identity) for identity in batch))
                await asyncio.sleep(pause)
            await asyncio.sleep(pause)

    async def _check(self, identity: Identity) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                is_alive = await self._sessions.is_alive(identity)
        except (SessionsUnavailable, TimeoutError):
            return
        if not is_alive:
            self._end(identity.user_id, identity.session_id)
