"""Who listens to what: the two directions always mirror each other."""

from hypothesis import given
from hypothesis import strategies as st

from app.domain.subscriptions import Listeners, Subscriptions

KEYS = st.sampled_from(["BTCUSDT", "ETHUSDT", "BNBUSDT"])
CONNECTIONS = st.integers(1, 4)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, CONNECTIONS),
        st.tuples(st.just("remove"), KEYS, CONNECTIONS),
        st.tuples(st.just("drop"), KEYS, CONNECTIONS),
    ),
    max_size=60,
)


@given(steps)
def test_both_directions_mirror_each_other_and_edges_are_reported_once(script: list[tuple[str, str, int]]) -> None:
    listeners: Listeners[str, int] = Listeners()
    model: set[tuple[str, int]] = set()
    for action, key, connection in script:
        before = {known for known, _ in model}
        if action == "add":
            model.add((key, connection))
            assert listeners.add(key, connection) == (key not in before)
        elif action == "remove":
            model.discard((key, connection))
            assert listeners.remove(key, connection) == (key in before - {known for known, _ in model})
        else:
            model -= {pair for pair in model if pair[1] == connection}
            assert set(listeners.drop(connection)) == before - {known for known, _ in model}
        _assert_mirrors(listeners, model)


def _assert_mirrors(listeners: Listeners[str, int], model: set[tuple[str, int]]) -> None:
    assert set(listeners.pairs()) == model
    assert listeners.all_keys() == {key for key, _ in model}
    assert len(listeners) == len({key for key, _ in model})
    for connection in range(1, 5):
        assert listeners.keys_of(connection) == {key for key, other in model if other == connection}
    for key in ("BTCUSDT", "ETHUSDT", "BNBUSDT"):
        assert listeners.connections_of(key) == {other for known, other in model if known == key}
        assert (key in listeners) == any(known == key for known, _ in model)


@given(st.lists(st.tuples(KEYS, CONNECTIONS), max_size=30))
def test_subscribing_and_unsubscribing_leaves_nothing_behind(pairs: list[tuple[str, int]]) -> None:
    listeners: Listeners[str, int] = Listeners()
    for key, connection in pairs:
        listeners.add(key, connection)
    for key, connection in pairs:
        listeners.remove(key, connection)
    assert len(listeners) == 0
    assert all(not listeners.keys_of(connection) for _, connection in pairs)


def test_symbols_and_users_are_kept_apart() -> None:
    subscriptions: Subscriptions[int] = Subscriptions()
    assert subscriptions.symbols.add("alice", 1)
    assert subscriptions.users.add("alice", 1)
    assert not subscriptions.users.add("alice", 2)
    assert subscriptions.symbols.remove("alice", 1)
    assert subscriptions.users.connections_of("alice") == {1, 2}
