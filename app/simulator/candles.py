"""Trades summed over time: minutes, quarters of an hour, the rolling day, and klines made of them."""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS
DAY_MS = 24 * 60 * MINUTE_MS

_MINUTES_KEPT = 120
_QUARTERS_KEPT = 97


class Candle:
    """What happened from ``opens_ms`` on. Prices and volumes in 1e-8, quote volumes in 1e-16."""

    __slots__ = (
        "close",
        "count",
        "first_id",
        "high",
        "last_id",
        "low",
        "open",
        "opens_ms",
        "quote_volume",
        "taker_quote_volume",
        "taker_volume",
        "volume",
    )

    def __init__(self, opens_ms: int, price: int, next_id: int) -> None:
        """An empty candle: flat at ``price``, with no trades before ``next_id``."""
        self.opens_ms = opens_ms
        self.open = self.high = self.low = self.close = price
        self.volume = self.quote_volume = self.taker_volume = self.taker_quote_volume = 0
        self.count = 0
        self.first_id = next_id
        self.last_id = next_id - 1

    def add(self, price: int, quantity: int, fills: int, *, taker_buys: bool) -> None:
        """Count one taker order of ``fills`` trades at one price."""
        if not self.count:
            self.open = self.high = self.low = price
        elif price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += quantity
        self.quote_volume += price * quantity
        self.count += fills
        self.last_id += fills
        if taker_buys:
            self.taker_volume += quantity
            self.taker_quote_volume += price * quantity

    def merge(self, later: "Candle") -> None:
        """Extend this candle by one that follows it."""
        if not later.count:
            return
        if not self.count:
            self.open, self.high, self.low, self.first_id = later.open, later.high, later.low, later.first_id
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.quote_volume += later.quote_volume
        self.taker_volume += later.taker_volume
        self.taker_quote_volume += later.taker_quote_volume
        self.count += later.count
        self.last_id = later.last_id


class Before(Protocol):
    """What happened before the exchange opened."""

    def minutes(self) -> list[Candle]:
        """One candle for each minute."""

    def quarters(self) -> list[Candle]:
        """One candle for each quarter of an hour."""


