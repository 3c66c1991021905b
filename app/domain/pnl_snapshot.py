"""A user's whole P&L at one place in the stream: the body of ``GET /pnl``."""

from collections.abc import Mapping
from typing import Any

import msgspec

from app.domain.positions import AccountBook, Position, UserBook
from app.domain.prices import Basis, Price, StreamPosition
from app.domain.rates import Rate, RateBook
from app.domain.statements import position_statement, totals_statement
from app.domain.valuation import Totals, Valued, add_up, report, total_account, value_position


class Prices(msgspec.Struct, frozen=True):
    """The prices of one moment, the ways between assets, and how old a price may be that is shown as live."""

    prices: Mapping[str, Price]
    rates: RateBook
    as_of_ms: int
    stale_after_ms: int

    def rates_to(self, book: UserBook) -> dict[str, Rate | None]:
        """The rate into a user's currency of every other asset that he settles or holds anything in."""
        assets = {position.instrument.settle for position in book.positions}
        assets.update(asset.asset for account in book.accounts for asset in account.assets)
        assets.discard(book.currency)
        return {asset: self.rates.rate(asset, book.currency, self.prices) for asset in sorted(assets)}

    def value(self, position: Position, basis: Basis, rate: Rate | None) -> Valued:
        """What a position is worth, and what of it is reported. A closed one has no mark."""
        price = self.prices.get(position.symbol) if position.status == "open" else None
        value = value_position(position, price, self.as_of_ms, self.stale_after_ms, basis)
        reported = report(position, value, rate)
        age_ms = None if value.mark is None or position.state.is_flat else value.mark.age_ms
        if age_ms is None or reported.rate is None:
            return Valued(position, value, reported, age_ms, value.is_stale)
        rate_age_ms = max(0, self.as_of_ms - reported.rate.fresh_ms)
        is_stale = value.is_stale or self.as_of_ms - reported.rate.fresh_ms > self.stale_after_ms
        return Valued(position, value, reported, max(age_ms, rate_age_ms), is_stale)


class Valuation(msgspec.Struct, frozen=True):
    """A user's positions with what they are worth, and the totals of each account and over all."""

    totals: Totals
    accounts: tuple[tuple[AccountBook, Totals], ...]
    positions: tuple[Valued, ...]
    rates: Mapping[str, Rate | None]


def value_book(book: UserBook, prices: Prices) -> Valuation:
    """Value everything of a user at the prices of one moment."""
    rates = prices.rates_to(book)
    bases = {account.account_id: account.valuation for account in book.accounts}
    valued = tuple(
        prices.value(position, bases.get(position.account_id, "auto"), rates.get(position.instrument.settle))
        for position in book.positions
    )
    is_only = len(book.accounts) == 1
    accounts = tuple(
        (
            account,
            total_account(
                account,
                [one for one in valued if one.position.account_id == account.account_id],
                book.currency,
                rates=rates,
                day_base=book.day_base if is_only else None,
            ),
        )
        for account in book.accounts
    )
    totals = add_up([part for _, part in accounts], book.currency, book.day_base)
    return Valuation(totals, accounts, valued, rates)


def pnl_snapshot(book: UserBook, prices: Prices, place: StreamPosition) -> dict[str, Any]:
    """The body of ``GET /pnl``, with ``ledger_seq`` to tell which events are in it."""
    valuation = value_book(book, prices)
    return {
        "as_of_ms": prices.as_of_ms,
        "epoch": place.epoch,
        "seq": place.seq,
        "ledger_seq": book.ledger_seq,
        "currency": book.currency,
        "totals": totals_statement(valuation.totals),
        "accounts": [
            {"account_id": account.account_id, "name": account.name, "totals": totals_statement(totals)}
            for account, totals in valuation.accounts
        ],
        "positions": [position_statement(one) for one in valuation.positions],
    }
