"""Reckoning samples anew that a correction of the ledger made wrong: one account after the other, beside the stream."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec
import structlog

from app.domain.attribution import mark_name
from app.domain.candles import Figures
from app.domain.rates import RateBook
from app.domain.restatement import AccountPast, Restatement, add_up_steps
from app.repositories.recorded_fills import TooManyFills
from app.repositories.restating import Due, RestatingRepository

log = structlog.get_logger(__name__)

QUIET_S = 5.0
"""So long after the last correction of an account: they come in rows."""

MOST_FILLS = 50_000
"""Of more fills than that the samples are left as they are."""
_MINUTES_PER_READ = 240
_MINUTES_PER_STEP = 10
_SCOPES_PER_ROUND = 50


class HistoryRestater:
    """Works on what is due. ``rates`` gives the ways between assets that are listed now."""

    def __init__(
        self,
        repository: RestatingRepository,
        rates: Callable[[], RateBook],
        *,
        quiet_s: float = QUIET_S,
        most_fills: int = MOST_FILLS,
    ) -> None:
        self._repository = repository
        self._rates = rates
        self._quiet_s = quiet_s
        self._most_fills = most_fills

    async def round(self) -> None:
        """Restate up to so many scopes. Raises DatabaseUnavailable, NotLeading."""
        for _ in range(_SCOPES_PER_ROUND):
            due = await self._repository.next_due(self._quiet_s)
            if due is None:
                return
            await self._restate(due)

    async def _restate(self, due: Due) -> None:
        begin = await self._repository.begin_of(due)
        try:
            samples = await (self._sum(due, begin) if due.account_id is None else self._reckon(due, begin))
        except TooManyFills:
            log.warning("history.not_restated", since=due.since.isoformat(), most_fills=self._most_fills)
            await self._repository.give_up(due)
            return
        if await self._repository.replace(due, begin, samples):
            log.info("history.restated", since=begin.isoformat(), samples=len(samples))

    async def _reckon(self, due: Due, begin: datetime) -> list[tuple[datetime, Figures]]:
        """An account at every moment of which marks were kept. Raises TooManyFills."""
        past = await self._repository.past(due, begin, self._most_fills)
        stale = await self._repository.stale_minutes(due, begin)
        rates = self._rates()
        names = _names(past, rates)
        # The loop is others' too: sorting fifty thousand fills alone takes some ten milliseconds.
        restatement = await asyncio.to_thread(Restatement, past, rates)
        samples: list[tuple[datetime, Figures]] = []
        after = begin - datetime.resolution
        while marks := await self._repository.marks(begin, after, names, _MINUTES_PER_READ):
            for number, (at, known) in enumerate(marks):
                if number % _MINUTES_PER_STEP == 0:
                    await asyncio.sleep(0)
                figures = restatement.at(at, known)
                samples.append((at, msgspec.structs.replace(figures, is_stale=at in stale)))
            after = marks[-1][0]
        return samples

    async def _sum(self, due: Due, begin: datetime) -> list[tuple[datetime, Figures]]:
        """All accounts of a user together."""
        curves = [
            await self._repository.samples(scope_id, begin)
            for scope_id in await self._repository.accounts_of(due.user_id)
        ]
        return add_up_steps(curves, begin - datetime.resolution)


def _names(past: AccountPast, rates: RateBook) -> list[str]:
    """The names of all prices that may value something of an account."""
    basis = past.account.valuation
    symbols = {position.symbol for position in past.positions}
    assets = {position.instrument.settle for position in past.positions} | {one.asset for one in past.account.assets}
    assets |= {one.asset for one in past.transfers}
    names = {mark_name(symbol, basis, is_long=is_long) for symbol in symbols for is_long in (True, False)}
    for asset in assets - {past.currency}:
        names.update(rates.symbols(asset, past.currency))
    return sorted(names)
