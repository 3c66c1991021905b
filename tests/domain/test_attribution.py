"""Why P&L changed: the parts sum to the change, to the last digit."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.domain.account_replay import AccountReplay, Held, PaidFunding, RecordedFill
from app.domain.attribution import Marks, Parts, explain, total_pnl
from app.domain.cycles import book_fill
from app.domain.decimals import UNITS
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, LedgerState, Side
from tests.domain.books import INSTRUMENTS, decimals, instrument

START = datetime(2026, 3, 1, tzinfo=UTC)
BTC = instrument("BTCUSDT")


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


class Desk:
    """Books fills as the repository does, and records which cycles they changed."""

    def __init__(self) -> None:
        self.instruments: dict[str, Instrument] = {}
        self.states: dict[str, LedgerState] = {}
        self.standing: dict[str, str] = {}
        self.fills: list[RecordedFill] = []
        self.funding: list[PaidFunding] = []

    def trade(
        self,
        of: Instrument,
        side: Side,
        quantity: str | Decimal,
        price: str | Decimal,
        when: datetime,
        fee: str | Decimal = "0",
        fee_asset: str | None = None,
        rate: str | Decimal | None = None,
    ) -> None:
        fill = Fill(
            side=side,
            quantity=Decimal(quantity),
            price=Decimal(price),
            fee=Decimal(fee),
            fee_asset=fee_asset,
            executed_at=when,
            rate_to_reporting=None if rate is None else Decimal(rate),
        )
        standing = self.standing.get(of.symbol)
        booked = book_fill(of, None if standing is None else self.states[standing], fill)
        changed = []
        if standing is not None and booked.standing is not None:
            self.states[standing] = booked.standing
            changed.append(standing)
            if booked.standing.is_flat:
                del self.standing[of.symbol]
        if booked.opened is not None:
            opened = f"p{len(self.states)}"
            self.instruments[opened], self.states[opened] = of, booked.opened
            if not booked.opened.is_flat:
                self.standing[of.symbol] = opened
            changed.append(opened)
        self.fills.append(
            RecordedFill(
                position_id=changed[0],
                executed_at=when,
                fill=fill,
                opened_position_id=changed[1] if len(changed) > 1 else None,
            )
        )

    def fund(self, of: Instrument, amount: str, when: datetime, rate: Decimal | None = None) -> None:
        self.funding.append(
            PaidFunding(position_id=self.standing[of.symbol], at=when, amount=Decimal(amount), rate_to_reporting=rate)
        )

    def replay(self) -> AccountReplay:
        return AccountReplay(self.instruments, self.fills, self.funding, currency="USDT")

    def cycles_at(self, when: datetime) -> dict[str, Held]:
        replay = self.replay()
        replay.advance_to(when)
        return replay.cycles

    def explain(self, start: datetime, end: datetime, before: dict[str, str], after: dict[str, str]) -> Parts:
        found = explain(
            self.cycles_at(start),
            self.cycles_at(end),
            Marks({symbol: Decimal(mark) for symbol, mark in before.items()}),
            Marks({symbol: Decimal(mark) for symbol, mark in after.items()}),
        )
        assert not found.unknown
        return found.total


def money(parts: Parts) -> dict[str, Decimal]:
    names = ("price", "trading", "fees", "funding", "fx")
    return {name: Decimal(getattr(parts, name)) / UNITS for name in names if getattr(parts, name)}


def test_what_was_only_held_changed_by_its_price() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "2", "90", at(-5), fee="1")

    parts = desk.explain(at(0), at(24), {"BTCUSDT": "100"}, {"BTCUSDT": "107"})

    assert money(parts) == {"price": 14}


def test_the_published_form_position_now_less_position_then_plus_what_was_traded() -> None:
    # IBKR, "Profit and Loss": daily P&L is (position now · price now) - (position then · price then) + net traded.
    desk = Desk()
    desk.trade(BTC, "buy", "10", "90", at(-5))
    desk.trade(BTC, "buy", "5", "104", at(3), fee="0.5")
    desk.trade(BTC, "sell", "8", "106", at(4), fee="0.8")

    parts = desk.explain(at(0), at(24), {"BTCUSDT": "100"}, {"BTCUSDT": "107"})

    assert Decimal(parts.total) / UNITS == 7 * 107 - 10 * 100 - 5 * 104 + 8 * 106 - Decimal("1.3")
    assert money(parts) == {"price": 70, "trading": 7, "fees": Decimal("-1.3")}


def test_a_fill_at_the_boundary_belongs_to_what_begins() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "1", "90", at(0))

    assert money(desk.explain(at(0), at(1), {}, {"BTCUSDT": "100"})) == {"trading": 10}


def test_funding_and_fees_stand_apart() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "1", "100", at(-1), fee="3")
    desk.fund(BTC, "-0.25", at(8))
    desk.trade(BTC, "sell", "1", "100", at(9), fee="-0.1")

    parts = desk.explain(at(0), at(24), {"BTCUSDT": "100"}, {"BTCUSDT": "100"})

    assert money(parts) == {"fees": Decimal("0.1"), "funding": Decimal("-0.25")}


def test_of_what_was_closed_the_last_fill_stands_for_a_mark_that_nobody_knows() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "1", "90", at(-1))
    desk.trade(BTC, "sell", "1", "104", at(2))

    assert money(desk.explain(at(0), at(24), {"BTCUSDT": "100"}, {})) == {"price": 4}
    assert money(desk.explain(at(0), at(24), {"BTCUSDT": "100"}, {"BTCUSDT": "110"})) == {"price": 10, "trading": -6}


def test_what_was_over_before_needs_no_mark_and_changes_nothing() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "1", "90", at(-2))
    desk.trade(BTC, "sell", "1", "95", at(-1))

    found = explain(desk.cycles_at(at(0)), desk.cycles_at(at(24)), Marks({}), Marks({}))
    assert (found.symbols, found.unknown) == ({}, ())


def test_without_the_mark_at_the_start_a_symbol_is_named_and_in_no_sum() -> None:
    desk = Desk()
    desk.trade(BTC, "buy", "1", "90", at(-2))

    found = explain(desk.cycles_at(at(0)), desk.cycles_at(at(24)), Marks({}), Marks({"BTCUSDT": Decimal(100)}))
    assert (found.total, found.unknown) == (Parts(), ("BTCUSDT",))


def test_what_settles_elsewhere_is_reported_with_what_its_currency_did() -> None:
    # Two ETH at 0.05 BTC are worth 0.052 while BTC goes from 50,000 to 60,000: 0.004 BTC, or 240 USDT of price.
    desk = Desk()
    eth = instrument("ETHBTC", settle="BTC")
    desk.trade(eth, "buy", "2", "0.05", at(-1), rate="50000")

    found = explain(
        desk.cycles_at(at(0)),
        desk.cycles_at(at(24)),
        Marks({"ETHBTC": Decimal("0.05")}, {"BTC": Decimal(50_000)}),
        Marks({"ETHBTC": Decimal("0.052")}, {"BTC": Decimal(60_000)}),
    )

    assert money(found.total) == {"price": 240}


def test_a_gain_held_in_another_asset_moves_with_its_rate_and_that_is_no_price() -> None:
    desk = Desk()
    desk.trade(instrument("ETHBTC", settle="BTC"), "buy", "2", "0.05", at(-1), rate="50000")

    found = explain(
        desk.cycles_at(at(0)),
        desk.cycles_at(at(24)),
        Marks({"ETHBTC": Decimal("0.052")}, {"BTC": Decimal(50_000)}),
        Marks({"ETHBTC": Decimal("0.052")}, {"BTC": Decimal(60_000)}),
    )

    assert money(found.total) == {"fx": 40}


def test_what_began_and_ended_between_needs_no_rate_but_those_of_its_times() -> None:
    desk = Desk()
    eth = instrument("ETHBTC", settle="BTC")
    desk.trade(eth, "buy", "2", "0.05", at(1), rate="50000")
    desk.trade(eth, "sell", "2", "0.06", at(2), fee="0.001", rate="55000")

    found = explain(desk.cycles_at(at(0)), desk.cycles_at(at(24)), Marks({}), Marks({}))

    assert money(found.total) == {"trading": 1100, "fees": -55}
    assert found.is_complete


Order = tuple[Instrument, Side, Decimal, Decimal, Decimal, bool, Decimal]

orders = st.lists(
    st.tuples(
        st.sampled_from(INSTRUMENTS),
        st.sampled_from(["buy", "sell"]),
        decimals(8, 3),
        decimals(8, 5),
        st.one_of(st.just(Decimal(0)), decimals(18, 2, signed=True)),
        st.booleans(),
        decimals(2, 5),
    ),
    min_size=1,
    max_size=25,
)


def desk_of(script: list[Order]) -> Desk:
    """An order each hour; some fees are in the base, and what is held is funded now and then."""
    desk = Desk()
    for number, (of, side, quantity, price, fee, in_base, rate) in enumerate(script):
        asset = of.base if in_base and of.market == "spot" else None
        paid = min(abs(fee), quantity / 2) if asset else fee
        desk.trade(of, side, quantity, price, at(number), fee=paid, fee_asset=asset, rate=rate)
        if fee and of.symbol in desk.standing:
            desk.fund(of, str(fee), at(number + 0.5), rate=rate)
    return desk


@given(orders)
def test_a_replay_goes_through_the_states_that_were_recorded(script: list[Order]) -> None:
    desk = desk_of(script)
    desk.funding.clear()

    assert {one: held.state for one, held in desk.cycles_at(at(1000)).items()} == desk.states


@given(orders, st.lists(st.integers(-1, 26), min_size=2, max_size=5), st.data())
def test_the_parts_sum_to_the_change_and_days_to_the_whole(
    script: list[Order], moments: list[int], data: st.DataObject
) -> None:
    desk = desk_of(script)
    symbols = sorted({one.symbol for one in desk.instruments.values()})
    assets = sorted({one.settle for one in INSTRUMENTS} - {"USDT"})

    def drawn(names: list[str], digits: int) -> dict[str, Decimal]:
        return {name: data.draw(decimals(digits, 5)) for name in names}

    marks = {moment: Marks(drawn(symbols, 8), drawn(assets, 2)) for moment in sorted(set(moments))}

    def total_at(moment: int) -> int:
        cycles = desk.cycles_at(at(moment)).values()
        totals = [total_pnl(held, marks[moment], held.instrument.symbol) for held in cycles]
        assert None not in totals
        return sum(total for total in totals if total is not None)

    changes = 0
    for start, end in pairwise(marks):
        found = explain(desk.cycles_at(at(start)), desk.cycles_at(at(end)), marks[start], marks[end])
        assert found.total.total == total_at(end) - total_at(start)
        changes += found.total.total
    assert changes == total_at(max(marks)) - total_at(min(marks))
