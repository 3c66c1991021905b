"""The P&L snapshot: the P&L worker's while it is current, else reckoned here by the same arithmetic."""

from typing import Any, Final

import msgspec
import structlog
from fastapi import Response

from app.api import bodies
from app.api.answers import json_answer
from app.api.authentication import Reader
from app.api.context import Opened, Web
from app.api.routing import new_router
from app.bus.connection import BusUnavailable
from app.bus.pnl import ask_for_pnl, read_cached_pnl
from app.domain.pnl_snapshot import pnl_snapshot, value_book
from app.domain.pnl_tree import node_statement, pnl_tree
from app.domain.prices import StreamPosition
from app.repositories.books import BookRepository
from app.repositories.database import transaction
from app.repositories.users import UserGone, UserRepository

log = structlog.get_logger(__name__)

router = new_router("/api/v1", "pnl")

_CACHE_LASTS_MS: Final = 2000


class _Head(msgspec.Struct):
    """The part of a cached body that says how current it is."""

    ledger_seq: int
    as_of_ms: int


@router.get("/pnl", response_model=bodies.Pnl)
async def get_pnl(web: Opened, caller: Reader) -> Response:
    """All open positions and the totals over everything, at one price epoch."""
    async with transaction(web.database) as connection:
        user = await UserRepository(connection).get(caller.user_id)
    if user is None:
        raise UserGone(caller.user_id)
    cached = await _read_cache(web, caller.user_id)
    if cached is not None and _is_current(web, cached, user.ledger_seq):
        return json_answer(cached)
    await _ask(web, caller.user_id)
    return json_answer(await _reckon(web, caller.user_id))


@router.get("/pnl/tree", response_model=bodies.PnlTree)
async def get_pnl_tree(web: Opened, caller: Reader) -> Response:
    """P&L by account, strategy and symbol: every node the sum of its children, at one price epoch."""
    loaded = await BookRepository(web.database).load_with_closed(caller.user_id)
    if loaded is None:
        raise UserGone(caller.user_id)
    book, closed = loaded
    prices, board = web.market.prices, web.market.board
    root = pnl_tree(caller.user_id, value_book(book, prices), closed)
    place = StreamPosition(board.epoch, board.flush)
    return json_answer(
        {
            "as_of_ms": prices.as_of_ms,
            "epoch": place.epoch,
            "seq": place.seq,
            "ledger_seq": book.ledger_seq,
            "currency": book.currency,
            "root": node_statement(root),
        }
    )


async def _read_cache(web: Web, user_id: str) -> bytes | None:
    try:
        return await read_cached_pnl(web.redis, user_id, web.policy.redis_timeout_s)
    except BusUnavailable as error:
        log.warning("pnl.cache_unavailable", reason=str(error))
        return None


async def _ask(web: Web, user_id: str) -> None:
    """Have the next answers ready. Where that gets lost, the next one is reckoned too."""
    try:
        await ask_for_pnl(web.redis, user_id, web.policy.redis_timeout_s)
    except BusUnavailable as error:
        log.warning("pnl.not_asked_for", reason=str(error))


def _is_current(web: Web, cached: bytes, ledger_seq: int) -> bool:
    """Whether a cached body knows the user's last change and is about as new as the prices here."""
    try:
        head = msgspec.json.decode(cached, type=_Head)
    except msgspec.DecodeError:
        return False
    return head.ledger_seq >= ledger_seq and web.market.as_of_ms - head.as_of_ms <= _CACHE_LASTS_MS


async def _reckon(web: Web, user_id: str) -> dict[str, Any]:
    books = await BookRepository(web.database).load([user_id])
    if not books:
        raise UserGone(user_id)
    place = StreamPosition(web.market.board.epoch, web.market.board.flush)
    return pnl_snapshot(books[0], web.market.prices, place)
