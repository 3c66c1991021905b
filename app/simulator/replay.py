"""Recorded trades and quotes of one symbol, played again at any speed.

Two CSV files with a header each:
``time_ms,trade_id,price,quantity,buyer_is_maker`` and
``time_ms,bid,bid_quantity,ask,ask_quantity``.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.simulator.wire import parse_fixed

MAX_SPEED = 10_000
"""How many times faster than recorded ticks may be played."""

_SHORTEST_LOOP_US = 1000
_LATE_US = 1_000_000


class RecordedTrade(NamedTuple):
    """A trade; the time in microseconds since the epoch, numbers in 1e-8."""

    time_us: int
    price: int
    quantity: int
    buyer_is_maker: bool


class RecordedQuote(NamedTuple):
    """A best bid and ask; units as for a trade."""

    time_us: int
    bid: int
    bid_quantity: int
    ask: int
    ask_quantity: int


RecordedTick = RecordedTrade | RecordedQuote


class Recording:
    """The ticks of one symbol, in order of time, and how to play them."""

    def __init__(self, symbol: str, ticks: list[RecordedTick], *, speed: float = 1.0, loop: bool = True) -> None:
        if not ticks:
            raise ValueError(f"the recording of {symbol} holds no ticks")
        if not 0 < speed <= MAX_SPEED:
            raise ValueError(f"the speed of a replay must be above zero and at most {MAX_SPEED}")
        self.symbol = symbol
        self.ticks = sorted(ticks, key=lambda tick: tick.time_us)
        self.speed = speed
        self.loop = loop

    @property
    def opening_price(self) -> int:
        """The first price recorded."""
        first = self.ticks[0]
        return first.price if isinstance(first, RecordedTrade) else first.bid

    @property
    def duration_us(self) -> int:
        """From the first tick to the last, as recorded."""
        return self.ticks[-1].time_us - self.ticks[0].time_us


def load_recording(
    symbol: str, *, trades: Path | None = None, quotes: Path | None = None, speed: float = 1.0, loop: bool = True
) -> Recording:
    """Read a recording. Raises ValueError naming the file and line of a row that cannot be read."""
    ticks: list[RecordedTick] = []
    if trades is not None:
        ticks += _rows(trades, _trade)
    if quotes is not None:
        ticks += _rows(quotes, _quote)
    return Recording(symbol, ticks, speed=speed, loop=loop)


def _trade(row: dict[str, str]) -> RecordedTrade:
    if row["buyer_is_maker"] not in {"true", "false"}:
        raise ValueError("buyer_is_maker is neither true nor false")
    trade = RecordedTrade(
        int(row["time_ms"]) * 1000,
        parse_fixed(row["price"]),
        parse_fixed(row["quantity"]),
        row["buyer_is_maker"] == "true",
    )
    if trade.price <= 0 or trade.quantity <= 0:
        raise ValueError("price and quantity must be above zero")
    return trade


def _quote(row: dict[str, str]) -> RecordedQuote:
    quote = RecordedQuote(
        int(row["time_ms"]) * 1000,
        parse_fixed(row["bid"]),
        parse_fixed(row["bid_quantity"]),
        parse_fixed(row["ask"]),
        parse_fixed(row["ask_quantity"]),
    )
    if not 0 < quote.bid < quote.ask:
        raise ValueError("a quote needs 0 < bid < ask")
    return quote


def _rows(path: Path, read: Callable[[dict[str, str]], RecordedTick]) -> Iterator[RecordedTick]:
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                yield read(row)
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error


class RecordingPlayer:
    """Where in a recording the replay is. A loop starts again one mean gap after the end."""

    def __init__(self, recording: Recording, started_us: int) -> None:
        self.symbol = recording.symbol
        self._recording = recording
        self._started_us = started_us
        self._next = 0

    def due(self, now_us: int) -> Iterator[tuple[int, RecordedTick]]:
        """Each tick that came due, with the instant it is due at. Time that the process slept is left out."""
        recording = self._recording
        ticks, first_us = recording.ticks, recording.ticks[0].time_us
        while True:
            if self._next == len(ticks):
                if not recording.loop:
                    return
                self._next = 0
                pause_us = max(1000, recording.duration_us // len(ticks))
                loop_us = int((recording.duration_us + pause_us) / recording.speed)
                self._started_us += max(_SHORTEST_LOOP_US, loop_us)
            tick = ticks[self._next]
            time_us = self._started_us + int((tick.time_us - first_us) / recording.speed)
            if time_us > now_us:
                return
            if now_us - time_us > _LATE_US:
                self._started_us += now_us - time_us
                time_us = now_us
            self._next += 1
            yield time_us, tick
