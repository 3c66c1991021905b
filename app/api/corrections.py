"""What a correction of the ledger tells clients: what was, what is, and why."""

from typing import Any, Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.authentication import Caller
from app.api.context import Web
from app.domain.positions import Position
from app.domain.trades import trade_statement
from app.repositories.accounts import Account
from app.repositories.corrections import Books, Correction
from app.repositories.day_bases import base_statement
from app.repositories.trades import Ending
from app.repositories.users import UserRepository

_MOST_TOLD: Final = 20
"""Positions, and days, that one event tells of; it says how many there were."""


def books_of(web: Web, caller: Caller, account: Account) -> Books:
    """Whose ledger is corrected."""
    return Books(caller.user_id, account.currency, web.policy.max_open_positions)


async def ending_of(
    web: Web, connection: AsyncConnection, caller: Caller, change: Literal["edited", "deleted", "retagged"], reason: str
) -> Ending:
    """What ends earlier forms of fills in this transaction, which holds the user's lock and one event."""
    user = await UserRepository(connection).get(caller.user_id)
    assert user is not None  # His row is locked.
    return Ending(change, reason, web.now(), user.ledger_seq)


def correction_data(web: Web, correction: Correction, account: Account) -> dict[str, Any]:
    """The content of a ``correction`` event. Figures are valued at the prices of now, before and after alike."""
    before, after, bases = correction.before, correction.after, correction.bases
    trades = (correction.trade_before, correction.trade_after)
    return {
        "cause": correction.cause,
        "reason": correction.note or None,
        "before": {
            "trade": None if trades[0] is None else trade_statement(trades[0]),
            "positions": _statements(web, before, account),
        },
        "after": {
            "trade": None if trades[1] is None else trade_statement(trades[1]),
            "positions": _statements(web, after, account),
        },
        "positions_changed": len({one.position_id for one in (*before, *after)}),
        "day_bases": [base_statement(one) for one in bases[-_MOST_TOLD:]],
        "days_changed": len(bases),
    }


def _statements(web: Web, positions: list[Position], account: Account) -> list[dict[str, Any]]:
    return [web.market.statement(position, account) for position in positions[-_MOST_TOLD:]]
