"""How fast and how exact the book is at its full size: ``python -m benchmarks.book``.

Prints what performance asks for: revaluation of everybody, one change of one
position, load, memory; and compares every user with Python's own integers.
"""

import argparse
import gc
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec
import numpy as np

from app.domain.book import Book
from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState
from app.domain.pnl_snapshot import Prices, value_book
from app.domain.positions import AccountBook, Converted, Position, UserBook
from app.domain.prices import Price, StreamPosition
from app.domain.rates import RateBook
from app.workers.cache_round import CacheRound
from app.workers.pnl_publication import Publication
from app.workers.watchers import Watchers
from benchmarks.histogram import quantiles_of

Figures: TypeAlias = dict[str, float]

AT = datetime(2026, 3, 1, tzinfo=UTC)
NOW_MS = int(AT.timestamp() * 1000)


@dataclass(frozen=True)
class Size:
    """How much is in the book, and how many of its users are watched."""

    positions: int = 1_000_000
    users: int = 25_000
    symbols: int = 2_000
    watched: int = 5_000


FULL: Final = Size()


class Market:
    """Symbols of popularity like Zipf's, with prices over nine orders of magnitude."""

    def __init__(self, symbols: int, chance: random.Random) -> None:
        self._chance = chance
        self.instruments = [
            Instrument(
                symbol=f"S{n}USDT",
                market="spot",
                base=f"S{n}",
                quote="USDT",
                settle="USDT",
                tick_size=Decimal("0.00000001"),
                step_size=Decimal("0.00001"),
            )
            for n in range(symbols)
        ]
        self.prices = {i.symbol: Decimal(chance.randrange(10**3, 10**13)).scaleb(-9) for i in self.instruments}
        self.weights = [1 / (rank + 1) ** 0.9 for rank in range(symbols)]

    def move(self, count: int) -> list[Price]:
        """New prices of some symbols: middles of an eight-decimal bid and ask."""
        moved = self._chance.sample(list(self.prices), count)
        for symbol in moved:
            factor = Decimal(self._chance.randrange(999_000, 1_001_000)).scaleb(-6)
            self.prices[symbol] = (self.prices[symbol] * factor).quantize(Decimal("1e-9")) or Decimal("1e-9")
        return [
            Price(symbol, self.prices[symbol], "mid", None, None, None, None, NOW_MS, NOW_MS, NOW_MS)
            for symbol in moved
        ]


def position(position_id: str, user_id: str, market: Market, chance: random.Random, instrument: Instrument) -> Position:
    """A retail position: worth some hundreds, bought within a tenth of today's price."""
    price = market.prices[instrument.symbol]
    quantity = Decimal(chance.randrange(10**5, 10**8)).scaleb(-5) / price
    quantity = (quantity.quantize(Decimal("1e-5")) or Decimal("1e-5")) * chance.choice((1, 1, 1, -1))
    entry = (price * Decimal(chance.randrange(900, 1100)).scaleb(-3)).quantize(Decimal("1e-8")) or Decimal("1e-8")
    return Position(
        position_id=position_id,
        user_id=user_id,
        account_id=f"account-{user_id}",
        instrument=instrument,
        state=LedgerState(signed_qty=quantity, cost=quantity * entry, cash=-quantity * entry, fees=Decimal("0.0123")),
        opened_at=AT,
        updated_at=AT,
    )


def users(count: int, positions: int, market: Market, chance: random.Random) -> Iterator[UserBook]:
    per_user = positions // count
    for n in range(count):
        user_id = f"{n:08x}-0000-4000-8000-000000000000"
        held = chance.choices(market.instruments, market.weights, k=per_user)
        yield UserBook(
            user_id=user_id,
            ledger_seq=1,
            currency="USDT",
            accounts=(AccountBook(account_id=f"account-{user_id}"),),
            positions=tuple(
                position(f"{n:08x}-{k:04x}-4000-8000-000000000000", user_id, market, chance, instrument)
                for k, instrument in enumerate(held)
            ),
            day_base=0,
        )


def foreign_users(count: int, positions: int, market: Market, chance: random.Random) -> Iterator[UserBook]:
    """Users who report in another currency than anything settles in, so that every row is converted."""
    for user in users(count, positions, market, chance):
        held = [msgspec.structs.replace(each, converted=Converted()) for each in user.positions]
        yield msgspec.structs.replace(user, currency="EUR", positions=tuple(held))


def timed(figures: Figures, name: str, repeats: int, work: Callable[[], object]) -> None:
    """Note the median and p99 of a piece of work, in milliseconds."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1000)
    found = quantiles_of(taken)
    figures[f"{name}, ms p50"] = found["p50"]
    figures[f"{name}, ms p99"] = found["p99"]


def resident_mb() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 1e6


def load(book: Book, size: Size, market: Market, chance: random.Random, figures: Figures) -> None:
    """Fill the book; only the time inside it counts."""
    inside = 0.0
    before = resident_mb()
    for user in users(size.users, size.positions, market, chance):
        start = time.perf_counter()
        book.upsert_user(user)
        inside += time.perf_counter() - start
    gc.collect()
    figures["load, s inside the book"] = inside
    figures["load, µs a position"] = inside / size.positions * 1e6
    figures["memory of the book, MB"] = resident_mb() - before


def wrong_users(book: Book, market: Market) -> int:
    """How many users differ from Python's integers, on the positions as the book gives them back, in any digit."""
    nano = {symbol: int(price.scaleb(9)) for symbol, price in market.prices.items()}
    wrong = 0
    for slot in range(len(book)):
        expected = sum(
            int(p.state.signed_qty.scaleb(9)) * nano[p.symbol] - int(p.state.cost.scaleb(18))
            for p in book.user_book(slot).positions
        )
        wrong += expected != book.unrealized(slot)
    return wrong


