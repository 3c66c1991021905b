"""What holds of any ledger at any moment: fills that come in order, late, twice, edited or taken away, and funding."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.domain.cycles import Cycle, book_fill, replay_cycles
from app.domain.day_bases import AtMidnight, at_midnights
from app.domain.decimals import STATE_QUANTUM, ZERO, exact, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, Funding, LedgerState, entry_price, fee_expense, replay, unrealized_pnl
from app.domain.reconciliation import Ledger, Row, compare_pointers, compare_rows, published_of, replay_chain
from app.domain.trades import ChainKey, Trade
from tests.domain.fills import INVERSE, LINEAR, SPOT, a_fill, fill_lists, instruments

D = Decimal
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
CHAIN = ChainKey("u", "a", "BTCUSD")

some_fill = st.builds(
    a_fill,
    st.sampled_from(["buy", "sell"]),
    st.one_of(st.sampled_from([1, 2, 5]), st.decimals("0.001", "1000", places=3)),
    st.decimals("0.01", "100000", places=2),
    fee=st.decimals("-1", "5", places=4),
    fee_asset=st.sampled_from([None, "BTC", "BNB"]),
)


class AnyLedger(RuleBasedStateMachine):
    """One chain, booked as it comes where it comes in order, and replayed where it does not."""

    @initialize(instrument=st.sampled_from([SPOT, LINEAR, INVERSE]))
    def start(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.trades: list[Trade] = []
        self.stamps: list[Funding] = []
        self.live: list[LedgerState] = []
        self.hours = 0
        self.number = 0

    @rule(fill=some_fill, hours=st.integers(0, 30))
    def fill_arrives(self, fill: Fill, hours: int) -> None:
        self.hours += hours
        self._add(fill, self.hours)
        if self.stamps:
            return
        standing = self.live[-1] if self.live and not self.live[-1].is_flat else None
        booked = book_fill(self.instrument, standing, fill)
        if booked.standing is not None:
            self.live[-1] = booked.standing
        if booked.opened is not None:
            self.live.append(booked.opened)

    @rule(fill=some_fill, data=st.data())
    def late_fill_arrives(self, fill: Fill, data: st.DataObject) -> None:
        self._add(fill, data.draw(st.integers(0, self.hours)))
        self._replay_live()

    @precondition(lambda self: self.trades)
    @rule(data=st.data())
    def fill_is_deleted(self, data: st.DataObject) -> None:
        self.trades.remove(data.draw(st.sampled_from(self.trades)))
        self._replay_live()

    @precondition(lambda self: self.trades)
    @rule(data=st.data(), fill=some_fill)
    def fill_is_edited(self, data: st.DataObject, fill: Fill) -> None:
        place = data.draw(st.integers(0, len(self.trades) - 1))
        self.trades[place] = msgspec.structs.replace(self.trades[place], fill=fill, revision=2)
        self._replay_live()

    @precondition(lambda self: self.instrument.market != "spot")
    @rule(data=st.data(), rate=st.decimals("-0.01", "0.01", places=4))
    def funding_is_settled(self, data: st.DataObject, rate: Decimal) -> None:
        moment = MONDAY + timedelta(hours=data.draw(st.integers(0, self.hours + 8)))
        if moment not in {stamp.at for stamp in self.stamps}:
            self.stamps.append(Funding(at=moment, mark=D("123.45"), rate=rate))

    @invariant()
    def replay_is_what_was_booked_live(self) -> None:
        without_funding = [cycle.state for cycle in replay_cycles(self.instrument, self.trades)]
        if not self.stamps:
            assert without_funding == self.live
        with_funding = [msgspec.structs.replace(state, funding=ZERO) for state in self._states()]
        assert with_funding == without_funding

    @invariant()
    def profit_is_cash_and_what_is_held(self) -> None:
        mark, cycles = D("77.7"), self._cycles()
        with exact():
            paid = sum((self._cash_of(trade.fill) for trade in self.trades), ZERO)
            funding = sum((payment.amount for cycle in cycles for payment in cycle.payments), ZERO)
            worth = sum((self.instrument.value(cycle.state.signed_qty, mark) for cycle in cycles), ZERO)
            profit = sum(
                (cycle.state.realized_pnl + unrealized_pnl(self.instrument, cycle.state, mark) for cycle in cycles),
                ZERO,
            )
            # A fill of an inverse contract through zero is two quotients, each ended at 1e-36.
            loss = len(self.trades) * STATE_QUANTUM if self.instrument.market == "inverse" else ZERO
            assert abs(profit - (paid + funding + worth)) <= loss

    @invariant()
    def only_the_last_cycle_stands_and_what_ended_is_flat(self) -> None:
        cycles = self._cycles()
        for cycle in cycles[:-1]:
            assert cycle.closed_at is not None
        for cycle in cycles:
            assert cycle.state.is_flat == (cycle.closed_at is not None)
            if cycle.state.is_flat:
                assert entry_price(self.instrument, cycle.state) is None
                assert unrealized_pnl(self.instrument, cycle.state, D(50)) == 0

    @invariant()
    def a_fill_twice_is_a_fill_once(self) -> None:
        fills = [
            msgspec.structs.replace(trade.fill, executed_at=trade.executed_at, trade_id=trade.fill_id)
            for trade in self.trades
        ]
        once, twice = replay(self.instrument, fills), replay(self.instrument, fills + fills)
        if once:
            assert msgspec.structs.replace(twice[-1], index=0) == msgspec.structs.replace(once[-1], index=0)

    @invariant()
    def rows_made_of_it_have_no_drift(self) -> None:
        ledger = self._ledger()
        due = replay_chain(ledger, CHAIN, ledger.fills, self.instrument)
        assert compare_rows(ledger, due) == []
        assert compare_pointers(ledger, due) == []

    @invariant()
    def a_midnight_knows_all_that_was_before_it_and_nothing_after(self) -> None:
        days = [date(2026, 3, 2) + timedelta(days=n) for n in range(self.hours // 24 + 3)]
        found = at_midnights(self.instrument, self.trades, self.stamps, days, currency=self.instrument.settle)
        assert found == [self._at(datetime(day.year, day.month, day.day, tzinfo=UTC)) for day in days]

    def _at(self, midnight: datetime) -> AtMidnight:
        cycles = replay_cycles(
            self.instrument,
            [trade for trade in self.trades if trade.executed_at < midnight],
            [stamp for stamp in self.stamps if stamp.at < midnight],
        )
        standing = next((cycle.state for cycle in cycles if cycle.closed_at is None), LedgerState())
        return AtMidnight(sum(map(_realized, cycles)), standing.signed_qty, standing.cost)

    def _add(self, fill: Fill, hours: int) -> None:
        self.number += 1
        moment = MONDAY + timedelta(hours=hours)
        trade = Trade(
            fill_id=f"{self.number:06}",
            user_id=CHAIN.user_id,
            account_id=CHAIN.account_id,
            symbol=CHAIN.symbol,
            position_id="",
            opened_position_id=None,
            fill=fill,
            source="api",
            executed_at=moment,
            created_at=MONDAY + timedelta(days=365, seconds=self.number),
        )
        self.trades.append(trade)

    def _cycles(self) -> list[Cycle]:
        return replay_cycles(self.instrument, self.trades, self.stamps)

    def _states(self) -> list[LedgerState]:
        return [cycle.state for cycle in self._cycles()]

    def _replay_live(self) -> None:
        self.live = [cycle.state for cycle in replay_cycles(self.instrument, self.trades)]

    def _cash_of(self, fill: Fill) -> Decimal:
        """What a fill paid and received, its fee included; a fee in what is held is paid by selling it."""
        cash = -self.instrument.value(fill.signed_qty, fill.price)
        if self.instrument.market == "spot" and fill.fee_asset == self.instrument.base:
            cash += self.instrument.value(fill.fee, fill.price)
        return cash - (fee_expense(self.instrument, fill) or ZERO)

    def _ledger(self) -> Ledger:
        """The rows as the database would have them, and fills that point at them."""
        cycles = {f"p{number}": cycle for number, cycle in enumerate(self._cycles())}
        fills = _pointing(self.trades, cycles)
        pointed = Ledger(
            user_id="u",
            currency=self.instrument.settle,
            ledger_seq=1,
            rows={},
            fills=fills,
            payments=dict.fromkeys(cycles, self.stamps),
        )
        made = compare_rows(pointed, replay_chain(pointed, CHAIN, fills, self.instrument))
        rows = {
            one.right.position_id: Row(one.right, published_of(one.right.state, one.right.converted)) for one in made
        }
        return msgspec.structs.replace(pointed, rows=rows)


TestAnyLedger = AnyLedger.TestCase
TestAnyLedger.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


@given(instruments, fill_lists, st.data())
def test_the_profits_of_days_add_up_to_the_change_of_the_total(
    instrument: Instrument, fills: list[Fill], data: st.DataObject
) -> None:
    """Totals at the ends of days, each by the ledger of its time and its own mark; the days between add up exactly."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(fills)), min_size=2, max_size=5)))
    marks = data.draw(st.lists(st.decimals("0.01", "1000", places=2), min_size=len(ends), max_size=len(ends)))

    totals = [_total(instrument, fills[:end], mark) for end, mark in zip(ends, marks, strict=True)]
    days = [after - before for before, after in pairwise(totals)]

    assert sum(days) == totals[-1] - totals[0]
    # And a day's profit is what its prices did to what it began with, and its fills to what they traded.
    for place, day in enumerate(days):
        begun, traded = fills[: ends[place]], fills[ends[place] : ends[place + 1]]
        with exact():
            held = sum((fill.signed_qty for fill in begun), ZERO)
            moved = instrument.value(held, marks[place + 1]) - instrument.value(held, marks[place])
            filled = sum((_gain(instrument, fill, marks[place + 1]) for fill in traded), ZERO)
        assert abs(day - to_units(moved + filled)) <= 2 * (len(fills) + 2)


def _gain(instrument: Instrument, fill: Fill, mark: Decimal) -> Decimal:
    return instrument.value(fill.signed_qty, mark) - instrument.value(fill.signed_qty, fill.price) - fill.fee


def _total(instrument: Instrument, fills: list[Fill], mark: Decimal) -> int:
    states = replay(instrument, fills, marks=[mark])
    return to_units(states[-1].realized_pnl + states[-1].unrealized_pnl[0]) if states else 0


def _realized(cycle: Cycle) -> int:
    state = cycle.state
    return to_units(state.cash) + to_units(state.cost) - to_units(state.fees) + to_units(state.funding)


def _pointing(trades: Iterable[Trade], cycles: Mapping[str, Cycle]) -> list[Trade]:
    """The fills with the positions that they make."""
    own: dict[str, str] = {}
    opened: dict[str, str] = {}
    for position_id, cycle in cycles.items():
        for place, fill_id in enumerate(cycle.fill_ids):
            is_rest = place == 0 and cycle.is_opened_by_rest
            (opened if is_rest else own)[fill_id] = position_id
    return [
        msgspec.structs.replace(trade, position_id=own[trade.fill_id], opened_position_id=opened.get(trade.fill_id))
        for trade in trades
    ]
