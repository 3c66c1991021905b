"""Comparing goes both ways, finds the least change there is, and what it says is right is right."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decimals import exact
from app.domain.drift import Drift, compare_books
from app.domain.ledger import FLAT
from app.domain.positions import Position, UserBook
from app.domain.reconciliation import (
    MOST_TOLD,
    Ledger,
    Row,
    UnknownInstrument,
    compare_rows,
    correction,
    each_its_row,
    known_instruments,
    published_of,
    replay_chain,
)
from app.domain.trades import ChainKey, Trade
from tests.domain.books import positions, user_book
from tests.domain.fills import LINEAR, a_fill

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
CHAIN = ChainKey("u", "a", "BTCUSD")


def trade(number: int, side: str, quantity: str, position_id: str, opened: str | None = None) -> Trade:
    moment = MONDAY + timedelta(hours=number)
    return Trade(
        fill_id=f"f{number}",
        user_id="u",
        account_id="a",
        symbol="BTCUSD",
        position_id=position_id,
        opened_position_id=opened,
        fill=a_fill(side, quantity, 100 + number, fee=Decimal("0.1"), executed_at=moment),
        source="api",
        executed_at=moment,
        created_at=moment,
    )


FILLS = [
    trade(0, "buy", "1", "p1"),
    trade(1, "sell", "3", "p1", "p2"),
    trade(2, "buy", "1", "p2"),
    trade(3, "buy", "1", "p2"),
    trade(4, "buy", "2", "p3"),
]


def ledger(rows: dict[str, Row] | None = None, fills: list[Trade] = FILLS) -> Ledger:
    return Ledger(user_id="u", currency="USD", ledger_seq=1, rows=rows or {}, fills=fills, payments={})


def as_row(position: Position) -> Row:
    return Row(position, published_of(position.state, position.converted))


def right_rows() -> dict[str, Row]:
    bare = ledger()
    repairs = compare_rows(bare, replay_chain(bare, CHAIN, FILLS, LINEAR))
    assert {repair.drift.kind for repair in repairs} == {"missing"}
    return {repair.right.position_id: as_row(repair.right) for repair in repairs}


def test_rows_that_are_missing_are_made_and_then_nothing_is_wrong() -> None:
    rows = right_rows()

    assert {row.position.position_id: row.position.status for row in rows.values()} == {
        "p1": "closed",
        "p2": "closed",
        "p3": "open",
    }
    complete = ledger(rows)
    assert compare_rows(complete, replay_chain(complete, CHAIN, FILLS, LINEAR)) == []


@given(
    st.sampled_from(["p1", "p2", "p3"]),
    st.sampled_from(["signed_qty", "cost", "cash", "fees", "funding"]),
    st.sampled_from([Decimal("1e-36"), Decimal(-1), Decimal(10) ** 15]),
)
def test_any_change_of_any_sum_is_found_and_undone(position_id: str, name: str, change: Decimal) -> None:
    rows = right_rows()
    right = rows[position_id].position
    with exact():
        state = msgspec.structs.replace(right.state, **{name: getattr(right.state, name) + change})
    rows[position_id] = Row(msgspec.structs.replace(right, state=state), rows[position_id].published)
    tampered = ledger(rows)

    [repair] = compare_rows(tampered, replay_chain(tampered, CHAIN, FILLS, LINEAR))

    assert repair.drift.fields == (name,)
    assert repair.right == msgspec.structs.replace(right, version=right.version + 1)


def test_two_positions_never_share_a_row() -> None:
    fills = [*FILLS[:-1], msgspec.structs.replace(FILLS[-1], position_id="p1")]
    due = each_its_row(ledger(fills=fills), replay_chain(ledger(fills=fills), CHAIN, fills, LINEAR))

    assert len({one.position_id for one in due}) == 3


def test_a_symbol_that_nobody_knows_is_not_guessed() -> None:
    with pytest.raises(UnknownInstrument):
        known_instruments(ledger(), {})
    assert known_instruments(ledger(right_rows()), {}) == {"BTCUSD": LINEAR}


books = st.lists(st.integers(1, 4), unique=True, max_size=4).flatmap(
    lambda numbers: st.tuples(*(positions(f"p{number}", "u1", version=number) for number in numbers))
)


@given(books, books)
def test_what_is_missing_one_way_is_extra_the_other(here: tuple[Position, ...], there: tuple[Position, ...]) -> None:
    one, other = user_book(*here), user_book(*there)

    def found(truth: UserBook, held: UserBook, kind: str) -> set[str | None]:
        return {drift.position_id for drift in compare_books(truth, held) if drift.kind == kind}

    assert found(one, other, "missing") == found(other, one, "extra")
    assert found(one, other, "different") == found(other, one, "different")
    assert compare_books(one, one) == []
    assert bool(compare_books(one, other)) == (set(map(repr, here)) != set(map(repr, there)))


@pytest.mark.parametrize(("held_seq", "kind"), [(1, "stale"), (3, "different")])
def test_a_book_of_another_event_is_drift_though_nothing_else_differs(held_seq: int, kind: str) -> None:
    [drift] = compare_books(user_book(ledger_seq=2), user_book(ledger_seq=held_seq))

    assert (drift.kind, drift.before, drift.after) == (kind, {"ledger_seq": str(held_seq)}, {"ledger_seq": "2"})


def test_an_event_tells_of_some_and_counts_all() -> None:
    drift = Drift(place="book", kind="extra", position_id="p", symbol="BTCUSD", before={"signed_qty": "1"}, after=None)

    data = correction([drift] * 30)

    assert (data["count"], len(data["what"]), len(data["before"]), len(data["after"])) == (30, *[MOST_TOLD] * 3)
    assert data["what"][0] == {"place": "book", "kind": "extra", "position_id": "p", "symbol": "BTCUSD"}


def test_an_empty_closed_row_without_fills_is_no_drift() -> None:
    rows = right_rows()
    ghost = msgspec.structs.replace(rows["p1"].position, position_id="ghost", state=FLAT)
    complete = ledger({**rows, "ghost": as_row(ghost)})

    assert compare_rows(complete, replay_chain(complete, CHAIN, FILLS, LINEAR)) == []
