"""Funding: what holders of a perpetual paid each other at one moment."""

from datetime import datetime
from decimal import Decimal

import msgspec


class FundingRate(msgspec.Struct, frozen=True):
    """One settled stamp of one symbol.

    A long paid ``rate`` of its value at ``mark`` to the shorts, or was paid where
    the rate is negative. It concerns what was held strictly before ``at``.
    """

    symbol: str
    at: datetime
    rate: Decimal
    mark: Decimal
