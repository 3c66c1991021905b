"""How a position lies in its row: every column out and in, exactly."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ARRAY, Column, ColumnElement, Uuid, any_, func, literal, text, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from app.domain.decimals import from_units, to_units
from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState
from app.domain.positions import Converted, Position
from app.repositories.tables import positions

POSITION_COLUMNS: Final = (
    positions.c.id,
    positions.c.user_id,
    positions.c.account_id,
    positions.c.symbol,
    positions.c.market,
    positions.c.base,
    positions.c.quote,
    positions.c.settle,
    positions.c.multiplier,
    positions.c.tick_size,
    positions.c.step_size,
    positions.c.position_side,
    positions.c.strategy,
    positions.c.signed_qty,
    positions.c.cost,
    positions.c.cash,
    positions.c.fees,
    positions.c.funding,
    # Almost always empty, and decoding an empty object a million times takes seconds.
    type_coerce(func.nullif(positions.c.fees_unpriced, text("'{}'::jsonb")), JSONB),
    positions.c.note,
    positions.c.take_profit,
    positions.c.stop_loss,
    positions.c.status,
    positions.c.opened_at,
    positions.c.updated_at,
    positions.c.closed_at,
    positions.c.version,
    positions.c.converted_gross,
    positions.c.converted_fees,
    positions.c.converted_funding,
    positions.c.is_converted,
)

_INSTRUMENT: Final = slice(3, 11)

INSTRUMENT_COLUMNS: Final = POSITION_COLUMNS[_INSTRUMENT]
"""The columns that say what is held."""

_NONE: Final[dict[str, Decimal]] = {}


def position_reader() -> Callable[[Sequence[Any]], Position]:
    """A function from a row of POSITION_COLUMNS to a position; instruments that are equal are one object."""
    instruments: dict[tuple[Any, ...], Instrument] = {}

    def read(row: Sequence[Any]) -> Position:
        listed = tuple(row[_INSTRUMENT])
        instrument = instruments.get(listed)
        if instrument is None:
            instrument = instruments[listed] = to_instrument(listed)
        (side, strategy, signed_qty, cost, cash, fees, funding, unpriced, *rest) = row[11:]
        note, take_profit, stop_loss, status, opened_at, updated_at, closed_at, version, *converted = rest
        return Position(
            position_id=row[0],
            user_id=row[1],
            account_id=row[2],
            instrument=instrument,
            state=LedgerState(
                signed_qty=signed_qty,
                cost=cost,
                cash=cash,
                fees=fees,
                funding=funding,
                fees_unpriced={asset: Decimal(fee) for asset, fee in unpriced.items()} if unpriced else _NONE,
            ),
            position_side=side,
            strategy=strategy,
            note=note,
            take_profit=take_profit,
            stop_loss=stop_loss,
            status=status,
            opened_at=opened_at,
            updated_at=updated_at,
            closed_at=closed_at,
            version=version,
            converted=_converted(converted),
        )

    return read


def any_of(column: Column[Any], ids: Sequence[str]) -> ColumnElement[bool]:
    """Rows whose id is one of many, sent as one array: as single parameters there may not be more than 32,767."""
    return column == any_(literal(list(ids), ARRAY(Uuid(as_uuid=False))))


def converted_values(converted: Converted | None) -> dict[str, Any]:
    """The columns of what was realised in the reporting currency, with the figures that are published of it."""
    if converted is None:
        return {}
    return {
        "converted_gross": converted.gross,
        "converted_fees": converted.fees,
        "converted_funding": converted.funding,
        "is_converted": converted.is_complete,
        "reported_gross": from_units(to_units(converted.gross)),
        "reported_fees": from_units(to_units(converted.fees)),
        "reported_funding": from_units(to_units(converted.funding)),
    }


def state_values(state: LedgerState) -> dict[str, Any]:
    """The columns of a ledger state, with the figures that are published of it."""
    return {
        "signed_qty": state.signed_qty,
        "cost": state.cost,
        "cash": state.cash,
        "fees": state.fees,
        "funding": state.funding,
        "fees_unpriced": {asset: f"{fee:f}" for asset, fee in state.fees_unpriced.items()},
        "realized_pnl_gross": from_units(to_units(state.cash) + to_units(state.cost)),
        "fees_published": from_units(to_units(state.fees)),
        "funding_published": from_units(to_units(state.funding)),
    }


def instrument_values(instrument: Instrument) -> dict[str, Any]:
    """The columns that say what is held."""
    return {
        "symbol": instrument.symbol,
        "market": instrument.market,
        "base": instrument.base,
        "quote": instrument.quote,
        "settle": instrument.settle,
        "multiplier": instrument.multiplier,
        "tick_size": instrument.tick_size,
        "step_size": instrument.step_size,
    }


def _converted(values: Sequence[Any]) -> Converted | None:
    gross, fees, funding, is_complete = values
    return None if gross is None else Converted(gross=gross, fees=fees, funding=funding, is_complete=is_complete)


def to_instrument(listed: Sequence[Any]) -> Instrument:
    """What is held, from a row of INSTRUMENT_COLUMNS."""
    symbol, market, base, quote, settle, multiplier, tick_size, step_size = listed
    return Instrument(
        symbol=symbol,
        market=market,
        base=base,
        quote=quote,
        settle=settle,
        multiplier=multiplier,
        tick_size=tick_size,
        step_size=step_size,
    )
