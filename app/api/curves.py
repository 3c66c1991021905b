"""Finding what there is history of: which scopes, which stretch of each, at which level of detail.

All accounts together are a scope of their own only since a user has several of
them; before that, his history is that of the first.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

import msgspec
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.authentication import Caller
from app.api.context import Web
from app.api.fields import Id, Moment, QueryParameters
from app.api.problems import Problem
from app.domain.book_samples import figures_of
from app.domain.candles import Candle, Figures, combine
from app.domain.day_boundaries import day_of
from app.domain.day_pnl import Known
from app.domain.pnl_snapshot import Prices, value_book
from app.domain.positions import UserBook
from app.repositories.accounts import AccountRepository
from app.repositories.books import BookRepository
from app.repositories.history import HistoryRepository, Resolution, Scope
from app.repositories.users import UserGone, UserRepository

MAX_CANDLES: Final = 20_000
"""The most of each level that a curve is read from: fifty years of days, two of hours, two weeks of minutes."""

BEFORE_ALL: Final = datetime(2000, 1, 1, tzinfo=UTC)


class Of(QueryParameters):
    """Of which account; all together without one."""

    account_id: Id | None = None


class Period(Of):
    """Of which account, and from when to when: all of the past without ``from``, to now without ``to``."""

    from_: Moment | None = Field(default=None, alias="from")
    to: Moment | None = None


class Asked(msgspec.Struct, frozen=True):
    """Whose history is asked for, and what there is of it."""

    account_ids: list[str]
    currency: str
    time_zone: str
    scopes: list[Scope]


class Stretch(msgspec.Struct, frozen=True):
    """A part of the past, ``(after, until]``, that one scope tells of."""

    scope: Scope
    after: datetime
    until: datetime


def period_of(web: Web, wanted: Period) -> tuple[datetime, datetime]:
    """From when to when. Raises Problem."""
    after, until = wanted.from_ or BEFORE_ALL, wanted.to or web.now()
    if after >= until:
        detail = "must be before to" if wanted.to else "must be in the past"
        error = {"parameter": "from", "field": "from", "code": "not_before", "detail": detail}
        raise Problem("invalid_request", f"from {detail}.", errors=[error])
    return after, until


async def find_asked(connection: AsyncConnection, caller: Caller, account_id: str | None) -> Asked:
    """What there is of an account of the caller, or of all of them. Raises Problem, UserGone."""
    user = await UserRepository(connection).get(caller.user_id)
    if user is None:
        raise UserGone(caller.user_id)
    accounts = await AccountRepository(connection).of_user(caller.user_id)
    ids = [account.account_id for account in accounts if account_id in {None, account.account_id}]
    if not ids:
        raise Problem("not_found", "There is no such account.")
    scopes = await HistoryRepository(connection).scopes(caller.user_id)
    return Asked(ids, accounts[0].currency, user.time_zone, scopes)


async def load_book(web: Web, caller: Caller) -> UserBook:
    """What the caller holds. Raises UserGone."""
    books = await BookRepository(web.database).load([caller.user_id])
    if not books:
        raise UserGone(caller.user_id)
    return books[0]


def stretches(scopes: Sequence[Scope], account_ids: Sequence[str], after: datetime, until: datetime) -> list[Stretch]:
    """What tells of these accounts together in ``(after, until]``, in order of time."""
    by_account = {scope.account_id: scope for scope in scopes if scope.account_id in account_ids}
    together = next((scope for scope in scopes if scope.account_id is None), None)
    if len(account_ids) == 1 or together is None:
        first = next(iter(sorted(by_account.values(), key=lambda scope: scope.started_at)), None)
        return [] if first is None else [Stretch(first, after, until)]
    parts = []
    earlier = [scope for scope in by_account.values() if scope.started_at < together.started_at]
    if earlier and after < together.started_at:
        first = min(earlier, key=lambda scope: scope.started_at)
        # A sample at the very moment is the common scope's.
        parts.append(Stretch(first, after, min(until, together.started_at - datetime.resolution)))
    return [*parts, Stretch(together, max(after, together.started_at - datetime.resolution), until)]


class CurveReader:
    """Reads candles within a transaction, those too that are not summed up yet. ``zone`` is the user's."""

    def __init__(self, history: HistoryRepository, zone: tzinfo) -> None:
        self._history = history
        self._zone = zone

    async def page(self, part: Stretch, resolution: Resolution, limit: int) -> list[Candle]:
        """Up to ``limit`` candles of one resolution, the oldest first."""
        stored = await self._stored(part, resolution, limit)
        if resolution == "minute" or len(stored) >= limit:
            return stored
        return [*stored, *await self._unfinished(part, resolution)][:limit]

    async def curve(self, part: Stretch) -> list[Candle]:
        """The whole stretch, each part of it by the coarsest candles that lie within."""
        return await self._fill(part, ("day", "hour", "minute"))

    async def _fill(self, part: Stretch, levels: Sequence[Resolution]) -> list[Candle]:
        found = await self._stored(part, levels[0], MAX_CANDLES)
        if len(levels) == 1:
            return found
        inside = [candle for candle in found if candle.opened_at > part.after]
        if not inside:
            return await self._fill(part, levels[1:])
        before = Stretch(part.scope, part.after, inside[0].opened_at - datetime.resolution)
        rest = Stretch(part.scope, inside[-1].at, part.until)
        return [*await self._fill(before, levels[1:]), *inside, *await self._fill(rest, levels[1:])]

    async def _unfinished(self, part: Stretch, resolution: Resolution) -> list[Candle]:
        """Candles of what is not summed up yet."""
        scope = part.scope
        minutes = await self._stored(
            Stretch(scope, max(part.after, scope.hours_until), part.until), "minute", MAX_CANDLES
        )
        hours = combine(minutes, self._hour_of)
        if resolution == "hour":
            return hours
        stored = await self._stored(Stretch(scope, max(part.after, scope.days_until), part.until), "hour", MAX_CANDLES)
        return combine([*stored, *hours], self._day_of)

    async def _stored(self, part: Stretch, resolution: Resolution, limit: int) -> list[Candle]:
        if part.after >= part.until:
            return []
        return await self._history.candles(
            part.scope.scope_id, resolution, after=part.after, until=part.until, limit=limit
        )

    def _hour_of(self, at: datetime) -> tuple[datetime, int]:
        local = (at - datetime.resolution).astimezone(self._zone)
        return local.replace(minute=0, second=0, microsecond=0, tzinfo=None), local.utcoffset().seconds  # type: ignore[union-attr]

    def _day_of(self, at: datetime) -> datetime:
        # A sample at midnight closes the day before.
        return day_of(at - datetime.resolution, self._zone).start


