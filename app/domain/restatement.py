"""Samples of what is past, reckoned anew from the ledger as it is now and the marks that were kept.

The same arithmetic as of live totals, at other times: positions as a replay of
their fills has them, what closed before, transfers, and the prices and rates of
the moment. Where a mark was not kept, what needs it is unknown.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from app.domain.account_replay import AccountReplay, Held, PaidFunding, RecordedFill
from app.domain.attribution import mark_name
from app.domain.book_samples import figures_of
from app.domain.candles import Figures
from app.domain.decimals import convert_units, to_units
from app.domain.pnl_snapshot import Prices
from app.domain.positions import AccountBook, AssetBook, Position, Realized, Status
from app.domain.prices import Price, ValueSource
from app.domain.rates import Rate, RateBook
from app.domain.valuation import total_account

_NEVER_STALE_MS = 1 << 62


class MoneyMoved(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer. An adjustment counts as realised, the others as deposited; ``rate`` None is unknown."""

    at: datetime
    asset: str
    amount: Decimal
    rate: Decimal | None
    is_adjustment: bool


class AccountPast(msgspec.Struct, frozen=True, kw_only=True):
    """What made an account since a moment: what had closed before it, and everything that came after.

    ``positions`` are all that were open at any time since, as they are now, and
    perhaps others that fills through zero bring in. ``account`` has those that
    closed before ``since``, and the transfers before it.
    """

    since: datetime
    account: AccountBook
    currency: str
    positions: Sequence[Position]
    fills: Sequence[RecordedFill]
    funding: Sequence[PaidFunding]
    transfers: Sequence[MoneyMoved]


class Restatement:
    """Figures of one account, moment after moment."""

    def __init__(self, past: AccountPast, rates: RateBook) -> None:
        self._past = past
        self._rates = rates
        instruments = {position.position_id: position.instrument for position in past.positions}
        self._replay = AccountReplay(instruments, past.fills, past.funding, currency=past.currency)
        self._counted = {one.position_id: one for one in past.positions if _is_open_since(one, past.since)}
        self._transfers = deque(sorted(past.transfers, key=lambda one: one.at))
        self._account = past.account
        self._open: dict[str, Position] = {}

    def at(self, moment: datetime, marks: Mapping[str, Decimal]) -> Figures:
        """What the account was worth. Moments must come in order; ``marks`` are by the names of prices."""
        self._advance(moment)
        currency = self._past.currency
        rates = self._rates_at(marks)
        known = Prices(prices_of(marks), self._rates, 0, _NEVER_STALE_MS)
        nothing = Prices({}, self._rates, 0, _NEVER_STALE_MS)
        valued = [
            (known if self._name(position) in marks else nothing).value(
                position, self._account.valuation, rates.get(position.instrument.settle)
            )
            for position in self._open.values()
        ]
        return figures_of(total_account(self._account, valued, currency, rates=rates))

    def _rates_at(self, marks: Mapping[str, Decimal]) -> dict[str, Rate | None]:
        assets = {position.instrument.settle for position in self._open.values()}
        assets.update(book.asset for book in self._account.assets)
        prices = prices_of({name: mark for name, mark in marks.items() if " " not in name})
        currency = self._past.currency
        return {asset: self._rates.rate(asset, currency, prices) for asset in assets - {currency}}

    def _name(self, position: Position) -> str:
        return mark_name(position.symbol, self._account.valuation, is_long=position.state.signed_qty > 0)

    def _advance(self, moment: datetime) -> None:
        for position_id in self._replay.advance_to(moment):
            if position_id in self._counted:
                self._move(self._counted[position_id], self._replay.cycles[position_id])
        while self._transfers and self._transfers[0].at < moment:
            self._account = with_transfer(self._account, self._transfers.popleft())

    def _move(self, position: Position, held: Held) -> None:
        # It may have closed since: at its moment it was as open as its state is.
        status: Status = "closed" if held.state.is_flat else "open"
        position = msgspec.structs.replace(position, state=held.state, converted=held.converted, status=status)
        if held.state.is_flat:
            self._open.pop(position.position_id, None)
            self._account = self._account.with_closed(position)
        else:
            self._open[position.position_id] = position


def with_transfer(account: AccountBook, moved: MoneyMoved) -> AccountBook:
    """An account with one more transfer in its sums."""
    book = next((one for one in account.assets if one.asset == moved.asset), AssetBook(asset=moved.asset))
    others = tuple(one for one in account.assets if one.asset != moved.asset)
    amount = to_units(moved.amount)
    reported = 0 if moved.rate is None else convert_units(amount, moved.rate)
    if moved.is_adjustment:
        book = msgspec.structs.replace(
            book, realized=book.realized + Realized(gross=amount), reported=book.reported + Realized(gross=reported)
        )
    else:
        book = msgspec.structs.replace(
            book, deposited=book.deposited + amount, deposited_reported=book.deposited_reported + reported
        )
    book = msgspec.structs.replace(book, is_complete=book.is_complete and moved.rate is not None)
    return msgspec.structs.replace(account, assets=(*others, book))


def prices_of(marks: Mapping[str, Decimal]) -> dict[str, Price]:
    """Prices from marks by name: what was not kept of a symbol is not known."""
    found: dict[str, dict[ValueSource | None, Decimal]] = {}
    for name, mark in marks.items():
        symbol, _, source = name.partition(" ")
        found.setdefault(symbol, {})[source or None] = mark  # type: ignore[index]
    return {symbol: _price(symbol, sides) for symbol, sides in found.items()}


def add_up_steps(
    curves: Iterable[Sequence[tuple[datetime, Figures]]], since: datetime
) -> list[tuple[datetime, Figures]]:
    """The sum of curves at each moment after ``since`` at which any has a sample: each stays so until its next."""
    ordered = [sorted(curve, key=lambda one: one[0]) for curve in curves]
    moments = sorted({at for curve in ordered for at, _ in curve if at > since})
    places = [0] * len(ordered)
    found: list[tuple[datetime, Figures]] = []
    for moment in moments:
        total = Figures()
        for number, curve in enumerate(ordered):
            while places[number] < len(curve) and curve[places[number]][0] <= moment:
                places[number] += 1
            if places[number]:
                total += curve[places[number] - 1][1]
        found.append((moment, total))
    return found


def _is_open_since(position: Position, since: datetime) -> bool:
    return position.closed_at is None or position.closed_at >= since


def _price(symbol: str, sides: Mapping[ValueSource | None, Decimal]) -> Price:
    middle, bid, ask = sides.get("mid"), sides.get("bid"), sides.get("ask")
    if middle is not None and (bid is None or ask is None):
        # The middle stands for the sides that were not kept.
        bid = ask = middle
    # Nobody asks for a default price that was not kept: see Restatement.
    default = sides.get(None, next(iter(sides.values())))
    return Price(symbol, default, "mid", bid, ask, sides.get("last"), sides.get("mark"), 0, 0, 0)
