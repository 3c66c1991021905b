"""``GET /api/v1/stream``: one conversation, from the handshake to the end."""

import asyncio
from typing import cast
from uuid import uuid4

import structlog
from fastapi import APIRouter, Request, WebSocket
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.domain.protocol import SUBPROTOCOL
from app.websocket.admission import Asking, Identity, Refusal, admit, asking_of
from app.websocket.asyncapi import document as asyncapi_document
from app.websocket.conversation import Conversation, begin
from app.websocket.handshake import STREAM_PATH, denial, switching
from app.websocket.outlet import QueuedOutlet
from app.websocket.stream import Stream
from app.websocket.transport import RAW_FRAMES, RawWebSocket

log = structlog.get_logger(__name__)

router = APIRouter()


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi() -> Response:
    """The stream's own description."""
    return Response(asyncapi_document(), media_type="application/json")


@router.get(STREAM_PATH, include_in_schema=False)
async def stream_without_upgrade(request: Request) -> Response:
    """Tell a program that asks by plain HTTP what it is to do."""
    refusal = Refusal(426, "upgrade_required", "WebSocket only", f"Open a WebSocket; subprotocol {SUBPROTOCOL}.")
    answer = _problem(refusal, request.state.request_id)
    answer.headers["Upgrade"] = "websocket"
    return answer


async def stream(websocket: WebSocket) -> None:
    """Decide about the handshake. Where the server offers it, the socket is taken over and this ends; else it reads.

    The lifespan puts the process's :class:`Stream` into its state as ``stream``.
    """
    opened = cast("Stream", websocket.state.stream)
    asking = asking_of(websocket)
    verdict = await _verdict(opened, asking)
    if isinstance(verdict, Refusal):
        await websocket.send_denial_response(_problem(verdict))
        return
    await websocket.accept(subprotocol=SUBPROTOCOL)
    raw: RawWebSocket | None = websocket.scope.get("extensions", {}).get(RAW_FRAMES)
    if raw is not None:
        _converse(opened, verdict, asking, raw)
        return
    await _converse_queued(websocket, opened, verdict, asking.address)


async def stream_directly(opened: Stream, asking: Asking, accept: str, raw: RawWebSocket) -> None:
    """The same for a handshake that :class:`app.http_protocol.FrontDoor` has read, without ASGI.

    ``accept`` answers the client's key.
    """
    verdict = await _verdict(opened, asking)
    if raw.is_lost:
        return
    if isinstance(verdict, Refusal):
        answer = _problem(verdict)
        raw.answer_denied(denial(answer.status_code, answer.raw_headers, bytes(answer.body)))
        return
    with raw.in_one_write():
        raw.accept(switching(accept, SUBPROTOCOL))
        _converse(opened, verdict, asking, raw)


async def _verdict(opened: Stream, asking: Asking) -> Identity | Refusal:
    """Whether a client is let in, and as whom."""
    with opened.manager.letting_in():
        verdict = opened.manager.refusal(asking.address) or await admit(asking, opened.sessions, opened.origins)
    # Asked again, for others of a crowd were admitted meanwhile.
    return opened.manager.refusal(asking.address) or verdict


def _converse(opened: Stream, identity: Identity, asking: Asking, raw: RawWebSocket) -> None:
    conversation = begin(opened, identity, asking.address, raw)
    if conversation is not None:
        raw.take_over(conversation)


async def _converse_queued(websocket: WebSocket, opened: Stream, identity: Identity, address: str | None) -> None:
    """The same conversation on any other server: a task that reads, and one beside it that writes."""
    outlet = QueuedOutlet(websocket.send_text, websocket.close, stall_s=opened.limits.stall_s)
    writer = asyncio.create_task(outlet.run(), name="stream.writer")
    reader = asyncio.create_task(
        _read(websocket, begin(opened, identity, address, outlet), outlet), name="stream.reader"
    )
    try:
        await asyncio.wait([writer, reader], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reader, writer):
            task.cancel()
        await asyncio.wait([writer, reader])
    for task in (reader, writer):
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.info("stream.conversation_ended", reason=type(error).__name__)


async def _read(websocket: WebSocket, conversation: Conversation | None, outlet: QueuedOutlet) -> None:
    """Carry out messages until the client is gone. One at a time, and none while the client does not read."""
    try:
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            if conversation is None:
                continue
            work = conversation.take(message.get("text"))
            if work is not None:
                await work
            await outlet.wait_writable()
    finally:
        if conversation is not None:
            conversation.gone()


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


class StreamFirst:
    """Takes handshakes of the stream past all that surrounds requests: nothing there concerns them.

    A crowd that reconnects goes through a dozen layers otherwise, which costs a sixth of a handshake.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] == STREAM_PATH:
            await stream(WebSocket(scope, receive, send))
        else:
            await self._app(scope, receive, send)


# Starlette's own kind of route: FastAPI's adds to each handshake what this one has no use for.
router.routes.append(WebSocketRoute(STREAM_PATH, stream))
