"""The main job on recorded Binance ticks, where the recordings are at hand."""

import csv
from decimal import Decimal
from pathlib import Path

import pytest

from tests.e2e.system import ROOT, System
from tests.e2e.trader import Trader

RECORDINGS = ROOT.parent / "shared" / "data"
TRADES = RECORDINGS / "btcusdt-trades-2021-01-08.csv"
QUOTES = RECORDINGS / "btcusdt-quotes-2021-01-08.csv"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not TRADES.exists(), reason="recorded market data is not at hand"),
    pytest.mark.timeout(180),
]


def recorded(path: Path, column: str) -> list[Decimal]:
    with path.open() as file:
        return [Decimal(row[column]) for row in csv.DictReader(file)]


async def test_every_mark_of_a_replay_is_one_that_the_recording_allows(tmp_path: Path) -> None:
    bids, asks = recorded(QUOTES, "bid"), recorded(QUOTES, "ask")
    mids = {(bid + ask) / 2 for bid, ask in zip(bids, asks, strict=True)} | set(recorded(TRADES, "price"))
    system = System(
        tmp_path / "data",
        TIDEMARK_SIMULATOR_REPLAY_SYMBOL="BTCUSDT",
        TIDEMARK_SIMULATOR_REPLAY_TRADES=str(TRADES),
        TIDEMARK_SIMULATOR_REPLAY_QUOTES=str(QUOTES),
        TIDEMARK_SIMULATOR_REPLAY_SPEED="2",
    )
    async with system, Trader(system) as trader:
        await trader.register()
        await trader.open("BTCUSDT", "long", "0.75", price="39000")
        await trader.listen("BTCUSDT")
        marks: set[str] = set()

        def enough() -> bool:
            marks.update(str(row["mark_price"]) for row in trader.rows.values())
            return len(marks - {"None"}) >= 40

        await trader.until(enough, 60, what="40 marks of the recording")

    strangers = {mark for mark in marks - {"None"} if Decimal(mark) not in mids}
    assert not strangers
