"""The settled funding of a futures market, each stamp with the mark it was paid at."""

import time
from datetime import UTC, datetime
from decimal import Decimal

import structlog

from app.domain.funding import FundingRate
from app.domain.instruments import Instrument
from app.exchanges.binance.contract_messages import SettledFunding
from app.exchanges.binance.contract_rest import FUNDING_PAGE, ContractRest
from app.exchanges.binance.pacing import RollingLimit
from app.exchanges.binance.rest import RestUnavailable

log = structlog.get_logger(__name__)

_CALLS = 400
"""In five minutes; Binance allows 500 to an address."""
_CALLS_WINDOW_S = 300.0
_MARKS_AT_ONCE = 60
_MARK_MAY_COME_MS = 3_600_000


class BinanceFunding:
    """Asks for settled stamps, and for the marks that are missing from them.

    COIN-M gives no mark with a stamp, and USDⓈ-M not with every one. Then the mark
    is the one with which the minute of the stamp began. A stamp whose mark is not
    known yet is left out, and with it all later ones; one whose mark was not known
    an hour later is passed over.
    """

    def __init__(self, rest: ContractRest) -> None:
        self._rest = rest
        self._calls = RollingLimit(_CALLS, _CALLS_WINDOW_S)

    async def settled(self, instrument: Instrument, since: datetime, until: datetime) -> tuple[list[FundingRate], bool]:
        """The stamps of a span, oldest first, and whether these are all. Raises RestUnavailable."""
        wait_s = self._calls.delay_s(time.monotonic())
        if wait_s > 0:
            raise RestUnavailable("too many questions for funding rates", wait_s)
        self._calls.spend(time.monotonic())
        found = await self._rest.funding(instrument.exchange_symbol, _ms(since), _ms(until))
        stamps: list[FundingRate] = []
        asked = 0
        for settled in found:
            mark = settled.mark
            if mark is None:
                asked += 1
                if asked > _MARKS_AT_ONCE:
                    return stamps, False
                mark = await self._rest.mark_at(instrument.exchange_symbol, settled.fundingTime)
            if mark is not None:
                stamps.append(_stamp(instrument, settled, mark))
            elif _ms(until) - settled.fundingTime < _MARK_MAY_COME_MS:
                return stamps, False
            else:
                log.warning("binance.funding_without_mark", symbol=instrument.symbol, at=settled.at.isoformat())
        return stamps, len(found) < FUNDING_PAGE


def _stamp(instrument: Instrument, settled: SettledFunding, mark: Decimal) -> FundingRate:
    try:
        return FundingRate(instrument.symbol, settled.at, settled.rate, mark)
    except ValueError as error:
        raise RestUnavailable(f"a funding rate of {instrument.symbol} is no number: {error}") from None


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)
