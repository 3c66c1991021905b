"""Frames of many users built together: each as if it were alone, and adding up to the last digit."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from app.domain.decimals import exact
from app.websocket import frames
from app.websocket.frames import Interest
from app.websocket.state import StreamState
from tests.websocket.market import Trader, pnl_flush, position, price_flush
from tests.websocket.test_state import state_at_flush

SYMBOLS = [f"S{number}USDT" for number in range(12)]


class Crowd:
    """Sixty users with five positions each, some of them worth more than 64 bits hold, and what they are told."""

    def __init__(self, seed: int, *, unpriced: Sequence[str] = ()) -> None:
        self.chance = random.Random(seed)
        self.state = state_at_flush()
        self.priced = [symbol for symbol in SYMBOLS if symbol not in unpriced]
        self.flush_number = 1
        slots = iter(range(7, 10_000, 3))
        self.traders = [
            Trader(f"u{number}", number * 5, {next(slots): self._position(number, at) for at in range(5)})
            for number in range(60)
        ]
        self.move(users=[trader.update(full=True) for trader in self.traders])

    def _position(self, number: int, at: int) -> Any:
        quantity = Decimal(self.chance.randint(1, 10**9)).scaleb(self.chance.randint(-12, -1))
        sign = self.chance.choice(["", "-"])
        return position(f"p{number}-{at}", self.chance.choice(SYMBOLS), f"{sign}{quantity:f}", self._price())

    def _price(self) -> str:
        return f"{Decimal(self.chance.randint(1, 10**10)).scaleb(-self.chance.randint(2, 8)):f}"

    def move(self, *, users: Sequence[Any] = (), traders: Sequence[Trader] | None = None) -> None:
        prices = {symbol: self._price() for symbol in self.priced}
        moved = self.traders if traders is None else traders
        self.state.offer_pnl(pnl_flush(self.flush_number, self.flush_number, moved, prices, users=users), 0.1)
        self.flush_number += 1

    def interest(self, trader: Trader, since: int) -> Interest:
        view = self.state.view_of(trader.user_id)
        return Interest(self.state.only_lane, (), view, True, True, since, since, since, merged=1)


def together_and_alone(crowd: Crowd, since: int) -> list[dict[str, Any] | None]:
    interests = [crowd.interest(trader, since) for trader in crowd.traders]
    together = frames.updates(interests)
    assert together == [frames.updates([interest])[0] for interest in interests]
    return [None if text is None else json.loads(text) for text in together]


@pytest.mark.parametrize("seed", range(5))
def test_frames_built_together_are_those_built_alone_and_their_rows_add_up(seed: int) -> None:
    crowd = Crowd(seed)
    before = crowd.state.ordinal
    crowd.move()
    for frame in together_and_alone(crowd, before):
        assert frame is not None
        rows = [Decimal(row["unrealized_pnl"]) for row in frame["positions"]]
        assert len(rows) == 5
        pnl = {name: Decimal(frame["pnl"][name]) for name in ("unrealized_pnl", "realized_pnl", "total_pnl")}
        with exact():
            assert sum(rows) == pnl["unrealized_pnl"]
            assert pnl["total_pnl"] == pnl["unrealized_pnl"] + pnl["realized_pnl"]


def test_who_did_not_move_is_told_nothing_and_the_others_all() -> None:
    crowd = Crowd(1)
    before = crowd.state.ordinal
    crowd.move(traders=crowd.traders[::3])
    told = [frame is not None for frame in together_and_alone(crowd, before)]
    assert told == [number % 3 == 0 for number in range(60)]


def test_symbols_without_a_price_are_null_among_the_others() -> None:
    crowd = Crowd(2, unpriced=SYMBOLS[:3])
    before = crowd.state.ordinal
    crowd.move(users=[trader.update(full=False) for trader in crowd.traders])
    without = 0
    for frame in together_and_alone(crowd, before):
        assert frame is not None
        rows = frame["positions"]
        unpriced = {row["symbol"] for row in rows if row["unrealized_pnl"] is None}
        without += len(unpriced)
        assert unpriced == {row["symbol"] for row in rows} & set(SYMBOLS[:3])
        assert frame["pnl"]["unpriced"] == sorted(unpriced)
        assert frame["pnl"]["is_complete"] is not bool(unpriced)
    assert without


def test_silence_marks_everybody_s_rows_stale_at_once() -> None:
    crowd = Crowd(3)
    crowd.state.offer_prices(price_flush(crowd.flush_number), 0.1)
    crowd.state.commit_overdue(1.0)
    before = crowd.state.ordinal
    assert crowd.state.check_silence(9.0)
    for frame in together_and_alone(crowd, before):
        assert frame is not None
        assert frame["pnl"]["is_stale"] is True
        assert [row["is_stale"] for row in frame["positions"]] == [True] * 5


def test_figures_of_a_user_who_left_are_nobody_else_s() -> None:
    """His seats are given to who comes next, whose figures are unknown until they come."""
    crowd = Crowd(4)
    leaver, stayers = crowd.traders[0], crowd.traders[1:]
    crowd.state.drop(leaver.user_id)
    newcomer = Trader("new", 9_999, {50_001: position("n1", SYMBOLS[0], "1", "1")})
    crowd.traders = [*stayers, newcomer]
    crowd.move(users=[newcomer.update(full=True)], traders=stayers)
    view = crowd.state.view_of("new")
    assert view is not None
    snapshot = json.loads(frames.positions_snapshot(crowd.state, view))
    assert [row["unrealized_pnl"] for row in snapshot["positions"]] == [None]
    before = crowd.state.ordinal
    crowd.move()
    frame = together_and_alone(crowd, before)[-1]
    assert frame is not None
    assert frame["pnl"]["unrealized_pnl"] == frame["positions"][0]["unrealized_pnl"]


def test_a_user_whose_lane_is_another_is_written_by_that_lane() -> None:
    one, other = Crowd(5), Crowd(6)
    before = one.state.ordinal
    one.move()
    other.move()
    interests = [crowd.interest(crowd.traders[n], before) for n in range(3) for crowd in (one, other)]
    assert frames.updates(interests) == [frames.updates([interest])[0] for interest in interests]


def test_more_than_128_bits_hold_is_added_one_by_one() -> None:
    state = StreamState(stale_after_ms=5000, is_wanted=lambda _: True, now=0.0)
    trader = Trader("alice", 1, {3: position("p", "BTCUSDT", "1", "100")})
    update = trader.update(full=True)
    vast = 10**44
    update.figures["realized_pnl_gross"] = str(vast)
    state.offer_pnl(pnl_flush(1, 1, [trader], {"BTCUSDT": "101"}, users=[update]), 0.0)
    interest = Interest(state.only_lane, (), state.view_of("alice"), True, True, 0, 0, 0, merged=1)
    (text,) = frames.updates([interest])
    assert text is not None
    assert Decimal(json.loads(text)["pnl"]["total_pnl"]) == Decimal(10) ** 26 + 1 - Decimal("0.1")
