"""Published worked examples: read from data, computed, compared, and written as a page.

``python -m tests.domain.published_examples`` writes ``docs/accounting-examples.md``.
"""

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec

from app.domain.decimals import exact, format_units, to_units
from app.domain.instruments import Instrument, Market
from app.domain.ledger import Fill, Funding, PositionSide, PositionState, replay
from app.domain.lots import LotBook, Method

DATA = Path(__file__).with_suffix(".toml")
PAGE = Path(__file__).parents[2] / "docs" / "accounting-examples.md"

_START = datetime(2024, 1, 1, tzinfo=UTC)
_HEAD = """\
# Published examples, recomputed

Worked examples that exchanges, brokers and libraries publish, and what Tidemark makes of the same fills. The test
suite checks every line; where a source rounds or truncates, the difference allowed is the one its rounding explains.
The fills are in `tests/domain/published_examples.toml`; [accounting.md](accounting.md) defines the figures.
`python -m tests.domain.published_examples` writes this page anew. It has {examples} examples and {figures} figures.

| Example | Figure | Tidemark | Published | Difference explained |
|---|---|---:|---:|---|
"""


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of a source: after the last fill, or after fill ``after``."""

    figure: str
    value: Decimal
    after: int | None = None
    mark: Decimal | None = None
    within: Decimal = Decimal(0)
    because: str = ""


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One example, as the data file has it."""

    id: str
    what: str
    source: str
    fills: tuple[str, ...]
    published: tuple[Published, ...]
    market: Market = "spot"
    multiplier: Decimal = Decimal(1)
    position_side: PositionSide = "net"
    method: Method = "average"
    funding: tuple[str, ...] = ()
    note: str = ""

    def compute(self, published: Published) -> Decimal:
        """Tidemark's value of a published figure, exact."""
        after = published.after or len(self.fills)
        states = self._states(() if published.mark is None else (published.mark,))
        with exact():
            return _figure(published.figure, states[after - 1], states[after - 2] if after > 1 else None)

    def _states(self, marks: tuple[Decimal, ...]) -> list[PositionState]:
        fills = [self._fill(place, text) for place, text in enumerate(self.fills)]
        if self.method == "average":
            return replay(self._instrument(), fills, [_stamp(text) for text in self.funding], marks)
        assert not self.funding  # No published example has both.
        book = LotBook(self._instrument(), self.method, self.position_side)
        states = []
        for place, fill in enumerate(fills):
            book.book(fill)
            states.append(book.describe(place, marks))
        return states

    def _instrument(self) -> Instrument:
        return Instrument(
            symbol="BTCUSD",
            market=self.market,
            base="BTC",
            quote="USD",
            settle="BTC" if self.market == "inverse" else "USD",
            tick_size=Decimal("0.01"),
            step_size=Decimal("0.001"),
            multiplier=self.multiplier,
        )

    def _fill(self, place: int, text: str) -> Fill:
        side, quantity, _, price, *charge = text.split()
        assert side in ("buy", "sell")
        fee = dict(
            zip(("fee", "asset", "rate"), (word for word in charge if word not in ("fee", "rate")), strict=False)
        )
        return Fill(
            side="buy" if side == "buy" else "sell",
            quantity=Decimal(quantity),
            price=Decimal(price),
            fee=Decimal(fee.get("fee", "0")),
            fee_asset=fee.get("asset"),
            fee_rate=Decimal(fee["rate"]) if "rate" in fee else None,
            executed_at=_START + timedelta(hours=place),
            position_side=self.position_side,
        )


def load() -> list[Example]:
    """Every example of the data file."""
    content = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return msgspec.convert(content["example"], list[Example])


def figures() -> Iterator[tuple[Example, Published]]:
    """Every published figure, with its example."""
    for example in load():
        for published in example.published:
            yield example, published


def render() -> str:
    """The page that compares them."""
    rows = [_row(example, published) for example, published in figures()]
    return _HEAD.format(examples=len(load()), figures=len(rows)) + "".join(rows)


def _row(example: Example, published: Published) -> str:
    place = "" if published.after is None else f" after fill {published.after}"
    mark = "" if published.mark is None else f" at {published.mark:f}"
    method = "" if example.method == "average" else f" ({example.method.upper()})"
    figure = f"{published.figure.replace('_', ' ')}{place}{mark}{method}"
    address, _, test = example.source.partition(" ")
    source = f"[{example.what}]({address})" + (f", `{test}`" if test else "")
    explained = " ".join(part for part in (_sentence(published.because), example.note) if part)
    ours = format_units(to_units(example.compute(published)))
    return f"| {source} | {figure} | {ours} | {published.value:f} | {explained} |\n"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _stamp(text: str) -> Funding:
    after, _, terms = text.removeprefix("after ").partition(": mark ")
    mark, _, rate = terms.partition(" rate ")
    at = _START + timedelta(hours=int(after) - 1, minutes=30)
    return Funding(at=at, mark=Decimal(mark), rate=Decimal(rate))


def _figure(name: str, state: PositionState, before: PositionState | None) -> Decimal:
    if name == "gain":
        return state.realized_pnl_gross - (before.realized_pnl_gross if before else 0)
    if name in ("unrealized_pnl", "total_pnl", "market_value"):
        (unrealized,) = state.unrealized_pnl
        also = {"unrealized_pnl": Decimal(0), "total_pnl": state.realized_pnl, "market_value": state.cost_basis}
        return unrealized + also[name]
    value = getattr(state, name)
    assert isinstance(value, Decimal)
    return value


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