def zone_of(name: str) -> tzinfo:
    """A time zone that was checked when it was chosen."""
    return UTC if name == "UTC" else ZoneInfo(name)


async def known_figures(
    history: HistoryRepository, scopes: Sequence[Scope], account_ids: Sequence[str], moments: Sequence[datetime]
) -> dict[datetime, Known]:
    """The figures of accounts together at moments, where those of each are known.

    An account that had no fill and no transfer before a moment was worth nothing then.
    """
    first = await history.first_events(account_ids)
    scope_ids = {scope.account_id: scope.scope_id for scope in scopes}
    found: list[dict[datetime, Known]] = []
    for account_id in account_ids:
        known = await history.known_at(scope_ids[account_id], moments) if account_id in scope_ids else {}
        began = first.get(account_id)
        nothing = {moment: Known(moment, Figures()) for moment in moments if began is None or moment <= began}
        found.append({**nothing, **known})
    return {moment: _together(found, moment) for moment in moments if all(moment in known for known in found)}


def figures_now(book: UserBook, prices: Prices, account_ids: Sequence[str], now: datetime) -> Known:
    """The figures of accounts together at current prices."""
    valuation = value_book(book, prices)
    figures = Figures()
    for account, totals in valuation.accounts:
        if account.account_id in account_ids:
            figures += figures_of(totals)
    return Known(now, figures)


def _together(found: Sequence[dict[datetime, Known]], moment: datetime) -> Known:
    figures, at = Figures(), moment
    for known in found:
        figures += known[moment].figures
        at = min(at, known[moment].at)
    return Known(at, figures)