class CandleTape:
    """The candles of one symbol, from a seeded day before the exchange opened until now."""

    def __init__(self, opened_ms: int, price: int, next_id: int, before: Before) -> None:
        self._before = before
        self._quarters_before: deque[Candle] | None = None
        self._minute = Candle(opened_ms // MINUTE_MS * MINUTE_MS, price, next_id)
        self._minutes: deque[Candle] = deque(maxlen=_MINUTES_KEPT)
        self._quarters: deque[Candle] = deque(maxlen=_QUARTERS_KEPT)
        self._day: tuple[int, Candle] | None = None

    @property
    def last(self) -> int:
        """The price of the last trade."""
        return self._minute.close

    @property
    def last_id(self) -> int:
        """The id of the last trade."""
        return self._minute.last_id

    def add(self, time_ms: int, price: int, quantity: int, fills: int, *, taker_buys: bool) -> None:
        """Count one taker order."""
        if time_ms >= self._minute.opens_ms + MINUTE_MS:
            self._close_minute(time_ms)
        self._minute.add(price, quantity, fills, taker_buys=taker_buys)

    def day(self, now_ms: int) -> Candle:
        """The last 24 hours, to the quarter of an hour."""
        oldest_ms = (now_ms - DAY_MS) // QUARTER_MS * QUARTER_MS + QUARTER_MS
        if self._day is None or self._day[0] != oldest_ms:
            closed = (candle for candle in self._long_ago() if candle.opens_ms >= oldest_ms)
            self._day = (oldest_ms, _merged(oldest_ms, closed, self._minute))
        whole = _merged(now_ms - DAY_MS, (self._day[1],), self._minute)
        whole.merge(self._minute)
        return whole

    def recent_average(self) -> int:
        """The volume-weighted price of about five minutes; the last price when nothing traded."""
        since = self._minute.opens_ms - 4 * MINUTE_MS
        recent = [candle for candle in self._minutes if candle.opens_ms >= since] + [self._minute]
        volume = sum(candle.volume for candle in recent)
        return sum(candle.quote_volume for candle in recent) // volume if volume else self.last

    def klines(self, interval: str, now_ms: int) -> list[Candle]:
        """Every kline known, oldest first and without holes, the last one still open."""
        source = self._fine() if interval in _FINE_INTERVALS else [*self._long_ago(), self._minute]
        return list(_grouped(source, interval, now_ms))

    def kline_at(self, interval: str, time_ms: int) -> Candle:
        """The kline that holds a moment of late; flat when nothing traded in it."""
        opens_ms = interval_opens(interval, time_ms)
        closes_ms = interval_closes(interval, opens_ms)
        source = self._minutes if interval in _FINE_INTERVALS else self._long_ago()
        kline = Candle(opens_ms, self.last, self.last_id + 1)
        for candle in (*source, self._minute):
            if opens_ms <= candle.opens_ms <= closes_ms:
                kline.merge(candle)
        return kline

    def _fine(self) -> list[Candle]:
        live = [*self._minutes, self._minute]
        # Once the oldest live minute is forgotten there would be a hole between it and the seeded day.
        return live if len(self._minutes) == _MINUTES_KEPT else [*self._before.minutes(), *live]

    def _close_minute(self, time_ms: int) -> None:
        closed = self._minute
        if closed.count:
            self._minutes.append(closed)
            self._into_quarter(closed)
        self._minute = Candle(time_ms // MINUTE_MS * MINUTE_MS, closed.close, closed.last_id + 1)
        self._day = None

    def _into_quarter(self, minute: Candle) -> None:
        opens_ms = minute.opens_ms // QUARTER_MS * QUARTER_MS
        if not self._quarters or self._quarters[-1].opens_ms != opens_ms:
            self._quarters.append(Candle(opens_ms, minute.open, minute.first_id))
        self._quarters[-1].merge(minute)

    def _long_ago(self) -> list[Candle]:
        if self._quarters_before is None:
            self._quarters_before = deque(self._before.quarters(), maxlen=_QUARTERS_KEPT)
        while self._quarters_before and len(self._quarters_before) + len(self._quarters) > _QUARTERS_KEPT + 1:
            self._quarters_before.popleft()
        return [*self._quarters_before, *self._quarters]


def _merged(opens_ms: int, candles: Iterable[Candle], later: Candle) -> Candle:
    """One candle for several in order, all of them before ``later``; flat when there is none."""
    whole = Candle(opens_ms, later.open, later.first_id)
    for candle in candles:
        whole.merge(candle)
    return whole


_FIXED_INTERVALS = {
    "1m": 1, "3m": 3, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "8h": 480, "12h": 720,
    "1d": 1440, "3d": 3 * 1440,
}  # fmt: skip
_FINE_INTERVALS = frozenset({"1m", "3m", "5m"})
INTERVALS = frozenset(_FIXED_INTERVALS) | {"1w", "1M"}
"""The kline intervals known here: Binance's, without ``1s``."""


def interval_opens(interval: str, time_ms: int) -> int:
    """When the kline that holds a moment opens."""
    if interval == "1M":
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
        return _epoch_ms(moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    if interval == "1w":
        monday = 4 * DAY_MS  # The epoch was a Thursday.
        return (time_ms - monday) // (7 * DAY_MS) * (7 * DAY_MS) + monday
    width = _FIXED_INTERVALS[interval] * MINUTE_MS
    return time_ms // width * width


def interval_closes(interval: str, opens_ms: int) -> int:
    """The last millisecond of the kline that opens at ``opens_ms``."""
    if interval == "1M":
        moment = datetime.fromtimestamp(opens_ms / 1000, UTC)
        return _epoch_ms((moment + timedelta(days=32)).replace(day=1)) - 1
    if interval == "1w":
        return opens_ms + 7 * DAY_MS - 1
    return opens_ms + _FIXED_INTERVALS[interval] * MINUTE_MS - 1


def _epoch_ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _grouped(source: list[Candle], interval: str, now_ms: int) -> Iterator[Candle]:
    current: Candle | None = None
    for candle in source:
        opens_ms = interval_opens(interval, candle.opens_ms)
        if current is None:
            current = Candle(opens_ms, candle.open, candle.first_id)
        for finished in _until(current, interval, opens_ms):
            yield finished
            current = _after(finished, interval)
        current.merge(candle)
    if current is not None:
        for finished in _until(current, interval, interval_opens(interval, now_ms)):
            yield finished
            current = _after(finished, interval)
        yield current


def _until(current: Candle, interval: str, opens_ms: int) -> Iterator[Candle]:
    """The given kline and the flat ones after it that end before ``opens_ms``."""
    while current.opens_ms < opens_ms:
        yield current
        current = _after(current, interval)


def _after(candle: Candle, interval: str) -> Candle:
    return Candle(interval_closes(interval, candle.opens_ms) + 1, candle.close, candle.last_id + 1)
