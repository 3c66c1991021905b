"""Positions at rest: a million of them in little memory, and out of the garbage collector's way.

A packed position is one ``bytes``. Its instrument, user and (where it is the
user's usual one) account are kept elsewhere, for they repeat.
"""

from datetime import datetime
from decimal import Decimal

import msgspec

from app.domain.instruments import Instrument
from app.domain.ledger import LedgerState
from app.domain.positions import Converted, Position, PositionSide, Status

_USUAL_ACCOUNT = ""


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    instrument: int
    account_id: str
    signed_qty: Decimal
    cost: Decimal
    cash: Decimal
    fees: Decimal
    funding: Decimal
    fees_unpriced: dict[str, Decimal]
    position_side: PositionSide
    strategy: str
    note: str
    take_profit: Decimal | None
    stop_loss: Decimal | None
    status: Status
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    version: int
    converted: tuple[Decimal, Decimal, Decimal, bool] | None


_encoder = msgspec.msgpack.Encoder(decimal_format="string")
_decoder = msgspec.msgpack.Decoder(_Packed)


class Packer:
    """Packs and unpacks, and remembers the instruments."""

    def __init__(self) -> None:
        self._instruments: list[Instrument] = []
        self._numbers: dict[Instrument, int] = {}

    def pack(self, position: Position, usual_account: str) -> bytes:
        """Everything of a position but its id and its user."""
        state = position.state
        return _encoder.encode(
            _Packed(
                instrument=self._number(position.instrument),
                account_id=_USUAL_ACCOUNT if position.account_id == usual_account else position.account_id,
                signed_qty=state.signed_qty,
                cost=state.cost,
                cash=state.cash,
                fees=state.fees,
                funding=state.funding,
                fees_unpriced=state.fees_unpriced,
                position_side=position.position_side,
                strategy=position.strategy,
                note=position.note,
                take_profit=position.take_profit,
                stop_loss=position.stop_loss,
                status=position.status,
                opened_at=position.opened_at,
                updated_at=position.updated_at,
                closed_at=position.closed_at,
                version=position.version,
                converted=_parts(position.converted),
            )
        )

    def unpack(self, packed: bytes, *, position_id: str, user_id: str, usual_account: str) -> Position:
        """The position that was packed."""
        row = _decoder.decode(packed)
        return Position(
            position_id=position_id,
            user_id=user_id,
            account_id=row.account_id or usual_account,
            instrument=self._instruments[row.instrument],
            state=LedgerState(
                signed_qty=row.signed_qty,
                cost=row.cost,
                cash=row.cash,
                fees=row.fees,
                funding=row.funding,
                fees_unpriced=row.fees_unpriced,
            ),
            position_side=row.position_side,
            strategy=row.strategy,
            note=row.note,
            take_profit=row.take_profit,
            stop_loss=row.stop_loss,
            status=row.status,
            opened_at=row.opened_at,
            updated_at=row.updated_at,
            closed_at=row.closed_at,
            version=row.version,
            converted=_converted(row.converted),
        )

    def _number(self, instrument: Instrument) -> int:
        number = self._numbers.get(instrument)
        if number is None:
            number = self._numbers[instrument] = len(self._instruments)
            self._instruments.append(instrument)
        return number


def _parts(converted: Converted | None) -> tuple[Decimal, Decimal, Decimal, bool] | None:
    if converted is None:
        return None
    return converted.gross, converted.fees, converted.funding, converted.is_complete


def _converted(parts: tuple[Decimal, Decimal, Decimal, bool] | None) -> Converted | None:
    if parts is None:
        return None
    gross, fees, funding, is_complete = parts
    return Converted(gross=gross, fees=fees, funding=funding, is_complete=is_complete)
