"""Who may connect: decided before the WebSocket is accepted.

Browsers attach cookies to a WebSocket handshake from any page, and neither the
same-origin policy nor CORS stops that, so the Origin is checked here: exactly
the server's own origin or a configured one. A program without an Origin must
bring a bearer token, which no browser attaches by itself.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from starlette.requests import HTTPConnection, cookie_parser

from app.domain.protocol import SUBPROTOCOL


class Identity(msgspec.Struct, frozen=True):
    """Whose connection it is, and what ends it."""

    user_id: str
    session_id: str
    expires_ms: int
    is_token: bool = False
    may_read: bool = True


class SessionsUnavailable(Exception):
    """Sessions and tokens cannot be checked at the moment."""


class Sessions(Protocol):
    """Where sessions and tokens are known. Every method raises SessionsUnavailable when that cannot be asked."""

    async def by_cookie(self, cookies: Mapping[str, str]) -> Identity | None:
        """Who a browser's cookies belong to."""

    async def by_token(self, token: str) -> Identity | None:
        """Who an API token belongs to."""

    async def is_alive(self, identity: Identity) -> bool:
        """Whether a session or token still holds. Asking does not keep it alive."""


class Refusal(msgspec.Struct, frozen=True):
    """An answer in place of a WebSocket: an HTTP status and a problem."""

    status: int
    code: str
    title: str
    detail: str
    retry_after_s: int | None = None


class Asking(NamedTuple):
    """What a handshake says that matters here. Headers as they came; a cookie or an origin may be there twice."""

    address: str | None
    scheme: str
    host: str | None
    origins: Sequence[str]
    authorization: str
    cookies: Sequence[str]
    subprotocols: Sequence[str]


def asking_of(connection: HTTPConnection) -> Asking:
    """What an ASGI server made of a handshake."""
    headers = connection.headers
    return Asking(
        address=connection.client.host if connection.client is not None else None,
        scheme=connection.scope["scheme"],
        host=headers.get("host"),
        origins=headers.getlist("origin"),
        authorization=headers.get("authorization", ""),
        cookies=headers.getlist("cookie"),
        subprotocols=connection.scope.get("subprotocols", ()),
    )


async def admit(asking: Asking, sessions: Sessions, origins: Collection[str]) -> Identity | Refusal:
    """Decide about one handshake."""
    token = _bearer_token(asking)
    if not _is_origin_allowed(asking, origins, has_token=token is not None):
        return Refusal(403, "wrong_origin", "Wrong origin", "This origin may not open the stream.")
    if SUBPROTOCOL not in asking.subprotocols:
        return Refusal(400, "wrong_subprotocol", "Wrong subprotocol", f"Offer the subprotocol {SUBPROTOCOL}.")
    try:
        identity = await (sessions.by_cookie(_cookies(asking)) if token is None else sessions.by_token(token))
    except SessionsUnavailable:
        return Refusal(503, "unavailable", "Unavailable", "Sessions cannot be checked at the moment.", 2)
    if identity is None:
        return Refusal(401, "not_authenticated", "Not authenticated", "Log in, or send a valid bearer token.")
    if not identity.may_read:
        return Refusal(403, "forbidden", "Not allowed", "This token has not the scope 'read'.")
    return identity


def _bearer_token(asking: Asking) -> str | None:
    scheme, _, token = asking.authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _cookies(asking: Asking) -> dict[str, str]:
    cookies: dict[str, str] = {}
    for header in asking.cookies:
        cookies.update(cookie_parser(header))
    return cookies


def _is_origin_allowed(asking: Asking, origins: Collection[str], *, has_token: bool) -> bool:
    """Exact comparison, scheme and port included; browsers send origins in lower case and without default ports."""
    sent = asking.origins
    if not sent:
        return has_token
    return len(sent) == 1 and (sent[0] in origins or sent[0] == _own_origin(asking))


def _own_origin(asking: Asking) -> str | None:
    if not asking.host:
        return None
    scheme = "https" if asking.scheme in {"wss", "https"} else "http"
    return f"{scheme}://{asking.host}"
