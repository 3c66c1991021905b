"""What can go wrong on purpose: on one connection's line, at the door, and in the REST answers."""

from typing import Literal

import msgspec

from app.simulator.frames import BINARY, TEXT, frame, payload_of

Silence = Literal["none", "data", "all"]
"""``data``: market data stops, pings and replies go on. ``all``: nothing is read or written any more."""


class LineFaults:
    """Spoils the next data messages of one connection."""

    def __init__(self) -> None:
        self.drop = 0
        self.truncate = 0
        self.garbage = 0
        self.duplicate = 0
        self.reorder = 0
        self._held: bytes | None = None

    @property
    def active(self) -> bool:
        """Whether anything is still to be spoiled."""
        return bool(self.drop or self.truncate or self.garbage or self.duplicate or self.reorder or self._held)

    def passed(self, whole: bytes) -> list[bytes]:
        """What goes out instead of one data frame."""
        if self.drop:
            self.drop -= 1
            return []
        spoiled = self._spoiled(whole)
        if self.duplicate:
            self.duplicate -= 1
            return [spoiled, spoiled]
        if self._held is not None:
            held, self._held = self._held, None
            return [spoiled, held]
        if self.reorder:
            self.reorder -= 1
            self._held = spoiled
            return []
        return [spoiled]

    def _spoiled(self, whole: bytes) -> bytes:
        if self.truncate:
            self.truncate -= 1
            payload = payload_of(whole)
            # Half of the characters, not of the bytes: the text stays valid UTF-8, only the JSON ends early.
            text = payload.decode()
            return frame(TEXT, text[: len(text) // 2].encode())
        if self.garbage:
            self.garbage -= 1
            return frame(BINARY, bytes((byte * 167 + 13) % 256 for byte in range(64)))
        return whole


class Door(msgspec.Struct, kw_only=True):
    """How new connections are met."""

    refuse_status: int | None = None
    refusals_left: int | None = None
    """How many more to refuse; None for all."""
    retry_after_s: int | None = None
    silence: Silence = "none"
    """How silent a new connection starts out: connected, acknowledged, and nothing comes."""

    def refusal(self) -> int | None:
        """The status to refuse this attempt with, if any."""
        if self.refuse_status is None:
            return None
        if self.refusals_left is not None:
            if self.refusals_left <= 0:
                self.refuse_status = None
                return None
            self.refusals_left -= 1
        return self.refuse_status


class RestFaults(msgspec.Struct, kw_only=True):
    """How REST calls are met."""

    delay_s: float = 0.0
    status: int | None = None
    code: int = -1000
    message: str = "An unknown error occurred while processing the request."
    failures_left: int | None = None
    """How many more to fail; None for all."""
    retry_after_s: int | None = None

    def failure(self) -> int | None:
        """The status to fail this call with, if any."""
        if self.status is None:
            return None
        if self.failures_left is not None:
            if self.failures_left <= 0:
                self.status = None
                return None
            self.failures_left -= 1
        return self.status
