"""How ``run.py value`` prints what it found: a table to look at, or JSON to compute with.

What is printed follows the rule of the whole system: cost, cash, fees and market
value are rounded once, half to even, to 18 places, and the rest is added.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, TextIO

import msgspec
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from app.domain.decimals import exact, format_decimal, format_units, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import Fill, PositionState
from app.domain.lots import Disposal, Method
from app.domain.statements import timestamp
from app.entry.fill_spool import PositionKey

_MOST_TABLE_ROWS = 500
_WIDER_THAN_ANY = 10_000


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A state as it is published: amounts in units of 1e-18; ``unrealized_pnl`` by mark."""

    signed_qty: Decimal
    entry_price: Decimal | None
    break_even_price: Decimal | None
    cost_basis: int
    realized_pnl_gross: int
    fees: int
    fees_unpriced: dict[str, Decimal]
    unrealized_pnl: tuple[int, ...]

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees


class Totals(msgspec.Struct):
    """The sum of positions settled in one asset, in units of 1e-18."""

    realized_pnl_gross: int = 0
    fees: int = 0
    is_complete: bool = True
    """False where a fee has no rate and is in no figure."""
    unrealized_pnl: tuple[int, ...] | None = None
    """By mark; None where something held has no mark, or not as many as the others."""
    is_unpriced: bool = False

    @property
    def realized_pnl(self) -> int:
        return self.realized_pnl_gross - self.fees

    def add(self, figures: Figures) -> None:
        """Count a position in."""
        self.realized_pnl_gross += figures.realized_pnl_gross
        self.fees += figures.fees
        self.is_complete = self.is_complete and not figures.fees_unpriced
        if figures.signed_qty:
            self._add_unrealized(figures.unrealized_pnl)

    def _add_unrealized(self, unrealized: tuple[int, ...]) -> None:
        known = self.unrealized_pnl or (0,) * len(unrealized)
        self.is_unpriced = self.is_unpriced or not unrealized or len(known) != len(unrealized)
        self.unrealized_pnl = None if self.is_unpriced else tuple(a + b for a, b in zip(known, unrealized, strict=True))


class Report(Protocol):
    """Where the figures go."""

    def begin(self, key: PositionKey, instrument: Instrument, marks: Sequence[Decimal]) -> None:
        """A position, with the marks it is valued at."""

    def fill(self, number: int, fill: Fill, figures: Figures, disposals: Sequence[Disposal]) -> None:
        """The fill of a row, what the position is after it and the lots it consumed."""

    def end(self, fills: int, last: Figures) -> None:
        """What the position is after its last fill."""

    def finish(self, totals: Mapping[str, Totals], repeats: int) -> None:
        """The sums by settle asset, and how many repeated fills were left out."""


def publish(state: PositionState) -> Figures:
    """Round the leaves of a state, once."""
    with exact():
        cost = to_units(state.cost_basis)
        return Figures(
            signed_qty=state.signed_qty,
            entry_price=state.entry_price,
            break_even_price=state.break_even_price,
            cost_basis=cost,
            realized_pnl_gross=to_units(state.realized_pnl_gross - state.cost_basis) + cost,
            fees=to_units(state.fees),
            fees_unpriced=state.fees_unpriced,
            unrealized_pnl=tuple(to_units(figure + state.cost_basis) - cost for figure in state.unrealized_pnl),
        )


class JsonReport:
    """One JSON object, written as it comes: amounts, prices and quantities are strings."""

    def __init__(self, method: Method, out: TextIO) -> None:
        self._out = out
        self._out.write(f'{{"method": {json.dumps(method)}, "positions": [')
        self._before_position = "\n"
        self._before_state = ""

    def begin(self, key: PositionKey, instrument: Instrument, marks: Sequence[Decimal]) -> None:
        head = {
            "symbol": key.symbol,
            "position_side": key.position_side,
            "strategy": key.strategy or None,
            "market": instrument.market,
            "settle_asset": instrument.settle,
            "marks": [format_decimal(mark) for mark in marks],
        }
        self._out.write(f'{self._before_position}{json.dumps(head)[:-1]}, "states": [')
        self._before_position = ",\n"
        self._before_state = "\n  "

    def fill(self, number: int, fill: Fill, figures: Figures, disposals: Sequence[Disposal]) -> None:
        state = {
            "row": number,
            "executed_at": None if fill.executed_at is None else timestamp(fill.executed_at),
            "side": fill.side,
            "quantity": format_decimal(fill.quantity),
            "price": format_decimal(fill.price),
            **_statement(figures),
            "lots_consumed": [_disposal_statement(disposal) for disposal in disposals],
        }
        self._out.write(self._before_state + json.dumps(state))
        self._before_state = ",\n  "

    def end(self, fills: int, last: Figures) -> None:
        self._out.write(f'], "fills": {fills}, "last": {json.dumps(_statement(last))}}}')

    def finish(self, totals: Mapping[str, Totals], repeats: int) -> None:
        sums = {
            asset: {
                "realized_pnl_gross": format_units(total.realized_pnl_gross),
                "fees": format_units(total.fees),
                "realized_pnl": format_units(total.realized_pnl),
                "unrealized_pnl": None
                if total.unrealized_pnl is None
                else [format_units(figure) for figure in total.unrealized_pnl],
                "is_complete": total.is_complete,
            }
            for asset, total in totals.items()
        }
        self._out.write(f'],\n"totals": {json.dumps(sums)}, "repeated_fills": {repeats}}}\n')


