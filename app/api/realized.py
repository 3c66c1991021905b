"""Reports of what was realised: by lots over a period, and the funding that was paid and received."""

from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Response
from pydantic import Field

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Reader
from app.api.context import Opened
from app.api.fields import Id, Moment, QueryParameters, Strategy, SymbolName
from app.api.paging import Cursor, Limit, page_by_place, place_of
from app.api.problems import Problem
from app.api.routing import new_router
from app.domain.decimals import ZERO, exact, format_decimal, format_units, to_units
from app.domain.statements import timestamp
from app.repositories.database import snapshot, transaction
from app.repositories.funding_payments import FundingPaymentRepository, PaidFunding
from app.repositories.paging import Place
from app.repositories.realized import ChainRealized, RealizedRepository, Wanted

router = new_router("/api/v1", "pnl")


class Period(QueryParameters):
    """Which method, which period (from its first moment to before its last), and which fills."""

    method: Literal["fifo", "lifo", "average"] = "average"
    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None
    symbol: SymbolName | None = None
    account_id: Id | None = None
    strategy: Strategy | None = None


class FundingFilter(QueryParameters):
    """Which payments, and which page of them."""

    symbol: SymbolName | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


class _Row(msgspec.Struct):
    """One symbol's sums in its settle asset: leaves in units of 1e-18, so that totals are their sums."""

    symbol: str = ""
    settle: str = ""
    closing_fills: int = 0
    quantity: Decimal = ZERO
    cost: int = 0
    proceeds: int = 0
    fees: int = 0
    funding: int = 0
    fees_unpriced: dict[str, Decimal] = {}

    def add(self, chain: ChainRealized) -> None:
        sums = chain.sums
        self.closing_fills += sums.closing_fills
        self.cost += to_units(sums.cost)
        self.proceeds += to_units(sums.proceeds)
        self.fees += to_units(sums.fees)
        with exact():
            self.quantity += sums.quantity
            for asset, fee in sums.fees_unpriced.items():
                self.fees_unpriced[asset] = self.fees_unpriced.get(asset, ZERO) + fee


@router.get("/pnl/realized", response_model=bodies.RealizedReport)
async def get_realized(web: Opened, caller: Reader, wanted: Annotated[Period, Query()]) -> Response:
    """What was realised in a period, lot by lot: first in first out, last in first out, or at average cost."""
    if wanted.from_ is not None and wanted.to is not None and wanted.from_ >= wanted.to:
        raise Problem("invalid_request", "The period ends before it begins.")
    asked = Wanted(
        caller.user_id, wanted.method, wanted.from_, wanted.to, wanted.symbol, wanted.account_id, wanted.strategy
    )
    async with snapshot(web.database) as connection:
        listed = await _rows(RealizedRepository(connection), asked)
    return json_answer(
        {
            "method": wanted.method,
            "from": _moment(wanted.from_),
            "to": _moment(wanted.to),
            "items": [_row_statement(row) for row in listed],
            "totals": _totals(listed),
        }
    )


async def _rows(repository: RealizedRepository, asked: Wanted) -> list[_Row]:
    """The symbols in which anything was realised, by name. Raises TooManyFills."""
    rows: dict[tuple[str, str], _Row] = {}
    async for chain in repository.chains(asked):
        key = (chain.key.symbol, chain.instrument.settle)
        rows.setdefault(key, _Row(*key)).add(chain)
    for received in await repository.funding(asked):
        key = (received.symbol, received.settle)
        rows.setdefault(key, _Row(*key)).funding += to_units(received.amount)
    found = [row for _, row in sorted(rows.items())]
    return [row for row in found if row.closing_fills or row.fees or row.funding or row.fees_unpriced]


@router.get("/funding", response_model=bodies.FundingList)
async def list_funding(web: Opened, caller: Reader, wanted: Annotated[FundingFilter, Query()]) -> Response:
    """Funding that the caller's positions received (+) and paid (-), the newest first."""
    after = place_of(wanted.cursor)
    async with transaction(web.database) as connection:
        rows = await FundingPaymentRepository(connection).page(
            caller.user_id, limit=wanted.limit + 1, after=after, symbol=wanted.symbol
        )
    return page_by_place(rows, wanted.limit, _place, _funding_statement)


def _row_statement(row: _Row) -> dict[str, Any]:
    return {
        "symbol": row.symbol,
        "closing_trades": row.closing_fills,
        "quantity_closed": format_decimal(row.quantity),
        "cost": format_units(row.cost),
        "proceeds": format_units(row.proceeds),
        **_figures(row),
        "fees_unpriced": {asset: format_decimal(fee) for asset, fee in row.fees_unpriced.items()},
    }


def _figures(row: _Row) -> dict[str, Any]:
    gross = row.proceeds - row.cost
    return {
        "settle_asset": row.settle,
        "realized_pnl_gross": format_units(gross),
        "fees": format_units(row.fees),
        "funding": format_units(row.funding),
        "realized_pnl": format_units(gross - row.fees + row.funding),
    }


def _totals(rows: list[_Row]) -> list[dict[str, Any]]:
    """The sums by settle asset: amounts in different assets are never added up."""
    sums: defaultdict[str, _Row] = defaultdict(_Row)
    for row in rows:
        total = sums[row.settle]
        total.settle = row.settle
        total.cost += row.cost
        total.proceeds += row.proceeds
        total.fees += row.fees
        total.funding += row.funding
    is_complete = {row.settle: True for row in rows} | {row.settle: False for row in rows if row.fees_unpriced}
    return [{**_figures(sums[settle]), "is_complete": is_complete[settle]} for settle in sorted(sums)]


def _funding_statement(paid: PaidFunding) -> dict[str, Any]:
    payment = paid.payment
    rate = payment.rate_to_reporting
    return {
        "position_id": paid.position_id,
        "symbol": paid.symbol,
        "at": timestamp(payment.at),
        "signed_qty": format_decimal(payment.signed_qty),
        "mark_price": format_decimal(payment.mark),
        "rate": format_decimal(payment.rate),
        "amount": format_units(to_units(payment.amount)),
        "rate_to_reporting": None if rate is None else format_decimal(rate),
    }


def _place(paid: PaidFunding) -> Place:
    return Place(paid.payment.at, paid.position_id)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
