"""Who listens to what: keys and connections, looked up from either side in O(1).

Adding and removing report the *edges*: the first connection of a key and the
last one. Work outside this process (exchange streams, P&L) follows the edges.
"""

from collections.abc import Hashable, Iterator, Set
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Hashable)

_NOBODY: frozenset[object] = frozenset()


class Listeners(Generic[K, C]):
    """Two maps, key → connections and connection → keys, that always mirror each other.

    No empty set is kept on either side, so the size of both is the interest there is.
    """

    __slots__ = ("_connections", "_keys")

    def __init__(self) -> None:
        self._connections: dict[K, set[C]] = {}
        self._keys: dict[C, set[K]] = {}

    def add(self, key: K, connection: C) -> bool:
        """Connect the two. True if the key had no connection before."""
        listeners = self._connections.get(key)
        is_first = listeners is None
        if listeners is None:
            listeners = self._connections[key] = set()
        listeners.add(connection)
        self._keys.setdefault(connection, set()).add(key)
        return is_first

    def remove(self, key: K, connection: C) -> bool:
        """Part the two. True if the key has no connection any more; False if they were not connected."""
        listeners = self._connections.get(key)
        if listeners is None or connection not in listeners:
            return False
        listeners.discard(connection)
        keys = self._keys[connection]
        keys.discard(key)
        if not keys:
            del self._keys[connection]
        if listeners:
            return False
        del self._connections[key]
        return True

    def drop(self, connection: C) -> list[K]:
        """Part a connection from all its keys. Gives the keys that have none any more."""
        return [key for key in self.keys_of(connection).copy() if self.remove(key, connection)]

    def connections_of(self, key: K) -> Set[C]:
        """The connections of a key: a live view, empty for an unknown key."""
        return self._connections.get(key, _NOBODY)  # type: ignore[arg-type]

    def keys_of(self, connection: C) -> set[K]:
        """The keys of a connection: a live view, empty for an unknown connection."""
        return self._keys.get(connection, set())

    def all_keys(self) -> Set[K]:
        """Every key with a connection: a live view."""
        return self._connections.keys()

    def pairs(self) -> Iterator[tuple[K, C]]:
        """Every connected pair."""
        return ((key, connection) for key, listeners in self._connections.items() for connection in listeners)

    def __contains__(self, key: object) -> bool:
        return key in self._connections

    def __len__(self) -> int:
        return len(self._connections)


class Subscriptions(Generic[C]):
    """The interest of one process: symbols and users, each in both directions."""

    __slots__ = ("symbols", "users")

    def __init__(self) -> None:
        self.symbols: Listeners[str, C] = Listeners()
        self.users: Listeners[str, C] = Listeners()
