"""Whether every user's figures are exact to the last digit: ``python -m benchmarks.exactness``.

A random book, from the smallest units to trillions, of spot, linear and inverse
positions, some of them settled in another currency, is made of random fills
through the ledger and the book, told to a web process and compared there. What
it must be is reckoned beside it in fractions, from the fills alone: nothing of
the arithmetic under test is used for that.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

import msgspec

from app.bus.pnl import decode_pnl_flush, encode_pnl_flush
from app.domain.book import Book
from app.domain.cycles import book_fill
from app.domain.instruments import Instrument, Market
from app.domain.ledger import FLAT, Fill, LedgerState, Side
from app.domain.positions import AccountBook, Converted, Position, UserBook
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.websocket.mirror import PnlMirror
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers

_AT: Final = datetime(2026, 3, 1, tzinfo=UTC)
_NOW_MS: Final = int(_AT.timestamp() * 1000)
_UNITS: Final = 10**18
_CURRENCY: Final = "USDT"
_COIN: Final = "BTC"
_COIN_IN_CURRENCY: Final = "BTCUSDT"
_MOST_WORTH: Final = {_CURRENCY: Fraction(10) ** 13, _COIN: Fraction(10) ** 8}
"""Of a fill. The figures of a user then stay within 2^127 units, whatever prices do here."""
_SMALLEST: Final = Decimal("1e-18")
_WIDE: Final = Context(prec=60)
_INSTANCE: Final = "web"


@dataclass(frozen=True)
class Size:
    """How large the book is, and how many of its users are followed to a web process."""

    positions: int = 1_000_000
    users: int = 25_000
    symbols: int = 2_000
    streamed: int = 2_000
    changes: int = 20_000
    seed: int = 1


@dataclass
class Outcome:
    """How many users and positions were compared, and which users were wrong in any digit."""

    users: int = 0
    positions: int = 0
    smallest: Fraction = Fraction(10) ** 30
    largest: Fraction = Fraction(0)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Expected:
    """One position, by hand: average cost in fractions, leaves rounded once, half to even."""

    __slots__ = (
        "cash",
        "cost",
        "fees",
        "held",
        "is_foreign",
        "is_inverse",
        "reported",
        "reported_fees",
        "size",
        "symbol",
    )

    def __init__(self, instrument: Instrument) -> None:
        self.symbol = instrument.symbol
        self.is_inverse = instrument.market == "inverse"
        self.is_foreign = instrument.settle != _CURRENCY
        self.size = Fraction(instrument.multiplier)
        self.held = self.cost = self.cash = self.fees = self.reported = self.reported_fees = Fraction(0)

    def worth(self, quantity: Fraction, price: Fraction) -> Fraction:
        """The value of a quantity, in the settle asset."""
        return -quantity * self.size / price if self.is_inverse else quantity * self.size * price

    def trade(self, fill: Fill) -> None:
        """Book a fill that does not go through zero."""
        quantity = Fraction(fill.quantity) * (1 if fill.side == "buy" else -1)
        rate = Fraction(fill.rate_to_reporting or 1)
        value = self.worth(quantity, Fraction(fill.price))
        gross = self.cash + self.cost
        self.cash -= value
        if self.held * quantity >= 0:
            self.cost += value
        else:
            self.cost *= (self.held + quantity) / self.held
        self.held += quantity
        self.fees += Fraction(fill.fee)
        self.reported += (self.cash + self.cost - gross) * rate
        self.reported_fees += Fraction(fill.fee) * rate

    def unrealized(self, prices: Mapping[str, Fraction]) -> int:
        """In units of the reporting currency: a rounded value less a rounded cost, each converted and rounded."""
        value = round(self.worth(self.held, prices[self.symbol]) * _UNITS)
        cost = round(self.cost * _UNITS)
        if not self.is_foreign:
            return value - cost
        rate = prices[_COIN_IN_CURRENCY]
        return round(value * rate) - round(cost * rate)

    def realized(self) -> tuple[int, int]:
        """Gross profit and fees, in units of the reporting currency."""
        if self.is_foreign:
            return round(self.reported * _UNITS), round(self.reported_fees * _UNITS)
        return round(self.cash * _UNITS) + round(self.cost * _UNITS), round(self.fees * _UNITS)


class Crowd:
    """Users with random positions: as the ledger has them, and as they must be."""

    def __init__(self, size: Size) -> None:
        self.chance = random.Random(size.seed)
        self.size = size
        self.instruments = [_instrument(number) for number in range(size.symbols - 1)]
        self.instruments.insert(0, _spot(_COIN_IN_CURRENCY, _COIN, _CURRENCY))
        self.prices: dict[str, Decimal] = {}
        self.move(self.instruments)
        self.expected: dict[str, list[Expected]] = {}
        self._standing: dict[str, tuple[Position, Expected]] = {}

    def move(self, instruments: Iterable[Instrument]) -> list[Price]:
        """New prices: first anywhere up to some millions, then up to a hundred times more or less."""
        moved = []
        for instrument in instruments:
            price = self._price(instrument.symbol)
            self.prices[instrument.symbol] = price
            moved.append(Price(instrument.symbol, price, "mid", None, None, None, None, _NOW_MS, _NOW_MS, _NOW_MS))
        return moved

    def _price(self, symbol: str) -> Decimal:
        digits = Decimal(self.chance.randrange(10**6, 10**8))
        if symbol == _COIN_IN_CURRENCY:
            return digits.scaleb(-3)
        known = self.prices.get(symbol)
        if known is None:
            return digits.scaleb(-self.chance.randrange(1, 19))
        return max(_WIDE.quantize(known * digits.scaleb(-6), _SMALLEST), _SMALLEST)

    def users(self) -> Iterator[UserBook]:
        """Every user, one at a time. One of them has more positions than are valued together."""
        left = self.size.positions
        for number in range(self.size.users):
            user_id = f"{number:08x}-0000-4000-8000-000000000000"
            share = left // (self.size.users - number)
            count = min(2500, left // 2) if number == 0 else share
            left -= count
            made = [self._position(f"{number:08x}-{k:04x}", user_id) for k in range(count)]
            self.expected[user_id] = [expected for _, expected in made]
            self._standing[user_id] = self.chance.choice(made)
            yield UserBook(
                user_id=user_id,
                ledger_seq=1,
                currency=_CURRENCY,
                accounts=(AccountBook(account_id=_account(user_id)),),
                positions=tuple(position for position, _ in made),
                day_base=0,
            )

    def change(self) -> tuple[str, Position]:
        """A fill of some user."""
        user_id = f"{self.chance.randrange(self.size.users):08x}-0000-4000-8000-000000000000"
        position, expected = self._standing[user_id]
        position = self._fill(position, expected, self._fill_for(position))
        self._standing[user_id] = (position, expected)
        return user_id, position

    def _position(self, position_id: str, user_id: str) -> tuple[Position, Expected]:
        instrument = self.chance.choice(self.instruments)
        expected = Expected(instrument)
        position = Position(
            position_id=position_id,
            user_id=user_id,
            account_id=_account(user_id),
            instrument=instrument,
            state=FLAT,
            converted=None if instrument.settle == _CURRENCY else Converted(),
            opened_at=_AT,
            updated_at=_AT,
            version=0,
        )
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            position = self._fill(position, expected, self._fill_for(position))
        return position, expected

    def _fill_for(self, position: Position) -> Fill:
        """A fill that opens, adds, or takes a part away. Never to zero or through it."""
        instrument, held = position.instrument, position.state.signed_qty
        price = self.prices[instrument.symbol] * Decimal(self.chance.randrange(900, 1100)).scaleb(-3)
        price = max(_WIDE.quantize(price, _SMALLEST), _SMALLEST)
        reduces = bool(held) and self.chance.random() < 0.4
        quantity = self._quantity(instrument, price, self._part_of(held) if reduces else None)
        reduces = reduces and quantity < abs(held)
        is_buy = (held < 0) if reduces else (held > 0 or (not held and self.chance.random() < 0.7))
        side: Side = "buy" if is_buy else "sell"
        rate = None if position.converted is None else Decimal(self.chance.randrange(10**6, 10**8)).scaleb(-3)
        fee = Decimal(self.chance.randrange(-(10**6), 10**7)).scaleb(-self.chance.randrange(4, 19))
        return Fill(side=side, quantity=quantity, price=price, fee=fee, rate_to_reporting=rate)

    def _part_of(self, held: Decimal) -> Decimal:
        part = Decimal(self.chance.randrange(1, 10**6)).scaleb(-6)
        return _WIDE.quantize(_WIDE.multiply(abs(held), part), _SMALLEST)

    def _quantity(self, instrument: Instrument, price: Decimal, wanted: Decimal | None) -> Decimal:
        """The quantity wanted, or one of any order of magnitude; the smallest where it would be worth too much."""
        is_inverse = instrument.market == "inverse"
        each = Fraction(instrument.multiplier) * (1 / Fraction(price) if is_inverse else Fraction(price))
        for _ in range(4):
            drawn = Decimal(self.chance.randrange(1, 10**9)).scaleb(self.chance.randrange(-18, 6))
            quantity = drawn if wanted is None else wanted
            if quantity and Fraction(quantity) * each < _MOST_WORTH[instrument.settle]:
                return quantity
        return _SMALLEST

    def _fill(self, position: Position, expected: Expected, fill: Fill) -> Position:
        booked = book_fill(position.instrument, None if position.state.is_flat else position.state, fill)
        state = booked.standing or booked.opened
        assert state is not None
        expected.trade(fill)
        return _moved(position, state, fill)


def exactness(size: Size) -> Outcome:
    """Make a book, move it, change it, and compare everybody each time."""
    outcome = Outcome()
    crowd = Crowd(size)
    book = Book(5000)
    book.set_rates(RateBook(crowd.instruments))
    book.set_prices(crowd.move(crowd.instruments))
    with _Timed(outcome, "fills, ledger and load"):
        for user in crowd.users():
            book.upsert_user(user)
    stream = _Stream(book, list(crowd.expected)[: size.streamed])
    for turn in ("loaded", "moved", "changed"):
        if turn == "moved":
            book.set_prices(crowd.move(crowd.chance.sample(crowd.instruments, len(crowd.instruments) // 3)))
        if turn == "changed":
            for _ in range(size.changes):
                user_id, position = crowd.change()
                holder = book.find(user_id)
                assert holder is not None
                assert book.apply_positions(user_id, holder.ledger_seq + 1, [position]) == "applied"
        with _Timed(outcome, f"compare everybody, {turn}"):
            stream.tell()
            compare(book, stream.mirror, crowd, outcome, turn)
    outcome.users, outcome.positions = len(book), len(book.rows)
    _measure_range(crowd, outcome)
    return outcome


class _Stream:
    """What a web process makes of the messages of the P&L worker."""

    def __init__(self, book: Book, user_ids: Sequence[str]) -> None:
        self.mirror = PnlMirror(lambda _: True)
        self._watchers = Watchers(book)
        self._publication = Publication(book, self._watchers, CacheRound(), book_epoch=1)
        self._watchers.replace(_INSTANCE, set(user_ids))
        self._ordinal = 0

    def tell(self) -> None:
        """Send until nobody waits to be told of."""
        is_first = True
        while is_first or any(instance.waiting for instance in self._watchers.instances.values()):
            is_first = False
            self._ordinal += 1
            place = StreamPosition(1, self._ordinal)
            for _, flush in self._publication.compose(place, as_of_ms=_NOW_MS, event_ms=_NOW_MS):
                assert self.mirror.apply(decode_pnl_flush(encode_pnl_flush(flush)), self._ordinal) == "applied"


def compare(book: Book, mirror: PnlMirror, crowd: Crowd, outcome: Outcome, turn: str) -> None:
    """Note every user whose figures, here or at the web process, are not what his fills make them."""
    prices = {symbol: Fraction(price) for symbol, price in crowd.prices.items()}
    for user_id, positions in crowd.expected.items():
        holder = book.find(user_id)
        assert holder is not None
        unrealized = sum(position.unrealized(prices) for position in positions)
        found = [book.unrealized(holder.slot)]
        view = mirror.users.get(user_id)
        if view is not None:
            found.append(mirror.user_unrealized.value(view.slot) or 0)
        if any(figure != unrealized for figure in found):
            outcome.wrong.append(f"{user_id} {turn}: unrealized {found}, must be {unrealized}")
        realized = tuple(map(sum, zip(*(position.realized() for position in positions), strict=True))) or (0, 0)
        if turn != "moved" and (holder.sums.gross, holder.sums.fees) != realized:
            outcome.wrong.append(f"{user_id} {turn}: realized {holder.sums}, must be {realized}")


def _measure_range(crowd: Crowd, outcome: Outcome) -> None:
    """How small and how large the values at entry were."""
    costs = [abs(position.cost) for positions in crowd.expected.values() for position in positions]
    outcome.smallest, outcome.largest = min(filter(None, costs)), max(costs)


def _moved(position: Position, state: LedgerState, fill: Fill) -> Position:
    converted = position.converted and position.converted.after(position.state, state, fill.rate_to_reporting)
    return msgspec.structs.replace(position, state=state, converted=converted, version=position.version + 1)


def _account(user_id: str) -> str:
    return f"account-{user_id}"


def _spot(symbol: str, base: str, quote: str) -> Instrument:
    return _listed(symbol, "spot", base, quote, quote, 1)


def _instrument(number: int) -> Instrument:
    """Every kind there is, the plain ones most."""
    base = f"S{number}"
    match number % 10:
        case 0:
            return _listed(f"{base}USD", "inverse", base, "USD", _COIN, 10)
        case 1:
            return _listed(f"{base}INV", "inverse", base, "USDT", _CURRENCY, 100)
        case 2:
            return _spot(f"{base}{_COIN}", base, _COIN)
        case 3:
            return _listed(f"{base}PERP", "linear", base, "USDT", _CURRENCY, Decimal("0.001"))
        case 4:
            return _listed(f"{base}ODD", "linear", base, "USDT", _CURRENCY, Decimal("0.00000000003"))
        case _:
            return _spot(f"{base}{_CURRENCY}", base, _CURRENCY)


def _listed(symbol: str, market: Market, base: str, quote: str, settle: str, multiplier: Decimal | int) -> Instrument:
    return Instrument(
        symbol=symbol,
        market=market,
        base=base,
        quote=quote,
        settle=settle,
        tick_size=Decimal("1e-18"),
        step_size=Decimal("1e-18"),
        multiplier=Decimal(multiplier),
    )


class _Timed:
    """Notes how long a block took, in seconds."""

    def __init__(self, outcome: Outcome, name: str) -> None:
        self._outcome = outcome
        self._name = name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *raised: object) -> None:
        self._outcome.seconds[self._name] = time.perf_counter() - self._began


def main() -> None:
    """Print what was compared, and every user who was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    # Nothing here is garbage until the end.
    gc.disable()
    outcome = exactness(Size(**vars(parser.parse_args())))
    for name, seconds in outcome.seconds.items():
        print(f"{name:40}{seconds:10.1f} s")
    print(f"values at entry from {float(outcome.smallest):.1e} to {float(outcome.largest):.1e}")
    print(f"{outcome.users:,} users, {outcome.positions:,} positions, compared 3 times: {len(outcome.wrong)} wrong")
    for line in outcome.wrong[:20]:
        print(line)
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
