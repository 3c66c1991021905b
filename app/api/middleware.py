"""What surrounds every request: its id, its headers, where it may come from, how large it may be.

Plain ASGI: Starlette's BaseHTTPMiddleware cancels handlers in a way that leaves
database statements running.
"""

import re
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import Problem, problem_response

log = structlog.get_logger(__name__)

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; connect-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class RequestContext:
    """Gives each request an id, each answer its headers, and each bug an answer and one log entry."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(scope, MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request.failed", request_id=request_id, method=scope["method"], path=scope["path"])
            if has_started:
                raise
            problem = Problem("internal_error", "The error was recorded under this request id.")
            await problem_response(problem, request_id)(scope, receive, send_with_headers)


class OriginGuard:
    """Refuses changes that a page of another origin asks a browser for.

    Browsers send Origin or Sec-Fetch-Site with every unsafe request. Programs
    send neither, and no browser attaches their bearer token by itself.
    """

    def __init__(self, app: ASGIApp, *, public_origins: Collection[str]) -> None:
        self._app = app
        self._public_origins = frozenset(public_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE_METHODS or self._is_allowed(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        problem = Problem("wrong_origin", "Changes may not be asked for from this origin.")
        await problem_response(problem, scope["state"]["request_id"])(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if not origins:
            return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
        if len(origins) > 1:
            return False
        if origins[0] in self._public_origins:
            return True
        # The scheme is not compared: behind a proxy that ends TLS it is not known for certain.
        is_own = _authority(origins[0]) == headers.get("host") != ""
        return is_own and headers.get("sec-fetch-site", "same-origin") == "same-origin"


class BodyLimit:
    """Refuses bodies above a size, whether they announce it or not.

    ``files`` are the paths to which files are posted, each with a size of its own.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, files: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._files.get(scope["path"], self._max_bytes) if scope["method"] == "POST" else self._max_bytes
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isascii() or not announced.isdigit() or int(announced[:20]) > max_bytes:
            await problem_response(_too_large(max_bytes), scope["state"]["request_id"])(scope, receive, send)
            return
        received = 0

        async def receive_bounded() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self._app(scope, receive_bounded, send)


def _too_large(max_bytes: int) -> Problem:
    return Problem("too_large", f"A body may have {max_bytes} bytes.")


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _add_headers(scope: Scope, headers: MutableHeaders, request_id: str) -> None:
    headers["x-request-id"] = request_id
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    if scope["scheme"] == "https":
        headers.setdefault("strict-transport-security", "max-age=31536000; includeSubDomains")
    if scope["path"].startswith("/api/"):
        headers.setdefault("cache-control", "no-store")
