"""What a user's currency makes of rows and balances in other assets, at the rates the P&L worker told.

The same arithmetic as :mod:`app.domain.valuation`, on the same integers: the
totals that arrive and the rows that are converted here add up to the last digit.
Nobody but a user who has anything in another asset costs anything here.
"""

from app.domain.decimals import convert_units, format_units
from app.domain.valuation import currency_effect
from app.websocket.json_text import quoted
from app.websocket.lane import Lane
from app.websocket.mirror import Rate, Row, UserView


def rate_of(lane: Lane, row: Row) -> Rate | None:
    """The rate at which a row is reported; None where none is needed, or none is known."""
    if row.pair is None:
        return None
    rate = lane.mirror.rates.get(row.pair)
    return None if rate is None or rate.value is None else rate


def reported(lane: Lane, row: Row, value: int | None) -> tuple[int, int] | None:
    """Market value and cost basis of a row in its user's currency, from its unrealised P&L in the settle asset."""
    if value is None:
        return None
    market_value = value + row.cost_basis
    if row.pair is None:
        return market_value, row.cost_basis
    rate = lane.mirror.rates.get(row.pair)
    if rate is None or rate.value is None:
        return None
    return convert_units(market_value, rate.value), convert_units(row.cost_basis, rate.value)


def unrealized_reported(lane: Lane, row: Row, value: int | None) -> int | None:
    """The unrealised P&L of a row in its user's currency; None where a price or a rate is missing."""
    parts = reported(lane, row, value)
    return None if parts is None else parts[0] - parts[1]


def reported_fields(lane: Lane, row: Row, value: int | None) -> str:
    """What of a row is reported in its user's currency, and at which rate: two members of a JSON object."""
    rate = rate_of(lane, row)
    text = "1" if row.pair is None else None if rate is None else rate.text
    worth = unrealized_reported(lane, row, value)
    shown = None if worth is None else format_units(worth)
    return f'"rate_to_reporting":{quoted(text)},"unrealized_pnl_reported":{quoted(shown)}'


def effect(lane: Lane, view: UserView) -> tuple[int, set[str]]:
    """What rates did to a user's balances, and the assets whose rate is not known."""
    if not view.balances:
        return 0, set()
    rates = {asset: lane.mirror.rates.get((asset, view.currency)) for asset, _, _ in view.balances}
    return currency_effect(
        view.balances, {asset: None if rate is None else rate.value for asset, rate in rates.items()}
    )


def rates_changed(lane: Lane, view: UserView, since: int) -> bool:
    """Whether a rate that concerns a user changed since a commit."""
    mirror = lane.mirror
    return (
        bool(view.balances)
        and mirror.rated > since
        and any(_changed_at(mirror.rates.get((asset, view.currency))) > since for asset, _, _ in view.balances)
    )


def rate_changed_at(lane: Lane, row: Row) -> int:
    """The commit at which the rate of a row last changed; 0 where it has none."""
    return 0 if row.pair is None else _changed_at(lane.mirror.rates.get(row.pair))


def is_stale(lane: Lane, row: Row) -> bool:
    """Whether the rate of a row is too old."""
    rate = rate_of(lane, row)
    return rate is not None and rate.is_stale


def _changed_at(rate: Rate | None) -> int:
    return 0 if rate is None else rate.changed