class TableReport:
    """A table of positions, and of the states after each fill where they are few enough to look at."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False)
        self._positions = _table("position", "fills", "quantity", "entry", "break-even", *_REALIZED)
        self._states = _table("row", "time", "position", "fill", "quantity", "entry", *_REALIZED)
        self._not_shown = 0
        self._name = ""
        self._settle = ""
        self._marks: Sequence[Decimal] = ()
        self._unpriced_fees: dict[str, Decimal] = {}

    def begin(self, key: PositionKey, instrument: Instrument, marks: Sequence[Decimal]) -> None:
        side = "" if key.position_side == "net" else key.position_side
        self._name = " ".join(part for part in (key.symbol, side, key.strategy) if part)
        self._settle = instrument.settle
        self._marks = marks

    def fill(self, number: int, fill: Fill, figures: Figures, disposals: Sequence[Disposal]) -> None:
        if self._states.row_count >= _MOST_TABLE_ROWS:
            self._not_shown += 1
            return
        self._states.add_row(
            str(number),
            "" if fill.executed_at is None else timestamp(fill.executed_at),
            self._name,
            f"{fill.side} {format_decimal(fill.quantity)} @ {format_decimal(fill.price)}",
            format_decimal(figures.signed_qty),
            _price(figures.entry_price),
            *self._realized(figures),
        )

    def end(self, fills: int, last: Figures) -> None:
        self._positions.add_row(
            self._name,
            str(fills),
            format_decimal(last.signed_qty),
            _price(last.entry_price),
            _price(last.break_even_price),
            *self._realized(last),
        )
        for asset, fee in last.fees_unpriced.items():
            with exact():
                self._unpriced_fees[asset] = self._unpriced_fees.get(asset, Decimal(0)) + fee

    def finish(self, totals: Mapping[str, Totals], repeats: int) -> None:
        if self._states.row_count:
            self._print(self._states)
        for asset, total in totals.items():
            self._positions.add_row(
                f"total {asset}",
                *("", "", "", ""),
                format_units(total.realized_pnl_gross),
                format_units(total.fees),
                format_units(total.realized_pnl),
                " | ".join(format_units(figure) for figure in total.unrealized_pnl or ()),
            )
        self._print(self._positions)
        self._notes(repeats)

    def _notes(self, repeats: int) -> None:
        notes = [
            f"{format_decimal(fee)} {asset} of fees have no rate and are in no figure: give fee_rate"
            for asset, fee in self._unpriced_fees.items()
        ]
        if self._not_shown:
            notes.append(f"the states after {self._not_shown:,} more fills are not shown: use --json")
        if repeats:
            notes.append(f"{repeats:,} fills were in the file more than once (same trade_id) and count once")
        for note in notes:
            self._console.print(note, soft_wrap=True)

    def _realized(self, figures: Figures) -> list[str]:
        unrealized = (
            f"{format_units(figure)} @ {format_decimal(mark)}"
            for figure, mark in zip(figures.unrealized_pnl, self._marks, strict=True)
        )
        return [
            f"{format_units(figures.realized_pnl_gross)} {self._settle}",
            format_units(figures.fees),
            format_units(figures.realized_pnl),
            " | ".join(unrealized),
        ]

    def _print(self, table: Table) -> None:
        # A figure is never cut off: where the screen is narrower, its lines wrap.
        wide = self._console.options.update(max_width=_WIDER_THAN_ANY)
        self._console.width = max(self._console.width, Measurement.get(self._console, wide, table).maximum)
        self._console.print(table)
        self._console.print()


_REALIZED = ("realized gross", "fees", "realized net", "unrealized @ mark")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        is_text = column in {"position", "time", "fill"}
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _statement(figures: Figures) -> dict[str, Any]:
    return {
        "signed_qty": format_decimal(figures.signed_qty),
        "entry_price": None if figures.entry_price is None else format_decimal(figures.entry_price),
        "break_even_price": None if figures.break_even_price is None else format_decimal(figures.break_even_price),
        "cost_basis": format_units(figures.cost_basis),
        "realized_pnl_gross": format_units(figures.realized_pnl_gross),
        "fees": format_units(figures.fees),
        "fees_unpriced": {asset: format_decimal(fee) for asset, fee in figures.fees_unpriced.items()},
        "realized_pnl": format_units(figures.realized_pnl),
        "unrealized_pnl": [format_units(figure) for figure in figures.unrealized_pnl],
        "total_pnl": [format_units(figures.realized_pnl + figure) for figure in figures.unrealized_pnl],
    }


def _disposal_statement(disposal: Disposal) -> dict[str, Any]:
    cost, proceeds = to_units(disposal.cost), to_units(disposal.proceeds)
    return {
        "opened_at": None if disposal.opened_at is None else timestamp(disposal.opened_at),
        "opened_by": disposal.opened_by,
        "signed_qty": format_decimal(disposal.signed_qty),
        "cost": format_units(cost),
        "proceeds": format_units(proceeds),
        "realized_pnl_gross": format_units(proceeds - cost),
        "is_fee": disposal.is_fee,
    }


def _price(price: Decimal | None) -> str:
    return "" if price is None else format_decimal(price)
