"""``GET /api/v1/stream``: one conversation, from the handshake to the end."""

import asyncio
import time
from typing import cast
from uuid import uuid4

import structlog
from fastapi import APIRouter, Request, WebSocket
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute

from app.domain.protocol import SUBPROTOCOL, Close, InvalidMessage
from app.websocket.admission import Identity, Refusal, admit
from app.websocket.answers import refuse
from app.websocket.asyncapi import document as asyncapi_document
from app.websocket.connection import Connection, IsolationBreach
from app.websocket.limits import MessageBudget
from app.websocket.outlet import Outlet, QueuedOutlet, RawOutlet
from app.websocket.stream import Stream
from app.websocket.transport import RAW_FRAMES

log = structlog.get_logger(__name__)

router = APIRouter()


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi() -> Response:
    """The stream's own description."""
    return Response(asyncapi_document(), media_type="application/json")


@router.get("/api/v1/stream", include_in_schema=False)
async def stream_without_upgrade(request: Request) -> Response:
    """Tell a program that asks by plain HTTP what it is to do."""
    refusal = Refusal(426, "upgrade_required", "WebSocket only", f"Open a WebSocket; subprotocol {SUBPROTOCOL}.")
    answer = _problem(refusal, request.state.request_id)
    answer.headers["Upgrade"] = "websocket"
    return answer


async def stream(websocket: WebSocket) -> None:
    """Decide about the handshake, then read until either side ends it.

    The lifespan puts the process's :class:`Stream` into its state as ``stream``.
    """
    opened = cast("Stream", websocket.state.stream)
    address = websocket.client.host if websocket.client is not None else None
    verdict = opened.manager.refusal(address) or await admit(websocket, opened.sessions, opened.origins)
    # Asked again, for others of a crowd were admitted meanwhile.
    verdict = opened.manager.refusal(address) or verdict
    if isinstance(verdict, Refusal):
        await websocket.send_denial_response(_problem(verdict))
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    raw = websocket.scope.get("extensions", {}).get(RAW_FRAMES)
    if raw is not None:
        await _converse(websocket, opened, verdict, address, RawOutlet(raw))
        return
    queued = QueuedOutlet(websocket.send_text, websocket.close, stall_s=opened.limits.stall_s)
    await _converse_queued(websocket, opened, verdict, address, queued)


async def _converse_queued(
    websocket: WebSocket, opened: Stream, identity: Identity, address: str | None, outlet: QueuedOutlet
) -> None:
    """The same conversation with a writer task beside it."""
    writer = asyncio.create_task(outlet.run(), name="stream.writer")
    reader = asyncio.create_task(_converse(websocket, opened, identity, address, outlet), name="stream.reader")
    try:
        await asyncio.wait([writer, reader], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.wait([writer, reader])
    for task in (reader, writer):
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.info("stream.conversation_ended", reason=type(error).__name__)


async def _converse(
    websocket: WebSocket, opened: Stream, identity: Identity, address: str | None, outlet: Outlet
) -> None:
    if not opened.manager.has_room_for(identity.user_id) or opened.manager.refusal(address) is not None:
        outlet.close(Close.TOO_MANY_CONNECTIONS, "too many connections")
        await _read_to_the_end(websocket)
        return
    connection = opened.manager.enter(identity, address, outlet)
    try:
        outlet.send(opened.answers.hello(connection))
        opened.manager.begin(connection)
        await _read(websocket, opened, connection)
    except IsolationBreach:
        log.exception("stream.isolation_breached")
        opened.crash()
        raise
    except Exception:
        log.exception("stream.conversation_failed")
        connection.close(Close.INTERNAL_ERROR, "internal error")
        raise
    finally:
        opened.manager.leave(connection)


async def _read(websocket: WebSocket, opened: Stream, connection: Connection) -> None:
    """Carry out messages until the client is gone. One at a time, and none while the client does not read."""
    budget = MessageBudget(opened.limits.max_messages_per_s)
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if connection.is_closed:
            continue
        await _take(opened, connection, budget, message.get("text"))
        await connection.outlet.wait_writable()


async def _take(opened: Stream, connection: Connection, budget: MessageBudget, text: str | None) -> None:
    now = time.monotonic()
    if not budget.take(now):
        if budget.is_abused:
            connection.close(Close.RATE_LIMITED, "too many messages")
        elif budget.is_first_refusal:
            most = opened.limits.max_messages_per_s
            refuse(connection, "rate_limited", f"at most {most} messages a second; this one was not carried out", None)
        return
    if text is not None and len(text) > opened.limits.max_message_bytes:
        connection.close(Close.TOO_BIG, "message too big")
        return
    try:
        await opened.answers.answer(connection, text)
    except InvalidMessage as error:
        refuse(connection, error.code, error.detail, error.request_id)
        if not budget.take_malformed(now):
            connection.close(Close.POLICY, "too many invalid messages")


async def _read_to_the_end(websocket: WebSocket) -> None:
    """Wait for the client to take the close."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _problem(refusal: Refusal, request_id: str | None = None) -> JSONResponse:
    body = {
        "type": f"urn:tidemark:problem:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        "request_id": request_id or uuid4().hex,
        "errors": [],
    }
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return JSONResponse(body, refusal.status, headers, media_type="application/problem+json")


# Starlette's own kind of route: what FastAPI's adds costs a tenth of a handshake, and memory for as long as it lasts.
router.routes.append(WebSocketRoute("/api/v1/stream", stream))
