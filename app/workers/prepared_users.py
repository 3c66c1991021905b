"""Whole users written down before anybody can be told of them, while a standby waits for a lease to run out.

Writing a row takes some 10 µs, and the users of a shard may have a hundred thousand:
more than a second of a takeover. What changed after it was written down is not used.
"""

from typing import cast

import msgspec

from app.bus.messages import UserUpdate
from app.bus.pnl import encode_user
from app.domain.book import Book, Holder
from app.workers.user_updates import whole_user


class PreparedUsers:
    """Users of one book as they go out, by slot."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._users: dict[int, tuple[int, UserUpdate]] = {}

    def __len__(self) -> int:
        return len(self._users)

    def prepare(self, user_id: str) -> int:
        """Write a user down, if he is in the book; the result is with how many rows."""
        holder = self._book.find(user_id)
        if holder is None:
            return 0
        written = msgspec.Raw(encode_user(whole_user(self._book, holder)))
        # The encoder puts these bytes where the user would be, and nobody else looks into him.
        self._users[holder.slot] = (holder.revision, cast("UserUpdate", written))
        return len(holder.rows)

    def find(self, holder: Holder) -> UserUpdate | None:
        """A user for the encoder, unless he has changed since."""
        revision, written = self._users.get(holder.slot, (-1, None))
        return written if revision == holder.revision else None

    def clear(self) -> None:
        self._users.clear()