def change_positions(book: Book, market: Market, chance: random.Random, repeats: int, figures: Figures) -> None:
    """Open, change and close positions of random users."""

    def someone() -> tuple[str, int, str, Position]:
        holder = book.holder(chance.randrange(len(book)))
        position_id = chance.choice(list(holder.rows))
        return holder.user_id, holder.ledger_seq + 1, position_id, book.position(holder.rows[position_id])

    def changed(kind: str, number: int, user_id: str, standing: Position) -> Position:
        if kind == "open":
            return position(f"new-{number}", user_id, market, chance, chance.choice(market.instruments))
        if kind == "change":
            state = msgspec.structs.replace(standing.state, signed_qty=standing.state.signed_qty * 2)
            return msgspec.structs.replace(standing, state=state, version=standing.version + 1)
        closed = LedgerState(cash=Decimal(1))
        return msgspec.structs.replace(standing, status="closed", state=closed, version=standing.version + 1)

    for kind in ("open", "change", "close"):
        todo = {}
        for number in range(repeats):
            user_id, seq, _, standing = someone()
            todo[user_id] = (user_id, seq, [changed(kind, number, user_id, standing)])
        pending = iter(todo.values())

        def apply(pending: Iterator[tuple[str, int, list[Position]]] = pending) -> object:
            return book.apply_positions(*next(pending))

        timed(figures, f"{kind} a position", len(todo), apply)


def publish(book: Book, market: Market, size: Size, figures: Figures) -> None:
    """What a flush costs with users watched at two instances."""
    watchers = Watchers(book)
    publication = Publication(book, watchers, CacheRound(), book_epoch=1)
    everybody = [book.holder(slot).user_id for slot in range(size.watched)]
    for n in range(2):
        watchers.replace(f"w{n}", set(everybody[n::2]))
    place = StreamPosition(1, 1)

    def compose() -> object:
        return publication.compose(place, as_of_ms=NOW_MS, event_ms=NOW_MS)

    start = time.perf_counter()
    while any(instance.waiting for instance in watchers.instances.values()):
        compose()
    figures[f"tell {size.watched:,} new watchers, s"] = time.perf_counter() - start
    for moved in (30, 300, len(market.prices)):
        ticks = iter([market.move(moved) for _ in range(15)])

        def flush(ticks: Iterator[list[Price]] = ticks) -> object:
            book.set_prices(next(ticks))
            return compose()

        timed(figures, f"flush to {size.watched:,} watched, {moved:,} symbols moved", 15, flush)


def convert(size: Size, figures: Figures) -> None:
    """What a price flush costs that moves the rate of everybody's currency: a fifth of the rows, all converted."""
    chance = random.Random(2)
    market = Market(size.symbols, chance)
    euro = msgspec.structs.replace(market.instruments[0], symbol="EURUSDT", base="EUR")
    book = Book(5000)
    book.set_rates(RateBook([euro]))
    book.set_prices(market.move(size.symbols))
    for user in foreign_users(size.users // 5, size.positions // 5, market, chance):
        book.upsert_user(user)
    prices = iter([Decimal(chance.randrange(10_000, 12_000)).scaleb(-4) for _ in range(40)])

    def tick() -> object:
        book.set_prices([Price("EURUSDT", next(prices), "mid", None, None, None, None, NOW_MS, NOW_MS, NOW_MS)])
        return book.revalue(NOW_MS)

    timed(figures, f"revalue with {size.positions // 5:,} rows converted anew", 40, tick)
    moment = Prices(book.prices.known, book.rates.book, NOW_MS, 5000)
    some = chance.sample(range(len(book)), min(len(book), 200))
    figures["users wrong of 200 who are converted"] = sum(
        value_book(book.user_book(slot), moment).totals.unrealized_pnl != book.unrealized(slot) for slot in some
    )


def figures(size: Size = FULL) -> Figures:
    """Everything, by name."""
    found = ordinary(size)
    convert(size, found)
    return found


def ordinary(size: Size) -> Figures:
    """The figures of users who report in what everything settles in."""
    found: Figures = {"load average": os.getloadavg()[0]}
    chance = random.Random(1)
    market = Market(size.symbols, chance)
    book = Book(5000)
    book.set_prices(market.move(size.symbols))
    load(book, size, market, chance, found)
    gc.freeze()
    moves = iter([market.move(size.symbols) for _ in range(20)])
    timed(found, "set all prices", 20, lambda: book.set_prices(next(moves)))

    def revalue() -> object:
        book.prices._values_changed[:] = True
        return book.revalue(NOW_MS)

    timed(found, "revalue everybody", 200, revalue)
    found["users wrong in the 18th decimal"] = wrong_users(book, market)
    change_positions(book, market, chance, 2000, found)
    book.revalue(NOW_MS)
    timed(found, "revalue everybody after those changes", 200, revalue)
    found["users wrong after those changes"] = wrong_users(book, market)
    publish(book, market, size, found)
    rows = np.arange(len(book.rows), dtype=np.int32)
    timed(found, "the figure of every row", 20, lambda: book.row_worth(rows))
    gc.unfreeze()
    return found


def main() -> None:
    """Print the figures of a book of any size."""
    parser = argparse.ArgumentParser(description="How fast and how exact the book is.")
    for name, default in asdict(FULL).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    size = Size(**vars(parser.parse_args()))
    for name, value in figures(size).items():
        print(f"{name:55}{value:12,.3f}")


if __name__ == "__main__":
    main()
